package cluster

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tullemesh/tulle/internal/observe"
	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/tls"
)

// named is a cluster of one name in a bubble of synctest.
func named(t *testing.T, s *Spec, r Resolver) (*Live, *Cluster, *observe.Registry) {
	t.Helper()
	metrics := observe.NewRegistry()
	l := NewLive(LiveOptions{Clock: conn.NewClock(), TLS: tls.NewStore(), Resolver: r, Log: slog.New(slog.DiscardHandler), Registry: metrics})
	t.Cleanup(l.Close)
	s.Name = "c"
	update(l, s, &Assignment{Localities: []Locality{{Endpoints: []Endpoint{{Host: "db", Port: 1}}}}})
	return l, l.Get("c"), metrics
}

// after lets time pass and everything settle.
func after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestTimesToLiveAreHeldWithinBounds(t *testing.T) {
	for name, c := range map[string]struct {
		ttl, asks time.Duration
	}{
		"a usual one": {30 * time.Second, 30 * time.Second}, "none": {0, time.Minute}, "too short": {time.Millisecond, dnsRefreshMin}, "too long": {1000 * time.Hour, dnsRefreshMax},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &answers{ttl: c.ttl}
				r.set("db", nil, "127.0.0.2")
				named(t, &Spec{Kind: StrictDNS, RespectDNSTTL: true, DNSRefresh: time.Minute}, r)
				synctest.Wait()
				after(c.asks - time.Nanosecond)
				before := r.times()
				after(time.Nanosecond)
				if before != 1 || r.times() != 2 {
					t.Errorf("asked %d times before %v, %d by then", before, c.asks, r.times())
				}
			})
		})
	}
}

func TestFailuresBackOffAndAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &answers{}
		r.set("db", errors.New("server failure"))
		_, c, metrics := named(t, &Spec{Kind: StrictDNS, DNSRefresh: time.Second, DNSFailure: Backoff{Base: 2 * time.Second, Max: time.Minute}}, r)
		after(time.Hour)
		if r.times() < 60 || r.times() > 300 {
			t.Errorf("asked %d times in an hour, want one in half a minute or so", r.times())
		}
		if n := int(metrics.Sum("envoy_cluster_update_failure")); n != r.times() {
			t.Errorf("%d failures counted, %d asked", n, r.times())
		}
		r.set("db", nil, "127.0.0.2")
		after(time.Minute)
		if got := keys(t, c); !got["127.0.0.2:1"] {
			t.Errorf("after the failures: %v", got)
		}
		asked := r.times()
		after(10 * time.Second)
		if r.times() != asked+10 {
			t.Errorf("asked %d times in 10 s after an answer", r.times()-asked)
		}
	})
}

func TestWithoutBackOffFailuresAreAskedForAsUsual(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &answers{}
		r.set("db", errors.New("server failure"))
		named(t, &Spec{Kind: StrictDNS, DNSRefresh: 10 * time.Second}, r)
		after(time.Minute)
		if r.times() != 7 {
			t.Errorf("asked %d times in a minute", r.times())
		}
	})
}

func TestQuestionsAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &answers{}
		r.set("db", nil, "127.0.0.2")
		named(t, &Spec{Kind: StrictDNS, DNSRefresh: 10 * time.Second, DNSJitter: 10 * time.Second}, r)
		after(1000 * time.Second)
		if r.times() < 55 || r.times() > 80 {
			t.Errorf("asked %d times, want about one in 15 s", r.times())
		}
	})
}

func TestNameThatVanishesLosesItsEndpointsUnlessItIsLogical(t *testing.T) {
	for name, c := range map[string]struct {
		kind Kind
		left int
	}{"strict": {StrictDNS, 0}, "logical": {LogicalDNS, 1}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &answers{}
				r.set("db", nil, "127.0.0.2")
				_, cl, _ := named(t, &Spec{Kind: c.kind}, r)
				synctest.Wait()
				r.set("db", nil)
				after(dnsRefresh)
				if got := keys(t, cl); len(got) != c.left {
					t.Errorf("endpoints: %v", got)
				}
			})
		})
	}
}

func TestLogicalNameRacesAllItsAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &answers{}
		r.set("db", nil, "::1", "127.0.0.2", "127.0.0.3")
		_, c, _ := named(t, &Spec{Kind: LogicalDNS, DNSFamily: DNSAll}, r)
		synctest.Wait()
		u, err := c.Pick(0, netip.AddrPort{})
		if err != nil || u.Addr.Addr().String() != "::1" || len(u.Info().Others) != 2 {
			t.Errorf("%v, %v", u, err)
		}
	})
}

// slow is a resolver whose answer takes its time.
type slow struct {
	answers
	takes time.Duration
}

// Lookup implements Resolver.
func (s *slow) Lookup(ctx context.Context, host string, f DNSFamily) ([]netip.Addr, time.Duration, error) {
	select {
	case <-time.After(s.takes):
		return s.answers.Lookup(ctx, host, f)
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
}

func TestOnlyTheFirstRequestsWaitForANameAndNotForLong(t *testing.T) {
	for name, c := range map[string]struct {
		takes, waits time.Duration
		err          error
	}{"an answer comes": {time.Second, time.Second, nil}, "none comes": {time.Hour, dnsTimeout, ErrNoHost}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &slow{takes: c.takes}
				r.set("db", nil, "127.0.0.2")
				_, cl, _ := named(t, &Spec{Kind: StrictDNS}, r)
				for i, want := range []time.Duration{c.waits, 0} {
					start := time.Now()
					_, err := cl.Pick(0, netip.AddrPort{})
					if !errors.Is(err, c.err) || time.Since(start) != want {
						t.Errorf("request %d waited %v: %v", i, time.Since(start), err)
					}
					synctest.Wait()
				}
			})
		})
	}
}
