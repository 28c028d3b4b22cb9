package generation_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tullemesh/tulle/internal/match"
	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
	"github.com/tullemesh/tulle/internal/proxy/engine/filter"
	"github.com/tullemesh/tulle/internal/proxy/engine/filter/authz"
	"github.com/tullemesh/tulle/internal/proxy/engine/generation"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
	"github.com/tullemesh/tulle/internal/proxy/engine/tls"
)

func addr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func whole(p string) router.Match {
	return router.Match{Path: router.PathMatch{Kind: router.PathPrefix, Value: p}}
}

func to(c ...router.Weighted) *router.Forward {
	f := &router.Forward{Clusters: c, ClusterNotFound: 503}
	for _, w := range c {
		f.TotalWeight += w.Weight
	}
	return f
}

func denyPath(p string) *authz.Policies {
	s, _ := match.Prefix(p, match.CaseSensitive)
	return &authz.Policies{Rules: &authz.Rules{Action: authz.Deny, Policies: []authz.Policy{{
		Name: "no " + p, Permission: authz.Condition{Kind: authz.Path, String: s}, Principal: authz.Condition{Kind: authz.Any},
	}}}}
}

func denySource(p string) *authz.Policies {
	return &authz.Policies{Rules: &authz.Rules{Action: authz.Deny, Policies: []authz.Policy{{
		Name: "no " + p, Permission: authz.Condition{Kind: authz.Any}, Principal: authz.Condition{Kind: authz.SourceIP, Prefix: netip.MustParsePrefix(p)},
	}}}}
}

// config is a small mesh: redirected outbound traffic, a service on 80, an
// inbound listener with mutual TLS, a gateway's TLS listener.
func config(t testing.TB) *generation.Config {
	t.Helper()
	shop := &router.VirtualHost{Name: "shop", Domains: []string{"shop"}, Origin: "host", Routes: []*router.Route{
		{Name: "old", Match: whole("/old"), Redirect: &router.Redirect{Status: 302, Host: "new"}},
		{Name: "gone", Match: whole("/gone"), Direct: &router.Direct{Status: 410}},
		{Name: "canary", Match: router.Match{Path: router.PathMatch{Value: "/canary"}, FractionNum: 10, FractionDen: 100}, Forward: to(router.Weighted{Cluster: "v2", Weight: 1})},
		{Name: "open", Match: whole("/secret/open"), Forward: to(router.Weighted{Cluster: "v1", Weight: 1}), PerFilter: map[string]filter.RouteConfig{"rbac": {Disabled: true}}},
		{Name: "lost", Match: whole("/lost"), Forward: to(router.Weighted{Cluster: "missing", Weight: 1})},
		{Name: "split", Match: whole("/"), Origin: "split", Forward: to(router.Weighted{Cluster: "v1", Weight: 90}, router.Weighted{Cluster: "v2", Weight: 10})},
	}}
	secure := &router.VirtualHost{Name: "secure", Domains: []string{"secure"}, RequireTLS: router.TLSAll, Routes: shop.Routes}
	bare := &router.VirtualHost{Name: "bare", Domains: []string{"bare"}}
	table, err := router.NewTable("80", []*router.VirtualHost{shop, secure, bare}, router.Options{})
	if err != nil {
		t.Fatal(err)
	}
	manager := &listener.HTTPManager{RouteName: "80", Filters: []filter.Spec{{Name: "rbac", Authz: denyPath("/secret")}}}
	bytes := func(c string) *listener.TCPProxy {
		return &listener.TCPProxy{Clusters: []router.Weighted{{Cluster: c, Weight: 1}}, TotalWeight: 1}
	}
	specs := []*listener.Spec{
		{Name: "inbound", InspectTLS: true, Direction: listener.Inbound, UseOriginalDst: true, BindToPort: true, Addresses: []netip.AddrPort{addr("0.0.0.0:15006")}, Chains: []*listener.Chain{
			{Name: "mtls", Match: listener.ChainMatch{Transport: "tls"}, TLS: &tls.ServerSpec{RequireClientCert: true, Validation: "ROOTCA"}, L4: []*authz.Policies{denySource("192.0.2.0/24")}, HTTP: manager},
			{Name: "plain", Match: listener.ChainMatch{Transport: "raw_buffer", DestinationPort: 9090}, TCP: bytes("v1")},
		}},
		{Name: "outbound", UseOriginalDst: true, BindToPort: true, Direction: listener.Outbound, Addresses: []netip.AddrPort{addr("0.0.0.0:15001")}, Default: &listener.Chain{Name: "catchall", TCP: bytes("passthrough")}},
		{Name: "port80", Addresses: []netip.AddrPort{addr("0.0.0.0:80")}, Chains: []*listener.Chain{{Name: "http", HTTP: manager}}},
		{Name: "vip", Addresses: []netip.AddrPort{addr("10.0.0.9:5432")}, Chains: []*listener.Chain{{Name: "tcp", TCP: bytes("blackhole")}}},
		{Name: "warming", Addresses: []netip.AddrPort{addr("0.0.0.0:81")}, Chains: []*listener.Chain{{Name: "http", HTTP: &listener.HTTPManager{RouteName: "not there"}}}},
		{Name: "simple", Addresses: []netip.AddrPort{addr("0.0.0.0:443")}, Chains: []*listener.Chain{{Name: "tls", TLS: &tls.ServerSpec{}, HTTP: manager}}},
	}
	parts := generation.Parts{Tables: map[string]*router.Table{"80": table}, Clusters: map[string]*cluster.Spec{
		"v1": {Name: "v1", Kind: cluster.EDS}, "v2": {Name: "v2", Kind: cluster.EDS}, "blackhole": {Name: "blackhole"},
		"passthrough": {Name: "passthrough", Kind: cluster.OriginalDst, Catchall: true},
	}}
	for _, s := range specs {
		m, err := listener.NewMatcher(s)
		if err != nil {
			t.Fatal(err)
		}
		parts.Listeners = append(parts.Listeners, m)
	}
	return generation.NewConfig(parts)
}

