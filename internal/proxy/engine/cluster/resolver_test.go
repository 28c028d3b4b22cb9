package cluster

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
)

// zone is a name server on loopback.
type zone struct {
	at netip.AddrPort

	mu       sync.Mutex
	records  map[string][]string // by "name. TYPE": zone file lines
	rcode    int
	truncate bool
	tcp      int // answers over TCP
}

func (z *zone) set(rcode int, lines ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.rcode, z.records = rcode, map[string][]string{}
	for _, l := range lines {
		f := strings.Fields(l)
		z.records[f[0]+" "+f[3]] = append(z.records[f[0]+" "+f[3]], l)
	}
}

// ServeDNS implements dns.Handler.
func (z *zone) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	z.mu.Lock()
	defer z.mu.Unlock()
	m := new(dns.Msg).SetReply(q)
	m.Rcode, m.Authoritative = z.rcode, true
	name := q.Question[0].Name
	for _, kind := range []string{"CNAME", dns.TypeToString[q.Question[0].Qtype]} {
		for _, l := range z.records[name+" "+kind] {
			rr, err := dns.NewRR(l)
			if err != nil {
				continue
			}
			m.Answer = append(m.Answer, rr)
			if c, ok := rr.(*dns.CNAME); ok {
				name = c.Target
			}
		}
	}
	if _, udp := w.RemoteAddr().(*net.UDPAddr); udp && z.truncate {
		m.Truncated, m.Answer = true, nil
	} else if !udp {
		z.tcp++
	}
	_ = w.WriteMsg(m) // the resolver asks again
}

func newZone(t *testing.T) *zone {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	z := &zone{at: conn.AddrPort(l.Addr())}
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	for _, s := range []*dns.Server{{Listener: l, Handler: z}, {PacketConn: p, Handler: z}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		wg.Go(func() { _ = s.ActivateAndServe() })
		<-started
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return z
}

func TestAnswersOfANameServer(t *testing.T) {
	z := newZone(t)
	both := []string{"db.test. 30 IN A 127.0.0.2", "db.test. 20 IN A 127.0.0.3", "db.test. 40 IN AAAA ::1"}
	for _, c := range []struct {
		name     string
		host     string
		family   DNSFamily
		rcode    int
		truncate bool
		lines    []string
		want     string
		ttl      time.Duration
		fails    bool
	}{
		{name: "IPv4", host: "db.test.", family: DNSV4Only, lines: both, want: "127.0.0.2 127.0.0.3", ttl: 20 * time.Second},
		{name: "IPv6", host: "db.test.", family: DNSV6Only, lines: both, want: "::1", ttl: 40 * time.Second},
		{name: "both", host: "db.test.", family: DNSAll, lines: both, want: "127.0.0.2 127.0.0.3 ::1", ttl: 20 * time.Second},
		{name: "IPv6 before IPv4", host: "db.test.", family: DNSAuto, lines: both, want: "::1", ttl: 40 * time.Second},
		{name: "IPv6 before IPv4, there is none", host: "db.test.", family: DNSAuto, lines: both[:2], want: "127.0.0.2 127.0.0.3", ttl: 20 * time.Second},
		{name: "IPv4 before IPv6, there is none", host: "db.test.", family: DNSV4Preferred, lines: both[2:], want: "::1", ttl: 40 * time.Second},
		{name: "another name on the way", host: "db.test.", family: DNSV4Only, lines: []string{"db.test. 5 IN CNAME real.test.", "real.test. 60 IN A 127.0.0.9"}, want: "127.0.0.9", ttl: 5 * time.Second},
		{name: "too long for a datagram", host: "db.test.", family: DNSV4Only, truncate: true, lines: both, want: "127.0.0.2 127.0.0.3", ttl: 20 * time.Second},
		{name: "no such name", host: "db.test.", family: DNSAll, rcode: dns.RcodeNameError},
		{name: "a name without addresses", host: "db.test.", family: DNSV4Only},
		{name: "a server that fails", host: "db.test.", family: DNSV4Only, rcode: dns.RcodeServerFailure, fails: true},
		{name: "an address", host: "127.0.0.7", family: DNSV4Only, want: "127.0.0.7"},
	} {
		t.Run(c.name, func(t *testing.T) {
			z.set(c.rcode, c.lines...)
			z.mu.Lock()
			z.truncate, z.tcp = c.truncate, 0
			z.mu.Unlock()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			addrs, ttl, err := SystemResolver{Server: z.at}.Lookup(ctx, c.host, c.family)
			var got []string
			for _, a := range addrs {
				got = append(got, a.String())
			}
			slices.Sort(got)
			if strings.Join(got, " ") != c.want || ttl != c.ttl || (err != nil) != c.fails {
				t.Errorf("%v for %v, %v; want %q for %v", got, ttl, err, c.want, c.ttl)
			}
			z.mu.Lock()
			defer z.mu.Unlock()
			if c.truncate != (z.tcp > 0) {
				t.Errorf("%d answers over TCP", z.tcp)
			}
		})
	}
}

// The whole way: a name, its server, and a connection to what it says.
func TestClusterFollowsItsNameServer(t *testing.T) {
	z := newZone(t)
	z.set(dns.RcodeSuccess, "db.test. 1 IN A 127.0.0.1")
	at := accepting(t)
	l := newLive(t, SystemResolver{Server: z.at})
	a := &Assignment{Localities: []Locality{{Endpoints: []Endpoint{{Host: "db.test.", Port: at.Port()}}}}}
	update(l, &Spec{Name: "c", Kind: StrictDNS, DNSFamily: DNSV4Only, RespectDNSTTL: true}, a)
	c := l.Get("c")
	u, err := c.Pick(0, netip.AddrPort{}) // the first one waits
	if err != nil {
		t.Fatal(err)
	}
	connect(t, u, Use{}).Release(1)
	z.set(dns.RcodeSuccess, "db.test. 1 IN A 127.0.0.2")
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		next, err := c.Pick(0, netip.AddrPort{})
		if err != nil {
			t.Fatal(err)
		}
		if next.Addr.Addr().String() == "127.0.0.2" {
			break
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("still at %v", next.Addr)
		}
	}
	if u.takeIdle() != nil || u.Counts.ConnActive.Load() != 0 {
		t.Error("the connection to the address that is gone stays")
	}
}
