package registry

import (
	"fmt"
	"net/netip"
	"testing"
)

func named(n int) *Service {
	return &Service{Namespace: "x", Hostname: fmt.Sprintf("svc-%d.example", n)}
}

func TestAllocatedAddressesAreDistinctAndStable(t *testing.T) {
	var all []*Service
	for i := range 3000 { // some dozens of them collide
		all = append(all, named(i))
	}
	first := allocate(all)
	seen := map[netip.Addr]*Service{}
	for s, a := range first {
		if other := seen[a]; other != nil {
			t.Fatalf("%s and %s share %s", s.Hostname, other.Hostname, a)
		}
		seen[a] = s
		if !netip.MustParsePrefix("240.240.0.0/16").Contains(a) {
			t.Fatalf("%s is outside of the range", a)
		}
	}
	if len(first) != len(all) {
		t.Fatalf("%d of %d have an address", len(first), len(all))
	}
	moved := 0
	without := allocate(all[1:])
	for s, a := range without {
		if first[s] != a {
			moved++
		}
	}
	if moved > 1 {
		t.Errorf("removing one service moved the addresses of %d others", moved)
	}
}

func TestAllocationEndsWithItsRange(t *testing.T) {
	var all []*Service
	for i := range autoLast - autoFirst + 10 {
		all = append(all, named(i))
	}
	if got := len(allocate(all)); got != autoLast-autoFirst+1 {
		t.Errorf("%d addresses", got)
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
