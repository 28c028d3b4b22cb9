package registry_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/apis/problem"
	"github.com/tullemesh/tulle/internal/control/registry"
)

// input decodes YAML as one source's input.
func input(t testing.TB, source, yaml string) registry.Input {
	t.Helper()
	r := apis.Decode(source+".yaml", []byte(yaml), apis.Options{})
	return registry.Input{Source: source, Objects: r.Objects, Problems: r.Problems}
}

// accepted is input, and fails when anything is refused.
func accepted(t testing.TB, source, yaml string) registry.Input {
	t.Helper()
	in := input(t, source, yaml)
	for _, p := range in.Problems {
		if p.Refuses() {
			t.Fatal(p)
		}
	}
	return in
}

func setOf(t testing.TB, yaml string) *registry.Set {
	t.Helper()
	s := registry.NewStore(registry.Options{})
	s.Put(accepted(t, "test", yaml))
	return s.Set()
}

func serviceOf(t testing.TB, set *registry.Set, host string) *registry.Service {
	t.Helper()
	for _, s := range set.Services {
		if s.Hostname == host {
			return s
		}
	}
	t.Fatalf("no service %s", host)
	return nil
}

// places lists endpoints as "port=address:target", with marks.
func places(set *registry.Set, host string) []string {
	var out []string
	for _, e := range set.Endpoints {
		if e.Service != host {
			continue
		}
		at := e.Host + e.Pipe
		for _, a := range e.Addresses {
			at += a.String()
		}
		s := fmt.Sprintf("%d=%s:%d", e.Port, at, e.TargetPort)
		if !e.Ready {
			s += " not ready"
		}
		if e.Draining {
			s += " draining"
		}
		out = append(out, s)
	}
	return out
}

const shop = `
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop, annotations: {networking.istio.io/exportTo: "., other"}}
spec:
  selector: {app: cart}
  ports:
  - {name: http, port: 80, targetPort: web}
  - {name: admin, port: 81, appProtocol: grpc, targetPort: 9000}
---
apiVersion: v1
kind: Pod
metadata: {name: cart-1, namespace: shop, labels: {app: cart, version: v1, security.istio.io/tlsMode: istio, topology.kubernetes.io/region: eu}}
spec:
  serviceAccountName: cart
  containers: [{name: c, image: x, ports: [{name: web, containerPort: 8080}]}]
status: {podIP: 10.1.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: cart-2, namespace: shop, labels: {app: cart, version: v2}}
spec: {containers: [{name: c, image: x}]}
status: {podIP: 10.1.0.2, conditions: [{type: Ready, status: "False"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: cart-elsewhere, namespace: other, labels: {app: cart}}
spec: {containers: [{name: c, image: x}]}
status: {podIP: 10.1.0.3}
`

func TestServiceSelectsPodsOfItsNamespace(t *testing.T) {
	set := setOf(t, shop)
	const host = "cart.shop.svc.cluster.local"
	want := []string{"80=10.1.0.1:8080", "81=10.1.0.1:9000", "81=10.1.0.2:9000 not ready"}
	if diff := cmp.Diff(want, places(set, host)); diff != "" {
		t.Errorf("cart-2 lacks the named port, cart-elsewhere is of another namespace (-want +got):\n%s", diff)
	}
	s := serviceOf(t, set, host)
	if diff := cmp.Diff([]string{".", "other"}, s.ExportTo); diff != "" {
		t.Error(diff)
	}
	if s.Ports[1].Protocol != registry.GRPC || s.Ports[0].Protocol != registry.HTTP {
		t.Errorf("protocols are %v", s.Ports)
	}
	e := set.Endpoints[0]
	if e.TLSMode != "istio" || e.Account != "cart" || e.Locality.Region != "eu" || e.Workload != "cart-1" || e.WorkloadKey.Name != "cart-1" {
		t.Errorf("the endpoint lacks what its Pod says: %+v", e)
	}
	if len(set.Workloads) != 3 {
		t.Errorf("%d workloads", len(set.Workloads))
	}
}

func TestEndpointSlicesReplaceSelectedPods(t *testing.T) {
	set := setOf(t, shop+`
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: cart-a, namespace: shop, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.1.0.1], targetRef: {kind: Pod, name: cart-1}}
- {addresses: [10.1.0.9], conditions: {ready: false, serving: true, terminating: true}, zone: z1}
`)
	want := []string{"80=10.1.0.1:8080", "80=10.1.0.9:8080 not ready draining"}
	if diff := cmp.Diff(want, places(set, "cart.shop.svc.cluster.local")); diff != "" {
		t.Error(diff)
	}
	if e := set.Endpoints[0]; e.Labels["version"] != "v1" || e.Key.Kind != "EndpointSlice" {
		t.Errorf("the endpoint lacks its Pod's labels: %+v", e)
	}
	if e := set.Endpoints[1]; e.Locality.Zone != "z1" {
		t.Errorf("zone of the slice: %+v", e.Locality)
	}
}

