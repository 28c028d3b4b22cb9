package registry_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tullemesh/tulle/internal/control/registry"
)

func TestKindsOfKubernetesServices(t *testing.T) {
	set := setOf(t, `
apiVersion: v1
kind: Service
metadata: {name: vip}
spec: {clusterIP: 10.0.0.10, clusterIPs: [10.0.0.10, "fd00::10"], ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: plain}
spec: {ports: [{name: http, port: 80}]}
`)
	vip := serviceOf(t, set, "vip.default.svc.cluster.local")
	if len(vip.Addresses) != 2 || vip.Addresses[1].Addr() != netip.MustParseAddr("fd00::10") || vip.AutoAddress.IsValid() || vip.Ports[0].Target != 80 {
		t.Errorf("%+v", vip)
	}
	headless := serviceOf(t, set, "headless.default.svc.cluster.local")
	if headless.Resolution != registry.Passthrough || !headless.Headless || headless.AutoAddress.IsValid() {
		t.Errorf("%+v", headless)
	}
	if plain := serviceOf(t, set, "plain.default.svc.cluster.local"); !plain.AutoAddress.IsValid() || plain.Resolution != registry.Static || !plain.FromKubernetes {
		t.Errorf("%+v", plain)
	}
}

func TestEndpointsObjectOfAServiceWithoutSelector(t *testing.T) {
	const service = `
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {ports: [{name: tcp, port: 5432}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: db}
subsets:
- addresses: [{ip: 10.5.0.1}]
  notReadyAddresses: [{ip: 10.5.0.2}]
  ports: [{name: tcp, port: 6000}]
- addresses: [{ip: 10.5.0.3}]
  ports: [{name: other, port: 1}]
---
`
	const host = "db.default.svc.cluster.local"
	if diff := cmp.Diff([]string{"5432=10.5.0.1:6000", "5432=10.5.0.2:6000 not ready"}, places(setOf(t, service), host)); diff != "" {
		t.Error(diff)
	}
	mirrored := service + `
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: tcp, port: 6000}]
endpoints: [{addresses: [10.5.0.9]}]
`
	if diff := cmp.Diff([]string{"5432=10.5.0.9:6000"}, places(setOf(t, mirrored), host)); diff != "" {
		t.Errorf("EndpointSlices replace Endpoints:\n%s", diff)
	}
}

func TestPodsThatEndedServeNothing(t *testing.T) {
	set := setOf(t, `
apiVersion: v1
kind: Service
metadata: {name: job}
spec: {selector: {app: job}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: done, labels: {app: job}}
spec: {containers: [{name: c, image: x}]}
status: {podIP: 10.0.0.1, phase: Succeeded}
---
apiVersion: v1
kind: Pod
metadata:
  name: job-5d9-x
  labels: {app: job, pod-template-hash: 5d9}
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: job-5d9, uid: u, controller: true}]
spec: {containers: [{name: c, image: x}]}
status: {podIPs: [{ip: 10.0.0.2}, {ip: "fd00::2"}]}
`)
	if len(set.Workloads) != 1 || set.Workloads[0].Owner != "job" || set.Workloads[0].Account != "default" || len(set.Workloads[0].Addresses) != 2 {
		t.Fatalf("%+v", set.Workloads)
	}
	if len(set.Endpoints) != 1 || len(set.Endpoints[0].Addresses) != 2 {
		t.Errorf("%+v", set.Endpoints)
	}
}
