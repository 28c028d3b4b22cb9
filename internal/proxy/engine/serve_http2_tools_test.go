package engine

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

// tool runs a program of another implementation of HTTP/2.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Errorf("%s: %v\n%s", name, err, out.String())
	}
	return out.String()
}

func TestOrdinaryToolsOfHTTP2(t *testing.T) {
	at := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		if n > 0 {
			w.Header().Set("X-Length", "counted")
		}
		_, _ = w.Write(bytes.Repeat([]byte("x"), 1024))
	})
	for _, up := range []bool{true, false} {
		p := start(t, &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{speaking(up, "cart", at)}})
		url := "http://" + p.addr() + "/a"
		file := filepath.Join(t.TempDir(), "body")
		if err := os.WriteFile(file, make([]byte, 200<<10), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Run("curl to "+version(up), func(t *testing.T) {
			out := tool(t, "curl", "-sS", "--max-time", "20", "--http2-prior-knowledge", "-D", "-", "-o", os.DevNull, "--data-binary", "@"+file, url)
			if !strings.Contains(out, "HTTP/2 200") || !strings.Contains(out, "x-length: counted") {
				t.Errorf("curl got %s", out)
			}
		})
		t.Run("nghttp to "+version(up), func(t *testing.T) {
			out := tool(t, "nghttp", "-nv", "--timeout=20", url, url)
			if !strings.Contains(out, ":status: 200") || strings.Contains(out, "RST_STREAM") {
				t.Errorf("nghttp got %s", out)
			}
		})
		t.Run("h2load to "+version(up), func(t *testing.T) {
			out := tool(t, "h2load", "-n", "2000", "-c", "4", "-m", "20", url)
			if !strings.Contains(out, "2000 succeeded, 0 failed") {
				t.Errorf("h2load got %s", out)
			}
		})
		t.Run("h2load with tiny windows to "+version(up), func(t *testing.T) {
			out := tool(t, "h2load", "-n", "400", "-c", "2", "-m", "10", "-w", "9", "-W", "16", url)
			if !strings.Contains(out, "400 succeeded, 0 failed") {
				t.Errorf("h2load got %s", out)
			}
		})
	}
}
