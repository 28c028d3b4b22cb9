package model_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/apis/problem"
	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/registry"
)

// mesh is a Store with what a test put into it, as one file.
type mesh struct {
	t     testing.TB
	store *registry.Store
	conf  *model.Mesh
	last  *model.Snapshot
}

func newMesh(t testing.TB) *mesh {
	return &mesh{t: t, store: registry.NewStore(registry.Options{}), conf: model.MeshFrom(nil)}
}

// apply replaces the whole configuration.
func (m *mesh) apply(yaml string) (*model.Snapshot, []apis.Problem) {
	m.t.Helper()
	r := apis.Decode("mesh.yaml", []byte(yaml), apis.Options{})
	m.store.Put(registry.Input{Source: "test", Objects: r.Objects, Problems: r.Problems})
	var problems []apis.Problem
	m.last, problems = model.Build(m.store.Set(), m.conf, m.last)
	return m.last, problems
}

// build makes a Snapshot of accepted YAML.
func build(t testing.TB, yaml string) (*model.Snapshot, []apis.Problem) {
	t.Helper()
	m := newMesh(t)
	s, problems := m.apply(yaml)
	for _, p := range m.store.Set().Problems {
		if p.Refuses() {
			t.Fatal(p)
		}
	}
	return s, problems
}

// service is a Kubernetes Service with one HTTP port.
func service(name, namespace string) string {
	return "apiVersion: v1\nkind: Service\nmetadata: {name: " + name + ", namespace: " + namespace + "}\nspec: {selector: {app: " + name + "}, ports: [{name: http, port: 80}]}\n---\n"
}

func object(kind, namespace, name, spec string) string {
	version := "networking.istio.io/v1"
	if kind == "PeerAuthentication" {
		version = "security.istio.io/v1"
	}
	return "apiVersion: " + version + "\nkind: " + kind + "\nmetadata: {name: " + name + ", namespace: " + namespace + "}\nspec: " + spec + "\n---\n"
}

func names(rules []*model.Rules) []string {
	var out []string
	for _, r := range rules {
		out = append(out, r.Origin.Key.Namespace+"/"+r.Origin.Key.Name)
	}
	return out
}

func hosts(services []*registry.Service) []string {
	var out []string
	for _, s := range services {
		out = append(out, s.Namespace+"/"+s.Hostname)
	}
	return out
}

func wantProblem(t *testing.T, problems []apis.Problem, code, key, path string) apis.Problem {
	t.Helper()
	for _, p := range problems {
		if p.Code == code && p.Key.String() == key && p.Path == path {
			if !p.Position.Known() || p.Message == "" || p.Effect == "" {
				t.Errorf("problem is incomplete: %+v", p)
			}
			return p
		}
	}
	t.Errorf("no %s at %s %s in %v", code, key, path, problems)
	return apis.Problem{}
}

func istioData(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("TULLE_ISTIO_DATA")
	if dir == "" {
		dir = "../../../../shared/data/istio"
	}
	if _, err := os.Stat(dir); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("Istio's data: %v", err)
		}
		t.Skipf("Istio's data: %v", err)
	}
	return dir
}

// deployed stands for the Pods that a platform would run for bookinfo's Deployments.
func deployed() string {
	var b strings.Builder
	for i, w := range []string{"productpage-v1", "details-v1", "reviews-v1", "reviews-v2", "reviews-v3", "ratings-v1", "ratings-v2"} {
		b.WriteString(object("WorkloadEntry", "default", w, "{address: 10.0.0."+string(rune('1'+i))+"}"))
	}
	return b.String()
}

