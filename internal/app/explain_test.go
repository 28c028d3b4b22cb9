package app

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// dice makes random meshes and questions about them.
type dice struct{ *rand.Rand }

func (d dice) of(list ...string) string { return list[d.IntN(len(list))] }

func (d dice) service() string { return d.of("web", "reviews", "ledger", "nobody") }
func (d dice) host() string {
	return d.of(d.service(), d.service()+".shop", "far.example", "*.example", "a.example")
}

// entrance is a host that a gateway may serve: a full name.
func (d dice) entrance() string { return d.of("a.example", "*.example", "*", "far.example") }

// namespace is mostly the one of the services.
func (d dice) namespace() string { return d.of("shop", "shop", "shop", "default", "istio-system") }

func (d dice) port() int        { return []int{80, 80, 443, 8080, 9080, 9080, 7000}[d.IntN(7)] }
func (d dice) protocol() string { return d.of("HTTP", "HTTP2", "TCP", "TLS", "HTTPS", "GRPC", `""`) }

// mesh is some YAML of every routing kind. Much of it is dangling or in
// conflict, some refused: so are people's files.
func (d dice) mesh() string {
	docs := []string{`{apiVersion: v1, kind: Namespace, metadata: {name: shop}}`, d.gateway(1), d.gateway(2)}
	for i, name := range []string{"web", "reviews", "ledger"} {
		docs = append(docs, fmt.Sprintf(`{apiVersion: v1, kind: Service, metadata: {name: %s, namespace: %s}, spec: {%s selector: {app: %s}, ports: [{name: %s, port: %d, targetPort: 8080}, {name: tcp-x, port: %d}]}}`,
			name, d.of("shop", "shop", "default"), d.of(fmt.Sprintf("clusterIP: 10.0.0.%d,", i+1), "clusterIP: None,", ""), name, d.of("http", "http", "tcp", "grpc", "tls", "any"), 9080, 5000+d.IntN(3)),
			fmt.Sprintf(`{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: %s-1, namespace: %s}, spec: {address: 10.1.0.%d, labels: {app: %s, version: %s}}}`, name, d.of("shop", "shop", "default"), i+1, name, d.of("v1", "v2")))
	}
	makers := []func(int) string{d.virtualService, d.virtualService, d.destinationRule, d.gateway, d.serviceEntry, d.peerAuthentication, d.sidecar}
	for i := range 2 + d.IntN(8) {
		docs = append(docs, makers[d.IntN(len(makers))](3+i))
	}
	return strings.Join(docs, "\n---\n")
}

func (d dice) head(kind, group string, i int) string {
	return fmt.Sprintf(`apiVersion: %s/v1, kind: %s, metadata: {name: o%d, namespace: %s}`, group, kind, i, d.namespace())
}

func (d dice) destination() string {
	return fmt.Sprintf(`{destination: {host: %s%s%s}%s}`, d.service(), d.of("", ", subset: v1", ", subset: v2"), d.of("", ", port: {number: 80}", ", port: {number: 9080}"), "")
}

func (d dice) virtualService(i int) string {
	var rules []string
	for range 1 + d.IntN(3) {
		rules = append(rules, "{"+d.of(
			"match: [{uri: {prefix: /a}}], ", "match: [{headers: {end-user: {exact: jason}}}], ", "match: [{port: 80}, {sourceLabels: {app: web}}], ", "match: [{uri: {regex: '/[a-c]+'}}], ", "")+d.of(
			"route: ["+d.destination()+"]", "redirect: {uri: /new}", "directResponse: {status: 418}",
			fmt.Sprintf("route: [{destination: {host: %s}, weight: 90}, {destination: {host: %s, subset: v2}, weight: 10}]", d.service(), d.service()))+"}")
	}
	layers := []string{"http: [" + strings.Join(rules, ", ") + "]"}
	if d.IntN(3) == 0 {
		layers = append(layers, fmt.Sprintf("tcp: [{match: [{port: %d}], route: [%s]}]", d.port(), d.destination()))
	}
	if d.IntN(3) == 0 {
		layers = append(layers, fmt.Sprintf("tls: [{match: [{port: %d, sniHosts: [%q]}], route: [%s]}]", d.port(), d.host(), d.destination()))
	}
	return fmt.Sprintf(`{%s, spec: {hosts: [%q], gateways: [%s], %s}}`, d.head("VirtualService", "networking.istio.io", i), d.of(d.host(), d.host(), "*.example", "a.example"), d.of("mesh", "shop/o1, default/o1, istio-system/o1", "mesh, shop/o2, default/o2"), strings.Join(layers, ", "))
}

