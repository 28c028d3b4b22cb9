package cluster

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/http2"
)

// multiplex is the HTTP/2 connections of an endpoint. They are shared: a
// request takes a stream of one that has room, else waits for the dial in
// progress or dials.
type multiplex struct {
	// Guarded by mu.
	mu      sync.Mutex
	conns   []*sharedConn
	dialing chan struct{} // closed when the dial in progress has ended; nil: none
	failed  error         // of the last dial
	retired bool
	speaks  Protocol // what an endpoint of an Auto cluster chose; Auto: not known yet
}

// sharedConn is one of them.
type sharedConn struct {
	*http2.Conn
	since   time.Time
	taken   uint32 // guarded by the multiplex's mu
	retired bool   // fixed at creation: nobody else will use it
}

// dialsMax bounds how often a request waits for others' dials before it gives
// up: they fail, or their connections are full at once.
const dialsMax = 8

// OpenStream begins a stream to the endpoint, on a connection that is there or
// on a new one. reused says that the connection served requests before.
func (u *Upstream) OpenStream(ctx context.Context, use *Use) (st *http2.Stream, reused bool, err error) {
	for range dialsMax {
		if st := u.openStream(); st != nil {
			return st, true, nil
		}
		done, mine := u.mux.dial()
		if mine {
			c, err := u.connectShared(ctx, use)
			u.mux.dialed(c, err)
			if err != nil {
				return nil, false, err
			}
			st, err := c.Open()
			if c.retired {
				c.Drain() // the endpoint went away while we dialed
			}
			if err == nil {
				return st, false, nil
			}
			continue
		}
		select {
		case <-done:
		case <-ctx.Done():
			return nil, false, fmt.Errorf("%w: %w", ErrConnect, ctx.Err())
		}
		if err := u.mux.lastError(); err != nil {
			return nil, false, err
		}
	}
	return nil, false, fmt.Errorf("%w: connections are full", ErrOverflow)
}

// openStream takes a stream of a connection that is there, or nil.
func (u *Upstream) openStream() *http2.Stream {
	spec := u.cluster.spec.Load()
	m := &u.mux
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := 0; i < len(m.conns); i++ {
		c := m.conns[i]
		if spec.MaxRequestsPerConn > 0 && c.taken >= spec.MaxRequestsPerConn ||
			spec.MaxConnDuration > 0 && time.Since(c.since) > spec.MaxConnDuration || c.Ended() {
			m.conns = slices.Delete(m.conns, i, i+1)
			i--
			c.Drain()
			continue
		}
		if st, err := c.Open(); err == nil {
			c.taken++
			return st
		}
	}
	return nil
}

// dial tells who dials: mine, or whose end to wait for.
func (m *multiplex) dial() (done <-chan struct{}, mine bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dialing != nil {
		return m.dialing, false
	}
	m.dialing = make(chan struct{})
	return m.dialing, true
}

func (m *multiplex) dialed(c *sharedConn, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failed = err
	if c != nil {
		c.taken++ // by the one who dialed
	}
	close(m.dialing)
	m.dialing = nil
}

func (m *multiplex) lastError() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.failed
}

// connectShared makes a connection and keeps it.
func (u *Upstream) connectShared(ctx context.Context, use *Use) (*sharedConn, error) {
	shared := *use
	shared.Protocol = HTTP2
	if _, err := u.cluster.reserve(ctx, nil, false); err != nil {
		return nil, err
	}
	c, err := u.connect(ctx, &shared)
	if err != nil {
		u.cluster.unreserve()
		u.Counts.ConnFail.Add(1)
		return nil, err
	}
	return u.share(c), nil
}

// share begins HTTP/2 on a connection that has its place. It lives until both
// sides are done with it.
func (u *Upstream) share(c *Conn) *sharedConn {
	live, spec := u.cluster.live, u.cluster.spec.Load()
	idle := spec.IdleTimeout
	if idle <= 0 {
		idle = idleTimeout
	}
	streams := spec.MaxConcurrentStreams
	if streams == 0 {
		streams = 1<<31 - 1 // the peer's own bound holds (Envoy: max_concurrent_streams)
	}
	s := &sharedConn{since: time.Now(), Conn: http2.NewConn(c.Stream, &live.buffers, live.opts.Clock,
		http2.Options{Role: http2.Client, StreamsMax: streams}, http2.Timeouts{Idle: idle})}
	m := &u.mux
	m.mu.Lock()
	if s.retired = m.retired; !s.retired {
		m.conns = append(m.conns, s)
	}
	m.mu.Unlock()
	live.work.Go(func() {
		_ = s.Serve(nil, nil) // the streams' users are told why
		m.mu.Lock()
		m.conns = slices.DeleteFunc(m.conns, func(o *sharedConn) bool { return o == s })
		m.mu.Unlock()
		c.Close()
	})
	return s
}

// retire ends the connections when their streams have ended.
func (m *multiplex) retire() {
	m.mu.Lock()
	m.retired = true
	conns := m.conns
	m.conns = nil
	m.mu.Unlock()
	for _, c := range conns {
		c.Drain()
	}
}

// Speaks tells which protocol the endpoint of an Auto cluster chose: it is
// asked by ALPN once, and the connection kept (Envoy: auto_config).
// Plaintext has no way to ask and is HTTP/1.1.
func (u *Upstream) Speaks(ctx context.Context, use *Use) (Protocol, error) {
	if !u.Secure() {
		return HTTP1, nil
	}
	u.mux.mu.Lock()
	known := u.mux.speaks
	u.mux.mu.Unlock()
	if known != Auto {
		return known, nil
	}
	ask := *use
	ask.Protocol = Auto
	if _, err := u.cluster.reserve(ctx, nil, false); err != nil {
		return Auto, err
	}
	c, err := u.connect(ctx, &ask)
	if err != nil {
		u.cluster.unreserve()
		u.Counts.ConnFail.Add(1)
		return Auto, err
	}
	speaks := HTTP1
	if c.negotiated() == "h2" {
		speaks = HTTP2
	}
	u.mux.mu.Lock()
	u.mux.speaks = speaks
	u.mux.mu.Unlock()
	if speaks == HTTP2 {
		if s := u.share(c); s.retired {
			s.Drain()
		}
	} else {
		c.Release(u.cluster.live.opts.Clock.Now())
	}
	return speaks, nil
}
