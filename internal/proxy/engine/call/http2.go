package call

import (
	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/http2"
	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// HTTP2 is a call on a stream of a shared HTTP/2 connection.
type HTTP2 struct {
	st            cluster.Stream
	wantsTrailers bool
	upgrade       []byte // as of HTTP1
}

// NewHTTP2 is a call on st. wantsTrailers: who asked can take trailers.
func NewHTTP2(st cluster.Stream, wantsTrailers bool, upgrade []byte) *HTTP2 {
	return &HTTP2{st, wantsTrailers, upgrade}
}

// SendHead implements Call.
func (c *HTTP2) SendHead(h *message.Head, body []byte, end bool) error {
	return c.st.Finish(c.First(h, body, end, nil))
}

// Offer sends what of the first part goes out without waiting; done: all of it.
func (c *HTTP2) Offer(first *http2.Part) (done bool, err error) { return c.st.Offer(first) }

// Finish sends what Offer left of the first part.
func (c *HTTP2) Finish(first *http2.Part) error { return c.st.Finish(first) }

// First is the beginning of a request, or all of it.
func (c *HTTP2) First(h *message.Head, body []byte, end bool, trailers *message.Head) *http2.Part {
	end = end && len(c.upgrade) == 0 // the stream goes on as the other protocol
	return &http2.Part{Head: h, Body: body, End: end, Trailers: trailers, WantsTrailers: c.wantsTrailers, Protocol: c.upgrade}
}

// SendBody implements Call.
func (c *HTTP2) SendBody(p []byte, end bool, trailers *message.Head) error {
	last := end && (trailers == nil || trailers.Len() == 0)
	if len(p) > 0 || last {
		if _, err := c.st.Write(p, last); err != nil || !end || last {
			return err
		}
	}
	if !end {
		return nil
	}
	return c.st.WriteTrailers(trailers)
}

// ReadHead implements Call.
func (c *HTTP2) ReadHead(h *message.Head) (end bool, err error) {
	if end, err = c.st.ReadHead(h); err == nil && len(c.upgrade) > 0 && h.Status >= 200 && h.Status < 300 {
		asSwitched(h, c.upgrade)
	}
	return end, err
}

// ReadBody implements Call.
func (c *HTTP2) ReadBody(p []byte) (int, error) { return c.st.Read(p) }

// Trailers implements Call.
func (c *HTTP2) Trailers() *message.Head { return c.st.Trailers() }

// Interrupt implements Call.
func (c *HTTP2) Interrupt() { c.st.Interrupt() }

// Close implements Call.
func (c *HTTP2) Close(bool) { c.st.Close() }

// asSwitched makes an extended CONNECT's answer what HTTP/1.1 says instead.
func asSwitched(h *message.Head, protocol []byte) {
	h.Status = 101
	h.SetString("connection", "upgrade")
	h.Set("upgrade", protocol)
}
