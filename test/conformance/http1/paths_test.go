package http1_test

import (
	"bufio"
	"fmt"
	"io"
	"testing"

	"github.com/tullemesh/tulle/internal/match"
	"github.com/tullemesh/tulle/internal/proxy/engine/filter"
	"github.com/tullemesh/tulle/internal/proxy/engine/filter/authz"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
)

// normalizations are the connection managers' settings by the names of
// MeshConfig.pathNormalization.
func normalizations() map[string]func(*listener.HTTPManager) {
	set := func(base, merge bool, escaped listener.EscapedSlashes) func(*listener.HTTPManager) {
		return func(m *listener.HTTPManager) {
			m.NormalizePath, m.MergeSlashes, m.EscapedSlashes = base, merge, escaped
		}
	}
	return map[string]func(*listener.HTTPManager){
		"NONE":                     set(false, false, listener.KeepUnchanged),
		"BASE":                     set(true, false, listener.KeepUnchanged),
		"MERGE_SLASHES":            set(true, true, listener.KeepUnchanged),
		"DECODE_AND_MERGE_SLASHES": set(true, true, listener.UnescapeAndForward),
	}
}

// pathCases are paths with what each normalization makes of them; "400" refuses.
// An empty field is as the one before it.
func pathCases() []struct{ name, path, none, base, merge, decode string } {
	return []struct{ name, path, none, base, merge, decode string }{
		{"nothing to do", "/a/b?c", "/a/b?c", "", "", ""},
		{"documentation of MERGE_SLASHES", "/a//b", "/a//b", "", "/a/b", ""},
		{"documentation of DECODE_AND_MERGE_SLASHES, slash", "/a%2fb", "/a%2fb", "", "", "/a/b"},
		{"the same in upper case", "/a%2Fb", "/a%2Fb", "", "", "/a/b"},
		{"documentation of DECODE_AND_MERGE_SLASHES, backslash", "/a%5cb", "/a%5cb", "", "", "/a/b"},
		{"documentation of BASE, backslash", `/a\../b`, `/a\../b`, "/b", "", ""},
		{"documentation of BASE, escaped letters", "/%61%62", "/%61%62", "/ab", "", ""},
		{"dot segments", "/a/./b/../c", "/a/./b/../c", "/a/c", "", ""},
		{"above the root", "/../../a", "/../../a", "/a", "", ""},
		{"a dot segment at the end", "/a/..", "/a/..", "/", "", ""},
		{"one dot at the end", "/a/.", "/a/.", "/a/", "", ""},
		{"escaped dots", "/a/%2e%2E/b", "/a/%2e%2E/b", "/b", "", ""},
		{"three dots are a name", "/a/.../b", "/a/.../b", "", "", ""},
		{"dots within a name", "/a/..b/c", "/a/..b/c", "", "", ""},
		{"an empty segment before dots", "/a//../b", "/a//../b", "/a/b", "", ""},
		{"slashes left by dots", "/.//a", "/.//a", "//a", "/a", ""},
		{"an escaped slash before dots", "/a%2f../b", "/a%2f../b", "", "", "/b"},
		{"a dot segment with parameters", "/a/..;x=y/b", "/a/..;x=y/b", "/b", "", ""},
		{"an escaped dot segment with parameters", "/a/%2e%2e;x/b", "/a/%2e%2e;x/b", "/b", "", ""},
		{"parameters of a name stay", "/a;x=y/b;z", "/a;x=y/b;z", "", "", ""},
		{"doubly escaped dots stay", "/a/%252e%252e/b", "/a/%252e%252e/b", "", "", ""},
		{"doubly escaped slashes stay", "/a%252fb", "/a%252fb", "", "", ""},
		{"an escape that decoding would make", "/%2%65", "/%2%65", "/%252e", "", ""},
		{"an escape that decoding would begin", "/%%32e", "/%%32e", "/%252e", "", ""},
		{"escaped reserved characters stay", "/a%3fb%23c%3b", "/a%3fb%23c%3b", "", "", ""},
		{"escaped bytes above ASCII stay", "/%C3%a9", "/%C3%a9", "", "", ""},
		{"characters that no URI has", "/\"<>^`{|}", "/\"<>^`{|}", "/%22%3C%3E%5E%60%7B%7C%7D", "", ""},
		{"a percent sign alone", "/%/a%zz%2", "/%/a%zz%2", "", "", ""},
		{"escaped NUL", "/a%00b", "/a%00b", "400", "", ""},
		{"escaped NUL and dots", "/%00/../a", "/%00/../a", "400", "", ""},
		{"the query is left alone", "/a/../b?c=/../d//%2f%00", "/a/../b?c=/../d//%2f%00", "/b?c=/../d//%2f%00", "", ""},
		{"slashes only", "///", "///", "", "/", ""},
		{"many slashes", "//a///b//", "//a///b//", "", "/a/b/", ""},
	}
}

