package validate

import (
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/tullemesh/tulle/internal/apis/problem"
)

// routeMatches is what one rule matches, whatever its protocol.
type routeMatches struct {
	name    string
	matches []proto.Message
}

// unreachable warns about rules and matches that rules before them leave nothing to.
func (c *checker) unreachable(vs *networking.VirtualService) {
	var http, tls, tcp []routeMatches
	for i, r := range vs.Http {
		m := routeMatches{name: ruleName(r.GetName(), i)}
		for _, x := range r.GetMatch() {
			y, ok := proto.Clone(x).(*networking.HTTPMatchRequest)
			if ok && y != nil {
				y.Name = ""
			}
			m.matches = append(m.matches, y)
		}
		http = append(http, m)
	}
	for i, r := range vs.Tls {
		m := routeMatches{name: ruleName("", i)}
		for _, x := range r.GetMatch() {
			m.matches = append(m.matches, x)
		}
		tls = append(tls, m)
	}
	for i, r := range vs.Tcp {
		m := routeMatches{name: ruleName("", i)}
		for _, x := range r.GetMatch() {
			m.matches = append(m.matches, x)
		}
		tcp = append(tcp, m)
	}
	c.shadowed("http", http)
	c.shadowed("tls", tls)
	c.shadowed("tcp", tcp)
	c.covered(vs.Http)
}

func ruleName(name string, i int) string {
	if name != "" {
		return strconv.Quote(name)
	}
	return "#" + strconv.Itoa(i)
}

// shadowed finds rules after one that takes everything, and matches that stand twice.
func (c *checker) shadowed(section string, rules []routeMatches) {
	seen := map[string]string{} // match → name of its rule
	catchAll := ""
	for i, r := range rules {
		at := index("spec", section, i)
		unused := func(reason string) {
			c.add(problem.Warning, problem.CodeUnreachable, at, "move it up, or remove it", fmt.Sprintf("rule %s is never used: %s", r.name, reason))
		}
		if catchAll != "" {
			unused("rule " + catchAll + " before it takes everything")
			continue
		}
		if len(r.matches) == 0 {
			catchAll = r.name
			continue
		}
		twice := 0
		for j, m := range r.matches {
			b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
			if err != nil {
				continue
			}
			if first, taken := seen[string(b)]; taken {
				twice++
				c.add(problem.Warning, problem.CodeIneffective, index(at, "match", j), "remove it", fmt.Sprintf("the match stands in rule %s already", first))
				continue
			}
			seen[string(b)] = r.name
		}
		if twice == len(r.matches) {
			unused("rules before it have all its matches")
		}
	}
}

// prefixMatch is an HTTP match by prefix in the form that can be compared.
type prefixMatch struct {
	rule, path string
	match      *networking.HTTPMatchRequest
}

// covered finds matches by prefix that an earlier, shorter prefix with the same other conditions takes.
func (c *checker) covered(routes []*networking.HTTPRoute) {
	var all []prefixMatch
	for i, r := range routes {
		if r == nil {
			continue
		}
		for j, m := range r.Match {
			if m.GetUri().GetPrefix() != "" {
				all = append(all, prefixMatch{rule: ruleName(r.Name, i), path: index(index("spec", "http", i), "match", j), match: m})
			}
		}
	}
	for i, a := range all {
		for _, b := range all[i+1:] {
			if a.match.Uri.GetPrefix() != b.match.Uri.GetPrefix() && covers(a.match, b.match) {
				c.add(problem.Warning, problem.CodeIneffective, b.path, "move it before that rule",
					fmt.Sprintf("prefix %q is taken by prefix %q of rule %s", b.match.Uri.GetPrefix(), a.match.Uri.GetPrefix(), a.rule))
			}
		}
	}
}

// covers is Istio's comparison, which looks at exact and prefix values only.
func covers(a, b *networking.HTTPMatchRequest) bool {
	method := func(m *networking.HTTPMatchRequest) string {
		if s := literalOf(m.Method); s != "" {
			return s
		}
		return "exact:GET"
	}
	return strings.HasPrefix(b.Uri.GetPrefix(), a.Uri.GetPrefix()) && a.Port == b.Port &&
		strings.HasPrefix(method(a), method(b)) &&
		strings.HasPrefix(literalOf(a.Authority), literalOf(b.Authority)) &&
		coversAll(a.Headers, b.Headers) && coversAll(a.QueryParams, b.QueryParams) && coversAll(a.WithoutHeaders, b.WithoutHeaders)
}

func coversAll(a, b map[string]*networking.StringMatch) bool {
	if len(a) != len(b) {
		return false
	}
	for name, m := range a {
		other, ok := b[name]
		if !ok || !strings.HasPrefix(literalOf(m), literalOf(other)) {
			return false
		}
	}
	return true
}

func literalOf(m *networking.StringMatch) string {
	if e := m.GetExact(); e != "" {
		return "exact:" + e
	}
	if p := m.GetPrefix(); p != "" {
		return "prefix:" + p
	}
	return ""
}
