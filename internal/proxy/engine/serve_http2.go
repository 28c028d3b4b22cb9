package engine

import (
	"bytes"
	"log/slog"
	"net/http"
	"sync"

	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
	"github.com/tullemesh/tulle/internal/proxy/engine/http1"
	"github.com/tullemesh/tulle/internal/proxy/engine/http2"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
)

// http2Conn drives a downstream connection in HTTP/2. Its goroutine, the
// connection's owner, parses all frames of a read and then begins the exchange
// of each new stream, request filters included.
type http2Conn struct {
	// Fixed at creation.
	d         *downstream
	conn      *http2.Conn
	deadlines deadlines

	work sync.WaitGroup // the exchanges

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

// http2Memory is what the engine's HTTP/2 connections share.
type http2Memory struct {
	*http2.Memory
	exchanges sync.Pool
}

// serveHTTP2 serves the connection to its end. first is what was read already.
func (d *downstream) serveHTTP2(first []byte) {
	m := d.chain.Load().HTTP
	h := &http2Conn{d: d}
	h.deadlines.clock, h.deadlines.expire = d.e.clock, h.expire
	h.conn = http2.NewConn(d.stream, d.e.clock, http2.Options{
		Role: http2.Server, Memory: d.e.two.Memory,
		HeadBytesMax: int(m.HeaderBytesMax), HeadFieldsMax: int(m.HeaderCountMax), StreamsMax: m.MaxConcurrentStreams,
		ExtendedConnect: m.AllowConnect,
	}, http2.Timeouts{Idle: m.IdleTimeout, Head: m.HeadersTimeout, Write: m.StreamIdleTimeout, Ping: m.PingInterval, Pong: m.PingTimeout}, nil)
	d.two.Store(h.conn)
	if d.draining.Load() { // its request is on its way, and tells it to go elsewhere
		d.guard.Set(slotIdle, d.e.clock.Now()+int64(drainIdle))
	}
	if err := h.conn.Serve(first, h.handle); err != nil {
		d.e.meters.HTTP2Ended(err)
		d.e.opts.Log.Debug("HTTP/2 connection ended", slog.String("listener", d.spec.Name), slog.Any("remote", d.facts.Remote), slog.Any("error", err))
	}
	h.work.Wait()
	h.deadlines.stop()
}

// handle begins an exchange on the owner's goroutine.
func (h *http2Conn) handle(t *http2.Turn, st *http2.Stream) {
	d := h.d
	h.requests++
	h.work.Add(1)
	x, _ := d.e.two.exchanges.Get().(*http2Exchange)
	if x == nil {
		x = &http2Exchange{}
	}
	x.mu.Lock() // whoever looked at it for its last exchange is done
	x.begin(h, st, t.Now)
	x.mu.Unlock()
	if limit := x.manager.MaxRequestsPerConnection; limit > 0 && h.requests >= limit || d.draining.Load() {
		h.conn.Drain()
	}
	switch {
	case st.Malformed != "":
		x.failure = failure.Failure{Kind: failure.BadStream, Detail: st.Malformed}
		x.facts.Remote, x.source = d.facts.Remote.Addr(), d.peer
		x.action, x.res.Status = actAnswer, 0 // the codec has answered with RST_STREAM
	case st.TooLarge:
		x.fail(failure.Failure{Kind: failure.BadRequest, Cause: &http1.Error{Status: http.StatusRequestHeaderFieldsTooLarge, Reason: "header section too large", Source: "RFC 6585 §5"}})
	case string(x.req.Method) == http.MethodConnect:
		x.admitConnect()
	default:
		x.upgrade = bytes.ToLower(st.Protocol)
		if x.admit() == actForward && len(x.upgrade) > 0 && !x.upgradeAllowed() {
			x.fail(failure.Failure{Kind: failure.NotSupported, Detail: "upgrade"})
		}
	}
	x.enter(t)
}

// let gives the memory of an exchange back that is over.
func (h *http2Conn) let(x *http2Exchange) {
	h.d.e.two.exchanges.Put(x)
	h.work.Done()
}

// expire runs on the deadlines' timer.
func (h *http2Conn) expire(due []*http2Exchange) {
	m := h.d.e.two.Memory
	t := m.Begin(h.d.e.clock.Now())
	for _, x := range due {
		x.expire(t)
	}
	m.End(t)
}