func TestBookinfo(t *testing.T) {
	dir := filepath.Join(istioData(t), "samples", "bookinfo")
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data) + "\n---\n"
	}
	base := deployed() + read("platform/kube/bookinfo.yaml") + read("networking/destination-rule-all.yaml") + read("networking/bookinfo-gateway.yaml")
	s, problems := build(t, base+read("networking/virtual-service-reviews-test-v2.yaml"))
	for _, p := range problems {
		// The file defines subsets of services that nothing runs here.
		t.Errorf("unexpected problem: %v", p)
	}
	reviews := s.Service("reviews.default.svc.cluster.local", "default")
	eps := s.Endpoints(reviews, 9080)
	if len(eps) != 3 || eps[0].TargetPort != 9080 || eps[0].Account != "bookinfo-reviews" || eps[0].Labels["version"] != "v1" {
		t.Fatalf("endpoints of reviews: %+v", eps)
	}
	rules := s.GatewayRules(model.MeshGateway, "default")
	if diff := cmp.Diff([]string{"default/reviews"}, names(rules)); diff != "" {
		t.Fatal(diff)
	}
	r := rules[0]
	if r.Hosts[0] != "reviews.default.svc.cluster.local" || len(r.HTTP) != 2 {
		t.Fatalf("rules of reviews: %+v", r)
	}
	if h := r.HTTP[0].Matches[0].Headers; len(h) != 1 || h[0].Name != "end-user" || !h[0].Value.Compiled.MatchString("jason") {
		t.Errorf("header condition: %+v", h)
	}
	if d := r.HTTP[0].Destinations[0]; d.Subset != "v2" || s.Position(d.Origin).Line == 0 {
		t.Errorf("destination: %+v at %v", d, s.Position(d.Origin))
	}
	dr := s.DestinationRule(reviews.Hostname, "default", nil)
	if dr == nil || len(dr.Subsets) != 3 {
		t.Fatalf("destination rule: %+v", dr)
	}
	gateways := s.Gateways(map[string]string{"istio": "ingressgateway"}, nil)
	if len(gateways) != 1 || gateways[0].Servers[0].Port != 8080 {
		t.Fatalf("gateways: %+v", gateways)
	}
	if diff := cmp.Diff([]string{"default/bookinfo"}, names(s.GatewayRules("default/bookinfo-gateway", "istio-system"))); diff != "" {
		t.Error(diff)
	}
	w := s.Workload("default", "reviews-v2")
	inst := s.Instances(w)
	if len(inst) != 1 || inst[0].Service != reviews || inst[0].TargetPort != 9080 {
		t.Errorf("instances of reviews-v2: %+v", inst)
	}
	if got := s.WorkloadByAddr(w.Addresses[0]); got != w {
		t.Errorf("workload by address: %v", got)
	}
}

func TestShortNamesResolveInTheNamespaceOfTheObject(t *testing.T) {
	s, _ := build(t, service("a", "x")+service("b", "x")+object("VirtualService", "x", "vs",
		"{hosts: [A, b.x.svc.cluster.local, '*.example.com', 10.0.0.1], gateways: [g, ./h, other/i, old.ns.svc.cluster.local, mesh], http: [{route: [{destination: {host: b}}]}]}"))
	r := s.GatewayRules(model.MeshGateway, "x")[0]
	if diff := cmp.Diff([]string{"a.x.svc.cluster.local", "b.x.svc.cluster.local", "*.example.com", "10.0.0.1"}, r.Hosts); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"x/g", "x/h", "other/i", "ns/old", "mesh"}, r.Gateways); diff != "" {
		t.Error(diff)
	}
	if got := r.HTTP[0].Destinations[0].Host; got != "b.x.svc.cluster.local" {
		t.Error(got)
	}
}

