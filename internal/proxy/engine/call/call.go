// Package call is one attempt of a request at an endpoint, in the endpoint's
// version of HTTP: heads and bodies go in and come out, over a connection or a
// stream of package cluster. HTTP1, HTTP2 and Tunnel are the ways there are.
//
// Calls wait; they have no goroutines and no deadlines of their own. Who opens one
// closes it, and may interrupt it.
package call

import "github.com/tullemesh/tulle/internal/proxy/engine/message"

// Call is one attempt of a request at an endpoint, in the endpoint's version of
// HTTP. One goroutine sends, one receives; Interrupt may come from a third.
type Call interface {
	// SendHead sends the head with the body bytes that are at hand; end: they
	// are all.
	SendHead(h *message.Head, body []byte, end bool) error
	// SendBody sends more; end: these are the last, and trailers, which may be
	// nil, follow.
	SendBody(p []byte, end bool, trailers *message.Head) error
	// ReadHead waits for the next head, informational ones included; end: no
	// body and no trailers follow.
	ReadHead(h *message.Head) (end bool, err error)
	// ReadBody returns io.EOF with the last bytes.
	ReadBody(p []byte) (int, error)
	// Trailers are complete after io.EOF; nil: none.
	Trailers() *message.Head
	// Interrupt ends all waits with an error.
	Interrupt()
	// Close gives the connection back; whole: both messages are complete.
	Close(whole bool)
}

var (
	_ Call = (*HTTP1)(nil)
	_ Call = (*HTTP2)(nil)
	_ Call = (*Tunnel)(nil)
)
