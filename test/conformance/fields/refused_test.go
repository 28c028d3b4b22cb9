package fields_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/app"
)

// twoWorkloads are a web and a db in namespace shop, and a web in namespace elsewhere.
const twoWorkloads = `apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.0.0.1, selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: web-0, namespace: shop}
spec: {address: 10.1.0.1, labels: {app: web}, serviceAccount: web}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: 10.0.0.2, selector: {app: db}, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: db-0, namespace: shop}
spec: {address: 10.1.0.2, labels: {app: db}, serviceAccount: db}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: elsewhere}
spec: {clusterIP: 10.0.0.3, selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: web-0, namespace: elsewhere}
spec: {address: 10.1.0.3, labels: {app: web}, serviceAccount: web}
---
`

// inbound asks what becomes of a plaintext request to a workload.
func inbound(t *testing.T, file, address, namespace, label string) *app.Answer {
	t.Helper()
	own := netip.MustParseAddr(address)
	a, err := app.Explain(t.Context(), app.Question{Files: []string{file}, ProxyIPs: []netip.Addr{own}, Namespace: namespace, Labels: map[string]string{"app": label},
		Inbound: true, Address: own, Port: 80, Protocol: "http", TLS: "none", Host: label + "." + namespace, Path: "/", Method: "GET"})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// A security object of a kind or with a field that is not enforced, and that never was good, must not leave its workloads open; nor may a
// refused object of another role close any.
func TestRefusedObjectsDenyExactlyWhatTheyGuard(t *testing.T) {
	const (
		web      = "shop/web"
		db       = "shop/db"
		stranger = "elsewhere/web"
	)
	workloads := map[string]string{web: "10.1.0.1", db: "10.1.0.2", stranger: "10.1.0.3"}
	for _, c := range []struct {
		name, object string
		denied       []string
		effect       string
	}{
		{"an authorization policy for one workload", `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: guard, namespace: shop}
spec: {selector: {matchLabels: {app: web}}, rules: [{from: [{source: {namespaces: [shop]}}]}]}`, []string{web}, "without one the workloads it selects deny"},
		{"an authorization policy for a namespace", `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: guard, namespace: shop}
spec: {}`, []string{web, db}, "without one the workloads it selects deny"},
		{"an authorization policy for the mesh", `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: guard, namespace: istio-system}
spec: {}`, []string{web, db, stranger}, "without one the workloads it selects deny"},
		{"token checks of one workload", `
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: guard, namespace: shop}
spec: {selector: {matchLabels: {app: db}}, jwtRules: [{issuer: i, jwks: '{"keys":[]}'}]}`, []string{db}, "without one the workloads it selects deny"},
		{"a mutual TLS mode that does not exist", `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: guard, namespace: shop}
spec: {selector: {matchLabels: {app: web}}, mtls: {mode: STRICTEST}}`, []string{web}, "without one the workloads it selects deny"},
		{"a plugin, which may check requests", `
apiVersion: extensions.istio.io/v1alpha1
kind: WasmPlugin
metadata: {name: guard, namespace: shop}
spec: {selector: {matchLabels: {app: web}}, url: "oci://example.com/p:1"}`, []string{web}, "without one the workloads it selects deny"},
		{"a filter patch", `
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: patch, namespace: shop}
spec: {configPatches: [{applyTo: CLUSTER, patch: {operation: MERGE, value: {connect_timeout: 3s}}}]}`, nil, "without one it counts as absent"},
		{"telemetry", `
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: logs, namespace: shop}
spec: {accessLogging: [{providers: [{name: envoy}]}]}`, nil, "traffic is not affected"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := twoWorkloads + strings.TrimSpace(c.object) + "\n"
			file := filepath.Join(t.TempDir(), "objects.yaml")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			objects := apis.Decode(file, []byte(text), apis.Options{}).Objects
			guard := objects[len(objects)-1]
			if len(guard.Problems) == 0 || !guard.Refused() {
				t.Fatalf("the object is not refused: %v", guard.Problems)
			}
			for _, p := range guard.Problems {
				if p.Refuses() && !strings.HasSuffix(p.Effect, c.effect) || p.Message == "" || p.Hint == "" && p.Level == apis.LevelUnsupported {
					t.Errorf("%s: effect %q, hint %q; want an effect %q", p, p.Effect, p.Hint, c.effect)
				}
			}
			for workload, address := range workloads {
				namespace, name, _ := strings.Cut(workload, "/")
				a := inbound(t, file, address, namespace, name)
				want := "forward"
				for _, d := range c.denied {
					if d == workload {
						want = "deny"
					}
				}
				if a.Decision != want {
					t.Errorf("%s: %s, want %s (%+v)", workload, a.Decision, want, a)
				}
				if want == "deny" && (len(a.Origin) == 0 || a.Origin[0].Kind != guard.Key.Kind || a.Origin[0].Name != guard.Key.Name || a.Origin[0].Line == 0) {
					t.Errorf("%s is denied by %+v, want %s with its place", workload, a.Origin, guard.Key)
				}
			}
		})
	}
}
