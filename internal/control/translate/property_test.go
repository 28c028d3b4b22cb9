package translate_test

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/translate"
	"github.com/tullemesh/tulle/internal/control/translate/view"
	"github.com/tullemesh/tulle/internal/wire"
)

var allTypes = []string{wire.ClusterType, wire.EndpointType, wire.ListenerType, wire.RouteType, wire.VirtualHostType, wire.NameTableType}

// nodes are the proxies of the property tests, by name.
var nodes = map[string]string{
	"web":     `{"id": "sidecar~10.1.0.1~web-0.shop~shop.svc.cluster.local", "metadata": {"NAMESPACE": "shop", "DNS_CAPTURE": "true", "LABELS": {"app": "web"}}}`,
	"payment": `{"id": "sidecar~10.1.0.2~payment-0.shop~shop.svc.cluster.local", "metadata": {"NAMESPACE": "shop", "DNS_CAPTURE": "true", "LABELS": {"app": "payment"}}}`,
	"vhds":    `{"id": "sidecar~10.1.0.3~catalog-0.shop~shop.svc.cluster.local", "client_features": ["tulle.vhds"], "metadata": {"NAMESPACE": "shop", "LABELS": {"app": "catalog"}}}`,
	"other":   `{"id": "sidecar~10.2.0.1~client-0.other~other.svc.cluster.local", "metadata": {"NAMESPACE": "other"}}`,
	"none":    `{"id": "sidecar~10.1.0.1~web-0.shop~shop.svc.cluster.local", "metadata": {"NAMESPACE": "shop", "INTERCEPTION_MODE": "NONE", "HTTP_PROXY_PORT": 15007, "TULLE_APP_PORTS": {"8080": "127.0.0.1:4100"}, "TULLE_EGRESS": {"payment.shop.svc.cluster.local:8080": "127.0.0.1:4200", "ledger.shop.svc.cluster.local:7000": "127.0.0.1:4201"}}}`,
	"gateway": `{"id": "router~10.9.0.1~ingress-0.shop~shop.svc.cluster.local", "metadata": {"NAMESPACE": "shop", "LABELS": {"istio": "ingressgateway"}}}`,
	"grpc":    `{"id": "sidecar~10.1.0.1~web-0.shop~shop.svc.cluster.local", "metadata": {"NAMESPACE": "shop", "GENERATOR": "grpc"}}`,
}