func (d dice) destinationRule(i int) string {
	return fmt.Sprintf(`{%s, spec: {host: %q, %s subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}}`,
		d.head("DestinationRule", "networking.istio.io", i), d.host(), d.of("", "trafficPolicy: {tls: {mode: ISTIO_MUTUAL}},", "trafficPolicy: {tls: {mode: DISABLE}},", "trafficPolicy: {loadBalancer: {simple: PASSTHROUGH}},"))
}

func (d dice) gateway(i int) string {
	var servers []string
	for j := range 1 + d.IntN(3) {
		p := d.of("HTTP", "HTTP", "HTTP", "HTTPS", "TLS", "TCP", "HTTP2")
		tls := ""
		switch p {
		case "HTTPS":
			tls = ", tls: {mode: SIMPLE, credentialName: c}"
		case "TLS":
			tls = d.of(", tls: {mode: PASSTHROUGH}", ", tls: {mode: AUTO_PASSTHROUGH}", ", tls: {mode: ISTIO_MUTUAL}")
		case "HTTP":
			tls = d.of("", ", tls: {httpsRedirect: true}")
		}
		servers = append(servers, fmt.Sprintf(`{port: {number: %s, name: p%d, protocol: %s}, hosts: [%q]%s}`, d.of("80", "80", "443", "9080"), j, p, d.entrance(), tls))
	}
	return fmt.Sprintf(`{%s, spec: {selector: {istio: gw}, servers: [%s]}}`, d.head("Gateway", "networking.istio.io", i), strings.Join(servers, ", "))
}

func (d dice) serviceEntry(i int) string {
	return fmt.Sprintf(`{%s, spec: {hosts: [%q], addresses: [%s], location: %s, resolution: %s, ports: [{number: %d, name: p, protocol: %s}, {number: 7001, name: q, protocol: %s}], endpoints: [%s]}}`,
		d.head("ServiceEntry", "networking.istio.io", i), d.host()+d.of("", ".example"), d.of("", "192.0.2.7", "192.0.2.0/24", `"2001:db8::/32"`), d.of("MESH_INTERNAL", "MESH_EXTERNAL"), d.of("NONE", "STATIC", "DNS"), d.port(), d.protocol(), d.protocol(),
		d.of("", "{address: 10.1.0.9}", "{address: 10.1.0.1}"))
}

func (d dice) peerAuthentication(i int) string {
	mode := func() string { return d.of("STRICT", "PERMISSIVE", "DISABLE") }
	return fmt.Sprintf(`{%s, spec: {%s mtls: {mode: %s}}}`, d.head("PeerAuthentication", "security.istio.io", i),
		d.of("", fmt.Sprintf("selector: {matchLabels: {app: web}}, portLevelMtls: {8080: {mode: %s}},", mode())), mode())
}

func (d dice) sidecar(i int) string {
	return fmt.Sprintf(`{%s, spec: {%s %s egress: [%s{hosts: [%q]}], outboundTrafficPolicy: {mode: %s}}}`, d.head("Sidecar", "networking.istio.io", i), d.of("", "workloadSelector: {labels: {app: web}},"),
		d.of("", fmt.Sprintf("ingress: [{port: {number: %d, name: x, protocol: %s}, defaultEndpoint: %q}],", d.port(), d.of("HTTP", "TCP", "GRPC"), d.of("127.0.0.1:3000", "0.0.0.0:3000", "unix:///run/app.sock"))),
		d.of("", fmt.Sprintf("{port: {number: %d, name: e, protocol: HTTP}, hosts: [\"*/*\"]}, ", d.port())), d.of("*/*", "./*", "shop/*"), d.of("REGISTRY_ONLY", "ALLOW_ANY"))
}

