package call

import (
	"errors"
	"io"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/http1"
	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// HTTP1 is a call over a pooled HTTP/1.1 connection.
type HTTP1 struct {
	// Fixed at creation.
	buffers *conn.Buffers
	clock   conn.Clock
	conn    *cluster.Conn
	method  []byte
	upgrade []byte // what the request asks to switch to, in lower case; empty: nothing

	// Owned by who sends.
	out     []byte
	chunked bool // the request

	// Owned by who receives.
	in    *conn.Buffer // the response's head, and what came with it
	rest  []byte       // of in
	frame http1.Framing
	body  http1.Body
	trail message.Head
	dirty bool // bytes behind the response: the connection can't be used again

	// Set with the response's head; who sends what follows begins after it.
	switched bool // the other protocol follows, both ways
}

// NewHTTP1 is a call over c for a request with a method; upgrade is what it asks
// to switch to, in lower case.
func NewHTTP1(c *cluster.Conn, buffers *conn.Buffers, clock conn.Clock, method, upgrade []byte) *HTTP1 {
	return &HTTP1{buffers: buffers, clock: clock, conn: c, method: method, upgrade: upgrade}
}

// SendHead implements Call.
func (c *HTTP1) SendHead(h *message.Head, body []byte, end bool) error {
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
func (c *HTTP1) appendBody(p []byte, end bool, trailers *message.Head) {
	if !c.chunked {
		c.out = append(c.out, p...)
		return
	}
	c.out = http1.AppendChunk(c.out, p)
	if end {
		c.out = http1.AppendLastChunk(c.out, trailers)
	}
}

// SendBody implements Call.
func (c *HTTP1) SendBody(p []byte, end bool, trailers *message.Head) error {
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

// ReadHead implements Call.
func (c *HTTP1) ReadHead(h *message.Head) (end bool, err error) {
	n := 0
	if c.in == nil {
		c.in = c.buffers.Get()
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
			switch {
			case conn.IsTimeout(err): // we were interrupted
			case n > 0:
				err = http1.ErrCut // what has begun is no response (Envoy: protocol error)
			default:
				c.conn.Lost(c.clock.Now())
			}
			return false, err
		}
		n += m
	}
}

// ReadBody implements Call.
func (c *HTTP1) ReadBody(p []byte) (n int, err error) {
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
func (c *HTTP1) inPlace(p []byte) (n int, err error) {
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

// Trailers implements Call.
func (c *HTTP1) Trailers() *message.Head {
	if c.trail.Len() == 0 {
		return nil
	}
	return &c.trail
}

// Interrupt implements Call.
func (c *HTTP1) Interrupt() { _ = c.conn.Socket().SetDeadline(conn.Past()) }

// Close implements Call.
func (c *HTTP1) Close(whole bool) {
	if whole && !c.switched && c.body.Done() && c.body.Kind() != http1.CloseBody && !c.frame.Close && !c.dirty && len(c.rest) == 0 {
		c.conn.Release(c.clock.Now())
		return
	}
	c.conn.Close()
}

// Release gives the memory back that the response's head is in.
func (c *HTTP1) Release() {
	if c.in != nil {
		c.buffers.Put(c.in)
		c.in = nil
	}
}

// switchProtocols takes 101, if it is to what was asked for (RFC 9110 §7.8).
func (c *HTTP1) switchProtocols() error {
	if len(c.upgrade) == 0 || string(c.frame.Upgrade) != string(c.upgrade) {
		return http1.ErrStatus
	}
	c.switched = true
	return nil
}

func (c *HTTP1) readRaw(p []byte) (int, error) {
	if len(c.rest) > 0 {
		n := copy(p, c.rest)
		c.rest = c.rest[n:]
		return n, nil
	}
	n, err := c.conn.Read(p)
	if n > 0 {
		err = nil // it comes again
	}
	return n, err
}

func (c *HTTP1) sendRaw(p []byte, end bool) error {
	if len(p) > 0 {
		if _, err := c.conn.Write(p); err != nil {
			return err
		}
	}
	if end {
		return c.conn.CloseWrite()
	}
	return nil
}

// Held is the call whose buffer a response's head is in, for as long as the
// head is needed.
type Held struct{ of *HTTP1 }

// Keep holds the buffer of another attempt's call.
func (h *Held) Keep(c *HTTP1) {
	h.Release()
	h.of = c
}

// Release gives the buffer back.
func (h *Held) Release() {
	if h.of != nil {
		h.of.Release()
		h.of = nil
	}
}
