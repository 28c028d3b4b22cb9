package engine

import (
	"log/slog"
	"net/http"
	"sync"

	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/http1"
	"github.com/tullemesh/tulle/internal/proxy/engine/http2"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
)

// http2Conn drives a downstream connection in HTTP/2. Its goroutine, the
// connection's owner, parses all frames of a read and runs the request filters
// of each new stream; what must wait for an endpoint gets a goroutine.
type http2Conn struct {
	// Fixed at creation.
	d    *downstream
	conn *http2.Conn

	work sync.WaitGroup // the streams' goroutines

	requests uint32 // owned by the connection's goroutine

	// Guarded by mu: the label cache that finish uses.
	mu sync.Mutex
}

// startsHTTP2 tells from the configuration, from ALPN, or from a connection's
// first bytes, which protocol follows. What it reads is in h's buffer.
func (h *http1Conn) startsHTTP2() bool {
	d := h.d
	switch codec := d.chain.Load().HTTP.Codec; {
	case codec == listener.CodecHTTP2:
		return true
	case codec == listener.CodecHTTP1 || h.requests > 0:
		return false
	}
	if t, ok := d.stream.(*conn.TLS); ok {
		if p := t.ConnectionState().NegotiatedProtocol; p != "" {
			return p == "h2"
		}
	}
	if h.left == nil {
		h.left = d.e.buffers.Get()
	}
	// Three bytes tell the preface from every method of HTTP/1.1 in use.
	const telling = 3
	d.guard.Set(slotHead, d.e.clock.Now()+int64(headTimeout))
	defer d.guard.Clear(slotHead)
	for {
		n := min(h.nLeft, telling)
		if string(h.left.B[:n]) != http2.Preface[:n] {
			return false
		}
		if n == telling {
			return true
		}
		m, err := d.stream.Read(h.left.B[h.nLeft:])
		if m == 0 && err != nil {
			return false // the reader of the head finds the same
		}
		h.nLeft += m
	}
}

// serveHTTP2 serves the connection to its end. first is what was read already.
func (d *downstream) serveHTTP2(first []byte) {
	m := d.chain.Load().HTTP
	h := &http2Conn{d: d}
	h.conn = http2.NewConn(d.stream, &d.e.buffers, d.e.clock, http2.Options{
		Role:         http2.Server,
		HeadBytesMax: int(m.HeaderBytesMax), HeadFieldsMax: int(m.HeaderCountMax), StreamsMax: m.MaxConcurrentStreams,
	}, http2.Timeouts{Idle: m.IdleTimeout, Head: m.HeadersTimeout, Write: m.StreamIdleTimeout}, nil)
	d.two.Store(h.conn)
	if d.draining.Load() {
		h.conn.Drain()
	}
	if err := h.conn.Serve(first, h.handle); err != nil {
		d.e.telemetry.http2Ended(err)
		d.e.opts.Log.Debug("HTTP/2 connection ended", slog.String("listener", d.spec.Name), slog.Any("remote", d.facts.Remote), slog.Any("error", err))
	}
	h.work.Wait()
}

// handle begins an exchange on the owner's goroutine.
func (h *http2Conn) handle(st *http2.Stream) {
	d := h.d
	h.requests++
	x := &http2Exchange{h: h, st: st}
	x.begin(d, d.e.clock.Now())
	x.req = st.Head
	x.guard = conn.NewGuard(d.e.clock, x.expire)
	if limit := x.manager.MaxRequestsPerConnection; limit > 0 && h.requests >= limit || d.draining.Load() {
		h.conn.Drain()
	}
	act := actAnswer
	switch {
	case st.TooLarge:
		x.fail(Failure{Kind: BadRequest, Cause: &http1.Error{Status: http.StatusRequestHeaderFieldsTooLarge, Reason: "header section too large", Source: "RFC 6585 §5"}})
	case string(x.req.Method) == http.MethodConnect:
		x.fail(Failure{Kind: NotSupported, Detail: "CONNECT over HTTP/2"})
	default:
		act = x.admit()
	}
	if act == actAnswer {
		x.local()
		if len(x.body) == 0 { // it needs no window, so it can't wait
			x.sendLocal()
			x.end()
			return
		}
	}
	h.work.Go(func() {
		if act == actForward {
			x.forward()
		} else {
			x.sendLocal()
		}
		x.end()
	})
}
