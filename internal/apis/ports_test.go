package apis_test

import (
	"fmt"
	"testing"

	"github.com/tullemesh/tulle/internal/apis"
)

func TestPortsOfKubernetesObjectsAreThoseOfSockets(t *testing.T) {
	forms := map[string]string{
		"spec.ports[0].port":                        "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: %d}]}}",
		"spec.ports[0].targetPort":                  "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 80, targetPort: %d}]}}",
		"spec.containers[0].ports[0].containerPort": "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: c, ports: [{containerPort: %d}]}]}}",
		"subsets[0].ports[0].port":                  "{apiVersion: v1, kind: Endpoints, metadata: {name: a}, subsets: [{ports: [{port: %d}]}]}",
		"ports[0].port":                             "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a}, addressType: IPv4, endpoints: [], ports: [{port: %d}]}",
	}
	for path, form := range forms {
		for port, sound := range map[int]bool{-1: false, 1: true, 65535: true, 65536: false} {
			r := apis.Decode("a.yaml", fmt.Appendf(nil, form, port), apis.Options{})
			if len(r.Objects) != 1 || r.Objects[0].Refused() == sound {
				t.Errorf("%s %d: refused %v, want %v: %v", path, port, sound, !sound, r.Problems)
				continue
			}
			if !sound && (r.Problems[0].Path != path || !r.Problems[0].Position.Known()) {
				t.Errorf("%s %d: told at %s, %v", path, port, r.Problems[0].Path, r.Problems[0].Position)
			}
		}
	}
}
