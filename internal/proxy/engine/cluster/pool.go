package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
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
)

// EndpointInfo is what the assignment says of an endpoint.
type EndpointInfo struct {
	*Endpoint
	Locality *Locality
	// Others are further addresses of the endpoint.
	Others []netip.AddrPort
}

// Upstream is one endpoint of one cluster with its idle connections.
type Upstream struct {
	// Fixed at creation.
	Host      Host
	Addr      netip.AddrPort
	Pipe      string
	cluster   *Cluster
	transport *tls.ClientSpec // nil: plaintext
	proxy     int             // version of the PROXY header that connections begin with; 0: none

	info   atomic.Pointer[EndpointInfo]
	peer   atomic.Pointer[string]
	Counts Counts
	mux    multiplex

	places atomic.Int64 // of connections, dialed ones included
	aging  aging

	// Guarded by mu.
	mu      sync.Mutex
	idle    []*Conn // the last is the most recently used
	retired bool
}

// Counts are an endpoint's counters as Envoy's /clusters shows them.
type Counts struct {
	ConnTotal, ConnActive, ConnFail     atomic.Int64
	Requests, RequestErrors, RequestOKs atomic.Int64
	RequestTimeouts                     atomic.Int64
}

func newUpstream(c *Cluster, key string, at netip.AddrPort, pipe string, transport *TLSMatch) *Upstream {
	u := &Upstream{Host: Host{Key: key}, Addr: at, Pipe: pipe, cluster: c, mux: multiplex{speaks: Auto, room: make(chan struct{}, 1)}}
	u.Host.up = u
	if transport != nil {
		u.transport, u.proxy = transport.Spec, transport.Proxy
	}
	return u
}

// Answered counts an answer of the endpoint, as Envoy does: 5xx are errors.
func (u *Upstream) Answered(status int) {
	if status >= http.StatusInternalServerError {
		u.Counts.RequestErrors.Add(1)
		return
	}
	u.Counts.RequestOKs.Add(1)
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
	since    int64 // idle: the clock when it became so; in use: how long it was idle before
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
	// ProxyHeader is the PROXY header, in a version, of whom the connection
	// serves. It is asked where the endpoint wants one.
	ProxyHeader func(version int) []byte
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
	if use.Raw && u.cluster.full() {
		// Who holds the others' places may never end (Envoy: tcp_proxy).
		u.cluster.stats.overflow(connOverflow, u.cluster.Name)
		return nil, ErrOverflow
	}
	if err := u.cluster.beginWait(); err != nil {
		return nil, err
	}
	c, err := u.reserve(ctx, !use.Raw)
	for c != nil && !c.quiet() {
		c, err = u.reserve(ctx, !use.Raw)
	}
	if c == nil && err == nil {
		c, err = u.connectReserved(ctx, use)
	}
	u.cluster.endWait()
	if err == nil && !use.Raw && u.cluster.crowded() {
		c.Release(u.cluster.live.opts.Clock.Now())
		u.cluster.stats.overflow(pendingOverflow, u.cluster.Name)
		return nil, ErrOverflow
	}
	return c, err
}

// connectReserved connects at a place that was taken, and gives it up if there
// is no connection.
func (u *Upstream) connectReserved(ctx context.Context, use *Use) (*Conn, error) {
	c, err := u.connect(ctx, use)
	if err != nil {
		u.unreserve()
		u.connectFailed(err)
	}
	return c, err
}

func (u *Upstream) connectFailed(err error) {
	u.Counts.ConnFail.Add(1)
	s := u.cluster.stats
	s.connectFails.With(u.cluster.Name).Inc()
	if errors.Is(err, context.DeadlineExceeded) || conn.IsTimeout(err) {
		s.connectTimeouts.With(u.cluster.Name).Inc()
	}
}

