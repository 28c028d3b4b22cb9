package engine

import (
	"context"
	"errors"
	"io"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/http1"
	"github.com/tullemesh/tulle/internal/proxy/engine/http2"
	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// call is one attempt of a request at an endpoint, in the endpoint's version of
// HTTP. One goroutine sends, one receives; interrupt may come from a third.
type call interface {
	// sendHead sends the head with the body bytes that are at hand; end: they
	// are all.
	sendHead(h *message.Head, body []byte, end bool) error
	// sendBody sends more; end: these are the last, and trailers, which may be
	// nil, follow.
	sendBody(p []byte, end bool, trailers *message.Head) error
	// readHead waits for the next head, informational ones included; end: no
	// body and no trailers follow.
	readHead(h *message.Head) (end bool, err error)
	// readBody returns io.EOF with the last bytes.
	readBody(p []byte) (int, error)
	// trailers are complete after io.EOF; nil: none.
	trailers() *message.Head
	// interrupt ends all waits with an error.
	interrupt()
	// finish gives the connection back; whole: both messages are complete.
	finish(whole bool)
}

// speaksHTTP2 decides which version of HTTP the chosen endpoint gets.
func (x *exchange) speaksHTTP2(ctx context.Context, downstreamTwo bool) (bool, error) {
	switch x.cluster.Spec().Protocol {
	case cluster.HTTP2:
		return true, nil
	case cluster.Downstream:
		return downstreamTwo, nil
	case cluster.Auto:
		p, err := x.upstream.Speaks(ctx, x.use())
		return p == cluster.HTTP2, err
	case cluster.HTTP1:
	}
	return false, nil
}

// use is what a new connection for this request is for.
func (x *exchange) use() *cluster.Use {
	return &cluster.Use{ServerName: string(withoutPort(x.req.Authority)), ProxyHeader: x.d.proxyHeader}
}

// http1Call is a call over a pooled HTTP/1.1 connection.
type http1Call struct {
	e       *Engine
	conn    *cluster.Conn
	out     []byte
	chunked bool // the request
	method  []byte
	upgrade []byte // what the request asks to switch to, in lower case; empty: nothing

	in       *conn.Buffer // the response's head, and what came with it
	rest     []byte       // of in
	frame    http1.Framing
	body     http1.Body
	trail    message.Head
	switched bool // the other protocol follows, both ways
	dirty    bool // bytes behind the response: the connection can't be used again
}

// openHTTP1 takes a pooled connection or makes one.
func (x *exchange) openHTTP1(ctx context.Context, careful bool) (*http1Call, error) {
	c := x.upstream.Reuse(careful, x.d.e.clock.Now())
	if c == nil {
		var err error
		if c, err = x.upstream.Connect(ctx, x.use()); err != nil {
			return nil, err
		}
	}
	return &http1Call{e: x.d.e, conn: c, method: x.req.Method, upgrade: x.upgrade}, nil
}

func (c *http1Call) sendHead(h *message.Head, body []byte, end bool) error {
	_, measured := h.Get("content-length")
	switch {
	case measured:
	case !end || len(body) > 0:
		c.chunked = true
	case string(h.Method) == "POST" || string(h.Method) == "PUT" || string(h.Method) == "PATCH":
		h.SetString("content-length", "0") // RFC 9110 §8.6
	}
	c.out = http1.AppendRequest(c.out[:0], h, c.chunked)
	c.appendBody(body, end, nil)
	_, err := c.conn.Write(c.out)
	return err
}

// appendBody frames body bytes. Without chunks there is no place for trailers,
// which may be left out then (RFC 9110 §6.5.1).
func (c *http1Call) appendBody(p []byte, end bool, trailers *message.Head) {
	if !c.chunked {
		c.out = append(c.out, p...)
		return
	}
	c.out = http1.AppendChunk(c.out, p)
	if end {
		c.out = http1.AppendLastChunk(c.out, trailers)
	}
}

func (c *http1Call) sendBody(p []byte, end bool, trailers *message.Head) error {
	if c.switched {
		return c.sendRaw(p, end)
	}
	if !c.chunked {
		_, err := c.conn.Write(p)
		return err
	}
	c.out = c.out[:0]
	c.appendBody(p, end, trailers)
	_, err := c.conn.Write(c.out)
	return err
}

func (c *http1Call) readHead(h *message.Head) (end bool, err error) {
	n := 0
	if c.in == nil {
		c.in = c.e.buffers.Get()
	} else {
		n = copy(c.in.B, c.rest) // behind an informational head
	}
	var scan http1.Scan
	for {
		at := 0
		err := http1.ErrMore
		if n > 0 {
			at, err = scan.End(c.in.B[:n], http1.Limits{})
		}
		switch {
		case err == nil:
			if err := http1.ParseResponse(c.in.B[:at], http1.Limits{}, h, &c.frame); err != nil {
				return false, err
			}
			c.rest = c.in.B[at:n]
			if h.Status == 101 {
				return false, c.switchProtocols()
			}
			if h.Status < 200 {
				return false, nil
			}
			if len(c.frame.KeepAlive) > 0 && !c.conn.Reused {
				c.conn.Announced(c.frame.KeepAlive)
			}
			c.body.StartResponse(h, &c.frame, c.method)
			return c.body.Done(), nil
		case !errors.Is(err, http1.ErrMore):
			return false, err
		}
		if n == len(c.in.B) {
			grown := make([]byte, 2*len(c.in.B)) // Scan.End bounds it
			copy(grown, c.in.B)
			c.in.B = grown
		}
		m, err := c.conn.Read(c.in.B[n:])
		if m == 0 && err != nil {
			if n == 0 && !conn.IsTimeout(err) { // a timeout: we were interrupted
				c.conn.Lost(c.e.clock.Now())
			}
			return false, err
		}
		n += m
	}
}

func (c *http1Call) readBody(p []byte) (n int, err error) {
	if c.switched {
		return c.readRaw(p)
	}
	for n == 0 && !c.body.Done() {
		if len(c.rest) > 0 {
			data, used, err := c.body.Next(c.rest[:min(len(c.rest), len(p))])
			if err != nil {
				return 0, err
			}
			n = copy(p, data)
			c.rest = c.rest[used:]
			continue
		}
		m, err := c.conn.Read(p)
		if m == 0 && err != nil {
			if !conn.IsEnd(err) || !c.body.Close() {
				return 0, err
			}
			break
		}
		if n, err = c.inPlace(p[:m]); err != nil {
			return 0, err
		}
	}
	if !c.body.Done() {
		return n, nil
	}
	c.dirty = c.dirty || len(c.rest) > 0
	if err := c.body.Trailers(http1.Limits{}, &c.trail); err != nil {
		return 0, err
	}
	return n, io.EOF
}

// inPlace decodes what was read into its own beginning.
func (c *http1Call) inPlace(p []byte) (n int, err error) {
	for used := 0; used < len(p); {
		if c.body.Done() {
			c.dirty = true
			break
		}
		data, k, err := c.body.Next(p[used:])
		if err != nil {
			return 0, err
		}
		n += copy(p[n:], data)
		used += k
	}
	return n, nil
}

func (c *http1Call) trailers() *message.Head {
	if c.trail.Len() == 0 {
		return nil
	}
	return &c.trail
}

func (c *http1Call) interrupt() { _ = c.conn.Socket().SetDeadline(past()) }

func (c *http1Call) finish(whole bool) {
	if whole && !c.switched && c.body.Done() && c.body.Kind() != http1.CloseBody && !c.frame.Close && !c.dirty && len(c.rest) == 0 {
		c.conn.Release(c.e.clock.Now())
		return
	}
	c.conn.Close()
}

// release gives the memory back that the response's head is in.
func (c *http1Call) release() {
	if c.in != nil {
		c.e.buffers.Put(c.in)
		c.in = nil
	}
}

// http2Call is a call on a stream of a shared HTTP/2 connection.
type http2Call struct {
	st            cluster.Stream
	wantsTrailers bool
	upgrade       []byte // as of http1Call
}

func (x *exchange) openHTTP2(ctx context.Context, wantsTrailers bool) (*http2Call, error) {
	st, err := x.upstream.OpenStream(ctx, x.use())
	if err != nil {
		return nil, err
	}
	return &http2Call{st, wantsTrailers, x.upgrade}, nil
}

func (c *http2Call) sendHead(h *message.Head, body []byte, end bool) error {
	return c.st.Finish(c.first(h, body, end, nil))
}

// first is the beginning of a request, or all of it.
func (c *http2Call) first(h *message.Head, body []byte, end bool, trailers *message.Head) *http2.Part {
	end = end && len(c.upgrade) == 0 // the stream goes on as the other protocol
	return &http2.Part{Head: h, Body: body, End: end, Trailers: trailers, WantsTrailers: c.wantsTrailers, Protocol: c.upgrade}
}

func (c *http2Call) sendBody(p []byte, end bool, trailers *message.Head) error {
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

func (c *http2Call) readHead(h *message.Head) (end bool, err error) {
	if end, err = c.st.ReadHead(h); err == nil && len(c.upgrade) > 0 && h.Status >= 200 && h.Status < 300 {
		asSwitched(h, c.upgrade)
	}
	return end, err
}

func (c *http2Call) readBody(p []byte) (int, error) { return c.st.Read(p) }
func (c *http2Call) trailers() *message.Head        { return c.st.Trailers() }
func (c *http2Call) interrupt()                     { c.st.Interrupt() }
func (c *http2Call) finish(bool)                    { c.st.Close() }