func TestServiceEntryForms(t *testing.T) {
	set := setOf(t, `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: inline}
spec:
  hosts: [db.example]
  addresses: [10.9.0.0/24, 10.8.0.1]
  resolution: STATIC
  ports: [{number: 5432, name: tcp, protocol: TCP, targetPort: 6000}, {number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 10.0.0.1, ports: {tcp: 7000}, weight: 5, locality: eu/b/c, labels: {security.istio.io/tlsMode: istio}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: socket}
spec:
  hosts: [socket.example]
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: unix:///run/x.sock}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: named}
spec:
  hosts: [api.example, www.example]
  location: MESH_EXTERNAL
  resolution: DNS
  ports: [{number: 443, name: tls, protocol: TLS, targetPort: 8443}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wild}
spec:
  hosts: ["*.wild.example"]
  location: MESH_EXTERNAL
  ports: [{number: 80, name: http, protocol: HTTP}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: vms}
spec:
  hosts: [vms.example]
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  workloadSelector: {labels: {app: vm}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm-1, labels: {app: vm}}
spec: {address: 10.2.0.1, serviceAccount: vm, ports: {http: 8080}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm-dns}
spec: {address: vm.example, labels: {app: vm}}
`)
	for host, want := range map[string][]string{
		"db.example":     {"80=10.0.0.1:80", "5432=10.0.0.1:7000"},
		"socket.example": {"80=/run/x.sock:0"},
		"api.example":    {"443=api.example:8443"},
		"www.example":    {"443=www.example:8443"},
		"*.wild.example": nil,
		"vms.example":    {"80=10.2.0.1:8080"}, // A STATIC service can't use the DNS name of vm-dns.
	} {
		if diff := cmp.Diff(want, places(set, host)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", host, diff)
		}
	}
	db := serviceOf(t, set, "db.example")
	if want := []netip.Prefix{netip.MustParsePrefix("10.9.0.0/24"), netip.MustParsePrefix("10.8.0.1/32")}; !slices.Equal(db.Addresses, want) {
		t.Errorf("addresses %v", db.Addresses)
	}
	if db.AutoAddress.IsValid() || serviceOf(t, set, "*.wild.example").AutoAddress.IsValid() {
		t.Error("an address was allocated where there is one, or for a wildcard")
	}
	if a := serviceOf(t, set, "api.example").AutoAddress; !netip.MustParsePrefix("240.240.0.0/16").Contains(a) {
		t.Errorf("allocated address is %v", a)
	}
	for _, e := range set.Endpoints {
		if e.Service == "db.example" && (e.Weight != 5 || e.Locality != registry.Locality{Region: "eu", Zone: "b", SubZone: "c"} || e.TLSMode != "istio") {
			t.Errorf("inline endpoint: %+v", e)
		}
		if e.Service == "vms.example" && (e.TLSMode != "istio" || e.Account != "vm" || e.WorkloadKey.Name != "vm-1") {
			t.Errorf("WorkloadEntry's endpoint: %+v", e)
		}
	}
}

func TestWorkloadEntryTakesWhatItLacksFromTheDeploymentOfItsName(t *testing.T) {
	set := setOf(t, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: reviews-v1}
spec:
  selector: {matchLabels: {app: reviews}}
  template:
    metadata: {labels: {app: reviews, version: v1}}
    spec:
      serviceAccountName: bookinfo-reviews
      containers: [{name: r, image: x, ports: [{name: web, containerPort: 9080}]}]
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: reviews-v1, labels: {version: canary}}
spec: {address: 127.0.0.1}
---
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {selector: {app: reviews}, ports: [{name: http, port: 80, targetPort: web}]}
`)
	if diff := cmp.Diff([]string{"80=127.0.0.1:9080"}, places(set, "reviews.default.svc.cluster.local")); diff != "" {
		t.Error(diff)
	}
	if e := set.Endpoints[0]; e.Labels["version"] != "canary" || e.Account != "bookinfo-reviews" || e.TLSMode != "istio" {
		t.Errorf("%+v", e)
	}
}

func TestHostConflicts(t *testing.T) {
	const kube = `
