package cluster

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/tls"
)

const (
	// connectTimeout is used when a cluster has none (Envoy: 5 s).
	connectTimeout = 5 * time.Second
	// idleTimeout of pooled connections when a cluster has none (Envoy: 1 h).
	idleTimeout = time.Hour
	// freshWindow is for how long a pooled connection is used again without
	// asking the kernel whether the peer has closed it.
	freshWindow = 100 * time.Millisecond
)

// EndpointInfo is what the assignment says of an endpoint.
type EndpointInfo struct {
	*Endpoint
	Locality *Locality
}

// Upstream is one endpoint of one cluster with its idle connections.
type Upstream struct {
	// Fixed at creation.
	Host      Host
	Addr      netip.AddrPort
	Pipe      string
	cluster   *Cluster
	transport *tls.ClientSpec // nil: plaintext

	info   atomic.Pointer[EndpointInfo]
	peer   atomic.Pointer[string]
	Counts Counts
	mux    multiplex

	// Guarded by mu.
	mu      sync.Mutex
	idle    []*Conn // the last is the most recently used
	retired bool
}

// Counts are an endpoint's counters as Envoy's /clusters shows them.
type Counts struct {
	ConnTotal, ConnActive, ConnFail      atomic.Int64
	Requests, RequestErrors, RequestOKs  atomic.Int64
	RequestTimeouts, BytesSent, Received atomic.Int64
}

func newUpstream(c *Cluster, key string, at netip.AddrPort, pipe string, transport *tls.ClientSpec) *Upstream {
	u := &Upstream{Host: Host{Key: key}, Addr: at, Pipe: pipe, cluster: c, transport: transport, mux: multiplex{speaks: Auto, room: make(chan struct{}, 1)}}
	u.Host.up = u
	return u
}

// Info returns what the assignment says of the endpoint now.
func (u *Upstream) Info() *EndpointInfo { return u.info.Load() }

// Cluster returns the cluster that the endpoint belongs to.
func (u *Upstream) Cluster() *Cluster { return u.cluster }

// Secure reports whether connections use TLS.
func (u *Upstream) Secure() bool { return u.transport != nil }

// Mutual reports whether connections prove both ends' identities.
func (u *Upstream) Mutual() bool {
	return u.transport != nil && u.transport.Certificate != "" && u.transport.Validation != ""
}

// Peer is the URI SAN of the certificate that the endpoint last showed, or
// empty.
func (u *Upstream) Peer() string {
	if p := u.peer.Load(); p != nil {
		return *p
	}
	return ""
}

// learnPeer keeps who the endpoint proved to be.
func (u *Upstream) learnPeer(t *conn.TLS) {
	certs := t.ConnectionState().PeerCertificates
	if u.transport.Validation == "" || len(certs) == 0 || len(certs[0].URIs) == 0 {
		return
	}
	if id := certs[0].URIs[0].String(); id != u.Peer() {
		u.peer.Store(&id)
	}
}

// Upstream returns a host's live endpoint, or nil outside Live.
func (h *Host) Upstream() *Upstream { return h.up }

// Conn is a connection to an endpoint, in use by one request or idle.
type Conn struct {
	conn.Stream
	Upstream *Upstream
	// Reused says that requests went over it before.
	Reused   bool
	requests uint32
	since    int64 // of idleness
	made     int64
	closed   bool
}

// Use says what a new connection is for.
type Use struct {
	// ServerName for TLS with AutoSNI.
	ServerName string
	// Raw is for bytes that are not HTTP: without HTTP's application protocols.
	Raw bool
	// Protocol of HTTP: HTTP1, HTTP2 or Auto.
	Protocol Protocol
}

// application is what TLS offers.
func (u *Use) application() tls.Application {
	switch {
	case u.Raw:
		return tls.Bytes
	case u.Protocol == HTTP2:
		return tls.HTTP2
	case u.Protocol == Auto:
		return tls.AnyHTTP
	}
	return tls.HTTP1
}

// negotiated is the application protocol that TLS agreed on, or empty.
func (c *Conn) negotiated() string {
	if t, ok := c.Stream.(*conn.TLS); ok {
		return t.ConnectionState().NegotiatedProtocol
	}
	return ""
}

