package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/http2"
)

// multiplex is the HTTP/2 connections of an endpoint. They are shared: a
// request takes a stream of one that has room, else waits for the dial in
// progress or dials.
type multiplex struct {
	room    chan struct{} // of size 1: a stream may be free
	waiting atomic.Int32  // requests that wait for room

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
	retired bool   // fixed before it is shared: nobody else will use it
}

// waitsMax bounds how often a request waits for a dial or for room before it
// gives up: others took what it waited for.
const waitsMax = 256

// dialsMax bounds the connections that one request makes: an endpoint that
// takes no streams on them takes none on more.
const dialsMax = 2

// Stream is a stream to an endpoint. Close ends it, and its connection if that
// is for nobody else.
type Stream struct {
	*http2.Stream
	own *sharedConn // nil: others use the connection as well
}

// Close ends the use of the stream.
func (s *Stream) Close() {
	s.Stream.Close()
	if s.own != nil {
		s.own.Drain()
	}
}

// OpenStream begins a stream to the endpoint, on a connection that is there or
// on a new one.
func (u *Upstream) OpenStream(ctx context.Context, use *Use) (Stream, error) {
	if st := u.TryStream(); st != nil {
		return Stream{Stream: st}, nil
	}
	if err := u.cluster.beginWait(); err != nil {
		return Stream{}, err
	}
	defer u.cluster.endWait()
	if u.proxy != 0 {
		return u.openAlone(ctx, use)
	}
	m := &u.mux
	dials := 0
	for range waitsMax {
		if st := u.TryStream(); st != nil {
			return Stream{Stream: st}, nil
		}
		done, mine := m.dial()
		if !mine {
			select {
			case <-done:
			case <-ctx.Done():
				return Stream{}, fmt.Errorf("%w: %w", ErrConnect, ctx.Err())
			}
			if err := m.lastError(); err != nil {
				return Stream{}, err
			}
			continue
		}
		if m.any() && (u.cluster.full() || dials == dialsMax) {
			m.dialed(nil, nil)
			if st, err := u.awaitRoom(ctx); st != nil || err != nil {
				return Stream{Stream: st}, err
			}
			continue
		}
		dials++
		c, err := u.connectShared(ctx, use)
		m.dialed(c, err) // those that wait may take streams before us
		if err != nil {
			return Stream{}, err
		}
		st, err := c.Open()
		switch {
		case c.retired && err == nil:
			return Stream{st, c}, nil // the endpoint went away while we dialed
		case c.retired:
			c.Drain()
		case err == nil:
			return Stream{Stream: st}, nil
		}
	}
	return Stream{}, fmt.Errorf("%w: no stream became free", ErrOverflow)
}

// openAlone begins a stream on a connection of its own, for one that began with
// a PROXY header speaks for one client.
func (u *Upstream) openAlone(ctx context.Context, use *Use) (Stream, error) {
	c, err := u.connectShared(ctx, use)
	if err != nil {
		return Stream{}, err
	}
	st, err := c.Open()
	if err != nil {
		c.Drain()
		return Stream{}, fmt.Errorf("%w: %w", ErrConnect, err)
	}
	return Stream{st, c}, nil
}

// awaitRoom waits until a stream of a connection may be free, or takes one.
func (u *Upstream) awaitRoom(ctx context.Context) (*http2.Stream, error) {
	m := &u.mux
	m.waiting.Add(1)
	defer m.waiting.Add(-1)
	if st := u.TryStream(); st != nil {
		return st, nil // it became free before we counted as waiting
	}
	select {
	case <-m.room:
		return nil, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrConnect, ctx.Err())
	}
}

// signal wakes one of those that wait for room.
func (m *multiplex) signal() {
	if m.waiting.Load() == 0 {
		return
	}
	select {
	case m.room <- struct{}{}:
	default:
	}
}

// any reports whether there is a connection.
func (m *multiplex) any() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.conns) > 0
}

