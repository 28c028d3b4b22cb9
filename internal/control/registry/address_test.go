package registry

import (
	"fmt"
	"net/netip"
	"testing"
)

// named is a service that a number of ServiceEntries define.
func named(host string, entries int) *unit {
	return &unit{base: &Service{Namespace: "default", Hostname: host}, contributions: make([]*contribution, entries)}
}

func TestAllocatedAddressesAreDistinctAndStable(t *testing.T) {
	var all []*unit
	for i := range 3000 { // some dozens of them collide
		all = append(all, named(fmt.Sprintf("svc-%d.example", i), 1))
	}
	first := allocate(all)
	seen := map[netip.Addr]*unit{}
	for u, a := range first {
		if other := seen[a]; other != nil {
			t.Fatalf("%s and %s share %s", u.base.Hostname, other.base.Hostname, a)
		}
		seen[a] = u
		if b := a.As4(); !netip.MustParsePrefix("240.240.0.0/16").Contains(a) || b[3] == 0 || b[3] == 255 {
			t.Fatalf("%s is not an address to give out", a)
		}
	}
	if len(first) != len(all) {
		t.Fatalf("%d of %d have an address", len(first), len(all))
	}
	moved := 0
	without := allocate(all[1:])
	for u, a := range without {
		if first[u] != a {
			moved++
		}
	}
	if moved > 1 {
		t.Errorf("removing one service moved the addresses of %d others", moved)
	}
}

// The addresses are those that istiod gives (pilot/pkg/serviceregistry/serviceentry).
func TestAllocatedAddressesAreIstios(t *testing.T) {
	one, two, other := named("istio.io", 1), named("istio.io", 2), named("other.io", 1)
	for _, c := range []struct {
		name string
		of   *unit
		want string
	}{
		{"one entry", one, "240.240.122.168"},
		{"two entries for one host", two, "240.240.91.120"},
	} {
		if got := allocate([]*unit{c.of, other})[c.of].String(); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestAllocationEndsWithItsRange(t *testing.T) {
	for _, extra := range []int{-1, 0, 1} {
		var all []*unit
		for i := range autoUsedMax + extra {
			all = append(all, named(fmt.Sprintf("svc-%d.example", i), 1))
		}
		if got, want := len(allocate(all)), min(len(all), autoUsedMax); got != want {
			t.Errorf("%d services: %d addresses, want %d", len(all), got, want)
		}
	}
}

func TestProtocolSelection(t *testing.T) {
	app := func(s string) *string { return &s }
	for _, c := range []struct {
		number          int
		name, transport string
		app             *string
		want            Protocol
	}{
		{80, "http", "TCP", nil, HTTP},
		{80, "HTTP-web", "TCP", nil, HTTP},
		{80, "http2-x", "TCP", nil, HTTP2},
		{80, "grpc-web-x", "TCP", nil, GRPCWeb},
		{80, "grpc-x", "TCP", nil, GRPC},
		{443, "https", "TCP", nil, HTTPS},
		{443, "tls-x", "TCP", nil, TLS},
		{80, "mongo", "TCP", nil, Mongo},
		{80, "web", "TCP", nil, Unsupported},
		{80, "", "TCP", nil, Unsupported},
		{80, "httpx", "TCP", nil, Unsupported},
		{3306, "db", "TCP", nil, TCP},
		{25, "", "TCP", nil, TCP},
		{3306, "http", "TCP", nil, HTTP},
		{53, "http", "UDP", app("http"), UDP},
		{80, "tcp", "TCP", app("grpc"), GRPC},
		{80, "http", "TCP", app("kubernetes.io/h2c"), HTTP2},
		{80, "http", "TCP", app("kubernetes.io/ws"), HTTP},
		{80, "http", "TCP", app("kubernetes.io/wss"), HTTPS},
		{80, "http", "TCP", app("example.com/own"), Unsupported},
	} {
		if got := KubernetesProtocol(c.number, c.name, c.transport, c.app); got != c.want {
			t.Errorf("port %d name %q %s: %q, want %q", c.number, c.name, c.transport, got, c.want)
		}
	}
	if got := ParseProtocol("http_proxy"); got != HTTPProxy || !got.IsHTTP() {
		t.Errorf("HTTP_PROXY reads %q", got)
	}
}
