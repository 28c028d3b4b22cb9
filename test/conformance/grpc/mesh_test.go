//go:build conformance

package grpc_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/testkit/meshrun"
)

// project writes a project of a caller and an interop server, which the
// gateway leads to as well.
func project(t *testing.T, place string) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`name: interop
services:
  server: {port: 9000, protocol: grpc, run: [%[1]q], env: {%[2]s: server}}
  caller: {port: 8080, run: [%[1]q], env: {%[2]s: caller, PLACE: %[3]q}}
gateway: {ports: [8080]}
capture: proxy
`, exe, role, place)
	dir := t.TempDir()
	for name, text := range map[string]string{"tulle.yaml": text, "gateway.yaml": gateway, "mtls.yaml": mtls("PERMISSIVE")} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const gateway = `apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 8080, name: http, protocol: HTTP}
    hosts: ["*"]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge}
spec:
  hosts: ["*"]
  gateways: [edge]
  http:
  - route: [{destination: {host: server, port: {number: 9000}}}]
`

func mtls(mode string) string {
	return fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: istio-system}\nspec: {mtls: {mode: %s}}\n", mode)
}

// mesh is a running mesh, and where the caller's sidecar takes its calls.
func mesh(t *testing.T) (*meshrun.Mesh, string) {
	t.Helper()
	place := filepath.Join(t.TempDir(), "place")
	m := meshrun.Up(t, binary, project(t, place))
	var at []byte
	m.Await(t, 20*time.Second, "the caller knows its way", func() bool {
		var err error
		at, err = os.ReadFile(place)
		return err == nil
	})
	return m, string(at)
}

// answers waits until a call comes through.
func answers(t *testing.T, m *meshrun.Mesh, at string) {
	t.Helper()
	m.Await(t, 20*time.Second, "a call comes through "+at, func() bool {
		_, err := interopCase(t.Context(), at, "empty_unary")
		return err == nil
	})
}

func TestInteropCasesPassThroughAMesh(t *testing.T) {
	m, at := mesh(t)
	for _, mode := range []string{"PERMISSIVE", "STRICT"} {
		t.Run(mode, func(t *testing.T) {
			m.Write(t, "mtls.yaml", mtls(mode))
			inbound := m.Inbound(t, "server-v1")
			m.Await(t, 20*time.Second, "the mode is in force", func() bool {
				_, err := interopCase(t.Context(), inbound, "empty_unary")
				return (err == nil) == (mode == "PERMISSIVE")
			})
			for _, way := range []struct{ name, at string }{{"sidecar to sidecar", at}, {"gateway to sidecar", m.Gateway}} {
				t.Run(way.name, func(t *testing.T) {
					answers(t, m, way.at)
					interopCases(t, way.at)
				})
			}
		})
	}
}