// Take takes the most recently used idle connection, or nil. careful is for
// requests that can't be repeated: a connection that has been idle for as long
// as the endpoint is known to close such is left to others. now is the clock's.
//
// The kernel is not asked whether the peer has closed it: the caller does, by
// conn.Socket.RoundTrip, and says so by Lost.
func (u *Upstream) Take(careful bool, now int64) *Conn {
	for {
		u.mu.Lock()
		n := len(u.idle)
		if n == 0 || careful && now-u.idle[n-1].since > u.aging.trusted(now) {
			u.mu.Unlock()
			return nil
		}
		c := u.idle[n-1]
		u.idle[n-1] = nil
		u.idle = u.idle[:n-1]
		u.mu.Unlock()
		if u.expired(c, now) {
			c.Close()
			continue
		}
		c.Reused = true
		c.since = now - c.since
		return c
	}
}

// Reuse is Take with a look at the connection. Bytes that nobody asked for, such
// as content behind a response that has none, would be taken for the answer to
// the next request, which may be another client's.
func (u *Upstream) Reuse(careful bool, now int64) *Conn {
	for {
		c := u.Take(careful, now)
		if c == nil || c.quiet() {
			return c
		}
		c.Lost(now)
	}
}

// quiet closes the connection unless there is nothing to read on it.
func (c *Conn) quiet() bool {
	if c.Look() == conn.Quiet {
		return true
	}
	c.Close()
	return false
}

// takeIdle takes an idle connection as it is, or nil.
func (u *Upstream) takeIdle() *Conn {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := len(u.idle)
	if n == 0 {
		return nil
	}
	c := u.idle[0]
	u.idle = slices.Delete(u.idle, 0, 1)
	return c
}

// expired reports whether a connection was idle for too long or is too old,
// and counts it.
func (u *Upstream) expired(c *Conn, now int64) bool {
	spec, s := u.cluster.spec.Load(), u.cluster.stats
	switch {
	case now-c.since > u.idleMax(spec):
		s.idleEnds.With(u.cluster.Name).Inc()
	case spec.MaxConnDuration > 0 && now-c.made > int64(spec.MaxConnDuration):
		s.agedEnds.With(u.cluster.Name).Inc()
	default:
		return false
	}
	return true
}

// idleMax is how long a connection may be idle: what is configured, and less
// than what the endpoint has said.
func (u *Upstream) idleMax(spec *Spec) int64 {
	most := int64(spec.IdleTimeout)
	if most <= 0 {
		most = int64(idleTimeout)
	}
	if said := u.aging.announced.Load(); said > 0 {
		most = min(most, said)
	}
	return most
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
	if u.proxy != 0 {
		if _, err := s.Write(use.ProxyHeader(u.proxy)); err != nil {
			s.Close()
			return nil, fmt.Errorf("%w: PROXY header to %s: %w", ErrConnect, u.Host.Key, err)
		}
	}
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
	u.cluster.stats.connects.With(u.cluster.Name).Inc()
	return c, nil
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
// reusable. now is the clock's. One that began with a PROXY header speaks for
// one client and is closed.
func (c *Conn) Release(now int64) {
	u := c.Upstream
	spec := u.cluster.spec.Load()
	c.requests++
	c.since = now
	if u.proxy != 0 || spec.MaxRequestsPerConn > 0 && c.requests >= spec.MaxRequestsPerConn ||
		spec.MaxConnDuration > 0 && now-c.made > int64(spec.MaxConnDuration) {
		c.Close()
		return
	}
	if u.cluster.queued.Load() > 0 && u.cluster.handOver(c) {
		return
	}
	u.mu.Lock()
	keep := !u.retired && len(u.idle) < limit.UpstreamIdleMax
	if keep {
		u.idle = append(u.idle, c)
	}
	u.mu.Unlock()
	switch {
	case !keep:
		c.Close()
	case u.cluster.queued.Load() > 0: // since we looked
		u.cluster.makeRoom()
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
	c.Upstream.unreserve()
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
	var dead []*Conn
	u.mu.Lock()
	u.idle = slices.DeleteFunc(u.idle, func(c *Conn) bool {
		drop := u.expired(c, now)
		if !drop && c.Look() != conn.Quiet {
			u.aging.closed(now-c.since, now)
			drop = true
		}
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
