//go:build conformance

// Package envoy_test runs stock Envoy and our proxy under our control plane and
// compares what backends and clients see of the same requests: decisions must
// be the same, and neither may refuse a resource.
package envoy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/app"
)

const (
	configs  = 20
	requests = 300
)

// seen is what a stand-in tells of the request it got.
type seen struct {
	Who     string            `json:"who"`
	Method  string            `json:"method"`
	Host    string            `json:"host"`
	Path    string            `json:"path"`
	Headers map[string]string `json:"headers"`
}

// standIns serve every version of every service; places are their ports.
func standIns(t *testing.T) map[string]int {
	t.Helper()
	places := map[string]int{}
	for _, s := range services() {
		for _, v := range []string{"v1", "v2"} {
			if s == whole && v == "v2" {
				places[s+"/v2"] = places[s+"/v1"]
				continue
			}
			who := s + "/" + v
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				out := seen{Who: who, Method: r.Method, Host: r.Host, Path: r.RequestURI, Headers: map[string]string{}}
				for _, name := range []string{"End-User", "X-Flag", "X-Set", "X-Add", "X-Envoy-Original-Path", "X-Forwarded-Proto"} {
					if v, ok := r.Header[name]; ok {
						out.Headers[name] = strings.Join(v, ",")
					}
				}
				_ = json.NewEncoder(w).Encode(out)
			}))
			t.Cleanup(srv.Close)
			places[who] = srv.Listener.Addr().(*net.TCPAddr).Port
		}
	}
	return places
}

// outcome is what a client sees, in comparable form.
func outcome(t *testing.T, port int, r request) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), r.method, fmt.Sprintf("http://127.0.0.1:%d%s", port, r.path), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = r.host
	for _, h := range r.headers {
		req.Header.Set(h[0], h[1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return "error: " + err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "error: " + err.Error()
	}
	text := strings.TrimSpace(string(body))
	location := strings.ReplaceAll(resp.Header.Get("Location"), strconv.Itoa(port), "PORT")
	return fmt.Sprintf("%d location=%q %s", resp.StatusCode, location, strings.ReplaceAll(text, strconv.Itoa(port), "PORT"))
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// poll waits until ok, 20 s at most.
func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("%s: not within 20 s", what)
		case <-tick.C:
		}
	}
}

func envoyBinary(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("ENVOY"); path != "" {
		return path
	}
	out, err := exec.Command(filepath.Join("..", "..", "envoy.sh")).Output()
	if err != nil {
		t.Fatalf("stock Envoy is not to be had: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// startEnvoy runs stock Envoy as a gateway under the control plane.
func startEnvoy(t *testing.T, xds string) {
	t.Helper()
	host, port, err := net.SplitHostPort(xds)
	if err != nil {
		t.Fatal(err)
	}
	bootstrap := fmt.Sprintf(`
node:
  id: router~127.0.0.1~gw-envoy.demo~demo.svc.cluster.local
  cluster: gw-envoy.demo
  metadata: {NAMESPACE: demo, LABELS: {app: gw-envoy}, ISTIO_VERSION: 1.31.0, CLUSTER_ID: Kubernetes}
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
`, host, port)
	path := filepath.Join(t.TempDir(), "bootstrap.yaml")
	if err := os.WriteFile(path, []byte(bootstrap), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(envoyBinary(t), "-c", path, "--concurrency", "1", "--base-id", strconv.Itoa(os.Getpid()%30000+1), "-l", "error")
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("Envoy said:\n%s", log.String())
		}
	})
}

func TestStockEnvoyDecidesAsOurProxy(t *testing.T) {
	seed := uint64(20261121)
	g := generator{rand.New(rand.NewPCG(seed, 1))}
	places := standIns(t)
	envoyPort, tullePort := freePort(t), freePort(t)
	file := filepath.Join(t.TempDir(), "mesh.yaml")
	write := func(text string) {
		if err := os.WriteFile(file+".tmp", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".tmp", file); err != nil {
			t.Fatal(err)
		}
	}
	write(g.config(places, envoyPort, tullePort))
	ctx, cancel := context.WithCancel(t.Context())
	plane, err := app.NewControlPlane(ctx, app.ServeOptions{Files: []string{file}, XDS: "127.0.0.1:0", Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		t.Fatal(err)
	}
	xds, _, _ := plane.Addresses()
	proxy, err := app.NewProxy(ctx, app.ProxyOptions{XDS: xds, ID: "router~127.0.0.1~gw-tulle.demo~demo.svc.cluster.local",
		Metadata: json.RawMessage(`{"NAMESPACE":"demo","LABELS":{"app":"gw-tulle"},"ISTIO_VERSION":"1.31.0","CLUSTER_ID":"Kubernetes"}`), Admin: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 2)
	go func() { ended <- plane.Run(ctx) }()
	go func() { ended <- proxy.Run(ctx) }()
	startEnvoy(t, xds)
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Errorf("runner: %v", err)
			}
		}
	})
	for round := range configs {
		before := 0
		if round > 0 {
			before, _ = strconv.Atoi(plane.Status().Generation)
			write(g.config(places, envoyPort, tullePort))
		}
		settle(t, plane, round, before+1)
		compare(t, g, round, envoyPort, tullePort)
	}
}

// settle waits until both proxies have accepted the newest generation.
func settle(t *testing.T, plane *app.ControlPlane, round, generation int) {
	t.Helper()
	// A deleted object counts as deleted a moment later (editors rename), so a
	// round has settled when its generation has stayed the same for a while.
	last, since := "", time.Now()
	poll(t, fmt.Sprintf("round %d is served", round), func() bool {
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

func compare(t *testing.T, g generator, round, envoyPort, tullePort int) {
	t.Helper()
	different := 0
	for i := range requests {
		r := g.request()
		want, got := outcome(t, envoyPort, r), outcome(t, tullePort, r)
		if i == 0 {
			poll(t, "both gateways answer", func() bool {
				want, got = outcome(t, envoyPort, r), outcome(t, tullePort, r)
				return !strings.HasPrefix(want, "error") && !strings.HasPrefix(got, "error")
			})
		}
		if want == got {
			continue
		}
		if different++; different <= 5 {
			t.Errorf("round %d, request %d: %s\n  envoy %s\n  tulle %s", round, i, r, want, got)
		}
	}
	if different > 5 {
		t.Errorf("round %d: %d of %d requests differ", round, different, requests)
	}
}