// Connect makes a connection to the endpoint, or takes one over that another
// request releases while this one waits for a place.
func (u *Upstream) Connect(ctx context.Context, use *Use) (*Conn, error) {
	if c, err := u.cluster.reserve(ctx, u, !use.Raw); c != nil || err != nil {
		return c, err
	}
	c, err := u.connect(ctx, use)
	if err != nil {
		u.cluster.unreserve()
		u.Counts.ConnFail.Add(1)
		return nil, err
	}
	return c, nil
}

// Reuse takes the most recently used idle connection that is still good, or
// nil. careful asks that the kernel is asked in any case whether the peer has
// closed it, because the request can't be repeated. now is the clock's.
func (u *Upstream) Reuse(careful bool, now int64) *Conn {
	for {
		u.mu.Lock()
		n := len(u.idle)
		if n == 0 {
			u.mu.Unlock()
			return nil
		}
		c := u.idle[n-1]
		u.idle[n-1] = nil
		u.idle = u.idle[:n-1]
		u.mu.Unlock()
		if !careful && now-c.since < int64(freshWindow) || c.Socket().Look() == conn.Quiet {
			c.Reused = true
			return c
		}
		c.Close()
	}
}

func (u *Upstream) connect(ctx context.Context, use *Use) (*Conn, error) {
	spec := u.cluster.spec.Load()
	timeout := spec.ConnectTimeout
	if timeout <= 0 {
		timeout = connectTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	s, err := u.dial(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConnect, err)
	}
	c := &Conn{Stream: s, Upstream: u, made: u.cluster.live.opts.Clock.Now()}
	if u.transport != nil {
		t, err := u.cluster.live.opts.TLS.Connect(ctx, s, u.transport, u.serverName(use), use.application())
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("%w: TLS handshake with %s: %w", ErrConnect, u.Host.Key, err)
		}
		c.Stream = t
		u.learnPeer(t)
	}
	u.Counts.ConnTotal.Add(1)
	u.Counts.ConnActive.Add(1)
	return c, nil
}

// dial tries the endpoint's addresses in order (happy eyeballs without the
// race: a mesh's addresses answer or refuse at once).
func (u *Upstream) dial(ctx context.Context, spec *Spec) (*conn.Socket, error) {
	o := conn.DialOptions{
		Bind:              spec.BindAddress,
		KeepaliveIdle:     time.Duration(spec.KeepaliveTime) * time.Second,
		KeepaliveInterval: time.Duration(spec.KeepaliveInterval) * time.Second,
		KeepaliveProbes:   int(spec.KeepaliveProbes),
	}
	s, err := conn.Dial(ctx, u.Addr, u.Pipe, o)
	if err == nil {
		return s, nil
	}
	for _, extra := range u.Info().Extra {
		if s, extraErr := conn.Dial(ctx, extra, "", o); extraErr == nil {
			return s, nil
		}
	}
	return nil, err
}

func (u *Upstream) serverName(use *Use) string {
	switch {
	case !u.transport.AutoSNI:
		return u.transport.SNI
	case u.Info().Hostname != "":
		return u.Info().Hostname
	case u.Info().Host != "":
		return u.Info().Host
	}
	return use.ServerName
}

// Release gives a connection back after a complete exchange that left it
// reusable. now is the clock's.
func (c *Conn) Release(now int64) {
	u := c.Upstream
	spec := u.cluster.spec.Load()
	c.requests++
	c.since = now
	if spec.MaxRequestsPerConn > 0 && c.requests >= spec.MaxRequestsPerConn ||
		spec.MaxConnDuration > 0 && now-c.made > int64(spec.MaxConnDuration) {
		c.Close()
		return
	}
	if u.cluster.pending.Load() > 0 && u.cluster.handOver(c) {
		return
	}
	u.mu.Lock()
	keep := !u.retired && len(u.idle) < limit.UpstreamIdleMax
	if keep {
		u.idle = append(u.idle, c)
	}
	u.mu.Unlock()
	if !keep {
		c.Close()
	}
}

// Close closes the connection and frees its place. It may be called twice by
// its one user.
func (c *Conn) Close() error {
	if c.closed {
		return nil
	}
	c.closed = true
	err := c.Socket().Close() // TLS: without a close_notify nobody waits for
	c.Upstream.Counts.ConnActive.Add(-1)
	c.Upstream.cluster.unreserve()
	return err
}

