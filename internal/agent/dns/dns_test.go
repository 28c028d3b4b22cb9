package dns_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/tullemesh/tulle/internal/agent/dns"
	"github.com/tullemesh/tulle/internal/limit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ips(all ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range all {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// mesh is a table as the control plane sends it to a workload of namespace default.
func mesh(t *testing.T) *dns.Table {
	t.Helper()
	k := dns.RegistryKubernetes
	table, err := dns.NewTable(map[string]dns.Entry{
		"reviews.default.svc.cluster.local": {IPs: ips("240.240.0.1"), Registry: k, ShortName: "reviews", Namespace: "default"},
		"db.shop.svc.cluster.local":         {IPs: ips("10.77.0.9", "10.77.0.8", "fd00::8"), Registry: k, ShortName: "db", Namespace: "shop"},
		"empty.default.svc.cluster.local":   {Registry: k, ShortName: "empty", Namespace: "default"},
		"provider.bank.example":             {IPs: ips("240.240.0.2"), Registry: "External"},
		"*.bank.example":                    {IPs: ips("240.240.0.3"), Registry: "External"},
		"*.eu.bank.example":                 {IPs: ips("240.240.0.4"), Registry: "External"},
		"db":                                {IPs: ips("240.240.0.5"), Registry: "External"},
	}, dns.Client{Namespace: "default", Domain: "cluster.local", Search: []string{"default.svc.cluster.local", "svc.cluster.local", "cluster.local"}})
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// serve runs a server until the test ends and returns its address.
func serve(t *testing.T, o dns.Options, table *dns.Table) netip.AddrPort {
	t.Helper()
	packets, ln, err := dns.ListenBoth(t.Context(), netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	s := dns.New(o)
	s.SetTable(table)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, packets, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

// ask sends one query and returns the answer.
func ask(t *testing.T, server netip.AddrPort, network, name string, kind uint16, change ...func(*mdns.Msg)) *mdns.Msg {
	t.Helper()
	q := new(mdns.Msg).SetQuestion(mdns.Fqdn(name), kind)
	for _, c := range change {
		c(q)
	}
	m, _, err := (&mdns.Client{Net: network, Timeout: 8 * time.Second}).ExchangeContext(t.Context(), q, server.String())
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return m
}

// text is an answer in one line: the code, and the records.
func text(m *mdns.Msg) string {
	out := []string{mdns.RcodeToString[m.Rcode]}
	var addresses []string
	for _, rr := range m.Answer {
		switch r := rr.(type) {
		case *mdns.A:
			addresses = append(addresses, r.A.String())
		case *mdns.AAAA:
			addresses = append(addresses, r.AAAA.String())
		case *mdns.CNAME:
			out = append(out, "→"+r.Target)
		default:
			out = append(out, rr.String())
		}
		if rr.Header().Ttl != 30 {
			out = append(out, fmt.Sprintf("TTL %d", rr.Header().Ttl))
		}
	}
	slices.Sort(addresses)
	return strings.Join(append(out, addresses...), " ")
}

func TestNamesOfTheMesh(t *testing.T) {
	server := serve(t, dns.Options{Own: []string{"cluster.local"}}, mesh(t))
	for _, c := range []struct {
		name string
		kind uint16
		want string
	}{
		{"reviews", mdns.TypeA, "NOERROR 240.240.0.1"},
		{"REVIEWS.Default.SVC.cluster.local", mdns.TypeA, "NOERROR 240.240.0.1"},
		{"reviews.default", mdns.TypeA, "NOERROR 240.240.0.1"},
		{"reviews.default.svc", mdns.TypeA, "NOERROR 240.240.0.1"},
		{"reviews", mdns.TypeAAAA, "NOERROR"},
		{"reviews", mdns.TypeHTTPS, "NOERROR"},
		{"reviews", mdns.TypeANY, "NOERROR 240.240.0.1"},
		{"empty", mdns.TypeA, "NOERROR"},
		// Headless: all endpoints.
		{"db.shop", mdns.TypeA, "NOERROR 10.77.0.8 10.77.0.9"},
		{"db.shop.svc.cluster.local", mdns.TypeAAAA, "NOERROR fd00::8"},
		// A written host wins over the short name of another; services of other namespaces have none.
		{"db", mdns.TypeA, "NOERROR 240.240.0.5"},
		// The resolver's search domains.
		{"reviews.default.svc.default.svc.cluster.local", mdns.TypeA, "NOERROR →reviews.default.svc. 240.240.0.1"},
		{"provider.bank.example.cluster.local", mdns.TypeA, "NOERROR →provider.bank.example. 240.240.0.2"},
		{"provider.bank.example.cluster.local", mdns.TypeAAAA, "NOERROR →provider.bank.example."},
		// ServiceEntry hosts and wildcards: the longest wins, and never the parent itself.
		{"provider.bank.example", mdns.TypeA, "NOERROR 240.240.0.2"},
		{"other.bank.example", mdns.TypeA, "NOERROR 240.240.0.3"},
		{"a.b.bank.example", mdns.TypeA, "NOERROR 240.240.0.3"},
		{"x.eu.bank.example", mdns.TypeA, "NOERROR 240.240.0.4"},
		{"eu.bank.example", mdns.TypeA, "NOERROR 240.240.0.3"},
		{"bank.example", mdns.TypeA, "SERVFAIL"},
		// Not there: the mesh's own names do not exist, of others we know nothing.
		{"nobody", mdns.TypeA, "NXDOMAIN"},
		{"nobody.default.svc.cluster.local", mdns.TypeA, "NXDOMAIN"},
		{"cluster.local", mdns.TypeA, "NXDOMAIN"},
		{"notcluster.local", mdns.TypeA, "SERVFAIL"},
		{"www.example.com", mdns.TypeA, "SERVFAIL"},
		{".", mdns.TypeNS, "SERVFAIL"},
	} {
		for _, network := range []string{"udp", "tcp"} {
			if got := text(ask(t, server, network, c.name, c.kind)); got != c.want {
				t.Errorf("%s %s by %s: got %q, want %q", c.name, mdns.TypeToString[c.kind], network, got, c.want)
			}
		}
	}
}

func TestOddQueriesAreRefused(t *testing.T) {
	server := serve(t, dns.Options{}, mesh(t))
	for name, c := range map[string]struct {
		change func(*mdns.Msg)
		want   int
	}{
		"two questions":   {func(m *mdns.Msg) { m.Question = append(m.Question, m.Question[0]) }, mdns.RcodeFormatError},
		"no question":     {func(m *mdns.Msg) { m.Question = nil }, mdns.RcodeFormatError},
		"an update":       {func(m *mdns.Msg) { m.Opcode = mdns.OpcodeUpdate }, mdns.RcodeNotImplemented},
		"class CHAOS":     {func(m *mdns.Msg) { m.Question[0].Qclass = mdns.ClassCHAOS }, mdns.RcodeRefused},
		"EDNS version 1":  {func(m *mdns.Msg) { m.SetEdns0(1232, false).IsEdns0().SetVersion(1) }, mdns.RcodeBadVers},
		"a fine question": {func(*mdns.Msg) {}, mdns.RcodeSuccess},
	} {
		if got := ask(t, server, "tcp", "reviews", mdns.TypeA, c.change).Rcode; got != c.want {
			t.Errorf("%s: %s, want %s", name, mdns.RcodeToString[got], mdns.RcodeToString[c.want])
		}
	}
	var d net.Dialer
	for _, packet := range []string{"", "x", strings.Repeat("\xff", 600), "\x00\x01\x80\x00\x00\x01\x00\x00\x00\x00\x00\x00"} {
		c, err := d.DialContext(t.Context(), "udp", server.String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write([]byte(packet))
		_ = c.Close()
	}
	if got := text(ask(t, server, "udp", "reviews", mdns.TypeA)); got != "NOERROR 240.240.0.1" {
		t.Errorf("after garbage: %s", got)
	}
}

func TestAnswerThatDoesNotFitIsTruncated(t *testing.T) {
	many := make([]netip.Addr, 300)
	for i := range many {
		many[i] = netip.AddrFrom4([4]byte{10, 77, byte(i >> 8), byte(i)})
	}
	table, err := dns.NewTable(map[string]dns.Entry{"big.example": {IPs: many}}, dns.Client{})
	if err != nil {
		t.Fatal(err)
	}
	server := serve(t, dns.Options{}, table)
	for _, c := range []struct {
		name      string
		network   string
		edns      uint16
		bytesMax  int
		truncated bool
	}{
		{"without EDNS", "udp", 0, 512, true},
		{"EDNS below the least", "udp", 100, 512, true},
		{"EDNS", "udp", 1232, 1232, true},
		{"EDNS above ours", "udp", 65535, limit.DNSMessageBytesMax, true},
		{"TCP", "tcp", 0, 65535, false},
	} {
		m := ask(t, server, c.network, "big.example", mdns.TypeA, func(q *mdns.Msg) {
			if c.edns > 0 {
				q.SetEdns0(c.edns, false)
			}
		})
		m.Compress = true
		if m.Truncated != c.truncated || m.Len() > c.bytesMax || (m.IsEdns0() != nil) != (c.edns > 0) {
			t.Errorf("%s: truncated %v, %d bytes, EDNS %v", c.name, m.Truncated, m.Len(), m.IsEdns0() != nil)
		}
		if !c.truncated && len(m.Answer) != limit.DNSAnswerAddressesMax {
			t.Errorf("%s: %d addresses, want %d", c.name, len(m.Answer), limit.DNSAnswerAddressesMax)
		}
	}
}

func TestAnswersBeginWithAnotherAddressEachTime(t *testing.T) {
	server := serve(t, dns.Options{}, mesh(t))
	first := map[string]int{}
	for range 20 {
		first[ask(t, server, "udp", "db.shop", mdns.TypeA).Answer[0].(*mdns.A).A.String()]++
	}
	if first["10.77.0.8"] != 10 || first["10.77.0.9"] != 10 {
		t.Errorf("first addresses %v, want 10 each", first)
	}
}

// resolver is a server outside of the mesh.
func resolver(t *testing.T, answer mdns.HandlerFunc) netip.AddrPort {
	t.Helper()
	packets, ln, err := dns.ListenBoth(t.Context(), netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	var started, ended sync.WaitGroup
	servers := []*mdns.Server{{PacketConn: packets, Handler: answer}, {Listener: ln, Handler: answer}}
	for _, s := range servers {
		started.Add(1)
		s.NotifyStartedFunc = started.Done
		ended.Go(func() { _ = s.ActivateAndServe() })
	}
	t.Cleanup(func() {
		for _, s := range servers {
			_ = s.Shutdown()
		}
		ended.Wait()
	})
	started.Wait()
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

func TestOtherNamesAreForwardedInTurn(t *testing.T) {
	var mu sync.Mutex
	asked := map[string]int{}
	broken := resolver(t, func(w mdns.ResponseWriter, q *mdns.Msg) { // answers another question, as a forger does
		other := q.Copy()
		other.Question[0].Name = "forged.example."
		_ = w.WriteMsg(new(mdns.Msg).SetReply(other))
	})
	good := resolver(t, func(w mdns.ResponseWriter, q *mdns.Msg) {
		mu.Lock()
		asked[q.Question[0].Name+w.RemoteAddr().Network()]++
		mu.Unlock()
		m := new(mdns.Msg).SetReply(q)
		if strings.HasPrefix(q.Question[0].Name, "gone.") {
			m.Rcode = mdns.RcodeNameError
		} else {
			rr, _ := mdns.NewRR(q.Question[0].Name + " 30 IN A 192.0.2.7")
			m.Answer = []mdns.RR{rr}
		}
		_ = w.WriteMsg(m)
	})
	outcomes := map[string]int{}
	upstream := map[bool]int{}
	server := serve(t, dns.Options{Resolvers: []netip.AddrPort{broken, good}, Own: []string{"cluster.local."}, Observe: dns.Hooks{
		Query: func(o string) {
			mu.Lock()
			defer mu.Unlock()
			outcomes[o]++
		},
		Upstream: func(_ time.Duration, answered bool) {
			mu.Lock()
			defer mu.Unlock()
			upstream[answered]++
		},
	}}, mesh(t))
	for _, c := range []struct{ network, name, want string }{
		{"udp", "www.example.com", "NOERROR 192.0.2.7"}, {"tcp", "www.example.com", "NOERROR 192.0.2.7"}, {"udp", "gone.example.com", "NXDOMAIN"},
		{"udp", "reviews", "NOERROR 240.240.0.1"}, {"udp", "nobody.cluster.local", "NXDOMAIN"}, {"udp", "nobody", "NXDOMAIN"},
	} {
		if got := text(ask(t, server, c.network, c.name, mdns.TypeA)); got != c.want {
			t.Errorf("%s by %s: got %q, want %q", c.name, c.network, got, c.want)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(asked) != 3 || asked["www.example.com.udp"] != 1 || asked["www.example.com.tcp"] != 1 || asked["gone.example.com.udp"] != 1 {
		t.Errorf("the resolver was asked %v: names of the mesh must not get out", asked)
	}
	if outcomes["forwarded"] != 3 || outcomes["table"] != 1 || outcomes["nxdomain"] != 2 || upstream[true] != 3 || upstream[false] != 3 {
		t.Errorf("outcomes %v, upstream %v", outcomes, upstream)
	}
}

func TestQueriesThatWaitHaveALimit(t *testing.T) {
	release, arrived := make(chan struct{}), make(chan struct{}, 1024)
	slow := resolver(t, func(w mdns.ResponseWriter, q *mdns.Msg) {
		arrived <- struct{}{}
		<-release
		_ = w.WriteMsg(new(mdns.Msg).SetReply(q))
	})
	server := serve(t, dns.Options{Resolvers: []netip.AddrPort{slow}}, mesh(t))
	var waiting sync.WaitGroup
	codes := make(chan int, limit.DNSQueriesMax)
	for i := range limit.DNSQueriesMax {
		waiting.Go(func() {
			q := new(mdns.Msg).SetQuestion(fmt.Sprintf("n%d.example.com.", i), mdns.TypeA)
			m, _, err := (&mdns.Client{Net: "udp", Timeout: 8 * time.Second}).ExchangeContext(t.Context(), q, server.String())
			if err != nil {
				codes <- -1
				return
			}
			codes <- m.Rcode
		})
		select { // one after the other: a burst of packets may not fit into a socket's buffer
		case <-arrived:
		case <-time.After(5 * time.Second):
			close(release)
			t.Fatalf("query %d does not reach the resolver", i)
		}
	}
	if got := text(ask(t, server, "udp", "one.more.example.com", mdns.TypeA)); got != "SERVFAIL" {
		t.Errorf("one query more than the limit: %s, want SERVFAIL at once", got)
	}
	if got := text(ask(t, server, "udp", "reviews", mdns.TypeA)); got != "NOERROR 240.240.0.1" {
		t.Errorf("a name of the mesh meanwhile: %s", got)
	}
	close(release)
	waiting.Wait()
	for range limit.DNSQueriesMax {
		if code := <-codes; code != mdns.RcodeSuccess {
			t.Errorf("a query that waited got %d", code)
		}
	}
}

func TestTableIsReplacedAsAWhole(t *testing.T) {
	packets, ln, err := dns.ListenBoth(t.Context(), netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	s := dns.New(dns.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, packets, ln) }()
	server := ln.Addr().(*net.TCPAddr).AddrPort()
	if got := text(ask(t, server, "udp", "reviews", mdns.TypeA)); got != "SERVFAIL" {
		t.Errorf("before the first table: %s", got)
	}
	s.SetTable(mesh(t))
	if got := text(ask(t, server, "udp", "reviews", mdns.TypeA)); got != "NOERROR 240.240.0.1" {
		t.Errorf("with a table: %s", got)
	}
	next, err := dns.NewTable(map[string]dns.Entry{"cart": {IPs: ips("240.240.0.7")}}, dns.Client{})
	if err != nil {
		t.Fatal(err)
	}
	s.SetTable(next)
	if got := text(ask(t, server, "udp", "reviews", mdns.TypeA)) + text(ask(t, server, "udp", "cart", mdns.TypeA)); got != "NXDOMAINNOERROR 240.240.0.7" {
		t.Errorf("with the next table: %s", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestTableRefusesWhatCannotBeAnswered(t *testing.T) {
	for name, hosts := range map[string]map[string]dns.Entry{
		"no address":     {"a.example": {IPs: []netip.Addr{{}}}},
		"a zone":         {"a.example": {IPs: ips("fe80::1%eth0")}},
		"no host":        {"": {}},
		"an empty label": {"a..example": {}},
		"a long label":   {strings.Repeat("a", 64) + ".example": {}},
		"a long name":    {strings.Repeat("abcdefg.", 32) + "example": {}},
		"a space":        {"a b": {}},
	} {
		if _, err := dns.NewTable(hosts, dns.Client{}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestResolvConf(t *testing.T) {
	pod := dns.Resolv{Servers: []netip.AddrPort{netip.MustParseAddrPort("10.77.0.1:53")}, Search: []string{"default.svc.cluster.local", "svc.cluster.local"}}
	if got := pod.Text(); got != "nameserver 10.77.0.1\nsearch default.svc.cluster.local svc.cluster.local\noptions ndots:5\n" {
		t.Errorf("got %q", got)
	}
}