func TestExportToDecidesWhoSeesRulesAndServices(t *testing.T) {
	s, _ := build(t, service("a", "x")+
		object("ServiceEntry", "x", "own", "{hosts: [own.example], exportTo: ['.'], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}")+
		object("ServiceEntry", "x", "to-y", "{hosts: [y.example], exportTo: [y], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}")+
		object("ServiceEntry", "x", "none", "{hosts: [none.example], exportTo: ['~'], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}")+
		object("VirtualService", "x", "b-public", "{hosts: [a], http: [{route: [{destination: {host: a}}]}]}")+
		object("VirtualService", "x", "a-private", "{hosts: [own.example], exportTo: ['.'], http: [{route: [{destination: {host: a}}]}]}")+
		object("VirtualService", "x", "for-y", "{hosts: [y.example], exportTo: [y], http: [{route: [{destination: {host: a}}]}]}"))
	for ns, want := range map[string][2][]string{
		"x": {{"x/own.example", "x/a.x.svc.cluster.local"}, {"x/a-private", "x/b-public"}},
		"y": {{"x/y.example", "x/a.x.svc.cluster.local"}, {"x/for-y", "x/b-public"}},
		"z": {{"x/a.x.svc.cluster.local"}, {"x/b-public"}},
	} {
		if diff := cmp.Diff(want[0], hosts(s.Scope(ns, nil).Egress[0].Services)); diff != "" {
			t.Errorf("services seen from %s (-want +got):\n%s", ns, diff)
		}
		if diff := cmp.Diff(want[1], names(s.GatewayRules(model.MeshGateway, ns))); diff != "" {
			t.Errorf("rules seen from %s (-want +got):\n%s", ns, diff)
		}
	}
}

func TestOneHostInSeveralNamespaces(t *testing.T) {
	entry := func(ns string) string {
		return object("ServiceEntry", ns, "e", "{hosts: [same.example], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}")
	}
	s, _ := build(t, entry("a")+entry("b")+service("x", "c"))
	for ns, want := range map[string]string{"a": "a", "b": "b", "c": "a"} {
		if got := s.Service("same.example", ns).Namespace; got != want {
			t.Errorf("from %s: %s", ns, got)
		}
		if got := slices.DeleteFunc(hosts(s.Scope(ns, nil).Egress[0].Services), func(h string) bool { return !strings.HasSuffix(h, "same.example") }); len(got) != 1 || got[0] != want+"/same.example" {
			t.Errorf("seen from %s: %v", ns, got)
		}
	}
}

