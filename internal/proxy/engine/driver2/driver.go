// Package driver2 serves clients that speak HTTP/2 (RFC 9113; tunnels by RFC 9113
// §8.5, upgrades by RFC 8441). The codec and its connection are package http2's;
// here each stream is an exchange. To an endpoint in HTTP/2 it has no goroutine
// as long as nothing waits (relay.go), else it has one (goroutine.go).
//
// Read driver.go first, then exchange.go.
package driver2

import (
	"bytes"
	"log/slog"
	"net/http"
	"sync"

	"github.com/tullemesh/tulle/internal/proxy/engine/downstream"
	"github.com/tullemesh/tulle/internal/proxy/engine/exchange"
	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
	"github.com/tullemesh/tulle/internal/proxy/engine/http1"
	"github.com/tullemesh/tulle/internal/proxy/engine/http2"
)

// Driver serves clients that speak HTTP/2.
type Driver struct {
	Memory    *http2.Memory // of all the engine's connections in HTTP/2
	exchanges sync.Pool     // of *http2Exchange
}

// http2Conn drives a downstream connection in HTTP/2. Its goroutine, the
// connection's owner, parses all frames of a read and then begins the exchange
// of each new stream, request filters included.
type http2Conn struct {
	// Fixed at creation.
	of        *Driver
	d         *downstream.Conn
	conn      *http2.Conn
	deadlines deadlines

	work sync.WaitGroup // the exchanges

	requests uint32 // owned by the connection's goroutine

	// Guarded by mu: the label cache that Finish uses.
	mu sync.Mutex
}

// Serve serves the connection to its end. first is what was read already.
func (v *Driver) Serve(d *downstream.Conn, first []byte) {
	m := d.Chain.Load().HTTP
	h := &http2Conn{of: v, d: d}
	h.deadlines.clock, h.deadlines.expire = d.Clock, h.expire
	h.conn = http2.NewConn(d.Stream, d.Clock, http2.Options{
		Role: http2.Server, Memory: v.Memory,
		HeadBytesMax: int(m.HeaderBytesMax), HeadFieldsMax: int(m.HeaderCountMax), StreamsMax: m.MaxConcurrentStreams,
		ExtendedConnect: m.AllowConnect,
	}, http2.Timeouts{Idle: m.IdleTimeout, Head: m.HeadersTimeout, Write: m.StreamIdleTimeout, Ping: m.PingInterval, Pong: m.PingTimeout}, nil)
	d.SpeaksHTTP2(h.conn)
	if err := h.conn.Serve(first, h.handle); err != nil {
		d.Meters.HTTP2Ended(err)
		d.Shared.Log.Debug("HTTP/2 connection ended", slog.String("listener", d.Spec.Name), slog.Any("remote", d.Facts.Remote), slog.Any("error", err))
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
	if limit := x.Manager.MaxRequestsPerConnection; limit > 0 && h.requests >= limit || d.IsDraining() {
		h.conn.Drain()
	}
	switch {
	case st.Malformed != "":
		x.Malformed(st.Malformed)
	case st.TooLarge:
		x.Fail(failure.Failure{Kind: failure.BadRequest, Cause: &http1.Error{Status: http.StatusRequestHeaderFieldsTooLarge, Reason: "header section too large", Source: "RFC 6585 §5"}})
	case string(x.Req.Method) == http.MethodConnect:
		x.admitConnect()
	default:
		x.Upgrade = bytes.ToLower(st.Protocol)
		if x.Admit() == exchange.ActForward && len(x.Upgrade) > 0 && !x.UpgradeAllowed() {
			x.Fail(failure.Failure{Kind: failure.NotSupported, Detail: "upgrade"})
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
	m := h.of.Memory
	t := m.Begin(h.d.Clock.Now())
	for _, x := range due {
		x.expire(t)
	}
	m.End(t)
}
