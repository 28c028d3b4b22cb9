package cluster

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/tls"
)

// Errors of choosing an endpoint and of connecting to it.
var (
	// ErrNoHost: no endpoint is healthy, or there is none.
	ErrNoHost = errors.New("no healthy upstream")
	// ErrOverflow: a threshold of the cluster is reached.
	ErrOverflow = errors.New("upstream overflow")
	// ErrConnect: the connection was not made; nothing was sent.
	ErrConnect = errors.New("upstream connect failed")
)

// LiveOptions are what Live needs.
type LiveOptions struct {
	Clock    conn.Clock
	TLS      *tls.Store
	Resolver Resolver
	Log      *slog.Logger
}

// Live is what clusters are while the proxy runs: endpoints, connection pools,
// DNS answers. It is keyed by names and addresses, outlives Specs and changes
// without waiting. Reads are lock-free.
type Live struct {
	// Fixed at creation.
	opts  LiveOptions
	ended chan struct{} // closed by Close
	work  sync.WaitGroup

	buffers conn.Buffers // of HTTP/2 connections

	clusters atomic.Pointer[map[string]*Cluster]
	names    names

	// Guarded by mu.
	mu      sync.Mutex
	closed  bool
	leaving map[string]*Cluster // removed less than leaveAfter ago
}

// NewLive returns the live state of no clusters. Close ends it.
func NewLive(o LiveOptions) *Live {
	if o.Resolver == nil {
		o.Resolver = SystemResolver{}
	}
	l := &Live{opts: o, ended: make(chan struct{}), leaving: map[string]*Cluster{}}
	l.clusters.Store(&map[string]*Cluster{})
	l.work.Go(l.reap)
	return l
}

// Close closes all pooled connections and waits for what Live started.
func (l *Live) Close() {
	l.mu.Lock()
	l.closed = true
	clusters := *l.clusters.Load()
	l.mu.Unlock()
	close(l.ended)
	for _, c := range clusters {
		c.remove()
	}
	l.work.Wait()
}

// Get finds a cluster, or nil. A cluster that was removed a moment ago is found
// as well: a request that was routed by the generation before may only now ask
// for it.
func (l *Live) Get(name string) *Cluster {
	if c := (*l.clusters.Load())[name]; c != nil {
		return c
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leaving[name]
}

// All returns the clusters by name; the map is read-only.
func (l *Live) All() map[string]*Cluster { return *l.clusters.Load() }

// Update makes the clusters those of a configuration: new ones begin, others
// keep their endpoints' pools, and removed ones close their idle connections;
// requests in flight end undisturbed.
func (l *Live) Update(specs map[string]*Spec, assignment func(*Spec) *Assignment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	old := *l.clusters.Load()
	next := make(map[string]*Cluster, len(specs))
	for name, spec := range specs {
		c := old[name]
		if c == nil || !c.accepts(spec) {
			c = newCluster(l, name)
		}
		c.update(spec, assignment(spec))
		next[name] = c
	}
	l.clusters.Store(&next)
	gone := map[string]*Cluster{}
	for name, c := range old {
		if next[name] != c {
			gone[name], l.leaving[name] = c, c
		}
	}
	if len(gone) > 0 {
		l.work.Go(func() { l.forget(gone) })
	}
}

// leaveAfter is how long a removed cluster still serves requests that were
// routed to it before: between a routing decision and the cluster's use lies
// nothing that waits, but a machine under load may stop a goroutine anywhere.
const leaveAfter = time.Second

// forget ends removed clusters when nobody can be on the way to them.
func (l *Live) forget(gone map[string]*Cluster) {
	timer := time.NewTimer(leaveAfter)
	defer timer.Stop()
	select {
	case <-l.ended:
	case <-timer.C:
	}
	l.mu.Lock()
	for name, c := range gone {
		if l.leaving[name] == c {
			delete(l.leaving, name)
		}
	}
	l.mu.Unlock()
	for _, c := range gone {
		c.remove()
	}
}

// reap closes pooled connections that were idle too long or that their peer
// closed.
func (l *Live) reap() {
	const every = 15 * time.Second
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-l.ended:
			return
		case <-t.C:
			for _, c := range *l.clusters.Load() {
				c.reap()
			}
		}
	}
}

