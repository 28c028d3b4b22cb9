package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// mesh is the shape of the generated objects: services spread over namespaces,
// endpoints over localities.
type mesh struct {
	services, endpoints    int
	namespaces, localities int
	tcpEvery, routeEvery   int
	// policies adds connection pools, outlier detection and retries, as real
	// meshes have them.
	policies bool
}

const servicesPerFile = 100

func (m *mesh) flags(fs *flag.FlagSet) {
	fs.IntVar(&m.services, "services", 100, "services")
	fs.IntVar(&m.endpoints, "endpoints", 5, "endpoints of each service")
	fs.IntVar(&m.namespaces, "namespaces", 50, "namespaces that the services are spread over")
	fs.IntVar(&m.localities, "localities", 10, "zones that the endpoints are spread over, five a region")
	fs.IntVar(&m.tcpEvery, "tcp-every", 10, "every n-th service also has a TCP port 9000 (0: none)")
	fs.IntVar(&m.routeEvery, "vs-every", 10, "every n-th service has a VirtualService and a DestinationRule (0: none)")
	fs.BoolVar(&m.policies, "policies", false, "give those also connection pools, outlier detection and retries")
}

func (m *mesh) namespace(service int) string { return fmt.Sprintf("bench-%02d", service%m.namespaces) }

func (m *mesh) host(service int) string {
	return fmt.Sprintf("svc-%04d.%s.svc.cluster.local", service, m.namespace(service))
}

// locality returns region and zone of an endpoint.
func (m *mesh) locality(service, endpoint int) (region, zone string) {
	z := (service + endpoint) % m.localities
	return fmt.Sprintf("region%d", z/5+1), fmt.Sprintf("zone%d", z+1)
}

// endpointIP is the address of an endpoint, in 10.0.0.0/9. Nobody dials it.
func endpointIP(service, endpoint int) string {
	n := service*64 + endpoint
	return fmt.Sprintf("10.%d.%d.%d", n>>16&0x7f, n>>8&0xff, n&0xff)
}

// vip is the service's address, in 240.0.0.0/8; the first 256 are free.
func vip(service int) string {
	n := service + 256
	return fmt.Sprintf("240.%d.%d.%d", n>>16&0xff, n>>8&0xff, n&0xff)
}

// write fills dir with all objects.
func (m *mesh) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var services, routes strings.Builder
	for i := range m.services {
		services.WriteString(m.serviceEntry(i))
		if m.routeEvery > 0 && i%m.routeEvery == 1 {
			routes.WriteString(m.routing(i))
		}
		if (i+1)%servicesPerFile == 0 || i == m.services-1 {
			if err := replace(dir, fmt.Sprintf("services-%05d.yaml", i/servicesPerFile), services.String()); err != nil {
				return err
			}
			services.Reset()
		}
	}
	files := map[string]string{"traffic.yaml": routes.String()}
	for _, c := range []change{endpointChange("10.201.0.1"), inlineChange("10.202.0.1"), routeChange("marker-0"), serviceChange("mutsvc-0")} {
		files[c.file] = c.content
	}
	files["mut-service.yaml"] = selectingService
	for name, content := range files {
		if err := replace(dir, name, content); err != nil {
			return err
		}
	}
	return nil
}

// replace writes a file of the folder in one step: it is written beside the
// folder, which is watched, and moved in.
func replace(dir, name, content string) error {
	tmp, err := os.CreateTemp(filepath.Dir(filepath.Clean(dir)), ".xdsload-*")
	if err != nil {
		return err
	}
	if _, err := tmp.WriteString(content); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), filepath.Join(dir, name))
}

func (m *mesh) serviceEntry(i int) string {
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: svc-%04d, namespace: %s}
spec:
  hosts: [%s]
  addresses: [%s]
  location: MESH_INTERNAL
  resolution: STATIC
  ports:
  - {number: 80, name: http, protocol: HTTP, targetPort: 8080}
