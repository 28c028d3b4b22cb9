package cluster

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/tls"
)

// answers is a resolver that tests change.
type answers struct {
	mu    sync.Mutex
	addrs map[string][]netip.Addr
	ttl   time.Duration
	err   error
	asked int
}

func (a *answers) set(host string, err error, addrs ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.err = err
	a.addrs = map[string][]netip.Addr{}
	for _, s := range addrs {
		a.addrs[host] = append(a.addrs[host], netip.MustParseAddr(s))
	}
}

// times is how often it was asked.
func (a *answers) times() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked
}

// Lookup implements Resolver.
func (a *answers) Lookup(_ context.Context, host string, _ DNSFamily) ([]netip.Addr, time.Duration, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked++
	return a.addrs[host], a.ttl, a.err
}

func newLive(t testing.TB, r Resolver) *Live {
	l := NewLive(LiveOptions{Clock: conn.NewClock(), TLS: tls.NewStore(), Resolver: r, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(l.Close)
	return l
}

func assign(addrs ...netip.AddrPort) *Assignment {
	a := &Assignment{Localities: []Locality{{}}}
	for _, at := range addrs {
		a.Localities[0].Endpoints = append(a.Localities[0].Endpoints, Endpoint{Addr: at})
	}
	return a
}

func update(l *Live, s *Spec, a *Assignment) {
	l.Update(map[string]*Spec{s.Name: s}, func(*Spec) *Assignment { return a })
}

// keys are the endpoints that picking reaches.
func keys(t testing.TB, c *Cluster) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	for i := range uint64(64) {
		u, err := c.Pick(i*0x9e3779b97f4a7c15, netip.AddrPort{})
		if errors.Is(err, ErrNoHost) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out[u.Host.Key] = true
	}
	return out
}

// accepting listens and keeps what it accepts until the test ends.
func accepting(t testing.TB) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var conns []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns = append(conns, c)
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
		for _, c := range conns {
			c.Close()
		}
	})
	return conn.AddrPort(l.Addr())
}

func TestEndpointsComeAndGoWhilePoolsOfOthersStay(t *testing.T) {
	one, two := accepting(t), accepting(t)
	l := newLive(t, nil)
	spec := &Spec{Name: "c", Kind: EDS}
	update(l, spec, assign(one, two))
	c := l.Get("c")
	if got := keys(t, c); len(got) != 2 {
		t.Fatalf("got %v", got)
	}
	u, _ := c.Pick(0, netip.AddrPort{})
	held, err := u.Connect(context.Background(), &Use{})
	if err != nil {
		t.Fatal(err)
	}
	held.Release(1)
	other := one
	if u.Addr == one {
		other = two
	}
	update(l, spec, assign(u.Addr)) // the other goes
	if got := keys(t, c); len(got) != 1 || !got[u.Addr.String()] {
		t.Errorf("after a removal: %v", got)
	}
	again := u.Reuse(false, 2)
	if again != held {
		t.Fatal("the pooled connection of the endpoint that stayed is gone")
	}
	update(l, spec, assign(other)) // now this one goes, while it is in use
	if again.Socket().Look() != conn.Quiet {
		t.Error("the connection in use was closed")
	}
	again.Release(3)
	if again.closed != true {
		t.Error("the connection of a removed endpoint went back to a pool")
	}
}

// A request may have been routed by the generation before a removal.
func TestRemovedClusterServesWhoIsOnTheWayToItAndIsUnknownThen(t *testing.T) {
	l := newLive(t, nil)
	update(l, &Spec{Name: "c"}, assign(accepting(t)))
	l.Update(map[string]*Spec{}, func(*Spec) *Assignment { return nil })
	if l.All()["c"] != nil {
		t.Error("it is still listed")
	}
	c := l.Get("c")
	if c == nil {
		t.Fatal("it is gone before its last request can have come")
	}
	if _, err := c.Pick(0, netip.AddrPort{}); err != nil {
		t.Errorf("its endpoints are gone: %v", err)
	}
	deadline := time.NewTimer(5 * leaveAfter)
	defer deadline.Stop()
	tick := time.NewTicker(leaveAfter / 10)
	defer tick.Stop()
	for l.Get("c") != nil {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatal("it never goes")
		}
	}
}