// Cluster is the live state of one cluster.
type Cluster struct {
	// Fixed at creation.
	Name string
	live *Live

	spec   atomic.Pointer[Spec]
	hosts  atomic.Pointer[HostSet]
	cursor Cursor

	// Requests and connections in being, against the thresholds.
	requests    atomic.Int64
	connections atomic.Int64
	pending     atomic.Int64

	// Guarded by mu.
	mu         sync.Mutex
	assignment *Assignment
	upstreams  map[string]*Upstream // by key
	resolving  context.CancelFunc
	answers    map[string][]netip.Addr // last good DNS answers by host name
	removed    bool
	waiters    []*waiter
}

func newCluster(l *Live, name string) *Cluster {
	c := &Cluster{Name: name, live: l, upstreams: map[string]*Upstream{}, answers: map[string][]netip.Addr{}}
	c.hosts.Store(NewHostSet(nil, Policy{}))
	return c
}

// Spec returns the configuration in force.
func (c *Cluster) Spec() *Spec { return c.spec.Load() }

// Hosts returns the host set in force.
func (c *Cluster) Hosts() *HostSet { return c.hosts.Load() }

// accepts reports whether the cluster can go on with a new spec; connections
// that were made otherwise (TLS, source address) can't be used for it.
func (c *Cluster) accepts(next *Spec) bool {
	old := c.spec.Load()
	if old == next {
		return true
	}
	return old.Kind == next.Kind && old.Protocol == next.Protocol && old.BindAddress == next.BindAddress && sameTLS(old, next)
}

func (c *Cluster) update(spec *Spec, a *Assignment) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.spec.Swap(spec)
	if old == spec && c.assignment == a {
		return
	}
	c.assignment = a
	if spec.Kind == StrictDNS || spec.Kind == LogicalDNS {
		c.resolveLocked(a)
	}
	if spec.Kind != OriginalDst {
		c.rebuildLocked()
	}
}

// rebuildLocked makes the host set from the assignment and the DNS answers.
func (c *Cluster) rebuildLocked() {
	spec, a := c.spec.Load(), c.assignment
	keep := make(map[string]*Upstream, len(c.upstreams))
	var groups []Group
	if a != nil {
		for i := range a.Localities {
			loc := &a.Localities[i]
			g := Group{Priority: loc.Priority, Weight: loc.Weight}
			for j := range loc.Endpoints {
				ep := &loc.Endpoints[j]
				for _, at := range c.addressesLocked(spec, ep) {
					u := c.upstreamLocked(keep, ep, loc, at)
					g.Members = append(g.Members, Member{Host: &u.Host, Weight: ep.Weight, Health: ep.Health})
				}
			}
			groups = append(groups, g)
		}
	}
	gone := c.upstreams
	c.upstreams = keep
	c.hosts.Store(NewHostSet(groups, PolicyOf(spec, a)))
	for key, u := range gone {
		if keep[key] != u {
			u.retire()
		}
	}
}

// addressesLocked are where an endpoint is now: its address, or what DNS last
// said. A pipe is the zero address.
func (c *Cluster) addressesLocked(spec *Spec, ep *Endpoint) []netip.AddrPort {
	if ep.Pipe != "" {
		return []netip.AddrPort{{}}
	}
	if ep.Host == "" {
		return []netip.AddrPort{ep.Addr}
	}
	addrs := c.answers[ep.Host]
	if spec.Kind == LogicalDNS && len(addrs) > 1 {
		addrs = addrs[:1]
	}
	out := make([]netip.AddrPort, len(addrs))
	for i, a := range addrs {
		out[i] = netip.AddrPortFrom(a, ep.Port)
	}
	return out
}

