package draw

import (
	"fmt"
	"strings"
)

// A Mesh says what the objects lead to and whom they are for.
type Mesh struct {
	// Places are the ports of the stand-ins on 127.0.0.1, by Names.
	Places map[string]int
	// Gateways are the ports of gateways by their "app" label.
	Gateways map[string]int
	// Sidecars draws rules for the mesh, scopes and TCP routes.
	Sidecars bool
	// Split draws weights between versions; without, one version has all of
	// the weight, so that answers can be compared one by one.
	Split bool
	// AllowAny passes on what no service claims; without, it is refused.
	AllowAny bool
}

// Domain is the suffix of all services' names.
const Domain = ".svc.cluster.local"

// ClientLabels are those of the sidecars' workload, in namespace "demo".
func ClientLabels() map[string]string { return map[string]string{"app": "client", "tier": "front"} }

// Whole are the services whose versions are one stand-in, because they are
// called without a subset: load balancing can't make answers differ.
func whole(s string) bool { return s == "gamma.demo" || s == "omega.demo" }

// Missing reports whether a cluster that rules name does not exist.
func Missing(cluster string) bool {
	return strings.Contains(cluster, "|v9|") || strings.Contains(cluster, "|nowhere.")
}

// services are what generated rules route to: HTTP at port 80, and bytes at 81.
func services() []string { return []string{"alpha.demo", "beta.demo", "gamma.demo", "delta.other"} }

// Names of the stand-ins that a mesh needs: one for each version of a service,
// and one for the sniffed port 82 of omega.
func Names() []string {
	var out []string
	for _, s := range services() {
		out = append(out, s+"/v1")
		if !whole(s) {
			out = append(out, s+"/v2")
		}
	}
	return append(out, "omega.demo/v1")
}

// Objects draws the objects of a mesh: multi-document YAML.
func (s Source) Objects(m Mesh) string {
	var b strings.Builder
	for _, name := range services() {
		s.service(&b, m, name)
	}
	fmt.Fprintf(&b, `apiVersion: v1
kind: Service
metadata: {name: omega, namespace: demo}
spec: {clusterIP: 10.9.9.9, selector: {app: omega}, ports: [{port: 82, targetPort: %d}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: omega-1, namespace: demo}
spec: {address: 127.0.0.1, labels: {app: omega}}
---
`, m.Places["omega.demo/v1"])
	for name, port := range m.Gateways {
		fmt.Fprintf(&b, `apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: %[1]s, namespace: demo}
spec:
  selector: {app: %[1]s}
  servers: [{port: {number: %[2]d, name: http, protocol: HTTP}, hosts: ["*"]}]
---
`, name, port)
	}
	if len(m.Gateways) > 0 {
		s.gatewayRules(&b, m)
	}
	if m.Sidecars {
		s.meshRules(&b, m)
		s.tcpRules(&b, m)
		s.scope(&b, m)
	}
	return b.String()
}

func (s Source) service(b *strings.Builder, m Mesh, name string) {
	short, ns, _ := strings.Cut(name, ".")
	second := m.Places[name+"/v2"]
	if whole(name) {
		second = m.Places[name+"/v1"]
	}
	fmt.Fprintf(b, `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: %[1]s, namespace: %[2]s}
spec:
  hosts: [%[3]s%[4]s]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 81, name: tcp, protocol: TCP}]
  endpoints:
  - {address: 127.0.0.1, ports: {http: %[5]d, tcp: %[5]d}, labels: {version: v1}}
  - {address: 127.0.0.1, ports: {http: %[6]d, tcp: %[6]d}, labels: {version: v2}}
---
`, short, ns, name, Domain, m.Places[name+"/v1"], second)
	// Subsets stand beside the service, or where the client is: then the
	// client's own are the nearer ones.
	at := ns
	if m.Sidecars && s.maybe() {
		at = "demo"
	}
	fmt.Fprintf(b, `apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: %[1]s-subsets, namespace: %[2]s}
spec:
  host: %[3]s%[4]s
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
`, short, at, name, Domain)
}

func (s Source) gatewayRules(b *strings.Builder, m Mesh) {
	var names []string
	for name := range m.Gateways {
		names = append(names, name)
	}
	for i, hosts := range []string{"[shop.example]", `["*.example"]`, `["*"]`} {
		if i > 0 && !s.maybe() {
			continue
		}
		fmt.Fprintf(b, "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: vs-%d, namespace: demo}\nspec:\n  hosts: %s\n  gateways: [%s]\n  http:\n", i, hosts, strings.Join(names, ", "))
		for r := range 1 + s.IntN(6) {
			b.WriteString(s.rule(m, fmt.Sprintf("vs-%d-%d", i, r)))
		}
		b.WriteString("---\n")
	}
}

