// Package simulation_test asks `explain` what Istio's own simulation tables
// ask: YAML and one call in, the decision out. The tables are Istio's
// (pilot/pkg/simulation), read from TULLE_ISTIO_DATA or ../shared/data/istio
// beside the checkout.
package simulation_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/app"
)

// equalMin is the share of rows that must be equal.
const equalMin = 0.94

type row struct {
	Test  string `json:"test"`
	Input struct {
		Config     string            `json:"config"`
		Kube       string            `json:"kube"`
		Configs    []json.RawMessage `json:"configs"`
		MeshConfig json.RawMessage   `json:"mesh_config"`
		IPs        []string          `json:"proxy_ips"`
		Labels     map[string]string `json:"proxy_labels"`
		Metadata   map[string]any    `json:"proxy_metadata"`
		Namespace  string            `json:"proxy_namespace"`
		Type       string            `json:"proxy_type"`
	} `json:"input"`
	Call struct {
		Address, Alpn, CallMode, HostHeader, Path, Protocol, Sni, TLS string
		Port                                                          int
		Headers                                                       map[string][]string
	} `json:"call"`
	Expect struct {
		ClusterMatched, Error, FilterChainMatched, ListenerMatched, RouteConfigMatched, RouteMatched, VirtualHostMatched, Skip string
	} `json:"expect"`
}

// provesSomething leaves out rows that expect nothing.
func (r *row) provesSomething() bool {
	e := r.Expect
	return e.Skip == "" && e.ClusterMatched+e.Error+e.FilterChainMatched+e.ListenerMatched+e.RouteConfigMatched+e.RouteMatched+e.VirtualHostMatched != ""
}

func data(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("TULLE_ISTIO_DATA")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "..", "shared", "data", "istio")
	}
	if _, err := os.Stat(dir); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("Istio's tables are not at %s", dir)
		}
		t.Skipf("Istio's tables are not at %s: set TULLE_ISTIO_DATA", dir)
	}
	return dir
}

