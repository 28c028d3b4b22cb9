//go:build conformance

package envoy_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// services are what generated configurations route to: each has endpoints of
// two versions, stand-ins on loopback.
func services() []string { return []string{"alpha", "beta", whole} }

// whole is the service that is called without a subset: both its versions are
// one stand-in, so that load balancing can't make answers differ.
const whole = "gamma"

// generator draws configurations and requests from small pools, so that
// requests meet rules often and miss them often, too.
type generator struct{ *rand.Rand }

func pick[T any](g generator, from ...T) T { return from[g.IntN(len(from))] }

func (g generator) maybe() bool { return g.IntN(3) == 0 }

func (g generator) path() string {
	return pick(g, "/", "/a", "/a/", "/a/b", "/a/b/c", "/A/b", "/ab", "/api/v1/items", "/api/v2/items/7", "/static/x.css", "/zz")
}

func (g generator) uriMatch() string {
	return pick(g,
		"uri: {exact: /a}", "uri: {exact: /a/b}", "uri: {prefix: /a}", "uri: {prefix: /a/}", "uri: {prefix: /api/}", "uri: {prefix: /}",
		`uri: {regex: "/api/v[0-9]+/.*"}`, `uri: {regex: ".*items.*"}`, "uri: {exact: /A/B}\n      ignoreUriCase: true", "uri: {prefix: /API}\n      ignoreUriCase: true")
}

func (g generator) headerMatch() string {
	return pick(g,
		"headers: {end-user: {exact: jason}}", "headers: {end-user: {prefix: ja}}", `headers: {end-user: {regex: "j.*n"}}`, "headers: {x-flag: {}}",
		"withoutHeaders: {x-flag: {}}", "withoutHeaders: {end-user: {exact: jason}}", "method: {exact: POST}", `method: {regex: "GET|PUT"}`,
		"queryParams: {q: {exact: one}}", `queryParams: {q: {regex: "o.*"}}`, "authority: {prefix: shop}", "scheme: {exact: http}")
}

// rule is one http rule of a VirtualService.
func (g generator) rule(i int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "  - name: rule-%d\n", i)
	if g.IntN(6) > 0 {
		b.WriteString("    match:\n")
		for range 1 + g.IntN(2) {
			fmt.Fprintf(&b, "    - %s\n", g.uriMatch())
			if g.maybe() {
				fmt.Fprintf(&b, "      %s\n", g.headerMatch())
			}
		}
	}
	switch g.IntN(8) {
	case 0:
		fmt.Fprintf(&b, "    redirect:\n      %s\n", pick(g, "uri: /moved", "authority: other.example", "uri: /m\n      authority: o.example\n      redirectCode: 302", "scheme: https", "port: 8443"))
		return b.String()
	case 1:
		fmt.Fprintf(&b, "    directResponse: {status: %d, body: {string: %q}}\n", pick(g, 200, 404, 418, 503), pick(g, "direct", "no"))
		return b.String()
	case 2:
		fmt.Fprintf(&b, "    rewrite: {%s}\n", pick(g, "uri: /rewritten", "uri: /", "authority: inner.example", "uri: /x, authority: y.example",
			`uriRegexRewrite: {match: "/api/v([0-9]+)", rewrite: "/v\\1"}`))
	}
	if g.maybe() {
		fmt.Fprintf(&b, "    headers:\n      request: {%s}\n", pick(g, "set: {x-set: one}", "add: {x-add: two}", "remove: [x-flag]", "set: {x-set: a}, remove: [end-user]"))
	}
	if g.maybe() {
		b.WriteString("    timeout: 5s\n")
	}
	target, subset := pick(g, services()...), ""
	if target != whole {
		subset = pick(g, ", subset: v1", ", subset: v2")
	}
	fmt.Fprintf(&b, "    route:\n    - destination: {host: %s.demo.svc.cluster.local, port: {number: 80}%s}\n", target, subset)
	return b.String()
}

// config draws the objects of one configuration; places are the stand-ins'
// addresses by service and version.
func (g generator) config(places map[string]int, envoyPort, tullePort int) string {
	var b strings.Builder
	for _, s := range services() {
		fmt.Fprintf(&b, `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: %[1]s, namespace: demo}
spec:
  hosts: [%[1]s.demo.svc.cluster.local]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints:
  - {address: 127.0.0.1, ports: {http: %[2]d}, labels: {version: v1}}
  - {address: 127.0.0.1, ports: {http: %[3]d}, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: %[1]s, namespace: demo}
spec:
  host: %[1]s.demo.svc.cluster.local
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
`, s, places[s+"/v1"], places[s+"/v2"])
	}
	for name, port := range map[string]int{"envoy": envoyPort, "tulle": tullePort} {
		fmt.Fprintf(&b, `apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw-%[1]s, namespace: demo}
spec:
  selector: {app: gw-%[1]s}
  servers: [{port: {number: %[2]d, name: http, protocol: HTTP}, hosts: ["*"]}]
---
`, name, port)
	}
	for i, hosts := range []string{"[shop.example]", `["*.example"]`, `["*"]`} {
		if i > 0 && !g.maybe() {
			continue
		}
		fmt.Fprintf(&b, "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: vs-%d, namespace: demo}\nspec:\n  hosts: %s\n  gateways: [gw-envoy, gw-tulle]\n  http:\n", i, hosts)
		for r := range 1 + g.IntN(6) {
			b.WriteString(g.rule(r))
		}
		b.WriteString("---\n")
	}
	return b.String()
}

// request is one generated request.
type request struct {
	method, host, path string
	headers            [][2]string
}

func (g generator) request() request {
	r := request{method: pick(g, "GET", "GET", "POST", "PUT"), host: pick(g, "shop.example", "shop.example", "SHOP.example", "other.example", "nobody.test"), path: g.path()}
	if g.maybe() {
		r.path += pick(g, "?q=one", "?q=two", "?q=", "?p=1&q=one", "?")
	}
	if g.maybe() {
		r.headers = append(r.headers, [2]string{"end-user", pick(g, "jason", "jan", "Jason", "mia")})
	}
	if g.maybe() {
		r.headers = append(r.headers, [2]string{"x-flag", pick(g, "1", "")})
	}
	return r
}

func (r request) String() string {
	return fmt.Sprintf("%s %s%s %v", r.method, r.host, r.path, r.headers)
}
