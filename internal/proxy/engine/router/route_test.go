package router_test

import (
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tullemesh/tulle/internal/match"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestRouteConditions(t *testing.T) {
	t.Parallel()
	path := func(kind router.PathKind, value string) router.Match {
		return router.Match{Path: router.PathMatch{Kind: kind, Value: value}}
	}
	folded := func(m router.Match) router.Match { m.IgnoreCase = true; return m }
	regex := router.Match{Path: router.PathMatch{Kind: router.PathRegex, Regex: must(match.Regex("/item/[0-9]+"))(t)}}
	tmpl := router.Match{Path: router.PathMatch{Kind: router.PathTemplate, Template: must(match.NewTemplate("/users/{*}/posts"))(t)}}
	query := func(q router.QueryMatch) router.Match { m := prefix("/"); m.Query = []router.QueryMatch{q}; return m }
	header := func(h match.Header) router.Match { m := prefix("/"); m.Headers = []match.Header{h}; return m }
	grpc := prefix("/")
	grpc.GRPC = true
	cases := []struct {
		name   string
		m      router.Match
		method string
		path   string
		h      fields
		want   bool
	}{
		{"prefix", prefix("/api"), "GET", "/apix", nil, true},
		{"prefix does not see the query", prefix("/api?"), "GET", "/api?x", nil, false},
		{"prefix in another case", prefix("/API"), "GET", "/api", nil, false},
		{"prefix in any case", folded(prefix("/API")), "GET", "/api/x", nil, true},
		{"exact", path(router.PathExact, "/a"), "GET", "/a", nil, true},
		{"exact with query", path(router.PathExact, "/a"), "GET", "/a?b=/a", nil, true},
		{"exact with fragment", path(router.PathExact, "/a"), "GET", "/a#b", nil, true},
		{"exact and more", path(router.PathExact, "/a"), "GET", "/a/", nil, false},
		{"separated prefix itself", path(router.PathSeparatedPrefix, "/a"), "GET", "/a", nil, true},
		{"separated prefix below", path(router.PathSeparatedPrefix, "/a"), "GET", "/a/b", nil, true},
		{"separated prefix beside", path(router.PathSeparatedPrefix, "/a"), "GET", "/ab", nil, false},
		{"regex whole", regex, "GET", "/item/12?x=y", nil, true},
		{"regex part", regex, "GET", "/item/12/x", nil, false},
		{"template", tmpl, "GET", "/users/7/posts", nil, true},
		{"template other", tmpl, "GET", "/users/7/8/posts", nil, false},
		{"connect", path(router.PathConnect, ""), "CONNECT", "", nil, true},
		{"connect wanted", path(router.PathConnect, ""), "GET", "/", nil, false},
		{"CONNECT has no path", prefix("/"), "CONNECT", "", nil, false},
		{"method", header(match.Header{Name: ":method", Value: match.Exact("POST", match.CaseSensitive)}), "POST", "/", nil, true},
		{"path with query as a header", header(match.Header{Name: ":path", Value: match.Exact("/a?b", match.CaseSensitive)}), "GET", "/a?b", nil, true},
		{"host as a header", header(match.Header{Name: "host", Value: match.Exact("h", match.CaseSensitive)}), "GET", "/", nil, true},
		{"scheme", header(match.Header{Name: ":scheme", Value: match.Exact("https", match.CaseSensitive)}), "GET", "/", nil, false},
		{"absent header", header(match.Header{Name: "x", Kind: match.HeaderPresent}), "GET", "/", nil, false},
		{"absence asked for", header(match.Header{Name: "x", Kind: match.HeaderPresent, Invert: true}), "GET", "/", nil, true},
		{"query value", query(router.QueryMatch{Name: "q", Value: match.Exact("1", match.CaseSensitive)}), "GET", "/?a=2&q=1", nil, true},
		{"first query value counts", query(router.QueryMatch{Name: "q", Value: match.Exact("1", match.CaseSensitive)}), "GET", "/?q=2&q=1", nil, false},
		{"query is not decoded", query(router.QueryMatch{Name: "q", Value: match.Exact("a b", match.CaseSensitive)}), "GET", "/?q=a%20b", nil, false},
		{"query present without value", query(router.QueryMatch{Name: "q", Present: true}), "GET", "/?q", nil, true},
		{"query absent", query(router.QueryMatch{Name: "q", Present: true}), "GET", "/?qq=1", nil, false},
		{"query after a fragment is none", query(router.QueryMatch{Name: "q", Present: true}), "GET", "/#?q", nil, false},
		{"gRPC", grpc, "POST", "/", fields{"content-type": []byte("application/grpc+proto")}, true},
		{"not gRPC", grpc, "POST", "/", fields{"content-type": []byte("application/grpcx")}, false},
	}
	for _, c := range cases {
		if got := c.m.Holds(request(c.method, "h", c.path, c.h)); got != c.want {
			t.Errorf("%s: %s %s: %v, want %v", c.name, c.method, c.path, got, c.want)
		}
	}
}

