package engine

import (
	"bytes"
	"log/slog"
	"net/http"
	"sync"

	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
	"github.com/tullemesh/tulle/internal/proxy/engine/http1"
	"github.com/tullemesh/tulle/internal/proxy/engine/http2"
)

// http2Driver serves clients that speak HTTP/2.
type http2Driver struct {
	memory    *http2.Memory // of all the engine's connections in HTTP/2
	exchanges sync.Pool     // of *http2Exchange
}

// http2Conn drives a downstream connection in HTTP/2. Its goroutine, the
// connection's owner, parses all frames of a read and then begins the exchange
// of each new stream, request filters included.
type http2Conn struct {
	// Fixed at creation.
	of        *http2Driver
	d         *downstream
	conn      *http2.Conn
	deadlines deadlines

	work sync.WaitGroup // the exchanges

	requests uint32 // owned by the connection's goroutine

	// Guarded by mu: the label cache that finish uses.
	mu sync.Mutex
}

// serve serves the connection to its end. first is what was read already.
func (v *http2Driver) serve(d *downstream, first []byte) {
	m := d.chain.Load().HTTP
	h := &http2Conn{of: v, d: d}
	h.deadlines.clock, h.deadlines.expire = d.clock, h.expire
	h.conn = http2.NewConn(d.stream, d.clock, http2.Options{
		Role: http2.Server, Memory: v.memory,
		HeadBytesMax: int(m.HeaderBytesMax), HeadFieldsMax: int(m.HeaderCountMax), StreamsMax: m.MaxConcurrentStreams,
		ExtendedConnect: m.AllowConnect,
	}, http2.Timeouts{Idle: m.IdleTimeout, Head: m.HeadersTimeout, Write: m.StreamIdleTimeout, Ping: m.PingInterval, Pong: m.PingTimeout}, nil)
	d.speaksHTTP2(h.conn)
	if err := h.conn.Serve(first, h.handle); err != nil {
		d.meters.HTTP2Ended(err)
		d.shared.log.Debug("HTTP/2 connection ended", slog.String("listener", d.spec.Name), slog.Any("remote", d.facts.Remote), slog.Any("error", err))
	}
	h.work.Wait()
	h.deadlines.stop()
}

// handle begins an exchange on the owner's goroutine.
func (h *http2Conn) handle(t *http2.Turn, st *http2.Stream) {
	d := h.d
	h.requests++
	h.work.Add(1)
	x, _ := h.of.exchanges.Get().(*http2Exchange)
	if x == nil {
		x = &http2Exchange{}
	}
	x.mu.Lock() // whoever looked at it for its last exchange is done
	x.begin(h, st, t.Now)
	x.mu.Unlock()
	if limit := x.manager.MaxRequestsPerConnection; limit > 0 && h.requests >= limit || d.isDraining() {
		h.conn.Drain()
	}
	switch {
	case st.Malformed != "":
		x.malformed(st.Malformed)
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
	h.of.exchanges.Put(x)
	h.work.Done()
}

// expire runs on the deadlines' timer.
func (h *http2Conn) expire(due []*http2Exchange) {
	m := h.of.memory
	t := m.Begin(h.d.clock.Now())
	for _, x := range due {
		x.expire(t)
	}
	m.End(t)
}