func rows(t *testing.T) []*row {
	t.Helper()
	f, err := os.Open(filepath.Join(data(t), "simulation.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []*row
	scan := bufio.NewScanner(f)
	scan.Buffer(nil, 16<<20)
	for scan.Scan() {
		var r row
		if err := json.Unmarshal(scan.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		if r.provesSomething() {
			out = append(out, &r)
		}
	}
	if err := scan.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// files writes the row's objects where explain reads them.
func (r *row) files(t *testing.T) (objects, mesh string) {
	t.Helper()
	dir := t.TempDir()
	text := r.Input.Config + "\n---\n" + r.Input.Kube
	for _, c := range r.Input.Configs {
		var o struct {
			GVK, Name, Namespace string
			Spec                 json.RawMessage
			Annotations          map[string]string
		}
		if err := json.Unmarshal(c, &o); err != nil {
			t.Fatal(err)
		}
		i := strings.LastIndex(o.GVK, "/")
		doc, err := json.Marshal(map[string]any{"apiVersion": o.GVK[:i], "kind": o.GVK[i+1:], "metadata": map[string]any{"name": o.Name, "namespace": o.Namespace, "annotations": o.Annotations}, "spec": o.Spec})
		if err != nil {
			t.Fatal(err)
		}
		text += "\n---\n" + string(doc)
	}
	objects = filepath.Join(dir, "objects.yaml")
	if err := os.WriteFile(objects, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if len(r.Input.MeshConfig) > 0 && string(r.Input.MeshConfig) != "null" {
		mesh = filepath.Join(t.TempDir(), "mesh.json")
		if err := os.WriteFile(mesh, r.Input.MeshConfig, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return objects, mesh
}

func (r *row) question(t *testing.T) app.Question {
	t.Helper()
	objects, mesh := r.files(t)
	q := app.Question{Files: []string{objects}, MeshConfig: mesh, Gateway: r.Input.Type == "router", Namespace: r.Input.Namespace, Labels: r.Input.Labels,
		Inbound: r.Call.CallMode == "inbound", Port: r.Call.Port, Protocol: r.Call.Protocol, SNI: r.Call.Sni, ALPN: r.Call.Alpn,
		Host: r.Call.HostHeader, Path: r.Call.Path, Method: "GET", Metadata: map[string]string{}, TLS: r.Call.TLS}
	for _, ip := range r.Input.IPs {
		q.ProxyIPs = append(q.ProxyIPs, netip.MustParseAddr(ip))
	}
	if r.Call.Address != "" {
		q.Address = netip.MustParseAddr(r.Call.Address)
	}
	if q.Protocol == "" {
		q.Protocol = "http"
	}
	if q.TLS == "" || q.TLS == "plaintext" {
		q.TLS = "none"
	}
	if q.Path == "" {
		q.Path = "/"
	}
	for k, v := range r.Input.Metadata {
		if s, ok := v.(string); ok {
			q.Metadata[k] = s
		}
	}
	for k, vs := range r.Call.Headers {
		for _, v := range vs {
			q.Headers = append(q.Headers, [2]string{strings.ToLower(k), v})
		}
	}
	return q
}

// kind is our word for Istio's error text.
func kind(text string) string {
	return map[string]string{
		"no listener matched": "no_listener", "no filter chains matched": "no_filter_chain", "no route matched": "no_route", "no virtual host matched": "no_virtual_host",
		"invalid mTLS": "invalid_mtls", "protocol error": "protocol",
	}[text]
}

// shortened takes the domain off a cluster's host where the table has none:
// Istio's tests of objects run without a domain, where the short host "a" of a
// rule in namespace default is "a.default". With the domain that every mesh
// has it is "a.default.svc.cluster.local".
func shortened(got, want string) string {
	if short, ok := strings.CutSuffix(got, ".svc.cluster.local"); ok && short == want {
		return short
	}
	return got
}

// differences lists in which of the expected fields the answer differs.
func (r *row) differences(a *app.Answer) []string {
	var out []string
	want := func(what, expected, got string) {
		if expected != "" && expected != got {
			out = append(out, fmt.Sprintf("%s %q, want %q", what, got, expected))
		}
	}
	e := r.Expect
	want("cluster", e.ClusterMatched, shortened(a.Cluster, e.ClusterMatched))
	want("listener", e.ListenerMatched, a.Listener)
	want("filter chain", e.FilterChainMatched, a.FilterChain)
	want("route config", e.RouteConfigMatched, a.RouteConfig)
	want("virtual host", e.VirtualHostMatched, a.VirtualHost)
	want("route", e.RouteMatched, a.Route)
	switch {
	case e.Error == "tls required, sending 301":
		if a.Decision != "redirect" || a.Status != 301 {
			out = append(out, fmt.Sprintf("%s %d, want a redirect to TLS", a.Decision, a.Status))
		}
	case e.Error != "":
		want("error", kind(e.Error), a.Error)
	case a.Error != "" && e.VirtualHostMatched != "block_all" && e.ClusterMatched != "":
		out = append(out, "error "+a.Error)
	}
	return out
}

// missing names the feature that a row needs and that is not built yet.
func (r *row) missing() string {
	switch {
	case strings.HasPrefix(r.Test, "TestIngress/"):
		return "Kubernetes Ingress"
	case strings.Contains(string(r.Input.MeshConfig), "ALLOW_ANY_DYNAMIC_DNS"):
		return "outboundTrafficPolicy ALLOW_ANY_DYNAMIC_DNS"
	case strings.HasPrefix(r.Test, "TestTLSRouteTermination/"):
		return "Gateway API TLSRoute"
	}
	return ""
}

func TestExplainDecidesAsIstiosSimulation(t *testing.T) {
	all := rows(t)
	equal := 0
	unnamed := map[string][]string{}
	named := map[string]int{}
	for _, r := range all {
		answer, err := app.Explain(t.Context(), r.question(t))
		var diff []string
		if err != nil {
			diff = []string{"error: " + err.Error()}
		} else {
			diff = r.differences(answer)
		}
		switch feature := r.missing(); {
		case len(diff) == 0:
			equal++
		case feature != "":
			named[feature]++
		default:
			unnamed[r.Test] = diff
		}
	}
	share := float64(equal) / float64(len(all))
	t.Logf("%d of %d rows equal (%.1f %%); missing features: %v", equal, len(all), 100*share, named)
	tests := make([]string, 0, len(unnamed))
	for name := range unnamed {
		tests = append(tests, name)
	}
	sort.Strings(tests)
	for _, name := range tests {
		t.Errorf("%s: %s", name, strings.Join(unnamed[name], "; "))
	}
	if share < equalMin {
		t.Errorf("%.1f %% equal, want at least %.0f %%", 100*share, 100*equalMin)
	}
}