func TestFractionTakesItsShare(t *testing.T) {
	t.Parallel()
	m := prefix("/")
	m.FractionNum, m.FractionDen = 20, 100
	req := request("GET", "h", "/", nil)
	n := 0
	const draws = 10_000
	for i := range uint64(draws) {
		req.Random = i
		if m.Holds(req) {
			n++
		}
	}
	if n < draws*18/100 || n > draws*22/100 {
		t.Errorf("%d of %d, want 20 %%", n, draws)
	}
}

func TestPathsAreRewritten(t *testing.T) {
	t.Parallel()
	re := must(match.CompileSearch("/item/([0-9]+)"))(t)
	cases := []struct {
		name string
		m    router.Match
		f    router.Forward
		path string
		want string
	}{
		{"prefix", prefix("/v1/"), router.Forward{PrefixRewrite: "/api/v1/"}, "/v1/x?q=1", "/api/v1/x?q=1"},
		{"prefix to root", prefix("/v1/"), router.Forward{PrefixRewrite: "/"}, "/v1/x", "/x"},
		{"exact", router.Match{Path: router.PathMatch{Kind: router.PathExact, Value: "/a"}}, router.Forward{PrefixRewrite: "/b"}, "/a?q", "/b?q"},
		{"prefix rewrite of a regex route", router.Match{Path: router.PathMatch{Kind: router.PathRegex}}, router.Forward{PrefixRewrite: "/b"}, "/a/long/one?q", "/b?q"},
		{"regex", prefix("/"), router.Forward{RegexRewrite: re, RegexSubst: "/details/${1}"}, "/item/12?n=/item/3", "/details/12?n=/item/3"},
		{"regex twice", prefix("/"), router.Forward{RegexRewrite: re, RegexSubst: "/d${1}"}, "/item/1/item/2/x", "/d1/d2/x"},
		{"regex that leaves nothing", prefix("/item/1"), router.Forward{RegexRewrite: regexp.MustCompile("^/item/1$")}, "/item/1", "/"},
		{"regex that leaves the query", prefix("/item/1"), router.Forward{RegexRewrite: regexp.MustCompile("^/item/1$")}, "/item/1?a=b", "/?a=b"},
		{"regex that does not match", prefix("/"), router.Forward{RegexRewrite: re, RegexSubst: "x"}, "/other", "/other"},
		{"nothing", prefix("/"), router.Forward{}, "/a?b", "/a?b"},
	}
	for _, c := range cases {
		got := string(c.f.AppendPath([]byte("GET "), &c.m, request("GET", "h", c.path, nil)))
		if got != "GET "+c.want {
			t.Errorf("%s: %q, want %q", c.name, got, "GET "+c.want)
		}
	}
}

func TestPrefixRewriteAllocatesNothing(t *testing.T) {
	m, f, req := prefix("/v1/"), router.Forward{PrefixRewrite: "/api/"}, request("GET", "h", "/v1/x?q=1", nil)
	buf := make([]byte, 0, 128)
	const want = 0
	if got := testing.AllocsPerRun(100, func() { buf = f.AppendPath(buf[:0], &m, req) }); got != want {
		t.Errorf("%v allocations, want %d", got, want)
	}
}

