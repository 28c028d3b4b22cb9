package translate_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tullemesh/tulle/internal/control/translate"
)

// Of servers that can't stand beside one another the oldest has the port or the name; the others are told.
func TestServersThatGatewaysLeaveOutAreTold(t *testing.T) {
	const world = `
{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: edge, namespace: edge}, spec: {address: 10.1.0.9, labels: {istio: ingress}}}
---
{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: edge-2, namespace: edge}, spec: {address: 10.1.0.8, labels: {istio: ingress}}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: a, namespace: shop}
spec:
  selector: {istio: ingress}
  servers:
  - {port: {number: 443, name: one, protocol: HTTPS}, hosts: [a.example.com], tls: {mode: ISTIO_MUTUAL}}
  - {port: {number: 443, name: two, protocol: HTTPS}, hosts: [b.example.com, A.example.com], tls: {mode: ISTIO_MUTUAL}}
  - {port: {number: 443, name: three, protocol: TLS}, hosts: [c.example.com], tls: {mode: PASSTHROUGH}}
  - {port: {number: 80, name: four, protocol: HTTP}, hosts: ["*"]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: b, namespace: shop}
spec:
  selector: {istio: ingress}
  servers:
  - {port: {number: 80, name: one, protocol: HTTP2}, hosts: ["*"]}
  - {port: {number: 80, name: two, protocol: TCP}, hosts: ["*"]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: c, namespace: shop}
spec: {selector: {istio: egress}, servers: [{port: {number: 80, name: elsewhere, protocol: TCP}, hosts: ["*"]}]}
`
	var said []string
	for _, p := range translate.New(snapshotOf(t, "", world), nil).LostServers() {
		if p.Effect == "" || p.Hint == "" || !p.Position.Known() {
			t.Errorf("incomplete: %+v", p)
		}
		said = append(said, p.Code+" "+p.Key.String()+" "+p.Path+": "+p.Message)
	}
	want := []string{
		"IST0145 Gateway/shop/a spec.servers[1].hosts: host a.example.com of port 443 is already served by Gateway/shop/a spec.servers[0]",
		"IST0145 Gateway/shop/b spec.servers[1].port: port 80 is already of protocol HTTP, by Gateway/shop/a spec.servers[3]",
	}
	if diff := cmp.Diff(strings.Join(want, "\n"), strings.Join(said, "\n")); diff != "" {
		t.Error(diff)
	}
}
