package router_test

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tullemesh/tulle/internal/match"
	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

// fields are headers that allocate nothing when they are read.
type fields map[string][]byte

func (f fields) Get(name string) ([]byte, bool) {
	v, ok := f[name]
	return v, ok
}

func request(method, authority, path string, h fields) *fact.Request {
	return &fact.Request{Method: []byte(method), Scheme: []byte("http"), Authority: []byte(authority), Path: []byte(path), Headers: h}
}

func host(name string, domains ...string) *router.VirtualHost {
	return &router.VirtualHost{Name: name, Domains: domains, Routes: []*router.Route{{Name: name, Direct: &router.Direct{Status: 200}, Match: prefix("/")}}}
}

func prefix(p string) router.Match {
	return router.Match{Path: router.PathMatch{Kind: router.PathPrefix, Value: p}}
}

func table(t testing.TB, opts router.Options, hosts ...*router.VirtualHost) *router.Table {
	t.Helper()
	tb, err := router.NewTable("t", hosts, opts)
	if err != nil {
		t.Fatal(err)
	}
	return tb
}

func TestHostsAreChosenInEnvoysOrder(t *testing.T) {
	t.Parallel()
	hosts := []*router.VirtualHost{
		host("any", "*"), host("suffix", "*.example.com"), host("longer suffix", "*.api.example.com"), host("dash", "*-bar.example.com"),
		host("prefix", "www.*"), host("longer prefix", "www.shop.*"), host("exact", "Shop.example.com", "shop.example.com:8080"), host("six", "[::1]"),
	}
	cases := []struct {
		authority string
		strip     bool
		want      string
	}{
		{"shop.example.com", false, "exact"},
		{"SHOP.EXAMPLE.COM", false, "exact"},
		{"shop.example.com:8080", false, "exact"},
		{"shop.example.com:9090", false, "any"}, // a port belongs to the name unless it is ignored
		{"shop.example.com:9090", true, "exact"},
		{"a.example.com", false, "suffix"},
		{"a.b.example.com", false, "suffix"},
		{"a.api.example.com", false, "longer suffix"},
		{"foo-bar.example.com", false, "dash"},
		{".example.com", false, "any"}, // the wildcard stands for at least one byte
		{"www.example.org", false, "prefix"},
		{"www.shop.org", false, "longer prefix"},
		{"www.example.com", false, "suffix"}, // suffix before prefix, whatever the lengths
		{"other", false, "any"},
		{"[::1]", true, "six"},
		{"[::1]:80", true, "six"},
		{strings.Repeat("a", 300) + ".example.com", false, "suffix"},
	}
	for _, c := range cases {
		tb := table(t, router.Options{IgnorePort: c.strip}, hosts...)
		if got := tb.Host([]byte(c.authority)); got == nil || got.Name != c.want {
			t.Errorf("%q (port ignored: %v) is of %v, want %s", c.authority, c.strip, got, c.want)
		}
	}
}

func TestRequestWithoutAuthority(t *testing.T) {
	t.Parallel()
	if h := table(t, router.Options{}, host("any", "*")).Host(nil); h == nil {
		t.Error("a table with the one domain * takes every request")
	}
	if h := table(t, router.Options{}, host("any", "*"), host("a", "a")).Host(nil); h != nil {
		t.Errorf("a request without authority is of %s, want none", h.Name)
	}
}