// parts are the pieces of the random mesh: each is absent or one of its forms.
var parts = map[string][]string{
	"web": {
		service("web", "shop", "10.0.0.1", "{name: http, port: 8080}"), service("web", "shop", "10.0.0.1", "{name: tcp, port: 8080}"),
		service("web", "shop", "10.0.0.1", "{port: 8080}, {name: http, port: 80, targetPort: 8080}"),
	},
	"payment":  {service("payment", "shop", "10.0.0.2", "{name: http, port: 8080}"), service("payment", "shop", "10.0.0.1", "{name: grpc, port: 8080}, {name: http-b, port: 9090}")},
	"ledger":   {service("ledger", "shop", "10.0.0.3", "{name: tcp, port: 7000}"), service("ledger", "shop", "None", "{name: tcp, port: 7000}"), service("ledger", "shop", "None", "{name: mysql, port: 8080}, {name: tcp, port: 7000}")},
	"other":    {service("payment", "other", "10.0.0.4", "{name: http, port: 8080}"), service("shop", "web", "10.0.0.5", "{name: http, port: 8080}")},
	"alias":    {`{apiVersion: v1, kind: Service, metadata: {name: pay, namespace: shop}, spec: {type: ExternalName, externalName: payment.shop.svc.cluster.local, ports: [{name: http, port: 8080}]}}`},
	"web-0":    {instance("web", "shop", "10.1.0.1", "v1"), instance("web", "shop", "10.1.0.1", "v2")},
	"pay-0":    {instance("payment", "shop", "10.1.0.2", "v1"), instance("payment", "shop", "10.1.0.2", "v2")},
	"ledger-0": {instance("ledger", "shop", "10.1.0.3", "v1"), instance("ledger", "shop", "10.1.0.1", "v1")},
	"entry": {
		`{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: ext, namespace: shop}, spec: {hosts: [api.example.com], location: MESH_EXTERNAL, resolution: DNS, ports: [{number: 8080, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: TLS}]}}`,
		`{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: ext, namespace: shop}, spec: {hosts: ["*.example.com"], location: MESH_EXTERNAL, resolution: NONE, exportTo: ["."], ports: [{number: 443, name: tls, protocol: TLS}]}}`,
		`{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: ext, namespace: shop}, spec: {hosts: [payment.shop], addresses: [10.0.0.2, 10.7.0.0/16], location: MESH_INTERNAL, resolution: STATIC, ports: [{number: 8080, name: http, protocol: HTTP}, {number: 7000, name: tcp, protocol: TCP}], endpoints: [{address: 10.6.0.1}]}}`,
	},
	"vs": {
		rules("payment", "shop", `hosts: [payment], http: [{match: [{sourceNamespace: shop}], route: [{destination: {host: payment, subset: v1}}]}]`),
		rules("payment", "shop", `hosts: [payment], http: [{match: [{headers: {a: {exact: b}}, sourceLabels: {app: web}}], route: [{destination: {host: payment, subset: v2}}]}, {route: [{destination: {host: payment, subset: v1}}]}]`),
		rules("payment", "shop", `hosts: [payment, extra.example.com, web], http: [{route: [{destination: {host: pay}}], timeout: 1s}]`),
		rules("payment", "shop", `hosts: ["*.shop.svc.cluster.local", payment.shop], http: [{match: [{sourceNamespace: other}], route: [{destination: {host: payment}}]}]`),
		rules("payment", "shop", `hosts: [ledger], tcp: [{match: [{sourceLabels: {app: web}, port: 7000}], route: [{destination: {host: payment, port: {number: 8080}}}]}]`),
	},
	"vs2": {
		rules("second", "shop", `hosts: [web], http: [{route: [{destination: {host: web, port: {number: 8080}}}]}]`),
		rules("second", "shop", `hosts: [web], http: [{match: [{sourceNamespace: other}], route: [{destination: {host: web, port: {number: 8080}}}]}, {redirect: {uri: /y}}]`),
		rules("second", "shop", `hosts: [web], http: [{route: [{destination: {host: pay}}], timeout: 2s}]`),
		rules("second", "other", `hosts: [payment.shop.svc.cluster.local], exportTo: ["."], http: [{redirect: {uri: /x}}]`),
	},
	"vsg": {rules("gw", "shop", `hosts: [a.example.com], gateways: [g, mesh], http: [{route: [{destination: {host: payment}}]}]`), rules("gw", "shop", `hosts: ["*.example.com"], gateways: [g], http: [{route: [{destination: {host: web}}]}], tcp: [{route: [{destination: {host: ledger}}]}]`)},
	"dr": {
		destination("payment", "shop", `host: payment, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}, trafficPolicy: {loadBalancer: {simple: RANDOM}}}]`),
		destination("payment", "shop", `host: "*.shop.svc.cluster.local", trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}, subsets: [{name: v1, labels: {version: v1}}]`),
		destination("payment", "shop", `host: payment, workloadSelector: {matchLabels: {app: web}}, subsets: [{name: v3, labels: {version: v3}}]`),
		destination("ledger", "shop", `host: ledger, trafficPolicy: {connectionPool: {tcp: {idleTimeout: 7s, maxConnections: 3}}}`),
		destination("payment", "shop", `host: payment, trafficPolicy: {portLevelSettings: [{port: {number: 8080}, connectionPool: {tcp: {maxConnectionDuration: 9s}, http: {h2UpgradePolicy: UPGRADE, maxRequestsPerConnection: 5}}}]}`),
		destination("payment", "other", `host: payment.shop.svc.cluster.local, exportTo: ["."], trafficPolicy: {loadBalancer: {simple: PASSTHROUGH}}`),
	},
	"gw": {
		`{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: g, namespace: shop}, spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]}}`,
		`{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: g, namespace: shop}, spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [a.example.com], tls: {httpsRedirect: true}}, {port: {number: 7000, name: tcp, protocol: TCP}, hosts: ["*"]}, {port: {number: 15443, name: tls, protocol: TLS}, hosts: ["*.svc.cluster.local"], tls: {mode: AUTO_PASSTHROUGH}}]}}`,
	},
	"pa": {
		`{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: default, namespace: istio-system}, spec: {mtls: {mode: STRICT}}}`,
		`{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: default, namespace: shop}, spec: {mtls: {mode: DISABLE}}}`,
		`{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: default, namespace: shop}, spec: {selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: PERMISSIVE}}}}`,
		`{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: default, namespace: shop}, spec: {mtls: {mode: STRICTEST}}}`,
	},
	"sidecar": {
		`{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {name: default, namespace: shop}, spec: {egress: [{hosts: ["./payment.shop.svc.cluster.local", "other/*"]}]}}`,
		`{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {name: web, namespace: shop}, spec: {workloadSelector: {labels: {app: web}}, outboundTrafficPolicy: {mode: REGISTRY_ONLY}, egress: [{port: {number: 8080, protocol: HTTP, name: http}, hosts: ["./*"]}, {hosts: ["*/*"]}]}}`,
		`{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {name: web, namespace: shop}, spec: {inboundConnectionPool: {tcp: {maxConnections: 3, idleTimeout: 4s}}}}`,
		`{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {name: web, namespace: shop}, spec: {inboundConnectionPool: {tcp: {maxConnections: 3, idleTimeout: 5s}}}}`,
		`{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {name: web, namespace: shop}, spec: {workloadSelector: {labels: {app: web}}, ingress: [{port: {number: 8080, protocol: HTTP, name: http}, defaultEndpoint: "127.0.0.1:8080", connectionPool: {http: {maxRetries: 6}}}]}}`,
	},
}

