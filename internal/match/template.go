package match

import (
	"fmt"
	"strings"

	"github.com/tullemesh/tulle/internal/limit"
)

// Template matches paths such as /api/{*}/items/{**}: {*} stands for exactly one segment, {**} for any number of characters including /, also none.
// The grammar is Istio's for AuthorizationPolicy paths; segments have the letters that Envoy's uri_template allows.
type Template struct {
	text   string
	before []string // segments before {**}, "" for {*}
	rest   bool     // there is a {**}
	after  string   // literal text after {**}
}

// One and Rest are the operators of a Template.
const (
	templateOne  = "{*}"
	templateRest = "{**}"
)

// HasTemplate reports whether a path holds an operator, and so is a template.
func HasTemplate(path string) bool {
	return strings.Contains(path, templateOne) || strings.Contains(path, templateRest)
}

// NewTemplate refuses what Istio refuses: operators that are a part of a segment, an operator after {**}, letters that no path has; and paths that
// do not begin with a slash, which Envoy refuses.
func NewTemplate(path string) (Template, error) {
	t := Template{text: path}
	inside, ok := strings.CutPrefix(path, "/")
	if !ok {
		return t, fmt.Errorf("%w: %q does not begin with /", ErrTemplate, path)
	}
	segments := strings.Split(inside, "/")
	if len(segments) > limit.TemplateSegmentsMax {
		return t, fmt.Errorf("%w: %d segments, the limit is %d", ErrTemplate, len(segments), limit.TemplateSegmentsMax)
	}
	for i, s := range segments {
		operator := s == templateOne || s == templateRest
		switch {
		case operator && t.rest:
			return t, fmt.Errorf("%w: %q has an operator after %s", ErrTemplate, path, templateRest)
		case !operator && strings.ContainsAny(s, "{}"):
			return t, fmt.Errorf("%w: %q has a brace within %q; operators are whole segments", ErrTemplate, path, s)
		case !operator && !pathLetters(s) && !(s == "" && i == len(segments)-1):
			return t, fmt.Errorf("%w: %q has the segment %q, which no path has", ErrTemplate, path, s)
		}
		switch {
		case s == templateRest:
			t.rest = true
		case t.rest:
			t.after += "/" + s
		case s == templateOne:
			t.before = append(t.before, "")
		default:
			t.before = append(t.before, "/"+s)
		}
	}
	return t, nil
}

// Match reports whether the path, without its query, matches. It does not allocate.
func (t *Template) Match(path []byte) bool {
	for _, s := range t.before {
		if s == "" {
			n := segment(path)
			if n < 2 { // the slash and at least one letter
				return false
			}
			path = path[n:]
			continue
		}
		if len(path) < len(s) || string(path[:len(s)]) != s || len(path) > len(s) && path[len(s)] != '/' {
			return false
		}
		path = path[len(s):]
	}
	if !t.rest {
		return len(path) == 0
	}
	if len(path) == 0 || path[0] != '/' {
		return false
	}
	path = path[1:]
	if len(path) < len(t.after) || string(path[len(path)-len(t.after):]) != t.after {
		return false
	}
	for _, c := range path[:len(path)-len(t.after)] {
		if c != '/' && !pathLetter(c) {
			return false
		}
	}
	return true
}

// String is the template as written.
func (t *Template) String() string { return "template " + t.text }

// segment is the length of "/letters" at the start of the path, 0 when there is none.
func segment(path []byte) int {
	if len(path) == 0 || path[0] != '/' {
		return 0
	}
	n := 1
	for n < len(path) && pathLetter(path[n]) {
		n++
	}
	if n < len(path) && path[n] != '/' {
		return 0
	}
	return n
}

func pathLetters(s string) bool {
	for i := range len(s) {
		if !pathLetter(s[i]) {
			return false
		}
	}
	return s != ""
}

// pathLetter is RFC 3986's pchar without *, as in Envoy's uri_template.
func pathLetter(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~%!$&'()+,;:@=", c) >= 0
}
