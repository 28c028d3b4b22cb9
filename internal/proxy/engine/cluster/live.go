package cluster

import (
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/observe"
	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/http2"
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
	// HTTP2 is memory that HTTP/2 connections share; nil: Live has its own.
	HTTP2    *http2.Memory
	Clock    conn.Clock
	TLS      *tls.Store
	Resolver Resolver
	Log      *slog.Logger
	// Registry counts; nil: nobody reads the counters.
	Registry *observe.Registry
}

// Live is what clusters are while the proxy runs: endpoints, connection pools,
// DNS answers. It is keyed by names and addresses, outlives Specs and changes
// without waiting. Reads are lock-free.
type Live struct {
	// Fixed at creation.
	opts   LiveOptions
	stats  *stats
	gauges *gauges
	ended  chan struct{} // closed by Close
	// sooner, of size 1, tells reap that bounds have changed.
	sooner chan struct{}
	work   sync.WaitGroup

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
	if o.HTTP2 == nil {
		o.HTTP2 = http2.NewMemory()
	}
	l := &Live{opts: o, stats: newStats(o.Registry), gauges: newGauges(o.Registry), ended: make(chan struct{}), sooner: make(chan struct{}, 1), leaving: map[string]*Cluster{}}
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
	select {
	case l.sooner <- struct{}{}:
	default: // it will look anyway
	}
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

// reapMost and reapLeast bound how often idle connections are looked at.
const reapMost, reapLeast = 15 * time.Second, 100 * time.Millisecond

// reap closes pooled connections that were idle too long, are too old or that
// their peer closed. It looks often enough for the shortest bound.
func (l *Live) reap() {
	t := time.NewTimer(reapMost)
	defer t.Stop()
	last := time.Now()
	for {
		select {
		case <-l.ended:
			return
		case <-l.sooner:
		case <-t.C:
			for _, c := range *l.clusters.Load() {
				c.reap()
			}
			last = time.Now()
		}
		t.Reset(l.reapEvery() - time.Since(last))
	}
}

// reapEvery is a quarter of the shortest idle timeout or lifetime.
func (l *Live) reapEvery() time.Duration {
	every := reapMost
	for _, c := range *l.clusters.Load() {
		spec := c.spec.Load()
		for _, bound := range [...]time.Duration{spec.IdleTimeout, spec.MaxConnDuration} {
			if bound > 0 {
				every = min(every, bound/4)
			}
		}
	}
	return max(every, reapLeast)
}

// Cluster is the live state of one cluster.
type Cluster struct {
	// Fixed at creation.
	Name  string
	live  *Live
	stats *stats

	spec   atomic.Pointer[Spec]
	hosts  atomic.Pointer[HostSet]
	cursor Cursor

	// Requests and connections in being, against the thresholds.
	requests    atomic.Int64
	connections atomic.Int64
	pending     atomic.Int64 // requests that wait for a connection
	queued      atomic.Int64 // len(waiters)
	resolving   atomic.Pointer[resolution]
	retries     atomic.Int64

	// Guarded by mu.
	mu         sync.Mutex
	assignment *Assignment
	upstreams  map[string]*Upstream    // by key
	answers    map[string][]netip.Addr // last good DNS answers by host name
	removed    bool
	waiters    []*waiter
}

func newCluster(l *Live, name string) *Cluster {
	c := &Cluster{Name: name, live: l, stats: l.stats, upstreams: map[string]*Upstream{}, answers: map[string][]netip.Addr{}}
	c.hosts.Store(NewHostSet(nil, Policy{}))
	return c
}

// Spec returns the configuration in force.
func (c *Cluster) Spec() *Spec { return c.spec.Load() }

// Hosts returns the host set in force.
func (c *Cluster) Hosts() *HostSet { return c.hosts.Load() }

// Members are the endpoints as status pages show them: those of the assignment,
// or the addresses that clients chose.
func (c *Cluster) Members() []Member {
	if c.spec.Load().Kind != OriginalDst {
		return c.hosts.Load().Members()
	}
	var out []Member
	for _, u := range c.all() {
		out = append(out, Member{Host: &u.Host, Weight: 1})
	}
	slices.SortFunc(out, func(a, b Member) int { return strings.Compare(a.Host.Key, b.Host.Key) })
	return out
}

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
func (c *Cluster) addressesLocked(spec *Spec, ep *Endpoint) []place {
	if ep.Pipe != "" {
		return []place{{}}
	}
	if ep.Host == "" {
		return []place{{at: ep.Addr, others: ep.Extra}}
	}
	addrs := c.answers[ep.Host]
	out := make([]place, len(addrs))
	for i, a := range addrs {
		out[i] = place{at: netip.AddrPortFrom(a, ep.Port)}
	}
	if spec.Kind == LogicalDNS && len(out) > 1 {
		for _, p := range out[1:] {
			out[0].others = append(out[0].others, p.at)
		}
		out = out[:1]
	}
	return out
}

// place is an endpoint's address with others of the same endpoint.
type place struct {
	at     netip.AddrPort
	others []netip.AddrPort
}

func (c *Cluster) upstreamLocked(keep map[string]*Upstream, ep *Endpoint, loc *Locality, p place) *Upstream {
	address := p.at.String()
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
		u = newUpstream(c, address, p.at, ep.Pipe, c.spec.Load().Transport(ep.TransportMatch))
	}
	u.info.Store(&EndpointInfo{Endpoint: ep, Locality: loc, Others: p.others})
	keep[key] = u
	return u
}

// Pick chooses an endpoint by the cluster's policy, if it can one that was not
// tried. original is the original destination of the downstream connection,
// used by ORIGINAL_DST clusters.
func (c *Cluster) Pick(random uint64, original netip.AddrPort, tried ...*Upstream) (*Upstream, error) {
	spec := c.spec.Load()
	if spec.Kind == OriginalDst {
		return c.original(original)
	}
	h := c.pick(random, tried)
	if h == nil && c.awaitNames() {
		h = c.pick(random, tried)
	}
	if h == nil {
		return nil, ErrNoHost
	}
	return h.up, nil
}

func (c *Cluster) pick(random uint64, tried []*Upstream) *Host {
	if len(tried) == 0 {
		return c.hosts.Load().Pick(&c.cursor, random)
	}
	return c.hosts.Load().PickOther(&c.cursor, random, func(h *Host) bool { return slices.Contains(tried, h.up) })
}

// original finds or makes the endpoint of an address that the client chose.
func (c *Cluster) original(to netip.AddrPort) (*Upstream, error) {
	if !to.IsValid() || to.Addr().IsUnspecified() {
		return nil, ErrNoHost
	}
	if port := c.spec.Load().OriginalPort; port != 0 {
		to = netip.AddrPortFrom(to.Addr(), port)
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

func (c *Cluster) remove() {
	c.mu.Lock()
	c.removed = true
	if r := c.resolving.Swap(nil); r != nil {
		r.stop()
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
	if c.spec.Load().Kind == OriginalDst {
		c.mu.Lock()
		c.forgetLocked()
		c.mu.Unlock()
	}
	for _, u := range c.all() {
		u.reap(c.live.opts.Clock.Now())
	}
}
