package cluster

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/observe"
	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/tls"
	"github.com/tullemesh/tulle/internal/testkit/blackhole"
)

// counted is a Live with its counters.
func counted(t testing.TB) (*Live, *observe.Registry) {
	r := observe.NewRegistry()
	l := NewLive(LiveOptions{Clock: conn.NewClock(), TLS: tls.NewStore(), Log: slog.New(slog.DiscardHandler), Registry: r})
	t.Cleanup(l.Close)
	return l, r
}

// one is the live state of a cluster of one endpoint.
func one(t testing.TB, l *Live, s *Spec) (*Cluster, *Upstream) {
	t.Helper()
	s.Name = "c"
	update(l, s, assign(accepting(t)))
	c := l.Get("c")
	u, err := c.Pick(0, netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	return c, u
}

func connect(t testing.TB, u *Upstream, use Use) *Conn {
	t.Helper()
	c, err := u.Connect(context.Background(), &use)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestBytesOverflowAtOnceWhereRequestsWait(t *testing.T) {
	l, r := counted(t)
	c, u := one(t, l, &Spec{MaxConnections: 1})
	connect(t, u, Use{Raw: true})
	if _, err := u.Connect(context.Background(), &Use{Raw: true}); !errors.Is(err, ErrOverflow) {
		t.Errorf("got %v", err)
	}
	if n := r.Sum("envoy_cluster_upstream_cx_overflow", observe.Label{Name: "cluster_name", Value: "c"}); n != 1 {
		t.Errorf("%v overflows counted", n)
	}
	if n := c.pending.Load(); n != 0 {
		t.Errorf("%d wait", n)
	}
}

// Envoy: every endpoint may have one connection, whatever others hold.
func TestEndpointWithoutConnectionsGetsOneBeyondTheThreshold(t *testing.T) {
	l, _ := counted(t)
	update(l, &Spec{Name: "c", MaxConnections: 1}, assign(accepting(t), accepting(t)))
	c := l.Get("c")
	first, _ := c.Pick(0, netip.AddrPort{})
	second, _ := c.Pick(0, netip.AddrPort{})
	if first == second {
		t.Fatal("round robin picked one endpoint twice")
	}
	a, b := connect(t, first, Use{}), connect(t, second, Use{})
	if c.connections.Load() != 2 {
		t.Errorf("%d connections", c.connections.Load())
	}
	a.Close()
	b.Close()
	if c.connections.Load() != 0 || first.places.Load() != 0 || second.places.Load() != 0 {
		t.Errorf("%d places are taken after the end, %d and %d by endpoint", c.connections.Load(), first.places.Load(), second.places.Load())
	}
}

func TestRequestsThatWaitForADialCountAsPendingAndNotAsActive(t *testing.T) {
	l, r := counted(t)
	update(l, &Spec{Name: "c", MaxPending: 1, MaxRequests: 1}, assign(blackhole.Listen(t)))
	c := l.Get("c")
	u, _ := c.Pick(0, netip.AddrPort{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	if err := c.Begin(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := u.Connect(ctx, &Use{})
		done <- err
	}()
	for c.pending.Load() == 0 {
		<-time.After(time.Millisecond)
	}
	if err := c.Begin(); err != nil {
		t.Errorf("a request beside one that only waits: %v", err)
	}
	if _, err := u.Connect(context.Background(), &Use{}); !errors.Is(err, ErrOverflow) {
		t.Errorf("a second one that waits: %v", err)
	}
	cancel()
	if err := <-done; !errors.Is(err, ErrConnect) {
		t.Errorf("the one that waited: %v", err)
	}
	if n := r.Sum("envoy_cluster_upstream_rq_pending_overflow"); n != 1 {
		t.Errorf("%v overflows counted, want 1", n)
	}
}

func TestRetryThreshold(t *testing.T) {
	l, r := counted(t)
	c, _ := one(t, l, &Spec{MaxRetries: 1})
	if !c.BeginRetry() {
		t.Error("the first is refused")
	}
	if c.BeginRetry() {
		t.Error("a second is allowed beside the first")
	}
	c.EndRetry()
	if !c.BeginRetry() {
		t.Error("refused after the first has ended")
	}
	if n := r.Sum("envoy_cluster_upstream_rq_retry_overflow"); n != 1 {
		t.Errorf("%v overflows counted, want 1", n)
	}
}

func TestConnectionsBeyondTheirTimeAreNotUsedAgain(t *testing.T) {
	const bound = int64(time.Minute)
	for name, c := range map[string]struct {
		spec   Spec
		metric string
	}{
		"idle": {Spec{IdleTimeout: time.Minute}, "envoy_cluster_upstream_cx_idle_timeout"},
		"age":  {Spec{MaxConnDuration: time.Minute}, "envoy_cluster_upstream_cx_max_duration_reached"},
	} {
		t.Run(name, func(t *testing.T) {
			l, r := counted(t)
			_, u := one(t, l, &c.spec)
			held := connect(t, u, Use{})
			held.Release(held.made)
			if got := u.Reuse(false, held.made+bound); got != held {
				t.Fatal("not used again at the bound")
			}
			held.Release(held.made)
			if got := u.Reuse(false, held.made+bound+1); got != nil {
				t.Error("used again beyond the bound")
			}
			if n := r.Sum(c.metric); n != 1 || !held.closed {
				t.Errorf("counted %v times, closed: %v", n, held.closed)
			}
		})
	}
}

func TestConnectionServesAsManyRequestsAsItMay(t *testing.T) {
	l, _ := counted(t)
	_, u := one(t, l, &Spec{MaxRequestsPerConn: 2})
	held := connect(t, u, Use{})
	held.Release(1)
	if u.Reuse(false, 1) != held {
		t.Fatal("not used for its second request")
	}
	held.Release(1)
	if u.Reuse(false, 1) != nil || !held.closed {
		t.Error("used for a third request")
	}
}

// closing accepts connections and gives them to the test.
func closing(t testing.TB) (netip.AddrPort, <-chan net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conns := make(chan net.Conn, 16)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns <- c
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return conn.AddrPort(l.Addr()), conns
}

// An endpoint that closes idle connections teaches how old one may be for a
// request that can't be repeated; requests that can be use older ones.
func TestUnsafeRequestsAvoidConnectionsThatTheEndpointMayBeClosing(t *testing.T) {
	const ms = int64(time.Millisecond)
	l, _ := counted(t)
	at, accepted := closing(t)
	update(l, &Spec{Name: "c"}, assign(at))
	u, _ := l.Get("c").Pick(0, netip.AddrPort{})
	lost := connect(t, u, Use{})
	(<-accepted).Close()
	for lost.Socket().Look() == conn.Quiet {
		<-time.After(time.Millisecond)
	}
	lost.Release(1)
	if u.Reuse(true, 1+20*ms) != nil {
		t.Fatal("a closed connection was used again")
	}
	now := 1 + 20*ms
	held := connect(t, u, Use{})
	peer := <-accepted
	defer peer.Close()
	for _, c := range []struct {
		name    string
		careful bool
		at      int64
		reused  bool
	}{
		{"young enough", true, now + 10*ms, true},
		{"older than what is trusted", true, now + 11*ms, false},
		{"older, for a request that can be repeated", false, now + 11*ms, true},
		{"long after, the endpoint may be another", true, now + int64(10*time.Minute), true},
	} {
		held.Release(now)
		got := u.Reuse(c.careful, c.at)
		if (got == held) != c.reused {
			t.Errorf("%s: reused: %v", c.name, got == held)
		}
		if got == nil && u.takeIdle() != held {
			t.Errorf("%s: it left the pool", c.name)
		}
	}
}

func TestAnnouncedTimeoutEndsConnectionsBeforeThePeerDoes(t *testing.T) {
	l, _ := counted(t)
	_, u := one(t, l, &Spec{})
	held := connect(t, u, Use{})
	held.Announced([]byte("max=100, timeout=5"))
	held.Release(1)
	if u.Reuse(false, int64(4400*time.Millisecond)) != held {
		t.Error("not used well before its end")
	}
	held.Release(1)
	if u.Reuse(false, int64(4600*time.Millisecond)) != nil {
		t.Error("used when the peer may be closing it")
	}
}

func TestAgesAreRememberedAndForgotten(t *testing.T) {
	const second = int64(time.Second)
	var a aging
	if a.least(1) != 0 {
		t.Error("something is known at first")
	}
	a.closed(2*second, 100*second)
	a.closed(4*second, 101*second)
	if got := a.least(101 * second); got != 2*second {
		t.Errorf("least is %v", time.Duration(got))
	}
	if got := a.least(115 * second); got != 4*second {
		t.Errorf("after a while: %v", time.Duration(got))
	}
	a.closed(3*second, 115*second)
	if got := a.least(115 * second); got != 3*second {
		t.Errorf("learned anew: %v", time.Duration(got))
	}
	if got := a.least(100_000 * second); got != 0 {
		t.Errorf("for ever: %v", time.Duration(got))
	}
}

func TestGaugesTellWhatClustersAreNow(t *testing.T) {
	l, r := counted(t)
	update(l, &Spec{Name: "quiet"}, assign(accepting(t)))
	l.Observe()
	if n := len(r.Snapshot("envoy_cluster_membership_total")); n != 0 {
		t.Errorf("%d clusters that nobody used are shown", n)
	}
	_, u := one(t, l, &Spec{})
	connect(t, u, Use{})
	u.Host.Active.Add(2)
	l.Observe()
	for name, want := range map[string]float64{"upstream_cx_active": 1, "upstream_rq_active": 2, "upstream_rq_pending_active": 0, "membership_total": 1, "membership_healthy": 1} {
		if got := r.Sum("envoy_cluster_"+name, observe.Label{Name: "cluster_name", Value: "c"}); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	l.Update(map[string]*Spec{}, func(*Spec) *Assignment { return nil })
	l.Observe()
	if got := r.Sum("envoy_cluster_membership_total"); got != 0 {
		t.Errorf("%v endpoints after the end", got)
	}
}

// Whoever frees a place may look for those who wait just before one of them
// stands in the queue, and that one for a place just before it is free.
func TestNoPlaceIsLostBetweenWhoFreesItAndWhoWaits(t *testing.T) {
	const rounds = 200_000
	l, _ := counted(t)
	c, u := one(t, l, &Spec{MaxConnections: 1})
	u.places.Add(1) // else a place beyond the threshold would be free
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	free := make(chan struct{})
	freed := make(chan struct{})
	go func() {
		defer close(freed)
		for range free {
			u.unreserve()
		}
	}()
	defer func() {
		close(free)
		<-freed
	}()
	for i := range rounds {
		if _, err := u.reserve(ctx, false); err != nil {
			t.Fatalf("round %d: %v; %d places are taken, %d wait", i, err, c.connections.Load(), c.queued.Load())
		}
		free <- struct{}{}
	}
}

func TestNoConnectionIsLostBetweenWhoReleasesItAndWhoWaits(t *testing.T) {
	const rounds = 20_000
	l, _ := counted(t)
	_, u := one(t, l, &Spec{MaxConnections: 1})
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	release := make(chan *Conn)
	released := make(chan struct{})
	go func() {
		defer close(released)
		for c := range release {
			c.Release(1)
		}
	}()
	defer func() {
		close(release)
		<-released
	}()
	for i := range rounds {
		got := u.Reuse(false, 2)
		for got == nil {
			var err error
			if got, err = u.Connect(ctx, &Use{}); err != nil {
				t.Fatalf("round %d: %v", i, err)
			}
		}
		release <- got
	}
}