func TestRedirectsGoWhereEnvoySends(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name            string
		d               router.Redirect
		scheme, host, p string
		h               fields
		want            string
	}{
		{"https", router.Redirect{HTTPSRedirect: true}, "http", "a", "/x?q", nil, "https://a/x?q"},
		{"https drops port 80", router.Redirect{HTTPSRedirect: true}, "http", "a:80", "/", nil, "https://a/"},
		{"https keeps other ports", router.Redirect{HTTPSRedirect: true}, "http", "a:8080", "/", nil, "https://a:8080/"},
		{"scheme", router.Redirect{Scheme: "ftp"}, "http", "a", "/", nil, "ftp://a/"},
		{"host", router.Redirect{Host: "b"}, "http", "a:80", "/x", nil, "http://b/x"},
		{"port", router.Redirect{Port: 8443}, "http", "a:80", "/x", nil, "http://a:8443/x"},
		{"path keeps the query", router.Redirect{Path: "/new"}, "http", "a", "/old?q=1", nil, "http://a/new?q=1"},
		{"path with its own query", router.Redirect{Path: "/new?n=2"}, "http", "a", "/old?q=1", nil, "http://a/new?n=2"},
		{"path stripped", router.Redirect{Path: "/new", StripQry: true}, "http", "a", "/old?q=1", nil, "http://a/new"},
		{"stripped", router.Redirect{Host: "b", StripQry: true}, "https", "a", "/old?q=1", nil, "https://b/old"},
		{"prefix", router.Redirect{PrefixRewrite: "/n/"}, "http", "a", "/o/x?q", nil, "http://a/n/x?q"},
		{"IPv6 port", router.Redirect{HTTPSRedirect: true}, "http", "[::1]:80", "/", nil, "https://[::1]/"},
		{"forwarded protocol decides about the port", router.Redirect{HTTPSRedirect: true}, "http", "a:80", "/", fields{"x-forwarded-proto": []byte("https")}, "https://a:80/"},
	}
	m := prefix("/o/")
	for _, c := range cases {
		req := request("GET", c.host, c.p, c.h)
		req.Scheme = []byte(c.scheme)
		if got := string(c.d.AppendLocation(nil, &m, req)); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestWeightsDivideTheDraws(t *testing.T) {
	t.Parallel()
	clusters := []router.Weighted{{Cluster: "a", Weight: 90}, {Cluster: "zero"}, {Cluster: "b", Weight: 10}}
	got := map[string]int{}
	for i := range uint64(1000) {
		got[router.Choose(clusters, 100, i).Cluster]++
	}
	if diff := cmp.Diff(map[string]int{"a": 900, "b": 100}, got); diff != "" {
		t.Error(diff)
	}
	if w := router.Choose([]router.Weighted{{Cluster: "only"}}, 0, 7); w == nil || w.Cluster != "only" {
		t.Errorf("one cluster of weight 0: %v, want it", w)
	}
	if w := router.Choose(clusters[1:1], 0, 7); w != nil {
		t.Errorf("no cluster: %v", w)
	}
}

// store is a plain HeaderStore.
type store map[string][]string

func (s store) Get(name string) ([]byte, bool) {
	v, ok := s[name]
	if !ok {
		return nil, false
	}
	return []byte(v[0]), true
}
func (s store) Add(name string, value []byte) { s[name] = append(s[name], string(value)) }
func (s store) Set(name string, value []byte) { s[name] = []string{string(value)} }
func (s store) Remove(name string)            { delete(s, name) }

type values struct{}

func (values) AppendValue(dst []byte, operator, arg string) []byte {
	if operator == "NONE" {
		return dst
	}
	return append(dst, operator+"("+arg+")"...)
}

func TestHeadersAreMutatedInEnvoysOrder(t *testing.T) {
	t.Parallel()
	s := store{"keep": {"1"}, "gone": {"1"}, "again": {"old"}, "list": {"1"}, "set": {"1"}}
	ops := router.HeaderOps{
		Remove: []string{"gone", "again"},
		Set: []router.HeaderOp{
			{Name: "again", Value: "new"}, // removals come first
			{Name: "list", Value: "2"},
			{Name: "set", Value: "2", Action: router.OverwriteOrAdd},
			{Name: "keep", Value: "2", Action: router.AddIfAbsent},
			{Name: "absent", Value: "2", Action: router.OverwriteIfExists},
			{Name: "who", Parts: []router.ValuePart{{Literal: "from "}, {Operator: "REQ", Arg: "x"}}, Action: router.OverwriteOrAdd},
			{Name: "trimmed", Parts: []router.ValuePart{{Operator: "NONE"}, {Literal: " by "}, {Operator: "NONE"}}},
			{Name: "empty", Parts: []router.ValuePart{{Operator: "NONE"}}},
			{Name: "kept-empty", Parts: []router.ValuePart{{Operator: "NONE"}}, KeepEmpty: true},
		},
	}
	ops.Apply(s, values{}, nil)
	want := store{"keep": {"1"}, "again": {"new"}, "list": {"1", "2"}, "set": {"2"}, "who": {"from REQ(x)"}, "trimmed": {"by"}, "kept-empty": {""}}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Error(diff)
	}
}

func TestLessSpecificLevelsWinUnlessToldOtherwise(t *testing.T) {
	t.Parallel()
	set := func(v string) router.HeaderOps {
		return router.HeaderOps{Set: []router.HeaderOp{{Name: "level", Value: v, Action: router.OverwriteOrAdd}}}
	}
	h := &router.VirtualHost{Domains: []string{"*"}, RequestHeaders: set("host"), ResponseHeaders: set("host")}
	r := &router.Route{RequestHeaders: set("route"), ResponseHeaders: set("route")}
	w := &router.Weighted{RequestHeaders: set("cluster"), ResponseHeaders: set("cluster")}
	for reversed, want := range map[bool]string{false: "table", true: "cluster"} {
		tb := table(t, router.Options{MostSpecificWins: reversed, RequestHeaders: set("table"), ResponseHeaders: set("table")}, h)
		for _, levels := range []router.Levels{tb.RequestLevels(h, r, w), tb.ResponseLevels(h, r, w)} {
			s := store{}
			levels.Apply(s, values{}, nil)
			if s["level"][0] != want {
				t.Errorf("most specific wins %v: %v, want %s", reversed, s, want)
			}
		}
	}
}
