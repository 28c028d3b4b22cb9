// Package message is the head of a request or a response, and its trailers,
// whatever protocol carries them: the codecs fill and read a Head, the
// exchange, filters and routes look into it and change it.
//
// In come names in lower case and values as slices of the buffer that was
// parsed; they are not copied, so a Head is valid as long as that buffer. What
// is added later is copied into the Head's own arena. A Head belongs to one
// request in progress and is reused; on the usual path nothing allocates.
// Read head.go.
package message

import (
	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
)

// arenaBytesMax is the largest arena that a Head keeps for its next message.
const arenaBytesMax = 16 << 10

// Field is one header line. A removed field has an empty name.
type Field struct{ Name, Value []byte }

// Head is a message's start and its header fields, or trailers alone. Names
// are in lower case. Host is not among the fields of a request: it is
// Authority.
type Head struct {
	Protocol fact.Protocol
	// Method, Scheme, Authority and Path are a request's; Path is in origin
	// form with its query, "*" for OPTIONS *, and empty for CONNECT.
	Method, Scheme, Authority, Path []byte
	// Status is a response's.
	Status int

	fields  []Field
	arena   []byte
	joined  []byte
	removed int
}

// Reset empties the head; slices taken from it are no longer valid.
func (h *Head) Reset() {
	fields, arena, joined := h.fields[:0], h.arena[:0], h.joined[:0]
	if cap(arena) > arenaBytesMax {
		arena = nil
	}
	if cap(joined) > arenaBytesMax {
		joined = nil
	}
	*h = Head{} // in place: a literal with values is made on the stack first
	h.fields, h.arena, h.joined = fields, arena, joined
}

// Fields returns the header fields; those with an empty name are removed ones.
func (h *Head) Fields() []Field { return h.fields }

// Len is the number of fields that are not removed.
func (h *Head) Len() int { return len(h.fields) - h.removed }

// Append adds a parsed field without copying it.
func (h *Head) Append(name, value []byte) {
	h.fields = append(h.fields, Field{name, value})
}

// Get implements fact.Headers.
func (h *Head) Get(name string) (value []byte, present bool) {
	for i := range h.fields {
		f := &h.fields[i]
		if len(f.Name) != len(name) || string(f.Name) != name {
			continue
		}
		if present {
			return h.join(name), true
		}
		value, present = f.Value, true
	}
	if !present && name == "host" && h.Authority != nil {
		return h.Authority, true
	}
	return value, present
}

// Values counts the fields of a name.
func (h *Head) Values(name string) int {
	n := 0
	for i := range h.fields {
		if string(h.fields[i].Name) == name {
			n++
		}
	}
	return n
}

// join is the combined value of a repeated field (RFC 9110 §5.3); cookies are
// combined by "; " (RFC 9113 §8.2.3).
func (h *Head) join(name string) []byte {
	separator := ","
	if name == "cookie" {
		separator = "; "
	}
	h.joined = h.joined[:0]
	first := true
	for i := range h.fields {
		if string(h.fields[i].Name) != name {
			continue
		}
		if !first {
			h.joined = append(h.joined, separator...)
		}
		first = false
		h.joined = append(h.joined, h.fields[i].Value...)
	}
	return h.joined
}

// Add implements router.HeaderStore.
func (h *Head) Add(name string, value []byte) {
	if name == "host" || name == ":authority" {
		h.Authority = h.Keep(value)
		return
	}
	h.fields = append(h.fields, Field{h.KeepString(name), h.Keep(value)})
}

// Set implements router.HeaderStore. The pseudo-headers of a request can be
// set too.
func (h *Head) Set(name string, value []byte) {
	switch name {
	case "host", ":authority":
		h.Authority = h.Keep(value)
		return
	case ":path":
		h.Path = h.Keep(value)
		return
	case ":method":
		h.Method = h.Keep(value)
		return
	case ":scheme":
		h.Scheme = h.Keep(value)
		return
	}
	set := false
	for i := range h.fields {
		f := &h.fields[i]
		if string(f.Name) != name {
			continue
		}
		if set {
			h.drop(f)
			continue
		}
		f.Value = h.Keep(value)
		set = true
	}
	if !set {
		h.Add(name, value)
	}
}

// SetString is Set with a string.
func (h *Head) SetString(name, value string) {
	kept := h.KeepString(value)
	for i := range h.fields {
		if string(h.fields[i].Name) == name {
			h.Set(name, kept)
			return
		}
	}
	h.fields = append(h.fields, Field{h.KeepString(name), kept})
}

// Remove implements router.HeaderStore.
func (h *Head) Remove(name string) {
	for i := range h.fields {
		if f := &h.fields[i]; string(f.Name) == name {
			h.drop(f)
		}
	}
}

// RemovePrefix removes the fields whose names begin with prefix, except those
// that keep says to keep.
func (h *Head) RemovePrefix(prefix string, keep func(name []byte) bool) {
	for i := range h.fields {
		f := &h.fields[i]
		if len(f.Name) >= len(prefix) && string(f.Name[:len(prefix)]) == prefix && (keep == nil || !keep(f.Name)) {
			h.drop(f)
		}
	}
}

func (h *Head) drop(f *Field) {
	f.Name, f.Value = nil, nil
	h.removed++
}

// Keep copies bytes into the head's arena, where they live as long as the
// head. A value that the arena holds already may be given.
func (h *Head) Keep(b []byte) []byte {
	from := len(h.arena)
	h.arena = append(h.arena, b...)
	return h.arena[from:len(h.arena):len(h.arena)]
}

// KeepString is Keep with a string.
func (h *Head) KeepString(s string) []byte {
	from := len(h.arena)
	h.arena = append(h.arena, s...)
	return h.arena[from:len(h.arena):len(h.arena)]
}