apiVersion: v1
kind: Service
metadata: {name: a, creationTimestamp: "2024-01-01T00:00:00Z"}
spec: {ports: [{name: http, port: 80}]}
---
`
	entry := func(name, created, host, ports, address string) string {
		return fmt.Sprintf(`
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: %s, creationTimestamp: %q}
spec: {hosts: [%s], resolution: STATIC, ports: [%s], endpoints: [{address: %s}]}
---
`, name, created, host, ports, address)
	}
	const http = "{number: 80, name: http, protocol: HTTP}"
	for _, c := range []struct {
		name, yaml, host string
		ports            []int
		owner            string
		endpoints        []string
		loser            string
	}{
		{"kubernetes wins over an older entry, whose endpoints join", kube + entry("e", "2020-01-01T00:00:00Z", "a.default.svc.cluster.local", http, "1.1.1.1"),
			"a.default.svc.cluster.local", []int{80}, "a", []string{"80=1.1.1.1:80"}, "ServiceEntry/default/e"},
		{"the oldest entry wins a port", entry("b", "2021-01-01T00:00:00Z", "x.example", "{number: 80, name: tcp, protocol: TCP}", "1.1.1.1") +
			entry("a", "2022-01-01T00:00:00Z", "x.example", http, "2.2.2.2"),
			"x.example", []int{80}, "b", []string{"80=1.1.1.1:80"}, "ServiceEntry/default/a"},
		{"equal age: the first name wins", entry("b", "2021-01-01T00:00:00Z", "x.example", "{number: 80, name: tcp, protocol: TCP}", "1.1.1.1") +
			entry("a", "2021-01-01T00:00:00Z", "x.example", http, "2.2.2.2"),
			"x.example", []int{80}, "a", []string{"80=2.2.2.2:80"}, "ServiceEntry/default/b"},
		{"entries with other ports join", entry("a", "2021-01-01T00:00:00Z", "x.example", http, "1.1.1.1") +
			entry("b", "2022-01-01T00:00:00Z", "x.example", "{number: 443, name: tls, protocol: TLS}", "2.2.2.2"),
			"x.example", []int{80, 443}, "a", []string{"80=1.1.1.1:80", "443=2.2.2.2:443"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			set := setOf(t, c.yaml)
			s := serviceOf(t, set, c.host)
			var ports []int
			for _, p := range s.Ports {
				ports = append(ports, p.Number)
			}
			if !slices.Equal(ports, c.ports) || s.Key.Name != c.owner {
				t.Errorf("ports %v of %s", ports, s.Key)
			}
			if diff := cmp.Diff(c.endpoints, places(set, c.host)); diff != "" {
				t.Error(diff)
			}
			var told []string
			for _, p := range set.Problems {
				told = append(told, p.Key.String())
				if p.Code != problem.CodeHostTaken || !p.Position.Known() || p.Effect == "" {
					t.Errorf("problem is incomplete: %+v", p)
				}
			}
			if strings.Join(told, " ") != c.loser {
				t.Errorf("told: %v, want %q", told, c.loser)
			}
		})
	}
}

func TestExternalNameIsAnAlias(t *testing.T) {
	set := setOf(t, `
