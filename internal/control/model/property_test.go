package model_test

import (
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/match"
)

// A world is a set of YAML objects by name, from a small vocabulary, so that
// conflicts, delegates, selections and dangling references happen often.
type world struct {
	objects map[string]string
	decoded map[string]apis.Result
}

// newWorld has the namespaces, so that all clients are known.
func newWorld() *world {
	w := &world{objects: map[string]string{}, decoded: map[string]apis.Result{}}
	for _, ns := range namespaces {
		w.objects["Namespace/"+ns] = "apiVersion: v1\nkind: Namespace\nmetadata: {name: " + ns + "}"
	}
	return w
}

var (
	decoder    = apis.NewDecoder() // its tables cost more than these objects
	namespaces = []string{"default", "shop", "istio-system"}
	hostNames  = []string{"a", "b", "c", "a.shop.svc.cluster.local", "ext.example", "*.example", "api.other.example"}
)

// edit adds, replaces or removes an object.
func (w *world) edit(t *rapid.T) {
	names := make([]string, 0, len(w.objects))
	for n := range w.objects {
		if !strings.HasPrefix(n, "Namespace/") {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	if len(names) > 0 && rapid.IntRange(0, 4).Draw(t, "remove") == 0 {
		delete(w.objects, rapid.SampledFrom(names).Draw(t, "object"))
		return
	}
	ns := rapid.SampledFrom(namespaces).Draw(t, "namespace")
	name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "name")
	kinds := []string{"Service", "WorkloadEntry", "ServiceEntry", "VirtualService", "DestinationRule", "Gateway", "Sidecar", "PeerAuthentication", "EndpointSlice", "Deployment", "Secret", "Broken"}
	kind := rapid.SampledFrom(kinds).Draw(t, "kind")
	g := &generator{t: t}
	spec := g.spec(kind, ns)
	created := fmt.Sprintf("2024-01-0%dT00:00:00Z", rapid.IntRange(1, 2).Draw(t, "created"))
	if kind == "Broken" {
		kind = "PeerAuthentication"
	}
	w.objects[kind+"/"+ns+"/"+name] = strings.NewReplacer("NAME", name, "NS", ns, "CREATED", created).Replace(spec)
}

type generator struct{ t *rapid.T }

func (g *generator) pick(label string, from ...string) string {
	return rapid.SampledFrom(from).Draw(g.t, label)
}

func (g *generator) exportTo() string {
	return g.pick("exportTo", "", "exportTo: ['.'], ", "exportTo: ['*'], ", "exportTo: [shop], ")
}

func (g *generator) host() string { return "'" + rapid.SampledFrom(hostNames).Draw(g.t, "host") + "'" }

func (g *generator) address() string {
	return "10.0.0." + strconv.Itoa(rapid.IntRange(1, 4).Draw(g.t, "address"))
}

const meta = "metadata: {name: NAME, namespace: NS, creationTimestamp: CREATED"

func (g *generator) spec(kind, _ string) string {
	istio := "apiVersion: networking.istio.io/v1\nkind: " + kind + "\n" + meta
	switch kind {
	case "Service":
		return "apiVersion: v1\nkind: Service\n" + meta + "}\nspec: {" + g.pick("vip", "", "clusterIP: 10.9.9.9, ", "clusterIP: None, ", "type: ExternalName, externalName: a.shop.svc.cluster.local, ") +
			"selector: {app: " + g.pick("app", "x", "y") + "}, ports: [{name: http, port: " + g.pick("port", "80", "81") + ", targetPort: " + g.pick("target", "web", "8080") + "}]}"
	case "WorkloadEntry":
		return istio + ", labels: {app: " + g.pick("app", "x", "y") + "}}\nspec: {address: " + g.address() + ", " + g.pick("account", "", "serviceAccount: s, ") + "weight: " + g.pick("weight", "1", "2") + "}"
	case "ServiceEntry":
		return istio + "}\nspec: {hosts: [" + g.pick("se", "ext.example", "'*.example'", "a.shop.svc.cluster.local", "api.other.example") + "], " + g.exportTo() +
			"ports: [{number: " + g.pick("port", "80", "443") + ", name: http, protocol: HTTP}], " +
			g.pick("ends", "resolution: NONE", "resolution: STATIC, endpoints: [{address: 10.1.1.1}]", "resolution: STATIC, workloadSelector: {labels: {app: x}}") + "}"
	case "VirtualService":
		dest := "{destination: {host: " + g.host() + g.pick("subset", "", ", subset: v1") + "}}"
		action := g.pick("action", "route: ["+dest+"]", "route: ["+dest+"], timeout: 2s", "delegate: {name: "+g.pick("to", "a", "b")+"}", "match: [{uri: {prefix: /x}}], route: ["+dest+"]",
			"match: [{sourceNamespace: shop, uri: {prefix: /x/y}}], route: ["+dest+"]")
		hosts := "hosts: [" + g.host() + "], "
		if !strings.Contains(action, "delegate") && rapid.Bool().Draw(g.t, "is delegate") {
			hosts = ""
		} else {
			hosts += g.pick("gateways", "", "gateways: [a], ", "gateways: [mesh, shop/a], ")
		}
		return istio + "}\nspec: {" + hosts + g.exportTo() + "http: [{" + action + "}]}"
	case "DestinationRule":
		return istio + "}\nspec: {host: " + g.host() + ", " + g.exportTo() + g.pick("selector", "", "workloadSelector: {matchLabels: {app: x}}, ") +
			g.pick("policy", "", "trafficPolicy: {loadBalancer: {simple: RANDOM}}, ") + "subsets: [{name: " + g.pick("subset", "v1", "v2") + ", labels: {v: '1'}}]}"
	case "Gateway":
		return istio + "}\nspec: {selector: " + g.pick("gateway", "{istio: gw}", "{app: x}") + ", servers: [{" +
			g.pick("server", "port: {number: 80, name: http, protocol: HTTP}", "port: {number: 443, name: https, protocol: HTTPS}, tls: {mode: SIMPLE, credentialName: a}") + ", hosts: [" + g.host() + "]}]}"
	case "Secret":
		return "apiVersion: v1\nkind: Secret\n" + meta + "}\nstringData: {tls.crt: c" + g.pick("key", "", ", tls.key: k") + "}"
	case "Sidecar":
		return istio + "}\nspec: {" + g.pick("selector", "", "workloadSelector: {labels: {app: x}}, ") + "egress: [{" + g.pick("port", "", "port: {number: 80, name: http, protocol: HTTP}, ") +
			"hosts: [" + g.pick("egress", "'./*'", "'*/*'", "shop/*", "'*/ext.example'") + "]}]}"
	case "PeerAuthentication":
		return "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n" + meta + "}\nspec: {" + g.pick("selector", "", "selector: {matchLabels: {app: x}}, ") + "mtls: {mode: " + g.pick("mode", "STRICT", "UNSET", "DISABLE") + "}}"
	case "Broken":
		return "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n" + meta + "}\nspec: {mtls: {mode: NONSENSE}}"
	case "EndpointSlice":
		return "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n" + meta + ", labels: {kubernetes.io/service-name: " + g.pick("of", "a", "b") + "}}\naddressType: IPv4\nports: [{name: http, port: 8080}]\nendpoints: [{addresses: [" + g.address() + "]}]"
	}
	return "apiVersion: apps/v1\nkind: Deployment\n" + meta + "}\nspec: {selector: {matchLabels: {app: x}}, template: {metadata: {labels: {app: " + g.pick("app", "x", "y") +
		", v: '1'}}, spec: {serviceAccountName: d, containers: [{name: c, image: i, ports: [{name: web, containerPort: " + g.pick("web", "8080", "9090") + "}]}]}}}"
}

// decode gives the world's objects in an order, each from a file of its own.
func (w *world) decode(order []string) registry.Input {
	in := registry.Input{Source: "world"}
	for _, name := range order {
		text := w.objects[name]
		r, ok := w.decoded[name+text]
		if !ok {
			r = decoder.Decode(name+".yaml", []byte(text), apis.Options{})
			w.decoded[name+text] = r
		}
		in.Objects = append(in.Objects, r.Objects...)
		in.Problems = append(in.Problems, r.Problems...)
	}
	return in
}

func (w *world) names() []string {
	var out []string
	for n := range w.objects {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// view is everything that a Snapshot answers, by value.
type view struct {
	Services   []*registry.Service
	Workloads  []*registry.Workload
	Endpoints  map[string][]*registry.Endpoint
	Rules      map[string][]*model.Rules
	Bound      map[string][]*model.Rules
	Dest       map[string]*model.DestinationRule
	Gateways   []*model.Gateway
	Scopes     map[string]*model.SidecarScope
	Peers      map[string]*model.PeerAuth
	Instances  map[string][]model.Instance
	Denied     int
	Namespaces map[string]map[string]string
}

func viewOf(s *model.Snapshot) view {
	v := view{
		Services: s.Services(), Workloads: s.Workloads(), Endpoints: map[string][]*registry.Endpoint{}, Rules: map[string][]*model.Rules{},
		Bound: map[string][]*model.Rules{}, Dest: map[string]*model.DestinationRule{}, Scopes: map[string]*model.SidecarScope{}, Peers: map[string]*model.PeerAuth{},
		Instances: map[string][]model.Instance{}, Namespaces: s.Namespaces(), Gateways: s.Gateways(map[string]string{"istio": "gw"}, nil),
	}
	for _, svc := range s.Services() {
		for _, p := range svc.Ports {
			v.Endpoints[svc.Namespace+"/"+svc.Hostname+":"+strconv.Itoa(p.Number)] = s.Endpoints(svc, p.Number)
		}
	}
	for _, w := range s.Workloads() {
		v.Instances[w.Key.String()] = s.Instances(w)
	}
	for _, ns := range append([]string{"elsewhere"}, namespaces...) {
		v.Rules[ns] = s.GatewayRules(model.MeshGateway, ns)
		for _, g := range []string{"a", "b"} {
			v.Bound[ns+" "+g] = s.GatewayRules("shop/"+g, ns)
		}
		for _, labels := range []map[string]string{nil, {"app": "x"}} {
			id := ns + " " + labels["app"]
			v.Scopes[id] = s.Scope(ns, labels)
			v.Peers[id] = s.PeerAuth(ns, labels)
			for _, h := range []string{"a.shop.svc.cluster.local", "b.default.svc.cluster.local", "ext.example", "api.other.example"} {
				v.Dest[id+" "+h] = s.DestinationRule(h, ns, labels)
			}
		}
	}
	return v
}

// difference compares by value. Snapshots hold plain values, so unexported
// fields count too; compiled matchers are compared by what they print.
func difference(a, b any) string {
	if reflect.DeepEqual(a, b) {
		return ""
	}
	return cmp.Diff(a, b, cmpopts.EquateEmpty(),
		cmp.Exporter(func(t reflect.Type) bool { return strings.HasSuffix(t.PkgPath(), "/internal/control/model") }),
		cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
		cmp.Comparer(func(a, b match.String) bool { return a.String() == b.String() }))
}

func runs(t *testing.T) int {
	if s := os.Getenv("TULLE_MODEL_RUNS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return 1000
}

// checkRuns runs a property on as many random cases as asked for.
func checkRuns(t *testing.T, n int, property func(*rapid.T)) {
	t.Helper()
	for range (n + 99) / 100 { // rapid's own count is a flag of the whole run
		rapid.Check(t, property)
	}
}

func TestIncrementalBuildEqualsFullBuild(t *testing.T) {
	checkRuns(t, runs(t), func(t *rapid.T) {
		w := newWorld()
		store := registry.NewStore(registry.Options{})
		conf := model.MeshFrom(nil)
		var snapshot *model.Snapshot
		good := map[apis.Key]*apis.Object{} // what a Store that has seen everything still holds
		for range rapid.IntRange(1, 8).Draw(t, "rounds") {
			for range rapid.IntRange(1, 4).Draw(t, "edits") {
				w.edit(t)
			}
			in := w.decode(w.names())
			store.Put(in)
			prev := snapshot
			var problems []apis.Problem
			snapshot, problems = model.Build(store.Set(), conf, prev)

			full := registry.NewStore(registry.Options{})
			full.Put(withLastGood(in, good))
			full.Set()
			full.Put(in) // so that last good versions are what they were
			fresh, all := model.Build(full.Set(), conf, nil)
			if diff := difference(viewOf(fresh), viewOf(snapshot)); diff != "" {
				t.Fatalf("incremental build differs (-full +incremental):\n%s", diff)
			}
			if diff := cmp.Diff(texts(all), texts(problems)); diff != "" {
				t.Fatalf("problems differ (-full +incremental):\n%s", diff)
			}
			if diff := cmp.Diff(texts(full.Set().Problems), texts(store.Set().Problems)); diff != "" {
				t.Fatalf("problems of the sets differ (-full +incremental):\n%s", diff)
			}
			checkChanges(t, prev, snapshot)
		}
	})
}

// withLastGood is the input with the last good version of every refused
// object, and remembers the good ones.
func withLastGood(in registry.Input, good map[apis.Key]*apis.Object) registry.Input {
	out := registry.Input{Source: in.Source}
	present := map[apis.Key]bool{}
	for _, o := range in.Objects {
		present[o.Key] = true
		if !o.Refused() {
			good[o.Key] = o
		}
		if g := good[o.Key]; g != nil {
			out.Objects = append(out.Objects, g)
		}
	}
	for key := range good {
		if !present[key] {
			delete(good, key)
		}
	}
	return out
}

func texts(problems []apis.Problem) []string {
	var out []string
	for _, p := range problems {
		out = append(out, p.String()+" | "+p.Hint+" | "+p.Effect)
	}
	return out
}

// checkChanges: what Changed does not name is the same.
func checkChanges(t *rapid.T, prev, next *model.Snapshot) {
	c := next.Changed(prev)
	if prev == nil {
		if !c.All {
			t.Fatal("everything is new, and Changed does not say so")
		}
		return
	}
	for _, svc := range next.Services() {
		old := prev.Service(svc.Hostname, svc.Namespace)
		if old == nil || old.Namespace != svc.Namespace {
			continue
		}
		if _, named := c.Services[svc.ID()]; !named && old != svc {
			t.Fatalf("service %v changed its pointer and is not named", svc.ID())
		}
		for _, p := range svc.Ports {
			if _, named := c.Endpoints[svc.ID()]; !named && !slices.Equal(prev.Endpoints(old, p.Number), next.Endpoints(svc, p.Number)) {
				if _, edited := c.Services[svc.ID()]; !edited {
					t.Fatalf("endpoints of %v changed and are not named", svc.ID())
				}
			}
		}
	}
	for _, ns := range namespaces {
		checkRuleChanges(t, c, prev.GatewayRules(model.MeshGateway, ns), next.GatewayRules(model.MeshGateway, ns))
		if len(c.PeerNamespaces) == 0 && difference(prev.PeerAuth(ns, nil), next.PeerAuth(ns, nil)) != "" {
			t.Fatalf("peer authentication of %s changed and is not named", ns)
		}
		if len(c.Services)+len(c.RuleHosts)+len(c.ScopeNamespaces) == 0 && prev.Scope(ns, nil) != next.Scope(ns, nil) {
			t.Fatalf("scope of %s changed its pointer without reason", ns)
		}
	}
}

func checkRuleChanges(t *rapid.T, c model.Changes, old, fresh []*model.Rules) {
	for _, r := range slices.Concat(old, fresh) {
		if slices.Contains(old, r) && slices.Contains(fresh, r) {
			continue
		}
		for _, h := range r.Hosts {
			if _, named := c.RuleHosts[h]; !named {
				t.Fatalf("rules of host %s changed and are not named in %v", h, c.RuleHosts)
			}
		}
	}
}

func TestOrderOfInputDoesNotMatter(t *testing.T) {
	checkRuns(t, runs(t)/4, func(t *rapid.T) {
		w := newWorld()
		for range rapid.IntRange(1, 20).Draw(t, "edits") {
			w.edit(t)
		}
		names := w.names()
		build := func(order []string) view {
			store := registry.NewStore(registry.Options{})
			store.Put(w.decode(order))
			s, _ := model.Build(store.Set(), model.MeshFrom(nil), nil)
			return viewOf(s)
		}
		if diff := difference(build(names), build(rapid.Permutation(names).Draw(t, "order"))); diff != "" {
			t.Fatal(diff)
		}
	})
}
