package path

import (
	"bytes"
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
)

// normalized is what the rules make of a path; refused: nothing.
func normalized(m *listener.HTTPManager, target string) (out string, refused bool) {
	b, _, _, err := Normalize(m, []byte(target), nil)
	return string(b), err != nil
}

// Whatever comes, the normal form has no dot segments, and normalizing it again
// changes nothing: the next proxy decides by the same path. The query is left
// alone, and so is all without rules.
func FuzzNormalizePath(f *testing.F) {
	for _, seed := range []string{"/", "/a/b", "/a/../b?c=/../d", "//a///b", `/a\..\b`, "/%61%2e%2E/", "/%2f..%5c", "/a/..;x=y/b", "/%252e", "/%2%65", "/%%32%65", "/%00", "/\"<>^`{|}", "/%", "/%zz", "/..", "/.", "/a/.;/..;", "*", ""} {
		f.Add(seed)
	}
	base := &listener.HTTPManager{NormalizePath: true}
	merge := &listener.HTTPManager{NormalizePath: true, MergeSlashes: true}
	decode := &listener.HTTPManager{NormalizePath: true, MergeSlashes: true, EscapedSlashes: listener.UnescapeAndForward}
	redirect := &listener.HTTPManager{NormalizePath: true, MergeSlashes: true, EscapedSlashes: listener.UnescapeAndRedirect}
	f.Fuzz(func(t *testing.T, path string) {
		if out, refused := normalized(&listener.HTTPManager{}, path); refused || out != path {
			t.Fatalf("without rules %q becomes %q, %v", path, out, refused)
		}
		for _, m := range []*listener.HTTPManager{base, merge, decode} {
			once, refused := normalized(m, path)
			if refused {
				if !strings.Contains(path, "%") {
					t.Fatalf("%q is refused", path)
				}
				continue
			}
			if again, refused := normalized(m, once); refused || again != once {
				t.Fatalf("%+v: %q becomes %q, and that %q, %v", m, path, once, again, refused)
			}
			if !strings.HasPrefix(path, "/") {
				continue
			}
			head, query, _ := strings.Cut(once, "?")
			if _, was, _ := strings.Cut(path, "?"); !strings.Contains(path, "#") && was != query {
				t.Fatalf("the query %q becomes %q", was, query)
			}
			for _, s := range strings.Split(head, "/") {
				if s = string(withoutParameters([]byte(s))); !strings.Contains(path, "#") && (s == "." || s == ".." || strings.ContainsAny(s, `\"<>^{|}`)) {
					t.Fatalf("%q keeps the segment %q in %q", path, s, once)
				}
			}
			if m.MergeSlashes && bytes.Contains([]byte(head), []byte("//")) && !strings.Contains(path, "#") {
				t.Fatalf("%q keeps slashes in %q", path, once)
			}
		}
		if there, refused := normalized(redirect, path); !refused {
			if here, _ := normalized(decode, path); here != there {
				t.Fatalf("%q is redirected to %q and forwarded as %q", path, there, here)
			}
		}
	})
}