func service(name, namespace, ip, ports string) string {
	return fmt.Sprintf("{apiVersion: v1, kind: Service, metadata: {name: %s, namespace: %s}, spec: {clusterIP: %q, selector: {app: %s}, ports: [%s]}}", name, namespace, ip, name, ports)
}

func instance(app, namespace, address, version string) string {
	return fmt.Sprintf("{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: %s-0, namespace: %s}, spec: {address: %s, labels: {app: %s, version: %s, security.istio.io/tlsMode: istio}, serviceAccount: %s-%s}}", app, namespace, address, app, version, app, version)
}

func rules(name, namespace, spec string) string {
	return fmt.Sprintf("{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: %s, namespace: %s}, spec: {%s}}", name, namespace, spec)
}

func destination(name, namespace, spec string) string {
	return fmt.Sprintf("{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: %s, namespace: %s}, spec: {%s}}", name, namespace, spec)
}

// holdings is what a proxy holds of one generation: version by type and name.
type holdings struct {
	view     *view.View
	versions map[string]map[string]string
	bodies   map[string]*wire.Resource // by type and name
}

// text is a held resource, for people.
func (h holdings) text(typeURL, name string) string {
	r := h.bodies[typeURL+name]
	if r == nil {
		return "none"
	}
	m, err := r.Body.UnmarshalNew()
	if err != nil {
		return err.Error()
	}
	return prototext.Format(m)
}

// extraNames are asked for by name, whether they exist or not.
var extraNames = map[string][]string{
	wire.RouteType:    {"80", "8080", "9090", "http_proxy", "payment.shop.svc.cluster.local:8080", "ledger.shop.svc.cluster.local:7000", "http.80", "outbound|8080||payment.shop.svc.cluster.local"},
	wire.ListenerType: {"payment.shop.svc.cluster.local:8080", "xds.istio.io/grpc/lds/inbound/0.0.0.0:8080"},
	wire.EndpointType: {"outbound|8080|v2|payment.shop.svc.cluster.local"},
}

func collect(t testing.TB, s *model.Snapshot, tr *translate.Translator, node string, also map[string]map[string]string) holdings {
	t.Helper()
	return collectFor(t, viewOf(t, s, node, ""), tr, also)
}