func TestDelegatesAreMerged(t *testing.T) {
	s, problems := build(t, service("a", "x")+service("b", "y")+
		object("VirtualService", "x", "root", `{hosts: [a], http: [
  {name: r, match: [{uri: {prefix: /api}, headers: {h: {exact: v}}}], timeout: 3s, retries: {attempts: 0}, delegate: {name: sub, namespace: y}},
  {name: gone, delegate: {name: missing}},
  {name: hidden, delegate: {name: hidden, namespace: y}},
  {name: last, route: [{destination: {host: a}}]}]}`)+
		object("VirtualService", "y", "sub", `{http: [
  {name: s, match: [{uri: {prefix: /api/v1}}], route: [{destination: {host: b}}]},
  {name: clash, match: [{uri: {prefix: /api/v2}}, {uri: {exact: /else}}], route: [{destination: {host: b}}]},
  {timeout: 1s, route: [{destination: {host: b}}]}]}`)+
		object("VirtualService", "y", "hidden", "{exportTo: ['.'], http: [{route: [{destination: {host: b}}]}]}"))
	rules := s.GatewayRules(model.MeshGateway, "x")
	if len(rules) != 1 {
		t.Fatalf("rules %v", names(rules))
	}
	var got []string
	for _, r := range rules[0].HTTP {
		line := r.Name + " " + r.Origin.Key.Name + " " + r.Timeout.String() + " " + r.Destinations[0].Host
		if r.Retries != nil && r.Retries.Attempts == 0 {
			line += " no-retries"
		}
		for _, m := range r.Matches {
			line += " " + m.URI.Value
			for _, h := range m.Headers {
				line += " " + h.Name + "=" + h.Value.Value
			}
		}
		got = append(got, line)
	}
	want := []string{
		"r-s sub 3s b.y.svc.cluster.local no-retries /api/v1 h=v",
		"r sub 1s b.y.svc.cluster.local no-retries /api h=v",
		"last root 0s a.x.svc.cluster.local",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	wantProblem(t, problems, "IST0101", "VirtualService/x/root", "spec.http[1].delegate")
	wantProblem(t, problems, problem.CodeDelegate, "VirtualService/x/root", "spec.http[2].delegate")
	// One alternative of the second route leaves the root's conditions, so all of it goes, as in Istio.
	wantProblem(t, problems, problem.CodeDelegate, "VirtualService/y/sub", "spec.http[1]")
}

func TestDestinationRuleLookup(t *testing.T) {
	rule := func(ns, name, spec string) string { return object("DestinationRule", ns, name, spec) }
	const subset = "subsets: [{name: %, labels: {v: '1'}}]"
	sub := func(n string) string { return strings.Replace(subset, "%", n, 1) }
	yaml := service("a", "svc") + service("b", "svc") + service("c", "svc") +
		rule("client", "a-client", "{host: a.svc.svc.cluster.local, "+sub("client")+"}") +
		rule("svc", "a", "{host: a, "+sub("service")+", trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}, portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}]}}") +
		rule("svc", "a-2", "{host: a, subsets: [{name: more, labels: {v: '2'}}, {name: service, labels: {v: '3'}}]}") +
		rule("svc", "b", "{host: b, exportTo: ['.'], "+sub("private")+"}") +
		rule("istio-system", "all", "{host: '*.local', "+sub("root")+"}") +
		rule("client", "wild", "{host: '*.svc.svc.cluster.local', workloadSelector: {matchLabels: {app: x}}, "+sub("selected")+"}")
	s, problems := build(t, yaml)
	subsets := func(host, ns string, labels map[string]string) string {
		d := s.DestinationRule(host+".svc.svc.cluster.local", ns, labels)
		if d == nil {
			return ""
		}
		var out []string
		for _, x := range d.Subsets {
			out = append(out, x.Name)
		}
		return strings.Join(out, ",")
	}
	for _, c := range []struct {
		name, host, ns, want string
		labels               map[string]string
	}{
		{"the client's namespace is asked first", "a", "client", "client", nil},
		{"then the service's, rules of one host merged", "a", "other", "service,more", nil},
		{"a private rule is for its own namespace", "b", "svc", "private", nil},
		{"others fall back to the root namespace", "b", "other", "root", nil},
		{"a selector takes its workloads", "c", "client", "selected", map[string]string{"app": "x"}},
		{"and others have none, since the namespace's match ended the search", "c", "client", "", nil},
		{"the root namespace's own clients see the service's rule", "a", "istio-system", "service,more", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := subsets(c.host, c.ns, c.labels); got != c.want {
				t.Errorf("subsets %q, want %q", got, c.want)
			}
		})
	}
	d := s.DestinationRule("a.svc.svc.cluster.local", "other", nil)
	if d.Policy.Balancer != "ROUND_ROBIN" || d.Ports[80].Balancer != "RANDOM" || len(d.Parts) != 2 {
		t.Errorf("policy %+v ports %+v parts %v", d.Policy, d.Ports, d.Parts)
	}
	wantProblem(t, problems, problem.CodeSubsetTwice, "DestinationRule/svc/a-2", "spec.subsets[1].name")
}

func TestWhatOfDestinationRulesAppliesToNothingIsTold(t *testing.T) {
	_, problems := build(t, service("a", "x")+
		object("DestinationRule", "x", "a", "{host: a, subsets: [{name: v1, labels: {v: '1'}, trafficPolicy: {portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}, {port: {number: 8080}, loadBalancer: {simple: RANDOM}}]}}]}")+
		object("DestinationRule", "x", "b", "{host: a, trafficPolicy: {loadBalancer: {simple: RANDOM}}}")+
		object("DestinationRule", "x", "c", "{host: a, trafficPolicy: {portLevelSettings: [{port: {number: 81}, loadBalancer: {simple: RANDOM}}]}}"))
	wantProblem(t, problems, problem.CodeNotFound, "DestinationRule/x/a", "spec.subsets[0].trafficPolicy.portLevelSettings[1].port.number")
	wantProblem(t, problems, problem.CodePolicyTwice, "DestinationRule/x/c", "spec.trafficPolicy")
	wantProblem(t, problems, problem.CodeNotFound, "DestinationRule/x/c", "spec.trafficPolicy.portLevelSettings[0].port.number")
	if len(problems) != 3 {
		t.Errorf("%d problems: %v", len(problems), problems)
	}
}

