package xds

import (
	"slices"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// held is what the client has of one resource: 60 bits of its version, 0 when
// it has none, and what is asked about it.
type held uint64

const (
	// namedBit: the client asked for it by name.
	namedBit held = 1 << 63
	// lookBit: the next pass looks at it.
	lookBit held = 1 << 62
	// askedBit: and tells the client when it does not exist.
	askedBit held = 1 << 61
	// forceBit: and sends it although the client has it.
	forceBit held = 1 << 60

	versionMask = forceBit - 1
	passMask    = lookBit | askedBit | forceBit
)

func (h held) named() bool   { return h&namedBit != 0 }
func (h held) marked() bool  { return h&lookBit != 0 }
func (h held) asked() bool   { return h&askedBit != 0 }
func (h held) forced() bool  { return h&forceBit != 0 }
func (h held) version() held { return h & versionMask }

// versionOf compacts a version. Versions are hashes already (wire.Resource);
// text of another server's making, from initial_resource_versions, is hashed.
func versionOf(text string) held {
	v, err := strconv.ParseUint(text, 16, 64)
	if err != nil {
		v = xxhash.Sum64String(text)
	}
	return max(held(v).version(), 1)
}

// holdings are the names of one subscription with what the client has of each:
// 8 bytes a name where the generation's list has it, which all streams of equal
// Views share, and a map for the others.
type holdings struct {
	names []string // sorted, shared
	slots []held   // of names; 0: nothing is known of it
	extra map[string]held

	count  int // entries that are not 0
	marked int // entries with lookBit
	next   int // where the next name is likely: clients list them in order
}

// find returns the place of a name in names, -1 when it has none.
func (h *holdings) find(name string) int {
	if h.next < len(h.names) && h.names[h.next] == name {
		h.next++
		return h.next - 1
	}
	i, ok := slices.BinarySearch(h.names, name)
	if !ok {
		return -1
	}
	h.next = i + 1
	return i
}

func (h *holdings) get(name string) held { return h.at(h.find(name), name) }

// at is get for a name whose place is known; -1: it is not in names.
func (h *holdings) at(i int, name string) held {
	if i >= 0 {
		return h.slots[i]
	}
	return h.extra[name]
}

func (h *holdings) set(name string, v held) { h.put(h.find(name), name, v) }

// put is set for a name whose place is known.
func (h *holdings) put(i int, name string, v held) {
	var was held
	if i >= 0 {
		was, h.slots[i] = h.slots[i], v
	} else {
		was = h.extra[name]
		switch {
		case v == 0:
			delete(h.extra, name)
		case h.extra == nil:
			h.extra = map[string]held{name: v}
		default:
			h.extra[name] = v
		}
	}
	h.count += one(v != 0) - one(was != 0)
	h.marked += one(v.marked()) - one(was.marked())
}

func one(b bool) int {
	if b {
		return 1
	}
	return 0
}

// want makes the next pass look at a name and answer for it.
func (h *holdings) want(name string, force bool) {
	i := h.find(name)
	v := h.at(i, name) | lookBit | askedBit
	if force {
		v |= forceBit
	}
	h.put(i, name, v)
}

// all yields every entry, those of names first and in order.
func (h *holdings) all(yield func(string, held) bool) {
	for i, v := range h.slots {
		if v != 0 && !yield(h.names[i], v) {
			return
		}
	}
	for name, v := range h.extra {
		if !yield(name, v) {
			return
		}
	}
}

// sorted lists the names of the entries that keep accepts.
func (h *holdings) sorted(keep func(string, held) bool) []string {
	var out []string
	for name, v := range h.all {
		if keep(name, v) {
			out = append(out, name)
		}
	}
	if len(h.extra) > 0 {
		slices.Sort(out)
	}
	return out
}

// on moves the entries to another list of names.
func (h *holdings) on(names []string) {
	if len(names) == len(h.names) && (len(names) == 0 || &names[0] == &h.names[0]) {
		return
	}
	old := *h
	*h = holdings{names: names, slots: make([]held, len(names))}
	at := 0
	for i, v := range old.slots {
		if v == 0 {
			continue
		}
		for at < len(names) && strings.Compare(names[at], old.names[i]) < 0 {
			at++
		}
		if at < len(names) && names[at] == old.names[i] {
			h.put(at, names[at], v)
			continue
		}
		h.put(-1, old.names[i], v)
	}
	for name, v := range old.extra {
		h.set(name, v)
	}
}