func connTo(local string, edit ...func(*fact.Conn)) *fact.Conn {
	c := &fact.Conn{Local: addr(local), Remote: addr("10.2.0.2:4000")}
	for _, e := range edit {
		e(c)
	}
	return c
}

func get(host, path string) *fact.Request {
	return &fact.Request{Method: []byte("GET"), Scheme: []byte("http"), Authority: []byte(host), Path: []byte(path)}
}

func mutual(c *fact.Conn) {
	c.TLS, c.Verified, c.Direct = true, true, addr("127.0.0.1:15006")
}

func TestEveryOutcome(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	plain := func(c *fact.Conn) { c.TLS = false }
	cases := []struct {
		name string
		conn *fact.Conn
		req  *fact.Request
		want generation.Decision
	}{
		{"forward", connTo("10.0.0.1:80"), get("shop", "/"), generation.Decision{Outcome: generation.Forward, Cluster: "v1", Weights: map[string]uint32{"v1": 90, "v2": 10}}},
		{"redirect", connTo("10.0.0.1:80"), get("shop", "/old"), generation.Decision{Outcome: generation.Redirect, Status: 302, Location: "http://new/old"}},
		{"direct", connTo("10.0.0.1:80"), get("shop", "/gone"), generation.Decision{Outcome: generation.Direct, Status: 410}},
		{"TLS wanted", connTo("10.0.0.1:80"), get("secure", "/x"), generation.Decision{Outcome: generation.Redirect, Status: 301, Location: "https://secure/x"}},
		{"denied request", connTo("10.0.0.1:80"), get("shop", "/secret/x"), generation.Decision{Outcome: generation.Deny, Status: 403, Policy: "no /secret"}},
		{"denied before the host is looked for", connTo("10.0.0.1:80"), get("nobody", "/secret/x"), generation.Decision{Outcome: generation.Deny, Status: 403, Policy: "no /secret"}},
		{"the route turns the filter off", connTo("10.0.0.1:80"), get("shop", "/secret/open"), generation.Decision{Outcome: generation.Forward, Cluster: "v1", Weights: map[string]uint32{"v1": 1}}},
		{"no virtual host", connTo("10.0.0.1:80"), get("nobody", "/"), generation.Decision{Outcome: generation.Reject, Status: 404, Error: generation.NoVirtualHost}},
		{"no route", connTo("10.0.0.1:80"), get("bare", "/"), generation.Decision{Outcome: generation.Reject, Status: 404, Error: generation.NoRoute}},
		{"no table yet", connTo("10.0.0.1:81"), get("shop", "/"), generation.Decision{Outcome: generation.Reject, Status: 404, Error: generation.NoVirtualHost}},
		{"no cluster", connTo("10.0.0.1:80"), get("shop", "/lost"), generation.Decision{Outcome: generation.Reject, Status: 503, Error: generation.NoCluster, Cluster: "missing", Weights: map[string]uint32{"missing": 1}}},
		{"a fraction is a condition", connTo("10.0.0.1:80"), get("shop", "/canary"), generation.Decision{Outcome: generation.Conditional, Cluster: "v1", Weights: map[string]uint32{"v1": 90, "v2": 10}, Conditions: []string{"route canary takes 10 of 100 requests"}}},
		{"bytes where HTTP is read", connTo("10.0.0.1:80"), nil, generation.Decision{Outcome: generation.Reject, Error: generation.ProtocolError}},
		{"TLS where plaintext HTTP is read", connTo("10.0.0.1:80", func(c *fact.Conn) { c.TLS = true }), get("shop", "/"), generation.Decision{Outcome: generation.Reject, Error: generation.ProtocolError}},
		{"plaintext where TLS is read", connTo("10.0.0.1:443", plain), get("shop", "/"), generation.Decision{Outcome: generation.Reject, Error: generation.ProtocolError}},
		{"a certificate nobody asks for", connTo("10.0.0.1:443", mutual, func(c *fact.Conn) { c.Direct = netip.AddrPort{} }), get("shop", "/"), generation.Decision{Outcome: generation.Reject, Error: generation.InvalidMTLS}},
		{"unknown destination", connTo("192.0.2.7:1234"), nil, generation.Decision{Outcome: generation.Passthrough, Cluster: "passthrough", Weights: map[string]uint32{"passthrough": 1}}},
		{"black hole", connTo("10.0.0.9:5432"), nil, generation.Decision{Outcome: generation.Blackhole, Cluster: "blackhole", Weights: map[string]uint32{"blackhole": 1}}},
		{"mutual TLS", connTo("10.2.0.1:8080", mutual), get("shop", "/"), generation.Decision{Outcome: generation.Forward, Cluster: "v1", Weights: map[string]uint32{"v1": 90, "v2": 10}}},
		{"TLS without a certificate", connTo("10.2.0.1:8080", mutual, func(c *fact.Conn) { c.Verified = false }), get("shop", "/"), generation.Decision{Outcome: generation.Reject, Error: generation.InvalidMTLS}},
		{"denied connection", connTo("10.2.0.1:8080", mutual, func(c *fact.Conn) { c.Remote = addr("192.0.2.1:1") }), get("shop", "/"), generation.Decision{Outcome: generation.Deny, Policy: "no 192.0.2.0/24"}},
		{"no filter chain", connTo("10.2.0.1:8080", func(c *fact.Conn) { c.Direct = addr("127.0.0.1:15006") }), get("shop", "/"), generation.Decision{Outcome: generation.Reject, Error: generation.NoFilterChain}},
		{"no listener", connTo("10.2.0.1:80", func(c *fact.Conn) { c.Direct = addr("127.0.0.1:1") }), nil, generation.Decision{Outcome: generation.Reject, Error: generation.NoListener}},
	}
	for _, c := range cases {
		var tr fact.Trace
		got := generation.Decide(cfg, c.conn, c.req, &tr)
		seen := generation.Decision{Outcome: got.Outcome, Status: got.Status, Error: got.Error, Location: got.Location, Cluster: got.Cluster, Weights: got.Weights, Policy: got.Policy, Conditions: got.Conditions}
		if diff := cmp.Diff(c.want, seen); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
		if len(tr.Steps) == 0 {
			t.Errorf("%s: the trace is empty", c.name)
		}
	}
}