// collectFor builds what is listed and what is asked for besides, and holds the
// list of a whole type against its single resources.
func collectFor(t testing.TB, view *view.View, tr *translate.Translator, also map[string]map[string]string) holdings {
	t.Helper()
	h := holdings{view: view, versions: make(map[string]map[string]string), bodies: make(map[string]*wire.Resource)}
	for _, u := range allTypes {
		h.versions[u] = make(map[string]string)
		if !slices.IsSorted(tr.Names(h.view, u)) {
			t.Fatalf("%s: the names are not sorted, and streams look them up by halves: %q", u, tr.Names(h.view, u))
		}
		names := append(slices.Clone(tr.Names(h.view, u)), extraNames[u]...)
		for n := range also[u] {
			names = append(names, n)
		}
		for _, n := range names {
			r, err := tr.Build(h.view, u, n)
			if err != nil {
				t.Fatal(err)
			}
			h.versions[u][n] = ""
			if r != nil {
				h.versions[u][n] = r.Version
				h.bodies[u+n] = r
			}
		}
		listed, resources := tr.List(h.view, u)
		if !slices.Equal(listed, tr.Names(h.view, u)) || len(resources) != len(listed) {
			t.Fatalf("%s: a list of %q with %d resources, the names are %q", u, listed, len(resources), tr.Names(h.view, u))
		}
		for i, r := range resources {
			if r != nil && r.Version != h.versions[u][listed[i]] {
				t.Fatalf("%s %q is listed in another version than it is built", u, listed[i])
			}
		}
	}
	return h
}

func dirtyHas(dirty map[string]map[string]struct{}, typeURL, name string) bool {
	_, all := dirty[typeURL]["*"]
	_, one := dirty[typeURL][name]
	return all || one
}

// TestRandomEdits holds, over random edits of a mesh: what a Translator took
// over from its predecessor equals what a new one builds; and every resource
// that differs for an unchanged View is named by Dirty.
func TestRandomEdits(t *testing.T) {
	// A check builds some ten meshes for seven proxies twice: rapid's default of
	// a hundred checks is for -rapid.checks to ask for.
	if f := flag.Lookup("rapid.checks"); f != nil && f.Value.String() == f.DefValue {
		if err := f.Value.Set("25"); err != nil {
			t.Fatal(err)
		}
	}
	names := sorted(parts)
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t, "")
		w.quiet = true
		w.edit("client", instance("client", "other", "10.2.0.1", "v1"))
		if rapid.Bool().Draw(rt, "namespaces") { // a laptop's mesh has none
			w.edit("namespaces", "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n---\n{apiVersion: v1, kind: Namespace, metadata: {name: other}}")
		}
		var tr *translate.Translator
		held := make(map[string]holdings)
		var log []string
		for step := range rapid.IntRange(2, 12).Draw(rt, "steps") {
			for range rapid.IntRange(1, 3).Draw(rt, "edits") {
				part := rapid.SampledFrom(names).Draw(rt, "part")
				form := rapid.IntRange(-1, len(parts[part])-1).Draw(rt, "form")
				text := ""
				if form >= 0 {
					text = parts[part][form]
				}
				log = append(log, fmt.Sprintf("%d: %s=%d", step, part, form))
				w.edit(part, text)
			}
			s := w.snapshot()
			next := translate.New(s, tr)
			all, dirty := true, map[string]map[string]struct{}(nil)
			if tr != nil {
				all, dirty = next.Dirty(tr.Snapshot())
			}
			fresh := translate.New(s, nil)
			for _, name := range sorted(nodes) {
				before := held[name]
				view, err := next.View(nodeOf(t, nodes[name]), "", before.view)
				if err != nil {
					rt.Fatal(err)
				}
				if derived := viewOf(t, s, nodes[name], ""); view.Key() != derived.Key() {
					rt.Fatalf("%s: the renewed view is %q, a new one %q\n%s", name, view.Key(), derived.Key(), strings.Join(log, "\n"))
				}
				now := collectFor(t, view, next, before.versions)
				want := collect(t, s, fresh, nodes[name], now.versions)
				for _, u := range allTypes {
					for n, v := range want.versions[u] {
						if now.versions[u][n] != v {
							rt.Fatalf("%s: %s %q taken over differs from a new build\n%s\n%s", name, u, n, strings.Join(log, "\n"), cmp.Diff(now.text(u, n), want.text(u, n)))
						}
					}
					if all || before.view == nil || before.view.Key() != now.view.Key() {
						continue
					}
					for n, v := range want.versions[u] {
						if old, had := before.versions[u][n]; (had && old != v || !had && v != "") && !dirtyHas(dirty, u, n) {
							rt.Fatalf("%s: %s %q differs and is not dirty\n%s\n%s", name, u, n, strings.Join(log, "\n"), cmp.Diff(before.text(u, n), want.text(u, n)))
						}
					}
				}
				held[name] = now
			}
			tr = next
		}
	})
}