func TestCredentialsThatGatewaysLookForInVainAreTold(t *testing.T) {
	const pod = "{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: edge, namespace: edge}, spec: {address: 10.0.0.9, labels: {istio: ingress}}}\n---\n"
	gateway := func(selector, mode, name string) string {
		return object("Gateway", "shop", "g", fmt.Sprintf("{selector: {istio: %s}, servers: [{port: {number: 443, name: https, protocol: HTTPS}, hosts: ['*'], tls: {mode: %s, credentialName: %s}}]}", selector, mode, name))
	}
	secret := func(namespace, name, data string) string {
		return fmt.Sprintf("{apiVersion: v1, kind: Secret, metadata: {name: %s, namespace: %s}, stringData: %s}\n---\n", name, namespace, data)
	}
	const pair, root = "{tls.crt: a, tls.key: b}", "{ca.crt: a}"
	for _, c := range []struct{ name, objects, message, hint string }{
		{"none", gateway("ingress", "SIMPLE", "c"), `namespace edge has no Secret "c" with a certificate and its key`, "add a Secret of this name, of type kubernetes.io/tls, to namespace edge"},
		{"there", gateway("ingress", "SIMPLE", "c") + secret("edge", "c", pair), "", ""},
		{"beside the Gateway", gateway("ingress", "SIMPLE", "c") + secret("shop", "c", pair), `namespace edge has no Secret "c" with a certificate and its key`,
			"the Secret in namespace shop is not read: move it to namespace edge, where the gateway runs"},
		{"without a key", gateway("ingress", "SIMPLE", "c") + secret("edge", "c", "{tls.crt: a}"), `namespace edge has no Secret "c" with a certificate and its key`, "add a Secret of this name, of type kubernetes.io/tls, to namespace edge"},
		{"without a CA", gateway("ingress", "OPTIONAL_MUTUAL", "c") + secret("edge", "c", pair), `namespace edge has no Secret "c-cacert" with a CA that verifies clients`, "add a Secret of this name, of type kubernetes.io/tls, to namespace edge"},
		{"with a CA of its own", gateway("ingress", "MUTUAL", "c") + secret("edge", "c", pair) + secret("edge", "c-cacert", root), "", ""},
		{"with a CA in it", gateway("ingress", "MUTUAL", "c") + secret("edge", "c", "{tls.crt: a, tls.key: b, ca.crt: c}"), "", ""},
		{"of a gateway that runs nowhere", gateway("egress", "SIMPLE", "c"), "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, problems := build(t, pod+c.objects)
			var message, hint string
			for _, p := range problems {
				if p.Key.Kind == "Gateway" {
					message, hint = message+p.Message, hint+p.Hint
				}
			}
			if message != c.message || hint != c.hint {
				t.Errorf("said %q, hint %q", message, hint)
			}
		})
	}
}

