package listener_test

import (
	"errors"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
)

func chain(name string, m listener.ChainMatch) *listener.Chain {
	return &listener.Chain{Name: name, Match: m}
}

func cidr(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func conn(local string, edit func(*fact.Conn)) *fact.Conn {
	c := &fact.Conn{Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort("10.9.9.9:40000")}
	if edit != nil {
		edit(c)
	}
	return c
}

func matcher(t testing.TB, def *listener.Chain, chains ...*listener.Chain) *listener.Matcher {
	t.Helper()
	m, err := listener.NewMatcher(&listener.Spec{Name: "l", Chains: chains, Default: def})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestChainsAreChosenInEnvoysOrder(t *testing.T) {
	t.Parallel()
	fallback := chain("default", listener.ChainMatch{})
	tls := func(sni string, alpn ...string) func(*fact.Conn) {
		return func(c *fact.Conn) { c.TLS, c.SNI, c.ALPN = true, sni, alpn }
	}
	from := func(remote string) func(*fact.Conn) {
		return func(c *fact.Conn) { c.Remote = netip.MustParseAddrPort(remote) }
	}
	cases := []struct {
		name   string
		chains []*listener.Chain
		conn   *fact.Conn
		want   string
	}{
		{"port before everything", []*listener.Chain{
			chain("port", listener.ChainMatch{DestinationPort: 80}), chain("address", listener.ChainMatch{DestinationPrefix: cidr("10.0.0.1/32")}),
		}, conn("10.0.0.1:80", nil), "port"},
		{"no way back from a port", []*listener.Chain{
			chain("port", listener.ChainMatch{DestinationPort: 80, Transport: "tls"}), chain("any", listener.ChainMatch{}),
		}, conn("10.0.0.1:80", nil), "default"},
		{"longest address", []*listener.Chain{
			chain("8", listener.ChainMatch{DestinationPrefix: cidr("10.0.0.0/8")}), chain("24", listener.ChainMatch{DestinationPrefix: cidr("10.1.1.0/24", "192.0.2.0/24")}), chain("any", listener.ChainMatch{}),
		}, conn("10.1.1.5:80", nil), "24"},
		{"no way back from an address", []*listener.Chain{
			chain("8", listener.ChainMatch{DestinationPrefix: cidr("10.0.0.0/8"), ServerNames: []string{"a"}}), chain("any", listener.ChainMatch{}),
		}, conn("10.1.1.5:80", nil), "default"},
		{"mapped IPv4 is IPv4", []*listener.Chain{chain("8", listener.ChainMatch{DestinationPrefix: cidr("10.0.0.0/8")})}, conn("[::ffff:10.1.1.5]:80", nil), "8"},
		{"exact server name", []*listener.Chain{
			chain("wild", listener.ChainMatch{ServerNames: []string{"*.example.com"}}), chain("exact", listener.ChainMatch{ServerNames: []string{"a.example.com"}}),
		}, conn("10.0.0.1:443", tls("a.example.com")), "exact"},
		{"longest wildcard", []*listener.Chain{
			chain("short", listener.ChainMatch{ServerNames: []string{"*.com"}}), chain("long", listener.ChainMatch{ServerNames: []string{"*.example.com"}}),
		}, conn("10.0.0.1:443", tls("a.b.example.com")), "long"},
		{"a wildcard stands for a label", []*listener.Chain{chain("wild", listener.ChainMatch{ServerNames: []string{"*.example.com"}})}, conn("10.0.0.1:443", tls("example.com")), "default"},
		{"no server name", []*listener.Chain{
			chain("sni", listener.ChainMatch{ServerNames: []string{"a"}}), chain("none", listener.ChainMatch{Transport: "tls"}),
		}, conn("10.0.0.1:443", tls("")), "none"},
		{"server name before transport", []*listener.Chain{
			chain("sni", listener.ChainMatch{ServerNames: []string{"a"}}), chain("tls", listener.ChainMatch{Transport: "tls"}),
		}, conn("10.0.0.1:443", tls("a")), "sni"},
		{"transport", []*listener.Chain{
			chain("raw", listener.ChainMatch{Transport: "raw_buffer"}), chain("tls", listener.ChainMatch{Transport: "tls"}), chain("any", listener.ChainMatch{}),
		}, conn("10.0.0.1:80", nil), "raw"},
		{"the client's first protocol", []*listener.Chain{
			chain("h2", listener.ChainMatch{ApplicationProtos: []string{"h2"}}), chain("istio", listener.ChainMatch{ApplicationProtos: []string{"istio-peer-exchange", "istio"}}),
		}, conn("10.0.0.1:443", tls("", "istio", "h2")), "istio"},
		{"an unknown protocol", []*listener.Chain{
			chain("h2", listener.ChainMatch{ApplicationProtos: []string{"h2"}}), chain("any", listener.ChainMatch{}),
		}, conn("10.0.0.1:443", tls("", "spdy")), "any"},
		{"direct source", []*listener.Chain{
			chain("direct", listener.ChainMatch{DirectSourcePrefix: cidr("192.0.2.0/24")}), chain("any", listener.ChainMatch{}),
		}, conn("10.0.0.1:80", func(c *fact.Conn) { c.DirectRemote = netip.MustParseAddrPort("192.0.2.9:1") }), "direct"},
		{"loopback source", []*listener.Chain{
			chain("local", listener.ChainMatch{SourceType: listener.SourceSameOrLoopback}), chain("external", listener.ChainMatch{SourceType: listener.SourceExternal}),
		}, conn("10.0.0.1:80", from("127.0.0.1:5")), "local"},
		{"same address as source", []*listener.Chain{
			chain("local", listener.ChainMatch{SourceType: listener.SourceSameOrLoopback}), chain("any", listener.ChainMatch{}),
		}, conn("10.0.0.1:80", from("10.0.0.1:5")), "local"},
		{"external source", []*listener.Chain{
			chain("local", listener.ChainMatch{SourceType: listener.SourceSameOrLoopback}), chain("external", listener.ChainMatch{SourceType: listener.SourceExternal}),
		}, conn("10.0.0.1:80", nil), "external"},
		{"source address", []*listener.Chain{
			chain("near", listener.ChainMatch{SourcePrefix: cidr("10.9.0.0/16")}), chain("far", listener.ChainMatch{SourcePrefix: cidr("0.0.0.0/0")}),
		}, conn("10.0.0.1:80", nil), "near"},
		{"source port", []*listener.Chain{
			chain("port", listener.ChainMatch{SourcePorts: []uint16{1, 40000}}), chain("any", listener.ChainMatch{}),
		}, conn("10.0.0.1:80", nil), "port"},
		{"nothing matches", []*listener.Chain{chain("port", listener.ChainMatch{DestinationPort: 1})}, conn("10.0.0.1:80", nil), "default"},
	}
	for _, c := range cases {
		var tr fact.Trace
		got := matcher(t, fallback, c.chains...).Match(c.conn, &tr)
		if got.Name != c.want {
			t.Errorf("%s: %s, want %s", c.name, got.Name, c.want)
		}
		if last := tr.Steps[len(tr.Steps)-1]; last.Name != c.want || last.Verdict != fact.Chosen {
			t.Errorf("%s: the trace ends with %+v", c.name, last)
		}
		skipped := 0
		for _, s := range tr.Steps {
			if s.Verdict == fact.Skipped && s.Reason != "" {
				skipped++
			}
		}
		if want := len(c.chains) - 1; c.want != "default" && skipped != want {
			t.Errorf("%s: %d chains are explained, want %d: %+v", c.name, skipped, want, tr.Steps)
		}
	}
	if got := matcher(t, nil).Match(conn("10.0.0.1:80", nil), nil); got != nil {
		t.Errorf("without a default: %s", got.Name)
	}
}

func TestTwoChainsOfOneMatchAreRefused(t *testing.T) {
	t.Parallel()
	for name, pair := range map[string][2]listener.ChainMatch{
		"both empty":      {{}, {}},
		"one in common":   {{ServerNames: []string{"a", "b"}}, {ServerNames: []string{"b", "c"}}},
		"all is no match": {{}, {DestinationPrefix: cidr("0.0.0.0/0")}},
		"host bits":       {{SourcePrefix: cidr("10.0.0.1/8")}, {SourcePrefix: cidr("10.0.0.0/8")}},
	} {
		_, err := listener.NewMatcher(&listener.Spec{Chains: []*listener.Chain{chain("x", pair[0]), chain("y", pair[1])}})
		if !errors.Is(err, listener.ErrDuplicateMatch) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := listener.NewMatcher(&listener.Spec{Chains: []*listener.Chain{
		chain("x", listener.ChainMatch{ServerNames: []string{"a"}}), chain("y", listener.ChainMatch{ServerNames: []string{"a"}, Transport: "tls"}),
	}})
	if err != nil {
		t.Errorf("one has a further criterion: %v", err)
	}
}

// Of chains that are not duplicates at most one is left, and the choice does
// not depend on their order.
func TestChoiceDoesNotDependOnOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		pick := func(name string, from ...string) []string {
			return rapid.SliceOfNDistinct(rapid.SampledFrom(from), 0, 2, rapid.ID[string]).Draw(rt, name)
		}
		n := rapid.IntRange(1, 6).Draw(rt, "chains")
		var chains, reversed []*listener.Chain
		for i := range n {
			c := chain(string(rune('a'+i)), listener.ChainMatch{
				DestinationPort: rapid.SampledFrom([]uint16{0, 80}).Draw(rt, "port"), DestinationPrefix: cidr(pick("dst", "10.0.0.0/8", "10.1.0.0/16", "0.0.0.0/0")...),
				ServerNames: pick("sni", "a.b", "*.b", "c"), Transport: rapid.SampledFrom([]string{"", "tls", "raw_buffer"}).Draw(rt, "transport"),
				ApplicationProtos: pick("alpn", "h2", "http/1.1", "istio"), SourceType: listener.SourceType(rapid.IntRange(0, 2).Draw(rt, "type")),
				SourcePrefix: cidr(pick("src", "10.9.0.0/16", "127.0.0.0/8")...),
			})
			chains = append(chains, c)
			reversed = append([]*listener.Chain{c}, reversed...)
		}
		m, err := listener.NewMatcher(&listener.Spec{Chains: chains})
		if err != nil {
			return
		}
		r, err := listener.NewMatcher(&listener.Spec{Chains: reversed})
		if err != nil {
			rt.Fatalf("duplicates depend on the order: %v", err)
		}
		c := conn(rapid.SampledFrom([]string{"10.0.0.1:80", "10.1.0.1:80", "192.0.2.1:81"}).Draw(rt, "local"), func(c *fact.Conn) {
			c.TLS = rapid.Bool().Draw(rt, "tls")
			c.SNI = rapid.SampledFrom([]string{"", "a.b", "x.b", "c"}).Draw(rt, "name")
			c.ALPN = pick("offers", "h2", "http/1.1", "istio")
			c.Remote = netip.MustParseAddrPort(rapid.SampledFrom([]string{"10.9.9.9:4", "127.0.0.1:4", "10.0.0.1:4"}).Draw(rt, "remote"))
		})
		if a, b := m.Match(c, nil), r.Match(c, nil); a != b {
			rt.Fatalf("%v, reversed %v", a, b)
		}
	})
}