func TestOriginIsOfTheMostSpecificPart(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	for path, want := range map[string]string{"/": "split", "/gone": "host"} {
		d := generation.Decide(cfg, connTo("10.0.0.1:80"), get("shop", path), nil)
		if d.Origin() != want {
			t.Errorf("%s comes from %q, want %q", path, d.Origin(), want)
		}
	}
}

// Whatever comes, Decide decides; equally each time, and with a trace as
// without, but for conditions, which only somebody who asks is told.
func TestDecideIsTotalAndDeterministic(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	outcomes := map[generation.Outcome]bool{
		generation.Forward: true, generation.Direct: true, generation.Redirect: true, generation.Deny: true, generation.Reject: true,
		generation.Passthrough: true, generation.Blackhole: true,
	}
	rapid.Check(t, func(rt *rapid.T) {
		ip := rapid.SampledFrom([]string{"10.0.0.1", "10.0.0.9", "192.0.2.1", "127.0.0.1"})
		port := rapid.SampledFrom([]uint16{0, 80, 81, 443, 5432, 9090, 15001, 15006})
		address := func(name string) netip.AddrPort {
			return netip.AddrPortFrom(netip.MustParseAddr(ip.Draw(rt, name)), port.Draw(rt, name+" port"))
		}
		c := &fact.Conn{Local: address("local"), Remote: address("remote"), TLS: rapid.Bool().Draw(rt, "tls"), Verified: rapid.Bool().Draw(rt, "verified")}
		if rapid.Bool().Draw(rt, "known socket") {
			c.Direct = address("direct")
		}
		var req *fact.Request
		if rapid.Bool().Draw(rt, "http") {
			req = get(rapid.SampledFrom([]string{"shop", "secure", "bare", "x", ""}).Draw(rt, "host"), rapid.SampledFrom([]string{"/", "/old", "/gone", "/lost", "/secret", "/canary", ""}).Draw(rt, "path"))
			req.Random = rapid.Uint64().Draw(rt, "random")
		}
		first := generation.Decide(cfg, c, req, nil)
		if !outcomes[first.Outcome] {
			rt.Fatalf("outcome %q", first.Outcome)
		}
		if (first.Outcome == generation.Reject) != (first.Error != "") {
			rt.Fatalf("outcome %s with error %q", first.Outcome, first.Error)
		}
		if again := generation.Decide(cfg, c, req, nil); !cmp.Equal(first, again, cmp.Comparer(same[listener.Spec]), cmp.Comparer(same[listener.Chain]),
			cmp.Comparer(same[router.Table]), cmp.Comparer(same[router.VirtualHost]), cmp.Comparer(same[router.Route])) {
			rt.Fatalf("%+v, then %+v", first, again)
		}
		traced := generation.Decide(cfg, c, req, &fact.Trace{})
		if traced.Outcome == generation.Conditional {
			return
		}
		if traced.Outcome != first.Outcome || traced.Cluster != first.Cluster || traced.Route != first.Route {
			rt.Fatalf("%+v, with a trace %+v", first, traced)
		}
	})
}

func same[T any](a, b *T) bool { return a == b }
