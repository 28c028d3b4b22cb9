package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"net"
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
	// dnsRefreshMin bounds how often a short TTL may make us ask.
	dnsRefreshMin = time.Second
	// dnsTimeout bounds one question.
	dnsTimeout = 5 * time.Second
)

// Resolver asks DNS. ttl is zero when it is not known.
type Resolver interface {
	Lookup(ctx context.Context, host string, family DNSFamily) (addrs []netip.Addr, ttl time.Duration, err error)
}

// SystemResolver is Go's resolver; it knows no TTL.
type SystemResolver struct{}

// Lookup implements Resolver.
func (SystemResolver) Lookup(ctx context.Context, host string, family DNSFamily) ([]netip.Addr, time.Duration, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, 0, nil
	}
	networks := []string{"ip4", "ip6"}
	switch family {
	case DNSV4Only:
		networks = networks[:1]
	case DNSV6Only:
		networks = networks[1:]
	case DNSAll:
		networks = []string{"ip"}
	case DNSAuto:
		slices.Reverse(networks)
	case DNSV4Preferred:
	}
	var err error
	for _, network := range networks {
		var addrs []netip.Addr
		addrs, err = net.DefaultResolver.LookupNetIP(ctx, network, host)
		if err == nil && len(addrs) > 0 {
			for i := range addrs {
				addrs[i] = addrs[i].Unmap()
			}
			return addrs, 0, nil
		}
	}
	return nil, 0, err
}

// resolveLocked starts the questions for an assignment's names, and ends those
// of the one before. Answers are kept: a name's last good answer serves until
// there is a better one.
func (c *Cluster) resolveLocked(a *Assignment) {
	if c.resolving != nil {
		c.resolving()
		c.resolving = nil
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
	c.resolving = cancel
	for name := range names {
		c.live.work.Go(func() { c.resolve(ctx, name) })
	}
}

// resolve asks for one name until ctx ends.
func (c *Cluster) resolve(ctx context.Context, name string) {
	for {
		spec := c.spec.Load()
		asked, cancel := context.WithTimeout(ctx, dnsTimeout)
		addrs, ttl, err := c.live.opts.Resolver.Lookup(asked, name, spec.DNSFamily)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			c.live.opts.Log.Warn("name not resolved, the last answer stays", slog.String("cluster", c.Name), slog.String("host", name), slog.Any("error", err))
		} else if len(addrs) > 0 {
			c.answered(ctx, name, addrs)
		}
		wait := spec.DNSRefresh
		if wait <= 0 {
			wait = dnsRefresh
		}
		if spec.RespectDNSTTL && err == nil && ttl > 0 {
			wait = ttl
		}
		t := time.NewTimer(max(wait, dnsRefreshMin))
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
	}
}

func (c *Cluster) answered(ctx context.Context, name string, addrs []netip.Addr) {
	if len(addrs) > limit.DNSAnswersMax {
		addrs = addrs[:limit.DNSAnswersMax]
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.answers[name]
	if ctx.Err() != nil || c.removed || slices.Equal(old, addrs) {
		return
	}
	if c.spec.Load().Kind == LogicalDNS && len(old) > 0 && slices.Contains(addrs, old[0]) {
		return // a rotated answer is no change of the one address in use
	}
	c.answers[name] = addrs
	c.rebuildLocked()
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