func TestMatchingAllocatesNothing(t *testing.T) {
	m := matcher(t, nil,
		chain("a", listener.ChainMatch{DestinationPort: 80, Transport: "tls", ApplicationProtos: []string{"istio"}}),
		chain("b", listener.ChainMatch{DestinationPort: 80, Transport: "raw_buffer", DestinationPrefix: cidr("10.0.0.0/8")}))
	c := conn("10.0.0.1:80", nil)
	const want = 0
	if got := testing.AllocsPerRun(100, func() { m.Match(c, nil) }); got != want {
		t.Errorf("%v allocations, want %d", got, want)
	}
}

func TestPortMatch(t *testing.T) {
	t.Parallel()
	ports := []listener.PortRange{{Start: 80, End: 81}, {Start: 65535, End: 65536}}
	for _, c := range []struct {
		m    listener.PortMatch
		port uint16
		want bool
	}{
		{listener.PortMatch{}, 80, false}, {listener.PortMatch{Ranges: ports}, 80, true}, {listener.PortMatch{Ranges: ports}, 81, false},
		{listener.PortMatch{Ranges: ports}, 65535, true}, {listener.PortMatch{Not: true, Ranges: ports}, 80, false},
		{listener.PortMatch{Not: true, Ranges: ports}, 81, true}, {listener.PortMatch{Not: true}, 1, true},
	} {
		if got := c.m.Contains(c.port); got != c.want {
			t.Errorf("%+v has %d: %v, want %v", c.m, c.port, got, c.want)
		}
	}
}
