package authz_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tullemesh/tulle/internal/match"
	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
	"github.com/tullemesh/tulle/internal/proxy/engine/filter/authz"
)

type fields map[string]string

func (f fields) Get(name string) ([]byte, bool) {
	v, ok := f[name]
	return []byte(v), ok
}

func anything() authz.Condition { return authz.Condition{Kind: authz.Any} }

func not(c authz.Condition) authz.Condition {
	return authz.Condition{Kind: authz.Not, Sub: []authz.Condition{c}}
}

func exact(s string) match.String { return match.Exact(s, match.CaseSensitive) }

func header(name, value string) authz.Condition {
	return authz.Condition{Kind: authz.Header, Header: match.Header{Name: name, Value: exact(value)}}
}

func path(p string) authz.Condition { return authz.Condition{Kind: authz.Path, String: exact(p)} }

func address(kind authz.Kind, p string) authz.Condition {
	return authz.Condition{Kind: kind, Prefix: netip.MustParsePrefix(p)}
}

func connection() *fact.Conn {
	return &fact.Conn{
		Local: netip.MustParseAddrPort("10.1.0.1:8080"), Remote: netip.MustParseAddrPort("10.2.0.2:4000"),
		DirectRemote: netip.MustParseAddrPort("10.3.0.3:5000"), SNI: "shop.example.com",
		TLS: true, Verified: true, Peer: "spiffe://td/ns/a/sa/b", PeerDNS: []string{"b.example"}, PeerSubject: "CN=b",
	}
}

func request(c *fact.Conn) *fact.Request {
	return &fact.Request{Conn: c, Method: []byte("GET"), Path: []byte("/api?x=1"), Authority: []byte("shop"),
		Headers: fields{"x-user": "jason"}, Remote: netip.MustParseAddr("203.0.113.7")}
}

// Each condition, of a request and of a connection that has none: there Envoy
// evaluates HTTP conditions as those of an empty header map.
func TestConditions(t *testing.T) {
	t.Parallel()
	tmpl, err := match.NewTemplate("/{*}")
	if err != nil {
		t.Fatal(err)
	}
	and, or := authz.Condition{Kind: authz.And}, authz.Condition{Kind: authz.Or}
	cases := []struct {
		name           string
		c              authz.Condition
		atL7, atL4     bool
		withoutTLSatL4 bool
	}{
		{"any", anything(), true, true, true},
		{"not any", not(anything()), false, false, false},
		{"and of nothing", and, true, true, true},
		{"or of nothing", or, false, false, false},
		{"and", authz.Condition{Kind: authz.And, Sub: []authz.Condition{anything(), path("/api")}}, true, false, false},
		{"or", authz.Condition{Kind: authz.Or, Sub: []authz.Condition{path("/x"), path("/api")}}, true, false, false},
		{"header", header("x-user", "jason"), true, false, false},
		{"method", header(":method", "GET"), true, false, false},
		{"not a header", not(header("x-user", "mary")), true, true, true},
		{"header absent", authz.Condition{Kind: authz.Header, Header: match.Header{Name: "nope", Kind: match.HeaderPresent, Invert: true}}, true, true, true},
		{"path without query", path("/api"), true, false, false},
		{"not a path", not(path("/api")), false, true, true},
		{"template", authz.Condition{Kind: authz.Template, Template: tmpl}, true, false, false},
		{"destination address", address(authz.DestinationIP, "10.1.0.0/16"), true, true, true},
		{"destination port", authz.Condition{Kind: authz.DestinationPort, PortStart: 8080, PortEnd: 8081}, true, true, true},
		{"other port", authz.Condition{Kind: authz.DestinationPort, PortStart: 8081, PortEnd: 9000}, false, false, false},
		{"server name", authz.Condition{Kind: authz.ServerName, String: exact("shop.example.com")}, true, true, true},
		{"source", address(authz.SourceIP, "10.2.0.0/16"), true, true, true},
		{"direct remote", address(authz.DirectRemoteIP, "10.3.0.0/16"), true, true, true},
		{"remote is the forwarded one", address(authz.RemoteIP, "203.0.113.0/24"), true, false, false},
		{"remote of a connection", address(authz.RemoteIP, "10.2.0.0/16"), false, true, true},
		{"principal", authz.Condition{Kind: authz.Authenticated, String: exact("spiffe://td/ns/a/sa/b")}, true, true, false},
		{"DNS name", authz.Condition{Kind: authz.Authenticated, String: exact("b.example")}, true, true, false},
		{"subject", authz.Condition{Kind: authz.Authenticated, String: exact("CN=b")}, true, true, false},
		{"somebody else", authz.Condition{Kind: authz.Authenticated, String: exact("spiffe://td/ns/a/sa/c")}, false, false, false},
		{"any peer", authz.Condition{Kind: authz.Authenticated, AnyPeer: true}, true, true, false},
		{"not a principal", not(authz.Condition{Kind: authz.Authenticated, String: exact("spiffe://td/ns/a/sa/b")}), false, false, true},
		{"unknown kind", authz.Condition{Kind: 200}, false, false, false},
	}
	for _, c := range cases {
		p := &authz.Policies{Rules: &authz.Rules{Policies: []authz.Policy{{Name: "p", Permission: c.c, Principal: anything()}}}}
		conn := connection()
		if got := p.Decide(conn, request(conn), nil).Allowed; got != c.atL7 {
			t.Errorf("%s: request %v, want %v", c.name, got, c.atL7)
		}
		if got := p.Decide(conn, nil, nil).Allowed; got != c.atL4 {
			t.Errorf("%s: connection %v, want %v", c.name, got, c.atL4)
		}
		// Without TLS a peer's names are worth nothing, whoever filled them in.
		conn.Verified = false
		if got := p.Decide(conn, nil, nil).Allowed; got != c.withoutTLSatL4 {
			t.Errorf("%s: plaintext connection %v, want %v", c.name, got, c.withoutTLSatL4)
		}
	}
}

