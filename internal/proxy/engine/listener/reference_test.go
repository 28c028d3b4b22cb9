package listener_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/testkit/chains"
)

func TestChainsOfTheTable(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("testdata", "chains.txt"))
	if err != nil {
		t.Fatal(err)
	}
	sets, err := chains.Parse(string(text))
	if err != nil {
		t.Fatal(err)
	}
	cases := 0
	for _, s := range sets {
		m := matcher(t, chain("default", listener.ChainMatch{}), s.Chains...)
		for _, c := range s.Conns {
			cases++
			if got := m.Match(&c.Facts, nil); got.Name != c.Want {
				t.Errorf("%s, %s: %s, want %s", s.Name, c.Name, got.Name, c.Want)
			}
			if got := lookup(s.Chains, &c.Facts); got != c.Want {
				t.Errorf("%s, %s: the reference says %s, want %s", s.Name, c.Name, got, c.Want)
			}
		}
	}
	if cases < 100 {
		t.Errorf("%d cases", cases)
	}
}

// lookup is Envoy's way to the same answer: nested maps, asked with ever more
// general keys. It is what the matcher is compared with.
func lookup(left []*listener.Chain, c *fact.Conn) string {
	transport := "raw_buffer"
	if c.TLS {
		transport = "tls"
	}
	kind := "2"
	if r := c.Remote.Addr().Unmap(); r.String() == "127.0.0.1" || r.String() == "::1" || r == c.Local.Addr().Unmap() {
		kind = "1"
	}
	number := func(n uint16) string { return strconv.Itoa(int(n)) }
	for _, stage := range []struct {
		asked []string // from the most specific to the most general
		keys  func(*listener.ChainMatch) []string
	}{
		{[]string{number(c.Local.Port()), "0"}, func(m *listener.ChainMatch) []string { return []string{number(m.DestinationPort)} }},
		{supernets(c.Local.Addr()), func(m *listener.ChainMatch) []string { return networks(m.DestinationPrefix) }},
		{domains(c.SNI), func(m *listener.ChainMatch) []string { return orNone(m.ServerNames) }},
		{[]string{transport, ""}, func(m *listener.ChainMatch) []string { return []string{m.Transport} }},
		{append(slices.Clone(c.ALPN), ""), func(m *listener.ChainMatch) []string { return orNone(m.ApplicationProtos) }},
		{supernets(c.SocketRemote().Addr()), func(m *listener.ChainMatch) []string { return networks(m.DirectSourcePrefix) }},
		{[]string{kind, "0"}, func(m *listener.ChainMatch) []string { return []string{number(uint16(m.SourceType))} }},
		{supernets(c.Remote.Addr()), func(m *listener.ChainMatch) []string { return networks(m.SourcePrefix) }},
		{[]string{number(c.Remote.Port()), ""}, func(m *listener.ChainMatch) []string {
			var out []string
			for _, p := range m.SourcePorts {
				out = append(out, number(p))
			}
			return orNone(out)
		}},
	} {
		var kept []*listener.Chain
		for _, key := range stage.asked {
			for _, c := range left {
				if slices.Contains(stage.keys(&c.Match), key) {
					kept = append(kept, c)
				}
			}
			if len(kept) > 0 {
				break
			}
		}
		left = kept
	}
	if len(left) == 0 {
		return "default"
	}
	return left[0].Name
}

func orNone(list []string) []string {
	if len(list) == 0 {
		return []string{""}
	}
	return list
}

func supernets(a netip.Addr) []string {
	var out []string
	a = a.Unmap()
	for bits := a.BitLen(); bits >= 0; bits-- {
		out = append(out, netip.PrefixFrom(a, bits).Masked().String())
	}
	return out
}

func networks(list []netip.Prefix) []string {
	if len(list) == 0 {
		return []string{"0.0.0.0/0", "::/0"}
	}
	var out []string
	for _, p := range list {
		out = append(out, p.Masked().String())
	}
	return out
}

func domains(name string) []string {
	if name == "" {
		return []string{""}
	}
	out := []string{name}
	for i := 1; i < len(name)-1; i++ {
		if name[i] == '.' {
			out = append(out, "*"+name[i:])
		}
	}
	return append(out, "")
}

// The matcher and the nested maps agree on whatever the criteria are.
func TestMatcherAgreesWithNestedMaps(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		pick := func(name, from string) []string {
			return rapid.SliceOfNDistinct(rapid.SampledFrom(strings.Fields(from)), 0, 2, rapid.ID[string]).Draw(rt, name)
		}
		port := func(name string) uint16 { return rapid.SampledFrom([]uint16{80, 81, 443}).Draw(rt, name) }
		var list []*listener.Chain
		for i := range rapid.IntRange(1, 8).Draw(rt, "chains") {
			m := listener.ChainMatch{
				DestinationPrefix: cidr(pick("dst", "10.0.0.0/8 10.1.0.0/16 10.1.2.0/24 0.0.0.0/0 ::/0 2001:db8::/32")...), ServerNames: pick("sni", "a.b *.b c.a.b *.a.b"),
				Transport: rapid.SampledFrom([]string{"", "tls", "raw_buffer"}).Draw(rt, "transport"), ApplicationProtos: pick("alpn", "h2 http/1.1 istio"),
				DirectSourcePrefix: cidr(pick("direct", "127.0.0.0/8 127.0.0.1/32")...), SourceType: listener.SourceType(rapid.IntRange(0, 2).Draw(rt, "type")),
				SourcePrefix: cidr(pick("src", "10.9.0.0/16 127.0.0.0/8 10.9.9.9/32")...),
			}
			if rapid.Bool().Draw(rt, "has a port") {
				m.DestinationPort = port("port")
			}
			if rapid.Bool().Draw(rt, "has a source port") {
				m.SourcePorts = []uint16{port("source port")}
			}
			list = append(list, chain(strconv.Itoa(i), m))
		}
		m, err := listener.NewMatcher(&listener.Spec{Chains: list, Default: chain("default", listener.ChainMatch{})})
		if err != nil {
			return
		}
		ip := func(name, from string) netip.Addr {
			return netip.MustParseAddr(rapid.SampledFrom(strings.Fields(from)).Draw(rt, name))
		}
		c := &fact.Conn{
			Local: netip.AddrPortFrom(ip("local", "10.0.0.1 10.1.0.1 10.1.2.3 192.0.2.1 2001:db8::1 2001:db9::1 ::ffff:10.1.0.1"), port("local port")), TLS: rapid.Bool().Draw(rt, "tls"),
			SNI: rapid.SampledFrom([]string{"", "a.b", "x.b", "c.a.b", "x.a.b", "b", "x"}).Draw(rt, "name"), ALPN: pick("offers", "h2 http/1.1 istio spdy"),
			Remote: netip.AddrPortFrom(ip("remote", "10.9.9.9 10.9.1.1 127.0.0.1 10.0.0.1 2001:db8::1"), port("remote port")), DirectRemote: netip.AddrPortFrom(ip("direct", "127.0.0.1 127.0.0.2 10.9.9.9"), 1),
		}
		if got, want := m.Match(c, nil).Name, lookup(list, c); got != want {
			rt.Fatalf("%s, nested maps say %s", got, want)
		}
	})
}