func TestLastReleasedConnectionIsReusedFirst(t *testing.T) {
	l := newLive(t, nil)
	update(l, &Spec{Name: "c"}, assign(accepting(t)))
	u, _ := l.Get("c").Pick(0, netip.AddrPort{})
	a, err := u.Connect(context.Background(), &Use{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := u.Connect(context.Background(), &Use{})
	if err != nil {
		t.Fatal(err)
	}
	a.Release(1)
	b.Release(2)
	if got := u.Reuse(true, 3); got != b {
		t.Error("not the last one")
	}
	b.Close()
}

func TestConnectionThresholdMakesRequestsWaitAndThenOverflow(t *testing.T) {
	l := newLive(t, nil)
	update(l, &Spec{Name: "c", MaxConnections: 1, MaxPending: 1}, assign(accepting(t)))
	c := l.Get("c")
	u, _ := c.Pick(0, netip.AddrPort{})
	first, err := u.Connect(context.Background(), &Use{})
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan *Conn)
	go func() {
		second, err := u.Connect(context.Background(), &Use{})
		if err != nil {
			t.Error(err)
		}
		got <- second
	}()
	for c.pending.Load() == 0 {
		<-time.After(time.Millisecond)
	}
	if _, err := u.Connect(context.Background(), &Use{}); !errors.Is(err, ErrOverflow) {
		t.Errorf("a third: %v", err)
	}
	first.Release(1)
	second := <-got
	if second != first || !second.Reused {
		t.Error("the released connection was not handed over")
	}
	second.Close()
	if n := c.connections.Load(); n != 0 {
		t.Errorf("%d places are taken", n)
	}
}

func TestWaitingForAPlaceEndsWithTheContext(t *testing.T) {
	l := newLive(t, nil)
	update(l, &Spec{Name: "c", MaxConnections: 1}, assign(accepting(t)))
	c := l.Get("c")
	u, _ := c.Pick(0, netip.AddrPort{})
	first, err := u.Connect(context.Background(), &Use{})
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := u.Connect(ctx, &Use{}); !errors.Is(err, context.Canceled) || c.pending.Load() != 0 {
		t.Errorf("%v, %d wait", err, c.pending.Load())
	}
}

func TestRequestThreshold(t *testing.T) {
	l := newLive(t, nil)
	update(l, &Spec{Name: "c", MaxRequests: 1}, nil)
	c := l.Get("c")
	if err := c.Begin(); err != nil {
		t.Fatal(err)
	}
	if err := c.Begin(); !errors.Is(err, ErrOverflow) {
		t.Errorf("got %v", err)
	}
	c.End()
	if err := c.Begin(); err != nil {
		t.Error(err)
	}
}

func TestConnectToADeadEndpointFails(t *testing.T) {
	at := accepting(t)
	l := newLive(t, nil)
	update(l, &Spec{Name: "c"}, assign(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.9"), at.Port())))
	u, _ := l.Get("c").Pick(0, netip.AddrPort{})
	if _, err := u.Connect(context.Background(), &Use{}); !errors.Is(err, ErrConnect) {
		t.Errorf("got %v", err)
	}
}

func TestOriginalDestinationIsTheEndpoint(t *testing.T) {
	at := accepting(t)
	l := newLive(t, nil)
	update(l, &Spec{Name: "c", Kind: OriginalDst, BindAddress: netip.MustParseAddr("127.0.0.6")}, nil)
	c := l.Get("c")
	u, err := c.Pick(0, at)
	if err != nil || u.Addr != at {
		t.Fatalf("%v, %v", u, err)
	}
	conn, err := u.Connect(context.Background(), &Use{Raw: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := conn.LocalAddr().(*net.TCPAddr).IP.String(); got != "127.0.0.6" {
		t.Errorf("source address %s", got)
	}
	if _, err := c.Pick(0, netip.AddrPort{}); !errors.Is(err, ErrNoHost) {
		t.Errorf("without an original destination: %v", err)
	}
}

func TestNamesAreResolvedAgainAndKeepTheirLastGoodAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &answers{}
		r.set("db", nil, "127.0.0.2", "127.0.0.3")
		l := NewLive(LiveOptions{Clock: conn.NewClock(), TLS: tls.NewStore(), Resolver: r, Log: slog.New(slog.DiscardHandler)})
		defer l.Close()
		a := &Assignment{Localities: []Locality{{Endpoints: []Endpoint{{Host: "db", Port: 5432}}}}}
		update(l, &Spec{Name: "c", Kind: StrictDNS}, a)
		synctest.Wait()
		c := l.Get("c")
		if got := keys(t, c); len(got) != 2 || !got["127.0.0.2:5432"] {
			t.Errorf("at first: %v", got)
		}
		r.set("db", errors.New("server failure"))
		<-time.After(dnsRefresh + time.Millisecond)
		synctest.Wait()
		if got := keys(t, c); len(got) != 2 {
			t.Errorf("while DNS fails: %v", got)
		}
		r.set("db", nil, "127.0.0.4")
		<-time.After(dnsRefresh + time.Millisecond)
		synctest.Wait()
		if got := keys(t, c); len(got) != 1 || !got["127.0.0.4:5432"] {
			t.Errorf("after a change: %v", got)
		}
	})
}

func TestLogicalNameUsesOneAddressAndStaysWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &answers{ttl: time.Hour}
		r.set("db", nil, "127.0.0.2", "127.0.0.3")
		l := NewLive(LiveOptions{Clock: conn.NewClock(), TLS: tls.NewStore(), Resolver: r, Log: slog.New(slog.DiscardHandler)})
		defer l.Close()
		a := &Assignment{Localities: []Locality{{Endpoints: []Endpoint{{Host: "db", Port: 1}}}}}
		update(l, &Spec{Name: "c", Kind: LogicalDNS}, a)
		synctest.Wait()
		r.set("db", nil, "127.0.0.3", "127.0.0.2")
		<-time.After(dnsRefresh + time.Millisecond)
		synctest.Wait()
		if got := keys(t, l.Get("c")); len(got) != 1 || !got["127.0.0.2:1"] {
			t.Errorf("a rotated answer gave %v", got)
		}
		asked := r.times()
		update(l, &Spec{Name: "c", Kind: LogicalDNS, RespectDNSTTL: true}, &Assignment{Localities: a.Localities})
		synctest.Wait()
		<-time.After(30 * time.Minute)
		synctest.Wait()
		if r.times() != asked+1 {
			t.Errorf("asked %d times within the TTL", r.times()-asked)
		}
	})
}

func TestPickingLiveHostsDoesNotAllocate(t *testing.T) {
	l := newLive(t, nil)
	update(l, &Spec{Name: "c", Balancer: LeastRequest}, assign(accepting(t), accepting(t)))
	c := l.Get("c")
	if n := testing.AllocsPerRun(100, func() {
		if _, err := c.Pick(7, netip.AddrPort{}); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}
