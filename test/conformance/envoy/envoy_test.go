//go:build conformance

// Package envoy_test runs stock Envoy and our proxy under our control plane and
// compares what backends and clients see of the same requests: decisions must
// be the same, and neither may refuse a resource.
package envoy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/app"
	"github.com/tullemesh/tulle/internal/app/dataplane"
	"github.com/tullemesh/tulle/internal/testkit/draw"
	"github.com/tullemesh/tulle/internal/testkit/held"
	"github.com/tullemesh/tulle/internal/testkit/program"
)

const (
	configs  = 10 // of gateways, and as many of sidecars
	requests = 300
)

// outcome is what a client sees, in comparable form.
func outcome(t *testing.T, port int, r draw.Request) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), r.Method, fmt.Sprintf("http://127.0.0.1:%d%s", port, r.Path), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = r.Host
	for _, h := range r.Headers {
		req.Header.Set(h[0], h[1])
	}
	// A connection of its own: what drains may serve those that it has.
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return failure(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return failure(err)
	}
	text := strings.TrimSpace(string(body))
	location := strings.ReplaceAll(resp.Header.Get("Location"), strconv.Itoa(port), "PORT")
	return fmt.Sprintf("%d location=%q %s", resp.StatusCode, location, strings.ReplaceAll(text, strconv.Itoa(port), "PORT"))
}

// poll waits until ok, 20 s at most.
func poll(t *testing.T, what func() string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("%s: not within 20 s", what())
		case <-tick.C:
		}
	}
}

