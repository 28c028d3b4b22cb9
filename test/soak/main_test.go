//go:build soak

// Package soak_test runs a mesh of real processes under load while its configuration changes, its parts die and its certificates
// expire, and counts what the load loses: nothing.
//
// Each test takes SOAK_SECONDS seconds (60; the rotation of certificates 300; 10 in short mode). Read this file first; the load is
// testkit/meshrun's.
package soak_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tullemesh/tulle/internal/testkit/meshrun"
	"github.com/tullemesh/tulle/internal/testkit/program"
)

// role is the environment variable by which the test's binary is an
// application of the mesh instead.
const role = "SOAK_ROLE"

// The load: 1,000 requests per second over 64 connections.
const (
	rate        = 1000
	connections = 64
)

var binary string // built once for all tests by TestMain

func TestMain(m *testing.M) {
	suite := program.Suite{
		Build: func(dir string) (err error) {
			binary, err = program.Build(context.Background(), dir, program.Tulle)
			return err
		},
		Leaks: func() error { return goleak.Find() },
	}
	switch os.Getenv(role) {
	case "":
	case volumeBackend:
		suite.Part = func() error { return serveVolume(os.Getenv("PLACE")) }
	default:
		suite.Part = serve
	}
	suite.Main(m)
}

// serve is an application: / answers by itself, /deep asks the service back
// and hands its header x-back on.
func serve() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, os.Getenv(role)+"\n") })
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: connections}}
	mux.HandleFunc("/deep", func(w http.ResponseWriter, r *http.Request) {
		req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, "http://back:8080/", nil)
		if err == nil {
			var resp *http.Response
			if resp, err = client.Do(req); err == nil {
				defer resp.Body.Close()
				w.Header().Set("X-Back", resp.Header.Get("X-Back"))
				w.WriteHeader(resp.StatusCode)
				_, _ = io.Copy(w, resp.Body)
				return
			}
		}
		http.Error(w, err.Error(), http.StatusBadGateway)
	})
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(os.Getenv("HOST"), os.Getenv("PORT")))
	if err != nil {
		return err
	}
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	select {
	case <-ctx.Done():
		return s.Close()
	case err := <-done:
		return err
	}
}

// duration is how long a test loads the mesh.
func duration(t *testing.T, standard time.Duration) time.Duration {
	t.Helper()
	if s := os.Getenv("SOAK_SECONDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return time.Duration(n) * time.Second
	}
	if testing.Short() {
		return 10 * time.Second
	}
	return standard
}

// project writes the project: front, which the gateway leads to, back, which
// front asks, and idle, whose proxy may die.
func project(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	text := "name: soak\nservices:\n"
	for _, name := range []string{"front", "back", "idle"} {
		text += fmt.Sprintf("  %s: {port: 8080, ready: /, run: [%q], env: {%s: %s}}\n", name, exe, role, name)
	}
	text += "gateway: {ports: [8080]}\ncapture: proxy\n"
	for name, text := range map[string]string{"tulle.yaml": text, "gateway.yaml": gateway, "routes.yaml": routes(0), "mtls.yaml": mtls("STRICT")} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// up runs the project and waits until the whole path answers.
func up(t *testing.T, flags ...string) *meshrun.Mesh {
	t.Helper()
	m := meshrun.Up(t, binary, project(t), flags...)
	m.Await(t, 20*time.Second, "the whole path answers", func() bool { return meshrun.OK(t.Context(), "http://"+m.Gateway+"/deep") })
	m.Await(t, 20*time.Second, "every proxy is in sync, idle's too", func() bool { return inSync(t, m) })
	return m
}

// mix is the load: every fourth request goes through the whole path.
func mix(connection, n int) meshrun.Request {
	if (connection+n)%4 == 0 {
		return meshrun.Request{Path: "/deep"}
	}
	return meshrun.Request{Path: "/"}
}

// lossless fails the test when the load lost something.
func lossless(t *testing.T, c meshrun.Counts) {
	t.Helper()
	t.Logf("load: %v", c)
	if c.Failed != 0 || c.Closed != 0 {
		t.Errorf("%d requests failed, %d connections were closed; first: %v", c.Failed, c.Closed, c.Errors)
	}
}

// enough fails the test when the load was not what it should have been.
func enough(t *testing.T, c meshrun.Counts, length time.Duration) {
	t.Helper()
	share := 0.9
	if length < time.Minute { // a stall of the machine is a larger part of it
		share = 0.5
	}
	if want := int(share * rate * length.Seconds()); c.Requests < want {
		t.Errorf("only %d requests were sent in %v, want %d at least", c.Requests, length, want)
	}
}

var errStale = errors.New("an answer came from a configuration that was never valid")

const gateway = `apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: soak}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 8080, name: http, protocol: HTTP}
    hosts: ["*"]
`

// mtls is the mesh's rule for peers.
func mtls(mode string) string {
	return fmt.Sprintf(`apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec:
  mtls: {mode: %s}
`, mode)
}

// routes are the routes of the gateway and of front's sidecar; each writes the
// generation into its answers.
func routes(generation int) string {
	return fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: soak}
spec:
  hosts: ["*"]
  gateways: [soak]
  http:
  - headers: {response: {set: {x-gate: "%[1]d"}}}
    route:
    - destination: {host: front, port: {number: 8080}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: back}
spec:
  hosts: [back]
  http:
  - headers: {response: {set: {x-back: "%[1]d"}}}
    route:
    - destination: {host: back, port: {number: 8080}}
`, generation)
}