func TestCredentialsThatComeAndGoAreLookedForAgain(t *testing.T) {
	const pod = "{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: edge, namespace: edge}, spec: {address: 10.0.0.9, labels: {istio: ingress}}}\n---\n"
	const secret = "{apiVersion: v1, kind: Secret, metadata: {name: c, namespace: edge}, stringData: {tls.crt: a, tls.key: b}}\n---\n"
	gateway := object("Gateway", "shop", "g", "{selector: {istio: ingress}, servers: [{port: {number: 443, name: https, protocol: HTTPS}, hosts: ['*'], tls: {mode: SIMPLE, credentialName: c}}]}")
	m := newMesh(t)
	for _, step := range []struct {
		name, objects string
		missing       bool
	}{
		{"the workload comes last", gateway, false},
		{"no Secret", gateway + pod, true},
		{"a Secret", gateway + pod + secret, false},
		{"the Secret has gone", gateway + pod, true},
		{"the workload has gone", gateway, false},
	} {
		_, problems := m.apply(step.objects)
		missing := slices.ContainsFunc(problems, func(p apis.Problem) bool { return strings.Contains(p.Message, "has no Secret") })
		if missing != step.missing {
			t.Errorf("%s: told as missing: %t", step.name, missing)
		}
	}
}

func TestPeerAuthPrecedence(t *testing.T) {
	s, problems := build(t, object("PeerAuthentication", "istio-system", "mesh", "{mtls: {mode: STRICT}}")+
		object("PeerAuthentication", "a", "ns", "{mtls: {mode: UNSET}}")+
		object("PeerAuthentication", "b", "ns", "{mtls: {mode: DISABLE}}")+
		object("PeerAuthentication", "b", "ns-2", "{mtls: {mode: STRICT}}")+
		object("PeerAuthentication", "b", "w", "{selector: {matchLabels: {app: x}}, mtls: {mode: UNSET}, portLevelMtls: {80: {mode: PERMISSIVE}, 81: {mode: UNSET}}}")+
		object("PeerAuthentication", "istio-system", "sel", "{selector: {matchLabels: {app: x}}, mtls: {mode: DISABLE}}"))
	x := map[string]string{"app": "x"}
	for _, c := range []struct {
		name, ns string
		labels   map[string]string
		mode     model.MTLSMode
		origin   string
		ports    map[int]model.MTLSMode
	}{
		{"unknown namespace: the mesh's", "other", nil, model.MTLSStrict, "mesh", nil},
		{"unset inherits", "a", x, model.MTLSStrict, "mesh", nil},
		{"the namespace's, the first of two", "b", nil, model.MTLSDisable, "ns", nil},
		{"the workload's inherits, its ports hold", "b", x, model.MTLSDisable, "ns", map[int]model.MTLSMode{80: model.MTLSPermissive, 81: model.MTLSDisable}},
		{"selectors of the root namespace select nothing", "istio-system", x, model.MTLSStrict, "mesh", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := s.PeerAuth(c.ns, c.labels)
			if p.Mode != c.mode || p.Origin.Key.Name != c.origin || p.Deny {
				t.Errorf("%+v", p)
			}
			if diff := cmp.Diff(c.ports, p.Ports); diff != "" {
				t.Error(diff)
			}
		})
	}
	wantProblem(t, problems, problem.CodePeerHidden, "PeerAuthentication/b/ns-2", "spec")
	wantProblem(t, problems, problem.CodePeerHidden, "PeerAuthentication/istio-system/sel", "spec.selector")
}

func TestRefusedSecurityObjectDeniesWhatItSelects(t *testing.T) {
	m := newMesh(t)
	s, _ := m.apply(service("a", "x") + object("PeerAuthentication", "x", "p", "{selector: {matchLabels: {app: a}}, mtls: {mode: STRONG}}"))
	if p := s.PeerAuth("x", map[string]string{"app": "a"}); !p.Deny || p.DenyOrigin.Key.Name != "p" {
		t.Errorf("selected: %+v", p)
	}
	if p := s.PeerAuth("x", map[string]string{"app": "b"}); p.Deny {
		t.Errorf("not selected: %+v", p)
	}
	if p := s.PeerAuth("y", nil); p.Deny {
		t.Errorf("another namespace: %+v", p)
	}
	if s, _ = m.apply(service("a", "x")); s.PeerAuth("x", map[string]string{"app": "a"}).Deny {
		t.Error("denied after the object is gone")
	}
}