apiVersion: v1
kind: Service
metadata: {name: real}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: one}
spec: {type: ExternalName, externalName: real.default.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: two}
spec: {type: ExternalName, externalName: one.default.svc.cluster.local.}
---
apiVersion: v1
kind: Service
metadata: {name: round}
spec: {type: ExternalName, externalName: round.default.svc.cluster.local}
`)
	want := []string{"one.default.svc.cluster.local", "two.default.svc.cluster.local"}
	if got := serviceOf(t, set, "real.default.svc.cluster.local").Aliases; !slices.Equal(got, want) {
		t.Errorf("aliases %v", got)
	}
	if s := serviceOf(t, set, "round.default.svc.cluster.local"); s.Resolution != registry.Alias || s.Aliases != nil {
		t.Errorf("%+v", s)
	}
}

func TestRefusedVersionKeepsTheLastGoodOne(t *testing.T) {
	const good = `
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm}
spec: {address: 10.0.0.1}
`
	const bad = `
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm}
spec: {adr: 10.0.0.2}
`
	s := registry.NewStore(registry.Options{})
	s.Put(input(t, "a", good))
	first := s.Set()
	s.Put(input(t, "a", bad))
	second := s.Set()
	if len(second.Workloads) != 1 || second.Workloads[0] != first.Workloads[0] {
		t.Errorf("workloads after a bad edit: %v", second.Workloads)
	}
	if len(second.Problems) == 0 || !strings.Contains(second.Problems[0].Effect, "last good version") {
		t.Errorf("problems: %v", second.Problems)
	}
	s.Put(input(t, "a", "kind: [broken\n---\n"+bad))
	if got := s.Set().Workloads; len(got) != 1 {
		t.Errorf("workloads after another bad edit: %v", got)
	}
	s.Put(registry.Input{Source: "a"})
	if got := s.Set(); len(got.Workloads) != 0 || len(got.Objects) != 0 {
		t.Errorf("a deleted object stays: %v", got.Objects)
	}
	s.Put(input(t, "a", bad))
	if got := s.Set().Workloads; len(got) != 0 {
		t.Errorf("the last good version came back after deletion: %v", got)
	}
}

func TestRefusedSecurityObjectDenies(t *testing.T) {
	policy := func(mode string) string {
		return "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p, namespace: shop}\nspec: {mtls: {mode: " + mode + "}}\n"
	}
	s := registry.NewStore(registry.Options{})
	s.Put(input(t, "a", policy("STRONG")))
	if got := s.Set().Denied; len(got) != 1 || got[0].Key.Name != "p" {
		t.Fatalf("denied: %v", got)
	}
	s.Put(input(t, "a", policy("STRICT")))
	if got := s.Set(); len(got.Denied) != 0 || len(got.Objects) != 1 {
		t.Fatalf("denied: %v", got.Denied)
	}
	s.Put(input(t, "a", policy("STRONG")))
	if got := s.Set(); len(got.Denied) != 0 || len(got.Objects) != 1 {
		t.Fatalf("the last good version is gone: %v", got.Denied)
	}
}

func TestObjectInTwoSources(t *testing.T) {
	entry := func(address string) string {
		return "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: vm}\nspec: {address: " + address + "}\n"
	}
	for _, order := range [][]string{{"a", "b"}, {"b", "a"}} {
		s := registry.NewStore(registry.Options{})
		for _, source := range order {
			s.Put(input(t, source, entry(map[string]string{"a": "10.0.0.1", "b": "10.0.0.2"}[source])))
		}
		set := s.Set()
		if got := set.Workloads[0].Addresses[0].String(); got != "10.0.0.1" {
			t.Errorf("order %v: %s won", order, got)
		}
		if len(set.Problems) != 1 || set.Problems[0].Code != problem.CodeDefinedTwice || set.Problems[0].Position.File != "b.yaml" {
			t.Errorf("order %v: %v", order, set.Problems)
		}
		s.Put(input(t, "a", strings.Replace(entry("10.0.0.3"), "address", "adr", 1)))
		if got := s.Set().Workloads[0].Addresses[0].String(); got != "10.0.0.2" {
			t.Errorf("order %v: a refused object hides a good one: %s", order, got)
		}
	}
}

func TestUnchangedPartsKeepTheirPointers(t *testing.T) {
	s := registry.NewStore(registry.Options{})
	s.Put(accepted(t, "a", shop))
	first := s.Set()
	if s.Set() != first {
		t.Error("a new Set without a Put")
	}
	s.Put(accepted(t, "a", "# only a comment\n"+shop))
	second := s.Set()
	same := func(what string, a, b int) {
		if a != b {
			t.Errorf("%s: %d of %d shared", what, b, a)
		}
	}
	same("services", len(first.Services), shared(first.Services, second.Services))
	same("endpoints", len(first.Endpoints), shared(first.Endpoints, second.Endpoints))
	same("workloads", len(first.Workloads), shared(first.Workloads, second.Workloads))
	if second.Objects[0].Position("").Line != first.Objects[0].Position("").Line+1 {
		t.Error("positions did not follow the comment")
	}
	s.Put(accepted(t, "a", strings.Replace(shop, "10.1.0.2", "10.1.0.77", 1)))
	third := s.Set()
	same("services", len(first.Services), shared(first.Services, third.Services))
	same("endpoints but one", len(first.Endpoints)-1, shared(first.Endpoints, third.Endpoints))
	same("workloads but one", len(first.Workloads)-1, shared(first.Workloads, third.Workloads))
}

func shared[T comparable](a, b []T) int {
	n := 0
	for _, x := range a {
		if slices.Contains(b, x) {
			n++
		}
	}
	return n
}

func TestChangedGivesOneTokenForManyPuts(t *testing.T) {
	s := registry.NewStore(registry.Options{})
	for range 3 {
		s.Put(registry.Input{Source: "a"})
	}
	<-s.Changed()
	select {
	case <-s.Changed():
		t.Error("a second token")
	default:
	}
}