func TestPathsBecomeWhatTheMeshSays(t *testing.T) {
	t.Parallel()
	b, _ := newStrict(t).(*strict)
	for i, name := range []string{"NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"} {
		m := asIstio()
		normalizations()[name](m)
		a := &asker{at: startProxy(t, m, b.addr()).at, tell: func(a answer) string { return a.body }}
		for _, c := range pathCases() {
			want := ""
			for _, w := range []string{c.none, c.base, c.merge, c.decode}[:i+1] {
				if w != "" {
					want = w
				}
			}
			if got := a.ask(t, c.path); got != want {
				t.Errorf("%s, %s: %s becomes %s, want %s", name, c.name, c.path, got, want)
			}
		}
	}
}

// What a policy denies stays denied in every spelling that the server would
// take for it after the mesh's normalization.
func TestPoliciesJudgeTheNormalizedPath(t *testing.T) {
	t.Parallel()
	b, _ := newStrict(t).(*strict)
	admin := match.Exact("/admin", match.CaseSensitive)
	deny := &authz.Policies{Rules: &authz.Rules{Action: authz.Deny, Policies: []authz.Policy{{
		Name: "admin", Permission: authz.Condition{Kind: authz.Path, String: admin}, Principal: authz.Condition{Kind: authz.Any},
	}}}}
	for name, spellings := range map[string][]string{
		"NONE":                     {"/admin"},
		"BASE":                     {"/admin", "/a/../admin", "/./admin", "/%61dmin", "/x/%2e%2e/admin", `/x\..\admin`, "/x/..;/admin", "/x/%2e%2e;a=b/admin", "/admin?q"},
		"MERGE_SLASHES":            {"/admin", "//admin", "/x/../..//admin", "/.//admin"},
		"DECODE_AND_MERGE_SLASHES": {"/admin", "/%2fadmin", "/x%2f..%2fadmin", "/x%5C..%5cadmin", "/%2F%2fadmin"},
	} {
		m := asIstio()
		normalizations()[name](m)
		m.Filters = []filter.Spec{{Name: "envoy.filters.http.rbac", Authz: deny}}
		a := &asker{at: startProxy(t, m, b.addr()).at, tell: func(a answer) string { return a.body }}
		for _, path := range spellings {
			if got := a.ask(t, path); got != "403" {
				t.Errorf("%s: %s is answered %s", name, path, got)
			}
		}
		if got := a.ask(t, "/other"); got != "/other" {
			t.Errorf("%s: another path is answered %s", name, got)
		}
	}
}

func TestEscapedSlashesAreRedirectedToTheNormalizedPath(t *testing.T) {
	t.Parallel()
	b, _ := newStrict(t).(*strict)
	m := asIstio()
	m.MergeSlashes, m.EscapedSlashes = true, listener.UnescapeAndRedirect
	a := &asker{at: startProxy(t, m, b.addr()).at}
	a.ask(t, "/") // opens the connection
	if _, err := io.WriteString(a.conn, "GET /x%2f..%2F//a?b%2fc HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if got, err := a.r.response("GET"); err != nil || got.status != 307 || got.field("location") != "/a?b%2fc" {
		t.Errorf("%s, %v", got, err)
	}
	m = asIstio()
	m.EscapedSlashes = listener.RejectRequest
	if got := (&asker{at: startProxy(t, m, b.addr()).at}).ask(t, "/a%5Cb"); got != "400" {
		t.Errorf("rejected: %s", got)
	}
}

// asker asks for one path after another and tells what a path became.
type asker struct {
	at   string
	tell func(answer) string
	conn io.ReadWriteCloser
	r    reader
}

func (a *asker) ask(t *testing.T, path string) string {
	t.Helper()
	if a.conn == nil {
		a.conn = dial(t, a.at)
		a.r = reader{bufio.NewReader(a.conn)}
	}
	if _, err := io.WriteString(a.conn, "GET "+path+" HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	got, err := a.r.response("GET")
	if err != nil {
		t.Fatalf("%q: %v", path, err)
	}
	if got.field("connection") == "close" {
		a.conn.Close()
		a.conn = nil
	}
	if got.status != 200 || a.tell == nil {
		return fmt.Sprint(got.status)
	}
	return a.tell(got)
}
