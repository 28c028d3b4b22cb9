//go:build conformance

package http1_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
)

const envoyManager = `{"name": %q, "address": {"socket_address": {"address": "127.0.0.1", "port_value": %d}}, "filter_chains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": {
"@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": "a",
"normalize_path": %t, "merge_slashes": %t, "path_with_escaped_slashes_action": %q,
"http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
"route_config": {"virtual_hosts": [{"name": "a", "domains": ["*"], "routes": [{"match": {"prefix": ""}, "direct_response": {"status": 200}, "response_headers_to_add": [{"header": {"key": "x-path", "value": "%%REQ(:PATH)%%"}}]}]}]}}}]}]}`

// stockEnvoy runs Envoy with a listener for each normalization.
func stockEnvoy(t *testing.T) map[string]string {
	t.Helper()
	binary := os.Getenv("ENVOY")
	if binary == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("CI needs ENVOY, the path of a stock Envoy")
		}
		t.Skip("ENVOY does not name a stock Envoy (test/envoy.sh)")
	}
	at := map[string]string{}
	var listeners []string
	for name, set := range normalizations() {
		var m listener.HTTPManager
		set(&m)
		escaped := "KEEP_UNCHANGED"
		if m.EscapedSlashes == listener.UnescapeAndForward {
			escaped = "UNESCAPE_AND_FORWARD"
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		l.Close()
		at[name] = l.Addr().String()
		listeners = append(listeners, fmt.Sprintf(envoyManager, name, port, m.NormalizePath, m.MergeSlashes, escaped))
	}
	file := filepath.Join(t.TempDir(), "envoy.json")
	if err := os.WriteFile(file, []byte(`{"static_resources": {"listeners": [`+strings.Join(listeners, ",")+`]}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "-c", file, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for _, a := range at {
		deadline, tick := time.Now().Add(patience), time.NewTicker(20*time.Millisecond)
		for {
			c, err := net.Dial("tcp", a)
			if err == nil {
				c.Close()
				break
			}
			if <-tick.C; time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
		tick.Stop()
	}
	return at
}

// pathParts are what the rules of normalization look at.
var pathParts = strings.Fields(`/ / / // /. /.. . .. ... %2e %2E %2e%2e %2f %2F %5c %5C \ %00 %25 %252f %252e % %2 %zz %61 %7E %7e %5f %3b %3F %23 %20 %c3%a9 %ff a B ; ;x=y , : @ = & + ~ ! $ ' ( ) * - _ " < > [ ] ^ { | } ` + "`")

// explainedPath reports whether we differ from Envoy on purpose.
func explainedPath(path string) bool {
	path, _, _ = strings.Cut(strings.ToLower(path), "?")
	// A dot segment with parameters whose dots were escaped, or with a backslash
	// behind: Envoy leaves it, we take it for what servers do.
	return strings.Contains(path, ";") && (strings.Contains(path, "%2e") || strings.Contains(path, "\\") || strings.Contains(path, "%5c"))
}

func TestPathsBecomeWhatStockEnvoyMakesOfThem(t *testing.T) {
	at := stockEnvoy(t)
	b, _ := newStrict(t).(*strict)
	random := rand.New(rand.NewPCG(1, 2))
	var paths []string
	for range 3000 {
		path := "/"
		for range random.IntN(9) {
			path += pathParts[random.IntN(len(pathParts))]
		}
		if random.IntN(4) == 0 {
			path += "?" + pathParts[random.IntN(len(pathParts))] + "/../%2f//" + pathParts[random.IntN(len(pathParts))]
		}
		paths = append(paths, path)
	}
	for name, set := range normalizations() {
		t.Run(name, func(t *testing.T) {
			m := asIstio()
			set(m)
			envoy := &asker{at: at[name], tell: func(a answer) string { return a.field("x-path") }}
			ours := &asker{at: startProxy(t, m, b.addr()).at, tell: func(a answer) string { return a.body }}
			wrong := 0
			for _, path := range paths {
				if explainedPath(path) {
					continue
				}
				want, got := envoy.ask(t, path), ours.ask(t, path)
				if query, all := strings.CutPrefix(want, "//"); all && m.MergeSlashes && got == "/"+query {
					continue // where all are slashes, Envoy leaves two; its documentation says one
				}
				if got != want {
					if wrong++; wrong < 30 {
						t.Errorf("%s becomes %s, want %s", path, got, want)
					}
				}
			}
			t.Logf("%d of %d differ", wrong, len(paths))
		})
	}
}
