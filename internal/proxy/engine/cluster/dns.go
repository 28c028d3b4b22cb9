package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/tullemesh/tulle/internal/limit"
)

const (
	// dnsRefresh is how often a name is asked for when a cluster does not say
	// (Envoy: dns_refresh_rate, 5 s).
	dnsRefresh = 5 * time.Second
	// dnsRefreshMin and dnsRefreshMax bound how soon a TTL makes us ask again.
	dnsRefreshMin, dnsRefreshMax = time.Second, 24 * time.Hour
	// dnsTimeout bounds one question, and how long the first requests wait for
	// its answer.
	dnsTimeout = 5 * time.Second
)

// resolution is the questions for the names of one assignment.
type resolution struct {
	stop context.CancelFunc
	// first is closed when every name was answered, or failed, once.
	first chan struct{}
}

// resolveLocked starts the questions for an assignment's names, and ends those
// of the one before. Answers are kept: a name's last good answer serves until
// there is a better one.
func (c *Cluster) resolveLocked(a *Assignment) {
	if r := c.resolving.Load(); r != nil {
		r.stop()
		c.resolving.Store(nil)
	}
	names := map[string]bool{}
	if a != nil && !c.removed {
		for _, loc := range a.Localities {
			for _, ep := range loc.Endpoints {
				if ep.Host != "" {
					names[ep.Host] = true
				}
			}
		}
	}
	for name := range c.answers {
		if !names[name] {
			delete(c.answers, name)
		}
	}
	if len(names) == 0 {
		return
	}
	ctx, cancel := context.WithCancel(context.Background()) // remove ends it
	r := &resolution{stop: cancel, first: make(chan struct{})}
	c.resolving.Store(r)
	var asking sync.WaitGroup
	for name := range names {
		asking.Add(1)
		c.live.work.Go(func() { c.resolve(ctx, name, asking.Done) })
	}
	c.live.work.Go(func() {
		asking.Wait()
		close(r.first)
	})
}

// Resolving reports whether Pick may wait: not all names of the cluster were
// asked for yet.
func (c *Cluster) Resolving() bool {
	r := c.resolving.Load()
	if r == nil {
		return false
	}
	select {
	case <-r.first:
		return false
	default:
		return true
	}
}

// awaitNames waits until the names of the cluster were asked for once: only
// the first requests do. It reports whether it waited.
func (c *Cluster) awaitNames() bool {
	r := c.resolving.Load()
	if r == nil || !c.Resolving() {
		return false
	}
	t := time.NewTimer(dnsTimeout)
	defer t.Stop()
	select {
	case <-r.first:
	case <-t.C:
	}
	return true
}

// resolve asks for one name until ctx ends; asked is called after the first
// answer or failure.
func (c *Cluster) resolve(ctx context.Context, name string, asked func()) {
	failures := 0
	for {
		spec := c.spec.Load()
		wait, ok := c.ask(ctx, name, spec)
		asked()
		asked = func() {}
		if ctx.Err() != nil {
			return
		}
		if failures++; ok {
			failures = 0
		} else {
			wait = spec.DNSFailure.pause(failures, spec.DNSRefresh)
		}
		if spec.DNSJitter > 0 {
			wait += rand.N(spec.DNSJitter)
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
	}
}

// ask asks once, and tells when to ask again after an answer.
func (c *Cluster) ask(ctx context.Context, name string, spec *Spec) (next time.Duration, ok bool) {
	asked, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	c.stats.dnsAsked.With(c.Name).Inc()
	addrs, ttl, err := c.live.opts.Resolver.Lookup(asked, name, spec.DNSFamily)
	if ctx.Err() != nil {
		return 0, false
	}
	if err != nil {
		c.stats.dnsFailed.With(c.Name).Inc()
		c.live.opts.Log.Warn("name not resolved, the last answer stays", slog.String("cluster", c.Name), slog.String("host", name), slog.Any("error", err))
		return 0, false
	}
	c.stats.dnsAnswered.With(c.Name).Inc()
	c.answered(ctx, name, addrs)
	next = spec.DNSRefresh
	if next <= 0 {
		next = dnsRefresh
	}
	if spec.RespectDNSTTL && len(addrs) > 0 && ttl > 0 {
		next = ttl
	}
	return min(max(next, dnsRefreshMin), dnsRefreshMax), true
}

// Backoff says when to ask again after failures (Envoy: RefreshRate): at a
// random time below a bound that doubles with each, from Base to Max.
type Backoff struct{ Base, Max time.Duration }

// pause is the n-th; without a back-off it is the usual one.
func (b Backoff) pause(n int, refresh time.Duration) time.Duration {
	switch {
	case b.Base > 0:
		bound := b.Base
		for ; n > 1 && bound < b.Max; n-- {
			bound *= 2
		}
		return max(rand.N(min(bound, max(b.Max, b.Base))), dnsRefreshMin)
	case refresh > 0:
		return max(refresh, dnsRefreshMin)
	}
	return dnsRefresh
}

// answered takes an answer. No addresses are an answer as well: the name is
// gone, and its endpoints drain; but a LOGICAL_DNS cluster keeps its one
// (Envoy: LogicalDnsCluster).
func (c *Cluster) answered(ctx context.Context, name string, addrs []netip.Addr) {
	if len(addrs) > limit.DNSAnswersMax {
		addrs = addrs[:limit.DNSAnswersMax]
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if ctx.Err() != nil || c.removed {
		return
	}
	old := c.answers[name]
	if c.spec.Load().Kind == LogicalDNS {
		addrs = logical(old, addrs)
	} else {
		slices.SortFunc(addrs, netip.Addr.Compare) // servers rotate their answers
	}
	if slices.Equal(old, addrs) {
		c.stats.dnsSame.With(c.Name).Inc()
		return
	}
	c.answers[name] = addrs
	c.rebuildLocked()
}

// logical is the answer for a LOGICAL_DNS cluster: the address in use stays the
// first while it is among them.
func logical(old, addrs []netip.Addr) []netip.Addr {
	switch {
	case len(old) == 0:
		return addrs
	case len(addrs) == 0:
		return old
	}
	i := max(slices.Index(addrs, old[0]), 0)
	return slices.Concat(addrs[i:], addrs[:i])
}

// names are answers for names that clients chose.
type names struct {
	// Guarded by mu.
	mu sync.Mutex
	at map[string]answer
}

type answer struct {
	ip    netip.Addr
	until int64 // of the clock
}

// Resolve asks for the address of a name that a client chose, or reads it from
// an answer of the last seconds.
func (l *Live) Resolve(host string) (netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap(), nil
	}
	now := l.opts.Clock.Now()
	l.names.mu.Lock()
	known, ok := l.names.at[host]
	l.names.mu.Unlock()
	if ok && now < known.until {
		return known.ip, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), dnsTimeout)
	defer cancel()
	addrs, _, err := l.opts.Resolver.Lookup(ctx, host, DNSV4Preferred)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("resolve %q: %w", host, err)
	}
	if len(addrs) == 0 {
		return netip.Addr{}, fmt.Errorf("resolve %q: %w", host, ErrNoHost)
	}
	l.names.mu.Lock()
	defer l.names.mu.Unlock()
	if len(l.names.at) >= limit.ChosenNamesMax || l.names.at == nil {
		l.names.at = map[string]answer{}
	}
	l.names.at[host] = answer{addrs[0], now + int64(dnsRefresh)}
	return addrs[0], nil
}