func envoyBinary(t *testing.T) string {
	t.Helper()
	path, err := program.Find(t.Context(), "ENVOY", filepath.Join("..", "..", "envoy.sh"))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// startEnvoy runs stock Envoy under the control plane; node is a JSON object.
func startEnvoy(t *testing.T, xds, node string) {
	t.Helper()
	host, port, err := net.SplitHostPort(xds)
	if err != nil {
		t.Fatal(err)
	}
	bootstrap := fmt.Sprintf(`
node: %s
dynamic_resources:
  ads_config: {api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: xds-grpc}}]}
  cds_config: {ads: {}, resource_api_version: V3}
  lds_config: {ads: {}, resource_api_version: V3}
static_resources:
  clusters:
  - name: xds-grpc
    type: STATIC
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment:
      cluster_name: xds-grpc
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %s, port_value: %s}}}}]}]
`, node, host, port)
	path := filepath.Join(t.TempDir(), "bootstrap.yaml")
	if err := os.WriteFile(path, []byte(bootstrap), 0o600); err != nil {
		t.Fatal(err)
	}
	program.Start(t, envoyBinary(t), "-c", path, "--concurrency", "1", "--use-dynamic-base-id", "-l", "error")
}

// pair is stock Envoy and our proxy under one control plane.
type pair struct {
	plane *app.ControlPlane
	file  string
	round int
}

// newPair runs both as the nodes say: JSON objects as in a bootstrap.
func newPair(t *testing.T, objects, envoyNode, tulleNode string) *pair {
	t.Helper()
	p := &pair{file: filepath.Join(t.TempDir(), "mesh.yaml")}
	p.write(t, objects)
	// There is no agent beside Envoy here: clusters must not wait for
	// certificates. An HTTP proxy's unknown hosts are another difference that is
	// meant: Envoy has no destination for them, our proxy resolves them.
	config := filepath.Join(t.TempDir(), "meshconfig.yaml")
	if err := os.WriteFile(config, []byte("enableAutoMtls: false\noutboundTrafficPolicy: {mode: REGISTRY_ONLY}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var err error
	p.plane, err = app.NewControlPlane(ctx, app.ServeOptions{Files: []string{p.file}, MeshConfig: config, XDS: "127.0.0.1:0", Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		t.Fatal(err)
	}
	xds, _, _ := p.plane.Addresses()
	var node struct {
		ID       string          `json:"id"`
		Metadata json.RawMessage `json:"metadata"`
	}
	if err := json.Unmarshal([]byte(tulleNode), &node); err != nil {
		t.Fatal(err)
	}
	proxy, err := dataplane.New(ctx, dataplane.Options{XDS: xds, ID: node.ID, Metadata: node.Metadata, Admin: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 2)
	go func() { ended <- p.plane.Run(ctx) }()
	go func() { ended <- proxy.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Errorf("runner: %v", err)
			}
		}
	})
	startEnvoy(t, xds, envoyNode)
	settle(t, p.plane, 0, 1)
	return p
}

func (p *pair) write(t *testing.T, objects string) {
	t.Helper()
	if err := os.WriteFile(p.file+".tmp", []byte(objects), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(p.file+".tmp", p.file); err != nil {
		t.Fatal(err)
	}
}

// next puts other objects in force.
func (p *pair) next(t *testing.T, objects string) {
	t.Helper()
	before, err := strconv.Atoi(p.plane.Status().Generation)
	if err != nil {
		t.Fatal(err)
	}
	p.round++
	p.write(t, objects)
	settle(t, p.plane, p.round, before+1)
}

func TestStockEnvoyDecidesAsOurGateway(t *testing.T) {
	g := draw.New(20261121)
	envoyPort, tullePort := held.Port(t, "127.0.0.1"), held.Port(t, "127.0.0.1")
	mesh := draw.Mesh{Places: draw.StandIns(t, draw.Names()...), Gateways: map[string]int{"gw-envoy": envoyPort, "gw-tulle": tullePort}}
	node := func(name string) string {
		return fmt.Sprintf(`{"id": "router~127.0.0.1~%[1]s.demo~demo.svc.cluster.local", "cluster": "%[1]s.demo", "metadata": {"NAMESPACE": "demo", "LABELS": {"app": "%[1]s"}, "ISTIO_VERSION": "1.31.0", "CLUSTER_ID": "Kubernetes"}}`, name)
	}
	p := newPair(t, g.Objects(mesh), node("gw-envoy"), node("gw-tulle"))
	for round := range configs {
		if round > 0 {
			p.next(t, g.Objects(mesh))
		}
		compare(t, round, func(int) (string, func() string, func() string) {
			r := g.Request(draw.GatewayHosts()...)
			return r.String(), func() string { return outcome(t, envoyPort, r) }, func() string { return outcome(t, tullePort, r) }
		})
	}
}

// settle waits until both proxies have accepted the newest generation.
func settle(t *testing.T, plane *app.ControlPlane, round, generation int) {
	t.Helper()
	// A deleted object counts as deleted a moment later (editors rename), so a
	// round has settled when its generation has stayed the same for a while.
	last, since := "", time.Now()
	poll(t, func() string { return fmt.Sprintf("round %d is served: %+v", round, plane.Status().Proxies) }, func() bool {
		s := plane.Status()
		if s.Generation != last {
			last, since = s.Generation, time.Now()
		}
		if time.Since(since) < 250*time.Millisecond {
			return false
		}
		if n, err := strconv.Atoi(s.Generation); err != nil || n < generation || len(s.Proxies) < 2 {
			return false
		}
		for _, p := range s.Proxies {
			if len(p.Types) < 3 || !p.Synced {
				return false
			}
		}
		return true
	})
	for _, p := range plane.Status().Proxies {
		for _, ts := range p.Types {
			if ts.State == "NACKED" {
				t.Fatalf("%s refused %s: %s", p.Name, ts.Type, ts.Message)
			}
		}
	}
}

// referenceWait is how long our proxy keeps the old version of what refers to
// something that does not come (Envoy refuses such requests at once), and a
// little more.
const referenceWait = 16 * time.Second

// compare asks both the same requests: ask returns what it asks and two
// functions that ask Envoy and our proxy. Where an answer is one of several,
// because endpoints take turns, both must give the same set of answers. What
// differs gets a second chance when our proxy has done waiting.
func compare(t *testing.T, round int, ask func(i int) (what string, envoy, tulle func() string)) {
	t.Helper()
	type question struct {
		what         string
		envoy, tulle func() string
	}
	settled, seen := time.Now(), map[string]bool{}
	var wrong []question
	differs := func(q question) (want, got string, yes bool) {
		want, got = q.envoy(), q.tulle()
		seen[want] = true
		if want != got {
			want, got = turns(q.envoy), turns(q.tulle)
		}
		return want, got, want != got
	}
	for i := range requests {
		var q question
		q.what, q.envoy, q.tulle = ask(i)
		if _, _, yes := differs(q); yes {
			wrong = append(wrong, q)
		}
	}
	if left := time.Until(settled.Add(referenceWait)); len(wrong) > 0 && left > 0 {
		<-time.NewTimer(left).C
	}
	different := 0
	for _, q := range wrong {
		want, got, yes := differs(q)
		if !yes {
			continue
		}
		if different++; different <= 5 {
			t.Errorf("round %d: %s\n  envoy %s\n  tulle %s", round, q.what, want, got)
		}
	}
	t.Logf("round %d: %d requests, %d different answers, %d waited for references, %d differ", round, requests, len(seen), len(wrong), different)
	if len(seen) < 10 {
		t.Errorf("round %d: only %d different answers: the requests prove little", round, len(seen))
	}
}

// turns are the different answers to many equal requests, in one text.
func turns(ask func() string) string {
	answers := map[string]bool{}
	for range 12 {
		answers[ask()] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(answers)), "\n        ")
}