func TestActions(t *testing.T) {
	t.Parallel()
	policies := func(match bool) []authz.Policy {
		c := anything()
		if !match {
			c = not(c)
		}
		return []authz.Policy{{Name: "first", Permission: not(anything()), Principal: anything()}, {Name: "second", Permission: anything(), Principal: c}}
	}
	for _, c := range []struct {
		name   string
		action authz.Action
		match  bool
		want   authz.Verdict
	}{
		{"allow matches", authz.Allow, true, authz.Verdict{Allowed: true, Policy: "second"}},
		{"allow does not match", authz.Allow, false, authz.Verdict{}},
		{"deny matches", authz.Deny, true, authz.Verdict{Policy: "second"}},
		{"deny does not match", authz.Deny, false, authz.Verdict{Allowed: true}},
		{"log matches", authz.Log, true, authz.Verdict{Allowed: true, Policy: "second"}},
		{"log does not match", authz.Log, false, authz.Verdict{Allowed: true}},
		{"unknown action denies", 99, false, authz.Verdict{}},
	} {
		rules := &authz.Rules{Action: c.action, Policies: policies(c.match)}
		var tr fact.Trace
		if diff := cmp.Diff(c.want, (&authz.Policies{Rules: rules}).Decide(connection(), nil, &tr)); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
		if len(tr.Steps) != 1 || tr.Steps[0].Reason == "" || (tr.Steps[0].Verdict == fact.Allowed) != c.want.Allowed {
			t.Errorf("%s: trace %+v", c.name, tr.Steps)
		}
		// The same rules as a dry run decide nothing and say what they would.
		shadow := c.want
		shadow.Allowed, shadow.Policy = true, ""
		shadow.Shadowed, shadow.ShadowAllowed, shadow.ShadowPolicy = true, c.want.Allowed, c.want.Policy
		if diff := cmp.Diff(shadow, (&authz.Policies{Shadow: rules}).Decide(connection(), nil, nil)); diff != "" {
			t.Errorf("%s as a dry run: %s", c.name, diff)
		}
	}
}

func TestAllowWithoutPoliciesDeniesAll(t *testing.T) {
	t.Parallel()
	if v := (&authz.Policies{Rules: &authz.Rules{}}).Decide(connection(), nil, nil); v.Allowed {
		t.Error("Istio's allow-nothing must deny")
	}
	if v := (&authz.Policies{}).Decide(connection(), nil, nil); !v.Allowed {
		t.Error("a filter without rules enforces nothing")
	}
}

func TestDecideAllocatesNothing(t *testing.T) {
	conn := connection()
	req := &fact.Request{Conn: conn, Method: []byte("GET"), Path: []byte("/api?x=1")}
	prefix, err := match.Prefix("/api", match.CaseSensitive)
	if err != nil {
		t.Fatal(err)
	}
	p := &authz.Policies{Rules: &authz.Rules{Policies: []authz.Policy{
		{Name: "bulk", Permission: path("/bulk"), Principal: anything()},
		{
			Name: "api", Principal: authz.Condition{Kind: authz.Authenticated, String: exact("spiffe://td/ns/a/sa/b")},
			Permission: authz.Condition{Kind: authz.And, Sub: []authz.Condition{{Kind: authz.Path, String: prefix}, header(":method", "GET"), address(authz.DestinationIP, "10.0.0.0/8")}},
		},
	}}}
	const want = 0
	var v authz.Verdict
	if got := testing.AllocsPerRun(100, func() { v = p.Decide(conn, req, nil) }); got != want {
		t.Errorf("%v allocations, want %d", got, want)
	}
	if !v.Allowed {
		t.Errorf("%+v, want allowed", v)
	}
}