`, i, m.namespace(i), m.host(i), vip(i))
	if m.tcpEvery > 0 && i%m.tcpEvery == 0 {
		b.WriteString("  - {number: 9000, name: tcp, protocol: TCP, targetPort: 9000}\n")
	}
	b.WriteString("  endpoints:\n")
	for e := range m.endpoints {
		region, zone := m.locality(i, e)
		fmt.Fprintf(&b, "  - {address: %s, labels: {app: svc-%04d, version: v%d, security.istio.io/tlsMode: istio}, locality: %s/%s, serviceAccount: svc-%04d}\n",
			endpointIP(i, e), i, e%2+1, region, zone, i)
	}
	b.WriteString("---\n")
	return b.String()
}

func (m *mesh) routing(i int) string {
	policy, retries := "", ""
	if m.policies {
		policy = `  trafficPolicy:
    connectionPool: {tcp: {maxConnections: 1000}, http: {http2MaxRequests: 1000}}
    outlierDetection: {consecutive5xxErrors: 5, interval: 10s, baseEjectionTime: 30s}
`
		retries = "    retries: {attempts: 3, perTryTimeout: 2s}\n"
	}
	return fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: svc-%04[1]d, namespace: %[2]s}
spec:
  host: %[3]s
%[4]s  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: svc-%04[1]d, namespace: %[2]s}
spec:
  hosts: [%[3]s]
  http:
  - match: [{uri: {prefix: /api/v2}}, {headers: {x-canary: {exact: "1"}}}]
    route: [{destination: {host: %[3]s, subset: v2}}]
%[5]s  - route:
    - {destination: {host: %[3]s, subset: v1}, weight: 90}
    - {destination: {host: %[3]s, subset: v2}, weight: 10}
    timeout: 10s
---
`, i, m.namespace(i), m.host(i), policy, retries)
}

// change is a file's new content and the text by which a proxy knows that the
// change has reached it.
type change struct{ file, content, marker string }

// selectingService is the service whose endpoints are WorkloadEntries.
const selectingService = `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: mut, namespace: bench-00}
spec:
  hosts: [mut.bench-00.svc.cluster.local]
  addresses: [240.255.0.1]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
  workloadSelector: {labels: {app: mut}}
`

// endpointChange moves a workload to another address.
func endpointChange(ip string) change {
	return change{"mut-endpoint.yaml", fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: mut-0, namespace: bench-00}
spec: {address: %s, labels: {app: mut, security.istio.io/tlsMode: istio}, serviceAccount: mut}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: mut-1, namespace: bench-00}
spec: {address: 10.200.0.1, labels: {app: mut, security.istio.io/tlsMode: istio}, serviceAccount: mut}
`, ip), ip}
}

// inlineChange moves an endpoint that is written in a ServiceEntry.
func inlineChange(ip string) change {
	return change{"mut-inline.yaml", fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: mutin, namespace: bench-00}
spec:
  hosts: [mutin.bench-00.svc.cluster.local]
  addresses: [240.255.0.2]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
  endpoints:
  - {address: %s, labels: {app: mutin, security.istio.io/tlsMode: istio}}
  - {address: 10.200.1.1, labels: {app: mutin, security.istio.io/tlsMode: istio}}
`, ip), ip}
}

// routeChange edits a header match.
func routeChange(marker string) change {
	return change{"mut-vs.yaml", fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: mut, namespace: bench-00}
spec:
  hosts: [mut.bench-00.svc.cluster.local]
  http:
  - match: [{headers: {x-marker: {exact: %q}}}]
    route: [{destination: {host: mut.bench-00.svc.cluster.local, port: {number: 80}}}]
  - route: [{destination: {host: mut.bench-00.svc.cluster.local, port: {number: 80}}}]
    timeout: 7s
`, marker), marker}
}

// serviceChange renames a service: a cluster leaves, another comes.
func serviceChange(name string) change {
	return change{"mut-svc.yaml", fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: mutsvc, namespace: bench-00}
spec:
  hosts: [%s.bench-00.svc.cluster.local]
  addresses: [240.255.0.3]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
  endpoints:
  - {address: 10.200.2.1, labels: {app: mutsvc, security.istio.io/tlsMode: istio}}
`, name), name}
}