// meshRules are VirtualServices for sidecars: for services of both namespaces,
// for hosts that no service has, by source, exported or not, and by delegates.
func (s Source) meshRules(b *strings.Builder, m Mesh) {
	for i, host := range []string{"alpha.demo" + Domain, "beta", "delta.other" + Domain, "shop.example", `"*.example"`, "omega"} {
		if s.IntN(3) == 0 {
			continue
		}
		ns := "demo"
		if strings.Contains(host, ".other") && s.maybe() {
			ns = "other"
		}
		name := fmt.Sprintf("mesh-%d", i)
		fmt.Fprintf(b, "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: %s, namespace: %s}\nspec:\n  hosts: [%s]\n", name, ns, host)
		if s.maybe() {
			fmt.Fprintf(b, "  exportTo: [%s]\n", Pick(s, `"*"`, `"."`, "demo", "other"))
		}
		b.WriteString("  http:\n")
		delegated := s.IntN(4) == 0
		if delegated {
			fmt.Fprintf(b, "  - name: %s-d\n    match: [{uri: {prefix: /a}}]\n    delegate: {name: delegate-%d, namespace: other}\n", name, i)
		}
		for r := range 1 + s.IntN(5) {
			b.WriteString(s.rule(m, fmt.Sprintf("%s-%d", name, r)))
		}
		b.WriteString("---\n")
		if delegated {
			fmt.Fprintf(b, "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: delegate-%d, namespace: other}\nspec:\n  http:\n", i)
			for r := range 1 + s.IntN(3) {
				b.WriteString(s.delegateRule(m, fmt.Sprintf("delegate-%d-%d", i, r)))
			}
			b.WriteString("---\n")
		}
	}
}

// delegateRule matches only what its root's match (the prefix /a) allows.
func (s Source) delegateRule(m Mesh, name string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "  - name: %s\n", name)
	if s.maybe() {
		fmt.Fprintf(&b, "    match: [{%s}]\n", Pick(s, "uri: {prefix: /a/b}", "uri: {exact: /a}", "headers: {end-user: {exact: jason}}"))
	}
	b.WriteString(s.destination(m))
	return b.String()
}

// tcpRules route bytes of port 81.
func (s Source) tcpRules(b *strings.Builder, m Mesh) {
	for i, host := range []string{"alpha", "gamma"} {
		if s.IntN(2) == 0 {
			continue
		}
		fmt.Fprintf(b, "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: bytes-%d, namespace: demo}\nspec:\n  hosts: [%s.demo%s]\n  tcp:\n", i, host, Domain)
		if s.IntN(2) == 0 {
			fmt.Fprintf(b, "  - match: [{%s}]\n%s", Pick(s, "sourceLabels: {app: client}", "sourceLabels: {app: nobody}", "port: 81", "port: 99", "sourceNamespace: other"), s.bytesTo(m))
		}
		fmt.Fprintf(b, "  - %s---\n", strings.TrimLeft(s.bytesTo(m), " "))
	}
}

func (s Source) bytesTo(m Mesh) string {
	if m.Split && s.maybe() {
		return fmt.Sprintf("    route: [{destination: {host: alpha.demo%[1]s, port: {number: 81}, subset: v1}, weight: 30}, {destination: {host: beta.demo%[1]s, port: {number: 81}, subset: v2}, weight: 70}]\n", Domain)
	}
	return fmt.Sprintf("    route: [{destination: {host: %s%s, port: {number: 81}, subset: %s}}]\n", Pick(s, "alpha.demo", "beta.demo", "delta.other"), Domain, Pick(s, "v1", "v2"))
}

// scope is the Sidecar of the client, or none.
func (s Source) scope(b *strings.Builder, m Mesh) {
	if m.AllowAny {
		b.WriteString("apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: client, namespace: demo}\nspec: {outboundTrafficPolicy: {mode: ALLOW_ANY}, egress: [{hosts: [\"*/*\"]}]}\n---\n")
		return
	}
	if s.IntN(2) == 0 {
		return
	}
	fmt.Fprintf(b, "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: client, namespace: demo}\nspec:\n  %s\n  outboundTrafficPolicy: {mode: REGISTRY_ONLY}\n  egress:\n  - hosts: [%s]\n---\n",
		Pick(s, "workloadSelector: {labels: {app: client}}", "workloadSelector: {labels: {app: somebody}}"),
		Pick(s, `"./*"`, `"*/*"`, `"./*", "other/*"`, `"./alpha.demo.svc.cluster.local", "other/*"`, `"demo/*", "*/shop.example"`))
}