func (d dice) question() Question {
	q := Question{
		Namespace: d.of("shop", "shop", "default"), Gateway: d.IntN(3) == 0, Inbound: d.IntN(3) == 0, Port: d.port(), Protocol: d.of("http", "http", "http2", "tcp"), TLS: d.of("none", "none", "tls", "mtls"),
		Host: d.host(), Path: d.of("/", "/a/b", "/abc?x=1"), Method: "GET", Headers: [][2]string{{"end-user", d.of("jason", "eve")}}, SNI: d.of("", d.host()), Metadata: map[string]string{},
	}
	if d.IntN(3) > 0 {
		q.Port = 9080
	}
	switch {
	case q.Gateway:
		q.Port = []int{80, 80, 80, 443}[d.IntN(4)]
		q.Host = d.of("a.example", "far.example", "nobody")
		q.Labels, q.Inbound = map[string]string{"istio": "gw"}, false
	default:
		q.Labels = map[string]string{"app": d.of("web", "ledger")}
		q.Metadata["INTERCEPTION_MODE"] = d.of("REDIRECT", "REDIRECT", "REDIRECT", "REDIRECT", "NONE")
		q.Metadata["DNS_CAPTURE"] = d.of("true", "false")
	}
	q.ProxyIPs = []netip.Addr{netip.MustParseAddr(d.of("10.1.0.1", "10.1.0.9", "2001:db8::9"))}
	if d.IntN(4) == 0 {
		q.Address = netip.MustParseAddr(d.of("10.0.0.1", "192.0.2.7", "203.0.113.9", "2001:db8::7"))
	}
	return q
}

// TestExplainAnswersWhateverIsAsked: over random meshes explain always answers,
// twice the same, in the words of its contract, with places that exist. Our
// proxy never refuses what our control plane makes.
func TestExplainAnswersWhateverIsAsked(t *testing.T) {
	meshes, each := 60, 10
	if s := os.Getenv("EXPLAIN_MESHES"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		meshes = n
	}
	decisions := []string{"forward", "direct", "redirect", "deny", "reject", "passthrough", "blackhole", "conditional"}
	errors := []string{"", "no_listener", "no_filter_chain", "invalid_mtls", "protocol", "no_virtual_host", "no_route"}
	seen := map[string]int{}
	for seed := range meshes {
		d := dice{rand.New(rand.NewPCG(uint64(seed), 3))}
		file := filepath.Join(t.TempDir(), "mesh.yaml")
		text := d.mesh()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		lines := strings.Count(text, "\n") + 1
		one, two := explainer(t, file), explainer(t, file)
		for range each {
			q := d.question()
			a := ask(t, one, q, text)
			if again := ask(t, two, q, text); encoded(t, a) != encoded(t, again) {
				t.Fatalf("asked twice: %s\nthen %s\n%s", encoded(t, a), encoded(t, again), text)
			}
			if !slices.Contains(decisions, a.Decision) || !slices.Contains(errors, a.Error) || a.Error != "" && a.Decision != "reject" || a.Decision == "reject" && a.Error+a.Missing == "" {
				t.Errorf("seed %d: decision %q with error %q", seed, a.Decision, a.Error)
			}
			for _, p := range a.Origin {
				if p.File != file || p.Line < 1 || p.Line > lines || p.Column < 1 {
					t.Errorf("seed %d: %+v is no place of the file", seed, p)
				}
			}
			seen[a.Decision+" "+a.Error]++
		}
	}
	t.Log(seen)
	for _, want := range []string{"forward ", "direct ", "redirect ", "passthrough ", "blackhole ", "reject no_filter_chain", "reject no_virtual_host", "reject no_listener", "reject no_route", "reject protocol", "reject invalid_mtls"} {
		if seen[want] == 0 {
			t.Errorf("%q was never the answer: the questions prove little", want)
		}
	}
}

func explainer(t *testing.T, file string) *Explainer {
	t.Helper()
	e, err := NewExplainer([]string{file}, "")
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func ask(t *testing.T, e *Explainer, q Question, text string) *Answer {
	t.Helper()
	a, err := e.Explain(t.Context(), q)
	if err != nil {
		t.Fatalf("%+v: %v\n%s", q, err, text)
	}
	return a
}

func encoded(t *testing.T, a *Answer) string {
	t.Helper()
	b, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