func TestDomainsBelongToOneHost(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		hosts []*router.VirtualHost
		want  error
	}{
		"exact twice":     {[]*router.VirtualHost{host("a", "x"), host("b", "X")}, match.ErrTaken},
		"star twice":      {[]*router.VirtualHost{host("a", "*"), host("b", "*")}, match.ErrTaken},
		"wildcard twice":  {[]*router.VirtualHost{host("a", "*.x"), host("b", "*.x")}, match.ErrTaken},
		"wildcard inside": {[]*router.VirtualHost{host("a", "x.*.y")}, match.ErrDomain},
		"empty":           {[]*router.VirtualHost{host("a", "")}, match.ErrDomain},
	} {
		if _, err := router.NewTable("t", c.hosts, router.Options{}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestIncompleteTableSaysWhatToAskFor(t *testing.T) {
	t.Parallel()
	tb := table(t, router.Options{OnDemand: true}, host("any", "*"), host("known", "known"))
	if r := tb.Match(request("GET", "known", "/", nil), nil); r.Ask {
		t.Error("a known host needs no asking")
	}
	r := tb.Match(request("GET", "new", "/", nil), nil)
	if !r.Ask || r.Host.Name != "any" {
		t.Errorf("an unknown host: %+v, want the catch-all and Ask", r)
	}
	more, err := tb.WithHosts(host("new", "new"))
	if err != nil {
		t.Fatal(err)
	}
	if r := more.Match(request("GET", "new", "/", nil), nil); r.Ask || r.Host.Name != "new" {
		t.Errorf("after it came: %+v", r)
	}
	if h := tb.Host([]byte("new")); h.Name != "any" {
		t.Error("the first table changed")
	}
	replaced, err := more.WithHosts(&router.VirtualHost{Name: "new", Domains: []string{"renamed"}})
	if err != nil {
		t.Fatal(err)
	}
	if h := replaced.Host([]byte("new")); h.Name != "any" {
		t.Errorf("a replaced host still answers to its old domain: %s", h.Name)
	}
}

func TestRequireTLS(t *testing.T) {
	t.Parallel()
	all, external := host("all", "all"), host("external", "external")
	all.RequireTLS, external.RequireTLS = router.TLSAll, router.TLSExternalOnly
	tb := table(t, router.Options{}, all, external)
	cases := []struct {
		name, host string
		h          fields
		scheme     string
		redirected bool
	}{
		{"plaintext", "all", nil, "http", true},
		{"TLS", "all", nil, "https", false},
		{"TLS that ended before us", "all", fields{"x-forwarded-proto": []byte("https")}, "http", false},
		{"plaintext before TLS", "all", fields{"x-forwarded-proto": []byte("http")}, "https", true},
		{"external plaintext", "external", nil, "http", true},
		{"internal plaintext", "external", fields{"x-envoy-internal": []byte("true")}, "http", false},
	}
	for _, c := range cases {
		req := request("GET", c.host, "/", c.h)
		req.Scheme = []byte(c.scheme)
		r := tb.Match(req, nil)
		if r.RequireTLS != c.redirected || (r.Route == nil) != c.redirected {
			t.Errorf("%s: %+v, want a redirect: %v", c.name, r, c.redirected)
		}
	}
}

func TestTraceNamesEveryCandidate(t *testing.T) {
	t.Parallel()
	h := host("shop", "shop")
	h.Routes = append([]*router.Route{{Name: "admin", Match: router.Match{Path: router.PathMatch{Value: "/"}, Headers: []match.Header{{Name: "x-admin", Kind: match.HeaderPresent}}}}}, h.Routes...)
	tb := table(t, router.Options{}, host("any", "*"), h, host("other", "other"))
	var tr fact.Trace
	tb.Match(request("GET", "shop", "/", nil), &tr)
	want := map[string]fact.Verdict{"any": fact.Skipped, "shop": fact.Chosen, "other": fact.Skipped, "admin": fact.Skipped}
	seen := map[string]bool{}
	for _, s := range tr.Steps {
		if s.Stage == fact.StageVirtualHost || s.Name == "admin" {
			seen[s.Name] = true
			if s.Verdict != want[s.Name] || s.Reason == "" {
				t.Errorf("%+v, want %s with a reason", s, want[s.Name])
			}
		}
	}
	if len(seen) != len(want) {
		t.Errorf("the trace has %v", seen)
	}
}

// A table with everything that typical routes have.
func typical(t testing.TB) *router.Table {
	t.Helper()
	regex, err := match.Regex("/item/[0-9]+")
	if err != nil {
		t.Fatal(err)
	}
	h := host("shop", "shop.example.com", "shop", "*.shop.example.com")
	h.Routes = []*router.Route{
		{Match: router.Match{Path: router.PathMatch{Kind: router.PathExact, Value: "/health"}}},
		{Match: router.Match{Path: router.PathMatch{Kind: router.PathRegex, Regex: regex}}},
		{Match: router.Match{Path: router.PathMatch{Value: "/api/"}, Query: []router.QueryMatch{{Name: "debug", Value: match.Exact("1", match.CaseSensitive)}}}},
		{Match: router.Match{Path: router.PathMatch{Value: "/API/"}, IgnoreCase: true, Headers: []match.Header{{Name: "end-user", Value: match.Exact("jason", match.CaseSensitive)}}}},
		{Match: prefix("/"), Forward: &router.Forward{Clusters: []router.Weighted{{Cluster: "a", Weight: 90}, {Cluster: "b", Weight: 10}}, TotalWeight: 100}},
	}
	return table(t, router.Options{IgnorePort: true}, host("any", "*"), h)
}

func TestMatchAllocatesNothing(t *testing.T) {
	tb := typical(t)
	req := request("GET", "a.Shop.example.com:8080", "/api/things?debug=0&x=1", fields{"end-user": []byte("mary")})
	var chosen *router.Weighted
	const want = 0
	if got := testing.AllocsPerRun(1000, func() {
		r := tb.Match(req, nil)
		chosen = r.Route.Forward.Choose(95)
	}); got != want {
		t.Errorf("%v allocations, want %d", got, want)
	}
	if chosen.Cluster != "b" {
		t.Errorf("chose %s, want b", chosen.Cluster)
	}
}

func BenchmarkMatch(b *testing.B) {
	tb := typical(b)
	req := request("GET", "shop", "/api/things", fields{})
	for b.Loop() {
		tb.Match(req, nil)
	}
}

// Whatever the request, Match decides, equally each time, with or without trace.
func TestMatchIsTotalAndDeterministic(t *testing.T) {
	t.Parallel()
	tb := typical(t)
	rapid.Check(t, func(rt *rapid.T) {
		text := rapid.StringOfN(rapid.RuneFrom([]rune("/ab?&=#:[]*.%shop")), 0, 24, -1)
		req := request(rapid.SampledFrom([]string{"GET", "CONNECT", ""}).Draw(rt, "method"), text.Draw(rt, "authority"), text.Draw(rt, "path"), fields{"end-user": []byte(text.Draw(rt, "user"))})
		req.Random = rapid.Uint64().Draw(rt, "random")
		first := tb.Match(req, nil)
		if again := tb.Match(req, &fact.Trace{}); again != first {
			rt.Fatalf("%+v, then %+v", first, again)
		}
	})
}
