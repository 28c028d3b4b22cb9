//go:build soak

package soak_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/app"
	"github.com/tullemesh/tulle/internal/testkit/meshrun"
)

// comeBack bounds the wait for a control plane that could not start for a
// minute: its supervisor's pauses have grown to 30 s by then.
const comeBack = 45 * time.Second

func TestDeathOfTheControlPlaneLosesNothing(t *testing.T) {
	m := up(t)
	length := duration(t, time.Minute)
	ctx, cancel := context.WithCancel(t.Context())
	counts := make(chan meshrun.Counts, 1)
	began := time.Now()
	go func() {
		counts <- meshrun.Load{Address: m.Gateway, Connections: connections, Rate: rate, Request: mix}.Run(ctx)
	}()
	defer cancel()

	seat := keepDown(t, m)
	dead := time.NewTimer(length)
	defer dead.Stop()
	proxyFromDisk(t, m)
	m.Await(t, length+time.Second, "the minute passes", func() bool {
		select {
		case <-dead.C:
			return true
		default:
			return false
		}
	})
	if _, code := m.Tulle(t.Context(), "status"); code != 5 {
		t.Errorf("tulle status ended with %d while the control plane was dead, want 5", code)
	}

	if err := seat.Close(); err != nil {
		t.Fatal(err)
	}
	free := time.Now()
	m.Await(t, comeBack, "the control plane serves again, and every proxy is in sync", func() bool { return inSync(t, m) })
	t.Logf("in sync %v after its address was free", time.Since(free).Round(time.Millisecond))
	m.Write(t, "routes.yaml", routes(1))
	m.Await(t, 5*time.Second, "an edit is live after the restart", func() bool { return shows(t, m, "1") })

	cancel()
	c := <-counts
	lossless(t, c)
	enough(t, c, time.Since(began))
}

// keepDown kills the control plane and takes its address, so that it can't
// come back until the address is closed.
func keepDown(t *testing.T, m *meshrun.Mesh) net.Listener {
	t.Helper()
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", m.PID("control-plane")))
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Split(string(line), "\x00")
	address := ""
	for i, w := range words {
		if w == "--xds-tls" {
			address = words[i+1]
		}
	}
	var seat net.Listener
	m.Await(t, 10*time.Second, "the control plane is dead", func() bool {
		if pid := m.PID("control-plane"); pid != 0 {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone already
		}
		var err error
		seat, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
		return err == nil
	})
	go func() { // a server that hangs up, until the test closes it
		for {
			c, err := seat.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = seat.Close() })
	return seat
}

// proxyFromDisk kills idle's proxy while there is no control plane, and asks
// back through its successor: it has its routes, and a certificate, without
// which back's sidecar (STRICT) hangs up.
func proxyFromDisk(t *testing.T, m *meshrun.Mesh) {
	t.Helper()
	client := through(t, m, "idle-v1")
	ask := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://back:8080/", nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK || resp.Header.Get("X-Back") != "0" {
			return fmt.Errorf("status %s, x-back %q", resp.Status, resp.Header.Get("X-Back"))
		}
		return nil
	}
	if err := ask(); err != nil {
		t.Fatalf("before its death: %v", err)
	}
	m.Await(t, 5*time.Second, "idle's proxy has stored its configuration", func() bool {
		for _, name := range []string{"Cluster", "ClusterLoadAssignment", "Listener", "RouteConfiguration", "VirtualHost"} {
			found, _ := filepath.Glob(filepath.Join(m.Dir, ".tulle", "run", "idle-v1", "state", "xds", "*."+name+".xds"))
			if len(found) != 1 {
				return false
			}
		}
		return true
	})
	before := m.PID("idle-v1-proxy")
	m.Kill(t, "idle-v1-proxy")
	killed := time.Now()
	var last error
	m.Await(t, 10*time.Second, "a new proxy takes its place", func() bool { pid := m.PID("idle-v1-proxy"); return pid != 0 && pid != before })
	m.Await(t, 10*time.Second, "the new proxy serves from disk", func() bool { last = ask(); return last == nil })
	t.Logf("a proxy without control plane serves %v after its predecessor was killed", time.Since(killed).Round(time.Millisecond))
}

// through is a client that sends by a workload's sidecar, as the workload
// itself does.
func through(t *testing.T, m *meshrun.Mesh, workload string) *http.Client {
	t.Helper()
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", m.PID(workload)))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range bytes.Split(env, []byte{0}) {
		if at, ok := bytes.CutPrefix(v, []byte("HTTP_PROXY=")); ok {
			proxy, err := url.Parse(string(at))
			if err != nil {
				t.Fatal(err)
			}
			return &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy), DisableKeepAlives: true}}
		}
	}
	t.Fatalf("%s has no HTTP_PROXY", workload)
	return nil
}

// inSync reports whether the control plane knows all four proxies and each has
// what it was sent.
func inSync(t *testing.T, m *meshrun.Mesh) bool {
	t.Helper()
	out, code := m.Tulle(t.Context(), "status", "-o", "json")
	var s app.MeshStatus
	if code != 0 || json.Unmarshal([]byte(out), &s) != nil || len(s.Proxies) != 4 {
		return false
	}
	for _, p := range s.Proxies {
		if !p.Synced {
			return false
		}
	}
	return true
}

// shows reports whether the whole path shows a generation.
func shows(t *testing.T, m *meshrun.Mesh, generation string) bool {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+m.Gateway+"/deep", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.Header.Get("X-Gate") == generation && resp.Header.Get("X-Back") == generation
}
