// Package draw draws random meshes and requests for tests that compare what
// decides on them: stock Envoy with our proxy, `explain` with what happened.
// Names, paths and headers come from small pools, so that requests meet rules
// often and miss them often, too.
//
// In comes a source of random numbers and where stand-ins listen; out come
// Istio's YAML (Objects) and requests (Request). Read mesh.go first.
package draw

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// Source draws; equal seeds draw equal meshes.
type Source struct{ *rand.Rand }

// New returns a source for a seed.
func New(seed uint64) Source { return Source{rand.New(rand.NewPCG(seed, 1))} }

// Pick is one of its arguments.
func Pick[T any](s Source, from ...T) T { return from[s.IntN(len(from))] }

func (s Source) maybe() bool { return s.IntN(3) == 0 }

func (s Source) uriMatch() string {
	return Pick(s,
		"uri: {exact: /a}", "uri: {exact: /a/b}", "uri: {prefix: /a}", "uri: {prefix: /a/}", "uri: {prefix: /api/}", "uri: {prefix: /}",
		`uri: {regex: "/api/v[0-9]+/.*"}`, `uri: {regex: ".*items.*"}`, "uri: {exact: /A/B}\n      ignoreUriCase: true", "uri: {prefix: /API}\n      ignoreUriCase: true")
}

func (s Source) headerMatch(m Mesh) string {
	if m.Sidecars && s.maybe() {
		return Pick(s, "sourceLabels: {app: client}", "sourceLabels: {app: client, tier: back}", "sourceLabels: {tier: front}", "sourceNamespace: demo", "sourceNamespace: other", "port: 80", "port: 82", "gateways: [mesh]")
	}
	return Pick(s,
		"headers: {end-user: {exact: jason}}", "headers: {end-user: {prefix: ja}}", `headers: {end-user: {regex: "j.*n"}}`, "headers: {x-flag: {}}",
		"withoutHeaders: {x-flag: {}}", "withoutHeaders: {end-user: {exact: jason}}", "method: {exact: POST}", `method: {regex: "GET|PUT"}`,
		"queryParams: {q: {exact: one}}", `queryParams: {q: {regex: "o.*"}}`, "authority: {prefix: shop}", "scheme: {exact: http}")
}

// rule is one http rule of a VirtualService; its name is unique in the mesh.
func (s Source) rule(m Mesh, name string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "  - name: %s\n", name)
	if s.IntN(6) > 0 {
		b.WriteString("    match:\n")
		for range 1 + s.IntN(2) {
			fmt.Fprintf(&b, "    - %s\n", s.uriMatch())
			if s.maybe() {
				fmt.Fprintf(&b, "      %s\n", s.headerMatch(m))
			}
		}
	}
	switch s.IntN(8) {
	case 0:
		fmt.Fprintf(&b, "    redirect:\n      %s\n", Pick(s, "uri: /moved", "authority: other.example", "uri: /m\n      authority: o.example\n      redirectCode: 302", "scheme: https", "port: 8443"))
		return b.String()
	case 1:
		fmt.Fprintf(&b, "    directResponse: {status: %d, body: {string: %q}}\n", Pick(s, 200, 404, 418, 503), Pick(s, "direct", "no"))
		return b.String()
	case 2:
		fmt.Fprintf(&b, "    rewrite: {%s}\n", Pick(s, "uri: /rewritten", "uri: /", "authority: inner.example", "uri: /x, authority: y.example",
			`uriRegexRewrite: {match: "/api/v([0-9]+)", rewrite: "/v\\1"}`))
	}
	if s.maybe() {
		fmt.Fprintf(&b, "    headers:\n      request: {%s}\n", Pick(s, "set: {x-set: one}", "add: {x-add: two}", "remove: [x-flag]", "set: {x-set: a}, remove: [end-user]"))
	}
	if s.maybe() {
		b.WriteString("    timeout: 5s\n")
	}
	b.WriteString(s.destination(m))
	return b.String()
}

// destination is where a rule leads: one version, or, with Split, several; now
// and then one that does not exist.
func (s Source) destination(m Mesh) string {
	one := func() string {
		host, subset := Pick(s, services()...), ""
		if !whole(host) {
			subset = ", subset: " + Pick(s, "v1", "v1", "v2", "v2", "v2", "v9")
		}
		if s.IntN(25) == 0 {
			host, subset = "nowhere.demo", ""
		}
		return fmt.Sprintf("destination: {host: %s%s, port: {number: 80}%s}", host, Domain, subset)
	}
	switch {
	case m.Split && s.maybe():
		return fmt.Sprintf("    route:\n    - %s\n      weight: 25\n    - %s\n      weight: 75\n", one(), one())
	case s.IntN(6) == 0:
		return fmt.Sprintf("    route:\n    - %s\n      weight: 100\n    - %s\n      weight: 0\n", one(), one())
	}
	return "    route:\n    - " + one() + "\n"
}

// Request is one generated request.
type Request struct {
	Method, Host, Path string
	Headers            [][2]string
}

// Request draws a request for one of the hosts.
func (s Source) Request(hosts ...string) Request {
	r := Request{Method: Pick(s, "GET", "GET", "POST", "PUT"), Host: Pick(s, hosts...),
		Path: Pick(s, "/", "/a", "/a/", "/a/b", "/a/b/c", "/A/b", "/ab", "/api/v1/items", "/api/v2/items/7", "/static/x.css", "/zz")}
	if s.maybe() {
		r.Path += Pick(s, "?q=one", "?q=two", "?q=", "?p=1&q=one", "?")
	}
	if s.maybe() {
		r.Headers = append(r.Headers, [2]string{"end-user", Pick(s, "jason", "jan", "Jason", "mia")})
	}
	if s.maybe() {
		r.Headers = append(r.Headers, [2]string{"x-flag", Pick(s, "1", "")})
	}
	return r
}

// GatewayHosts are hosts that requests to gateways name.
func GatewayHosts() []string {
	return []string{"shop.example", "shop.example", "SHOP.example", "other.example", "nobody.test"}
}

// MeshHosts are hosts that requests of sidecars name.
func MeshHosts() []string {
	return []string{"alpha", "alpha.demo", "alpha.demo" + Domain, "alpha.demo" + Domain + ":80", "beta", "beta.demo.svc", "delta.other", "delta.other" + Domain, "gamma.demo" + Domain,
		"shop.example", "other.example", "omega.demo" + Domain + ":82", "nobody.test"}
}

// KnownHosts are those of MeshHosts that some service has.
func KnownHosts() []string {
	return []string{"alpha", "alpha.demo", "beta.demo.svc", "delta.other" + Domain, "gamma.demo" + Domain, "omega.demo" + Domain + ":82"}
}

// String is the request in one line.
func (r Request) String() string {
	return fmt.Sprintf("%s %s%s %v", r.Method, r.Host, r.Path, r.Headers)
}