// TryStream takes a stream of a connection that is there, or nil. It does not
// wait.
func (u *Upstream) TryStream() *http2.Stream {
	spec := u.cluster.spec.Load()
	m := &u.mux
	var spent []*sharedConn
	m.mu.Lock()
	defer func() {
		m.mu.Unlock()
		for _, c := range spent { // outside of the lock: it wakes streams
			c.Drain()
		}
	}()
	for i := 0; i < len(m.conns); i++ {
		c := m.conns[i]
		var st *http2.Stream
		err := http2.ErrEnding
		if !c.spent(spec) {
			st, err = c.Open()
		}
		if err == nil {
			c.taken++
			m.signal() // there may be more
			return st
		}
		if errors.Is(err, http2.ErrEnding) {
			m.conns = slices.Delete(m.conns, i, i+1)
			i--
			spent = append(spent, c)
		}
	}
	return nil
}

// spent reports whether the connection did what it may.
func (c *sharedConn) spent(spec *Spec) bool {
	return spec.MaxRequestsPerConn > 0 && c.taken >= spec.MaxRequestsPerConn ||
		spec.MaxConnDuration > 0 && time.Since(c.since) > spec.MaxConnDuration
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
	if _, err := u.reserve(ctx, false); err != nil {
		return nil, err
	}
	c, err := u.connect(ctx, &shared)
	if err != nil {
		u.unreserve()
		u.connectFailed(err)
		return nil, err
	}
	return u.share(ctx, c)
}

// share begins HTTP/2 on a connection that has its place, and waits until the
// peer's limits are known. It lives until both sides are done with it.
func (u *Upstream) share(ctx context.Context, c *Conn) (*sharedConn, error) {
	live, spec := u.cluster.live, u.cluster.spec.Load()
	idle := spec.IdleTimeout
	if idle <= 0 {
		idle = idleTimeout
	}
	streams := spec.MaxConcurrentStreams
	if streams == 0 {
		streams = 1<<31 - 1 // the peer's own bound holds (Envoy: max_concurrent_streams)
	}
	s := &sharedConn{since: time.Now(), Conn: http2.NewConn(c.Stream, live.opts.Clock,
		http2.Options{Role: http2.Client, Memory: live.opts.HTTP2, StreamsMax: streams}, http2.Timeouts{Idle: idle, Ping: spec.PingInterval, Pong: spec.PingTimeout}, u.mux.signal)}
	m := &u.mux
	live.work.Go(func() {
		_ = s.Serve(nil, nil) // the streams' users are told why
		m.mu.Lock()
		m.conns = slices.DeleteFunc(m.conns, func(o *sharedConn) bool { return o == s })
		m.mu.Unlock()
		c.Close()
		m.signal()
	})
	timeout := spec.ConnectTimeout
	if timeout <= 0 {
		timeout = connectTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := s.Ready(ctx); err != nil {
		if ctx.Err() != nil {
			_ = c.Socket().Close() // it ends Serve, which else says why and ends by itself
		}
		u.connectFailed(err)
		return nil, fmt.Errorf("%w: HTTP/2 with %s: %w", ErrConnect, u.Host.Key, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.retired = m.retired || u.proxy != 0; !s.retired && !s.Ended() {
		m.conns = append(m.conns, s)
	}
	return s, nil
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
	if _, err := u.reserve(ctx, false); err != nil {
		return Auto, err
	}
	c, err := u.connect(ctx, &ask)
	if err != nil {
		u.unreserve()
		u.connectFailed(err)
		return Auto, err
	}
	speaks := HTTP1
	if c.negotiated() == "h2" {
		speaks = HTTP2
	}
	if speaks == HTTP2 {
		s, err := u.share(ctx, c)
		if err != nil {
			return Auto, err
		}
		if s.retired {
			s.Drain()
		}
	} else {
		c.Release(u.cluster.live.opts.Clock.Now())
	}
	u.mux.mu.Lock()
	u.mux.speaks = speaks
	u.mux.mu.Unlock()
	return speaks, nil
}
