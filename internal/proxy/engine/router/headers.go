package router

import (
	"bytes"

	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
)

// HeaderStore holds the headers of a message that is about to be sent. Names
// are in lower case; values are copied when they are stored.
type HeaderStore interface {
	fact.Headers
	// Add appends a value, whether or not the header is there.
	Add(name string, value []byte)
	// Set replaces all values by one.
	Set(name string, value []byte)
	// Remove takes the header out.
	Remove(name string)
}

// Values evaluates command operators such as "%DOWNSTREAM_REMOTE_ADDRESS%" for
// the message at hand. It appends nothing for an operator without a value.
type Values interface {
	AppendValue(dst []byte, operator, arg string) []byte
}

// Operators are the command operators that Values must know; the compiler
// refuses others. REQ takes a header's name in lower case.
func Operators() []string {
	return []string{
		"DOWNSTREAM_REMOTE_ADDRESS", "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", "DOWNSTREAM_LOCAL_ADDRESS",
		"DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", "DOWNSTREAM_LOCAL_PORT", "DOWNSTREAM_PEER_URI_SAN", "PROTOCOL",
		"REQ", "REQUESTED_SERVER_NAME", "ROUTE_NAME",
	}
}

// Empty reports whether the mutations change nothing.
func (o *HeaderOps) Empty() bool { return len(o.Set) == 0 && len(o.Remove) == 0 }

// Apply removes, then adds in order. scratch is a buffer for evaluated
// templates and is returned for the next call.
func (o *HeaderOps) Apply(store HeaderStore, values Values, scratch []byte) []byte {
	for _, name := range o.Remove {
		store.Remove(name)
	}
	for i := range o.Set {
		scratch = o.Set[i].apply(store, values, scratch[:0])
	}
	return scratch
}

func (op *HeaderOp) apply(store HeaderStore, values Values, scratch []byte) []byte {
	_, present := store.Get(op.Name)
	if (present && op.Action == AddIfAbsent) || (!present && op.Action == OverwriteIfExists) {
		return scratch
	}
	scratch = op.AppendValue(scratch, values)
	if len(scratch) == 0 && !op.KeepEmpty {
		return scratch
	}
	if op.Action == AppendOrAdd || op.Action == AddIfAbsent {
		store.Add(op.Name, scratch)
	} else {
		store.Set(op.Name, scratch)
	}
	return scratch
}

// AppendValue appends the header's value, templates evaluated. White space at
// its ends, where an operator gave nothing, is no part of a value, and makes a
// message malformed in HTTP/2 (RFC 9110 §5.5, RFC 9113 §8.2.1).
func (op *HeaderOp) AppendValue(dst []byte, values Values) []byte {
	if len(op.Parts) == 0 {
		return append(dst, op.Value...)
	}
	at := len(dst)
	for i := range op.Parts {
		p := &op.Parts[i]
		if p.Operator == "" {
			dst = append(dst, p.Literal...)
			continue
		}
		dst = values.AppendValue(dst, p.Operator, p.Arg)
	}
	return append(dst[:at], bytes.Trim(dst[at:], " \t")...) // to the left, or where it is
}

// Levels are the header mutations of one exchange, in the order in which Envoy
// applies them: weighted cluster, route, virtual host, table, or the other way
// round when the table says that the most specific wins. Entries may be nil.
type Levels [4]*HeaderOps

// Apply applies each level.
func (l *Levels) Apply(store HeaderStore, values Values, scratch []byte) []byte {
	for _, ops := range l {
		if ops != nil && !ops.Empty() {
			scratch = ops.Apply(store, values, scratch)
		}
	}
	return scratch
}

// RequestLevels are the mutations of the request; host, route and w may be nil.
func (t *Table) RequestLevels(host *VirtualHost, route *Route, w *Weighted) Levels {
	var l Levels
	if w != nil {
		l[0] = &w.RequestHeaders
	}
	if route != nil {
		l[1] = &route.RequestHeaders
	}
	if host != nil {
		l[2] = &host.RequestHeaders
	}
	l[3] = &t.opts.RequestHeaders
	return l.ordered(t.opts.MostSpecificWins)
}

// ResponseLevels are the mutations of the response; host, route and w may be
// nil.
func (t *Table) ResponseLevels(host *VirtualHost, route *Route, w *Weighted) Levels {
	var l Levels
	if w != nil {
		l[0] = &w.ResponseHeaders
	}
	if route != nil {
		l[1] = &route.ResponseHeaders
	}
	if host != nil {
		l[2] = &host.ResponseHeaders
	}
	l[3] = &t.opts.ResponseHeaders
	return l.ordered(t.opts.MostSpecificWins)
}

func (l Levels) ordered(reversed bool) Levels {
	if reversed {
		l[0], l[1], l[2], l[3] = l[3], l[2], l[1], l[0]
	}
	return l
}