func (c *Cluster) upstreamLocked(keep map[string]*Upstream, ep *Endpoint, loc *Locality, at netip.AddrPort) *Upstream {
	address := at.String()
	if ep.Pipe != "" {
		address = ep.Pipe
	}
	// The transport decides what a pooled connection is; labels may change.
	key := address + transportKey(ep.TransportMatch)
	u := keep[key]
	if u == nil {
		u = c.upstreams[key]
	}
	if u == nil {
		u = newUpstream(c, address, at, ep.Pipe, c.spec.Load().Transport(ep.TransportMatch))
	}
	u.info.Store(&EndpointInfo{Endpoint: ep, Locality: loc})
	keep[key] = u
	return u
}

// Pick chooses an endpoint by the cluster's policy. original is the original
// destination of the downstream connection, used by ORIGINAL_DST clusters.
func (c *Cluster) Pick(random uint64, original netip.AddrPort) (*Upstream, error) {
	spec := c.spec.Load()
	if spec.Kind == OriginalDst {
		return c.original(original)
	}
	h := c.hosts.Load().Pick(&c.cursor, random)
	if h == nil {
		return nil, ErrNoHost
	}
	return h.up, nil
}

// original finds or makes the endpoint of an address that the client chose.
func (c *Cluster) original(to netip.AddrPort) (*Upstream, error) {
	if !to.IsValid() || to.Addr().IsUnspecified() {
		return nil, ErrNoHost
	}
	key := to.String()
	c.mu.Lock()
	defer c.mu.Unlock()
	if u := c.upstreams[key]; u != nil {
		return u, nil
	}
	if len(c.upstreams) >= limit.OriginalDestinationsMax {
		c.forgetLocked()
		if len(c.upstreams) >= limit.OriginalDestinationsMax {
			return nil, ErrOverflow
		}
	}
	u := newUpstream(c, key, to, "", c.spec.Load().Transport(nil))
	u.info.Store(&EndpointInfo{Endpoint: &Endpoint{Addr: to}, Locality: &Locality{}})
	c.upstreams[key] = u
	return u, nil
}

// forgetLocked drops original destinations that nobody uses.
func (c *Cluster) forgetLocked() {
	for key, u := range c.upstreams {
		if u.unused() {
			delete(c.upstreams, key)
			u.retire()
		}
	}
}

// Begin counts a request against the threshold; End takes it off.
func (c *Cluster) Begin() error {
	if n := c.requests.Add(1); exceeds(n, c.spec.Load().MaxRequests) {
		c.requests.Add(-1)
		return ErrOverflow
	}
	return nil
}

// End ends what Begin began.
func (c *Cluster) End() { c.requests.Add(-1) }

// exceeds compares with a threshold; 0 means none was configured, for which
// Envoy's default of 1,024 would refuse what Istio's own default (2^32-1)
// lets pass.
func exceeds(n int64, threshold uint32) bool { return threshold > 0 && n > int64(threshold) }

func (c *Cluster) remove() {
	c.mu.Lock()
	c.removed = true
	if c.resolving != nil {
		c.resolving()
		c.resolving = nil
	}
	gone := c.upstreams
	c.upstreams = map[string]*Upstream{}
	c.hosts.Store(NewHostSet(nil, Policy{}))
	c.mu.Unlock()
	for _, u := range gone {
		u.retire()
	}
}

func (c *Cluster) reap() {
	c.mu.Lock()
	all := make([]*Upstream, 0, len(c.upstreams))
	for _, u := range c.upstreams {
		all = append(all, u)
	}
	if c.spec.Load().Kind == OriginalDst {
		c.forgetLocked()
	}
	c.mu.Unlock()
	for _, u := range all {
		u.reap(c.live.opts.Clock.Now())
	}
}