// retire closes the idle connections; those in use close when they are
// released.
func (u *Upstream) retire() {
	u.mu.Lock()
	u.retired = true
	idle := u.idle
	u.idle = nil
	u.mu.Unlock()
	for _, c := range idle {
		c.Close()
	}
	u.mux.retire()
}

func (u *Upstream) unused() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.idle) == 0 && u.Counts.ConnActive.Load() == 0 && u.Host.Active.Load() == 0
}

// reap closes idle connections that are too old or that the peer closed.
func (u *Upstream) reap(now int64) {
	most := u.cluster.spec.Load().IdleTimeout
	if most <= 0 {
		most = idleTimeout
	}
	var dead []*Conn
	u.mu.Lock()
	u.idle = slices.DeleteFunc(u.idle, func(c *Conn) bool {
		drop := now-c.since > int64(most) || c.Socket().Look() != conn.Quiet
		if drop {
			dead = append(dead, c)
		}
		return drop
	})
	u.mu.Unlock()
	for _, c := range dead {
		c.Close()
	}
}

// waiter is a request that waits for a place among the cluster's connections.
type waiter struct {
	upstream *Upstream // nil: only a place to dial will do
	got      chan *Conn
}

// reserve takes a place for a new connection. When all are taken it waits:
// then it returns a connection that another request released, or nil with a
// place to dial.
func (c *Cluster) reserve(ctx context.Context, u *Upstream, reuse bool) (*Conn, error) {
	spec := c.spec.Load()
	if !exceeds(c.connections.Add(1), spec.MaxConnections) {
		return nil, nil
	}
	c.connections.Add(-1)
	if err := c.beginWait(); err != nil {
		return nil, err
	}
	w := &waiter{got: make(chan *Conn, 1)}
	if reuse {
		w.upstream = u
	}
	c.mu.Lock()
	c.waiters = append(c.waiters, w)
	c.mu.Unlock()
	c.makeRoom()
	select {
	case got := <-w.got:
		return got, nil
	case <-ctx.Done():
	}
	if c.withdraw(w) {
		return nil, fmt.Errorf("%w: %w", ErrConnect, ctx.Err())
	}
	if got := <-w.got; got != nil {
		got.Release(c.live.opts.Clock.Now())
	} else {
		c.unreserve()
	}
	return nil, fmt.Errorf("%w: %w", ErrConnect, ctx.Err())
}

// makeRoom closes an idle connection of any endpoint, so that it does not keep
// a place that somebody waits for.
func (c *Cluster) makeRoom() {
	c.mu.Lock()
	all := make([]*Upstream, 0, len(c.upstreams))
	for _, u := range c.upstreams {
		all = append(all, u)
	}
	c.mu.Unlock()
	for _, u := range all {
		if idle := u.Reuse(true, 0); idle != nil {
			idle.Close()
			return
		}
	}
}

func (c *Cluster) withdraw(w *waiter) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.Index(c.waiters, w)
	if i < 0 {
		return false
	}
	c.waiters = slices.Delete(c.waiters, i, i+1)
	c.pending.Add(-1)
	return true
}

// handOver gives a released connection to a request that waits for one to the
// same endpoint, or else makes room for one that waits to dial.
func (c *Cluster) handOver(released *Conn) bool {
	c.mu.Lock()
	i := slices.IndexFunc(c.waiters, func(w *waiter) bool { return w.upstream == released.Upstream })
	if i < 0 {
		waiting := len(c.waiters) > 0
		c.mu.Unlock()
		if waiting {
			released.Close()
		}
		return waiting
	}
	w := c.waiters[i]
	c.waiters = slices.Delete(c.waiters, i, i+1)
	c.pending.Add(-1)
	c.mu.Unlock()
	released.Reused = true
	w.got <- released
	return true
}

// unreserve frees a connection's place, or gives it to the one who waits
// longest.
func (c *Cluster) unreserve() {
	if c.pending.Load() > 0 {
		c.mu.Lock()
		if len(c.waiters) > 0 {
			w := c.waiters[0]
			c.waiters = slices.Delete(c.waiters, 0, 1)
			c.pending.Add(-1)
			c.mu.Unlock()
			w.got <- nil
			return
		}
		c.mu.Unlock()
	}
	c.connections.Add(-1)
}
