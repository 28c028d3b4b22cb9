package cluster

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/http2"
)

// multiplex is the HTTP/2 connections of an endpoint. They are shared: a
// request takes a stream of one that has room, else waits for a dial in
// progress whose connection will have room, or dials.
type multiplex struct {
	room    chan struct{} // of size 1: a stream may be free
	waiting atomic.Int32  // requests that wait for room

	// Guarded by mu.
	mu      sync.Mutex
	conns   []*sharedConn
	dials   []*dialing
	retired bool
	speaks  Protocol // what an endpoint of an Auto cluster chose; Auto: not known yet
}

// dialing is a dial in progress.
type dialing struct {
	ended  chan struct{} // closed when it has
	users  uint32        // who hopes for a stream; guarded by the multiplex's mu
	failed error         // fixed before ended is closed
}

// sharedConn is one of them.
type sharedConn struct {
	*http2.Conn
	since time.Time
	taken uint32 // guarded by the multiplex's mu
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
	st, err := u.awaitStream(ctx, use)
	u.cluster.endWait()
	if err == nil && u.cluster.crowded() { // those that waited are active all at once
		st.Close()
		u.cluster.stats.overflow(pendingOverflow, u.cluster.Name)
		return Stream{}, ErrOverflow
	}
	return st, err
}

func (u *Upstream) awaitStream(ctx context.Context, use *Use) (Stream, error) {
	if u.proxy != 0 {
		return u.openAlone(ctx, use)
	}
	m := &u.mux
	dials := 0
	for range waitsMax {
		if st := u.TryStream(); st != nil {
			return Stream{Stream: st}, nil
		}
		d, mine := m.dial(u.cluster.streamsExpected())
		if !mine {
			select {
			case <-d.ended:
			case <-ctx.Done():
				return Stream{}, fmt.Errorf("%w: %w", ErrConnect, ctx.Err())
			}
			if d.failed != nil {
				return Stream{}, d.failed
			}
			continue
		}
		others := m.others(d)
		if others && (dials == dialsMax || !u.takePlace()) {
			m.dialed(d, nil)
			if st, err := u.awaitRoom(ctx); st != nil || err != nil {
				return Stream{Stream: st}, err
			}
			continue
		}
		dials++
		st, err := u.connectShared(ctx, use, others)
		m.dialed(d, err)
		m.signal() // there may be room for who waits for that, or nothing to wait for any more
		if err != nil || st.Stream != nil {
			return st, err
		}
	}
	return Stream{}, fmt.Errorf("%w: no stream became free", ErrOverflow)
}

// streamsExpected is for how many requests a connection in the making will do.
// When no other may be made, all wait for it.
func (c *Cluster) streamsExpected() uint32 {
	spec, n := c.spec.Load(), uint32(math.MaxUint32)
	if c.full() {
		return n
	}
	for _, most := range [...]uint32{spec.MaxRequestsPerConn, spec.MaxConcurrentStreams} {
		if most > 0 {
			n = min(n, most)
		}
	}
	return n
}

// openAlone begins a stream on a connection of its own, for one that began with
// a PROXY header speaks for one client.
func (u *Upstream) openAlone(ctx context.Context, use *Use) (Stream, error) {
	st, err := u.connectShared(ctx, use, false)
	if err == nil && st.Stream == nil {
		err = fmt.Errorf("%w: %w", ErrConnect, http2.ErrUnavailable)
	}
	return st, err
}

// awaitRoom waits until a stream of a connection may be free, or takes one.
func (u *Upstream) awaitRoom(ctx context.Context) (*http2.Stream, error) {
	m := &u.mux
	m.waiting.Add(1)
	defer m.waiting.Add(-1)
	if st := u.TryStream(); st != nil {
		return st, nil // it became free before we counted as waiting
	}
	if !m.others(nil) {
		return nil, nil // nobody would tell: what was there has ended
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

// others reports whether there is a connection, or a dial beside d, which may be
// nil.
func (m *multiplex) others(d *dialing) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.conns) > 0 || slices.ContainsFunc(m.dials, func(o *dialing) bool { return o != d })
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

// dial finds a dial in progress that fewer than so many hope for, or begins one:
// mine, for which dialed must follow.
func (m *multiplex) dial(most uint32) (d *dialing, mine bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range m.dials {
		if d.users < most {
			d.users++
			return d, false
		}
	}
	d = &dialing{ended: make(chan struct{}), users: 1}
	m.dials = append(m.dials, d)
	return d, true
}

// dialed ends a dial.
func (m *multiplex) dialed(d *dialing, err error) {
	m.mu.Lock()
	m.dials = slices.DeleteFunc(m.dials, func(o *dialing) bool { return o == d })
	m.mu.Unlock()
	d.failed = err
	close(d.ended)
}

// connectShared makes a connection, takes a stream of it if it can, and keeps it.
// placed: it has its place.
func (u *Upstream) connectShared(ctx context.Context, use *Use, placed bool) (Stream, error) {
	shared := *use
	shared.Protocol = HTTP2
	if !placed {
		if _, err := u.reserve(ctx, false); err != nil {
			return Stream{}, err
		}
	}
	c, err := u.connectReserved(ctx, &shared)
	if err != nil {
		return Stream{}, err
	}
	return u.share(ctx, c, true)
}

// share begins HTTP/2 on a connection that has its place, and waits until the
// peer's limits are known. It lives until both sides are done with it. takes: a
// stream is taken before others can; there may be none.
func (u *Upstream) share(ctx context.Context, c *Conn, takes bool) (st Stream, err error) {
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
		return Stream{}, fmt.Errorf("%w: HTTP/2 with %s: %w", ErrConnect, u.Host.Key, err)
	}
	if takes {
		if st.Stream, err = s.Open(); err == nil {
			s.taken++
		}
	}
	m.mu.Lock()
	alone := m.retired || u.proxy != 0 // the endpoint may have gone while we dialed
	if !alone && !s.Ended() {
		m.conns = append(m.conns, s)
	}
	m.mu.Unlock()
	switch {
	case !alone:
	case st.Stream == nil:
		s.Drain()
	default:
		st.own = s
	}
	return st, nil
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
	c, err := u.connectReserved(ctx, &ask)
	if err != nil {
		return Auto, err
	}
	speaks := HTTP1
	if c.negotiated() == "h2" {
		speaks = HTTP2
	}
	if speaks == HTTP2 {
		if _, err := u.share(ctx, c, false); err != nil {
			return Auto, err
		}
	} else {
		c.Release(u.cluster.live.opts.Clock.Now())
	}
	u.mux.mu.Lock()
	u.mux.speaks = speaks
	u.mux.mu.Unlock()
	return speaks, nil
}