// mesh is all parts in their first form.
func wholeMesh(form int) string {
	var out []string
	for _, name := range sorted(parts) {
		out = append(out, parts[name][min(form, len(parts[name])-1)])
	}
	return strings.Join(out, "\n---\n")
}

func TestAResourceBuiltAloneEqualsThatOfTheWhole(t *testing.T) {
	for form := range 3 {
		s := snapshotOf(t, "", wholeMesh(form))
		whole := translate.New(s, nil)
		for _, name := range sorted(nodes) {
			all := collect(t, s, whole, nodes[name], nil)
			for _, u := range allTypes {
				for n, version := range all.versions[u] {
					alone := translate.New(s, nil)
					r, err := alone.Build(viewOf(t, s, nodes[name], ""), u, n)
					if err != nil {
						t.Fatal(err)
					}
					have := ""
					if r != nil {
						have = r.Version
					}
					if have != version {
						t.Errorf("%s: %s %q alone is %q, of the whole %q", name, u, n, have, version)
					}
				}
			}
		}
	}
}

func TestEveryMessageIsValid(t *testing.T) {
	for form := range 4 {
		s := snapshotOf(t, "", wholeMesh(form))
		tr := translate.New(s, nil)
		for _, name := range sorted(nodes) {
			v := viewOf(t, s, nodes[name], "")
			for _, u := range allTypes[:5] {
				for _, n := range append(slices.Clone(tr.Names(v, u)), extraNames[u]...) {
					build(t, tr, v, u, n) // validates
				}
			}
		}
	}
}

func TestEqualInputsGiveEqualBytesInAnyOrder(t *testing.T) {
	one, two := newWorld(t, ""), newWorld(t, "")
	names := sorted(parts)
	for _, n := range names {
		one.put(n, parts[n][0])
	}
	slices.Reverse(names)
	for _, n := range names {
		two.put(n, parts[n][0])
	}
	a, b := one.snapshot(), two.snapshot()
	for _, name := range sorted(nodes) {
		x := collect(t, a, translate.New(a, nil), nodes[name], nil)
		y := collect(t, b, translate.New(b, nil), nodes[name], nil)
		for _, u := range allTypes {
			for n, v := range x.versions[u] {
				if y.versions[u][n] != v {
					t.Errorf("%s: %s %q depends on the order of files", name, u, n)
				}
			}
		}
	}
}

func TestViewsWithEqualAnswersShareBytes(t *testing.T) {
	s := snapshotOf(t, "", wholeMesh(0))
	tr := translate.New(s, nil)
	a, b := viewOf(t, s, nodes["web"], ""), viewOf(t, s, nodes["payment"], "")
	own := 0
	for _, u := range allTypes {
		for _, n := range tr.Names(a, u) {
			x, _ := tr.Build(a, u, n)
			y, _ := tr.Build(b, u, n)
			if x != y {
				own++
				// Rules ask for the label app=web in 8080; the inbound side is each one's own.
				if n != "virtualInbound" && n != "8080" && !strings.HasPrefix(n, "inbound|") && !strings.Contains(n, "payment") {
					t.Errorf("%s %q is not shared", u, n)
				}
			}
		}
	}
	if own == 0 {
		t.Error("nothing differs between two workloads: the test compares one thing with itself")
	}
}

func TestRouteConfigurationsHoldTheVirtualHostResources(t *testing.T) {
	s := snapshotOf(t, "", wholeMesh(0))
	tr := translate.New(s, nil)
	inline, apart := viewOf(t, s, nodes["web"], ""), viewOf(t, s, nodes["vhds"], "")
	rc := build(t, tr, inline, wire.RouteType, "8080").(*routev3.RouteConfiguration)
	if len(rc.VirtualHosts) < 3 {
		t.Fatalf("%d virtual hosts", len(rc.VirtualHosts))
	}
	for _, vh := range rc.VirtualHosts {
		if vh.Name == "payment.shop.svc.cluster.local:8080" {
			continue // by source labels
		}
		if other := build(t, tr, apart, wire.VirtualHostType, "8080/"+vh.Name); !proto.Equal(vh, other) {
			t.Errorf("virtual host %q differs between inline and on demand", vh.Name)
		}
	}
	if empty := build(t, tr, apart, wire.RouteType, "8080").(*routev3.RouteConfiguration); len(empty.VirtualHosts) != 0 || empty.Vhds == nil {
		t.Error("a client of VHDS got virtual hosts inline")
	}
}
