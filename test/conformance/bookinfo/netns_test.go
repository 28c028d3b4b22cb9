//go:build conformance && linux

package bookinfo_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/agent/capture"
	"github.com/tullemesh/tulle/internal/testkit/meshrun"
)

// isolated moves a project to where other users may enter, with capture netns
// and one port of productpage published at the host's, by way of its sidecar.
// The applications call their databases by name, as in pods.
func isolated(t *testing.T, from string) (dir string, published int) {
	t.Helper()
	dir, err := os.MkdirTemp("", "tulle-bookinfo-") //nolint:usetesting // other users cannot enter t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	published = l.Addr().(*net.TCPAddr).Port
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile(exe)
	program := filepath.Join(dir, "bookinfo")
	if err := errors.Join(err, l.Close(), os.Chmod(dir, 0o755), os.CopyFS(dir, os.DirFS(from)), os.WriteFile(program, self, 0o755)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "tulle.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.NewReplacer(fmt.Sprintf("%q", exe), fmt.Sprintf("%q", program), "capture: proxy\n", "capture: netns\n",
		"  productpage:\n", fmt.Sprintf("  productpage:\n    publish: [\"%d:9080\"]\n", published),
		"env: {", `env: {MONGODB_SERVICE_HOST: mongodb, MONGODB_SERVICE_PORT: "27017", MYSQLDB_SERVICE_HOST: mysqldb, MYSQLDB_SERVICE_PORT: "3306", `).Replace(string(text))
	if err := os.WriteFile(path, []byte(changed), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir, published
}

// TestBookinfoInNamespaces is TestBookinfo with a network namespace for each
// application, which knows nothing of a proxy.
func TestBookinfoInNamespaces(t *testing.T) {
	if a := capture.Detect(); a.Mode != capture.Direct {
		t.Skipf("%s; %s", a.Reason, a.Remedy)
	}
	dir := samples(t)
	out, published := isolated(t, project(t, dir))
	m := meshrun.Up(t, binary, out)
	inbound := fmt.Sprintf("http://127.0.0.1:%d/health", published)
	for _, mode := range []string{"PERMISSIVE", "STRICT"} {
		t.Run(mode, func(t *testing.T) {
			m.Write(t, "mtls.yaml", fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: istio-system}\nspec:\n  mtls: {mode: %s}\n", mode))
			m.Await(t, 10*time.Second, "the mode is in force", func() bool { return meshrun.OK(t.Context(), inbound) == (mode == "PERMISSIVE") })
			for _, r := range rules() {
				t.Run(r.file, func(t *testing.T) { r.check(t, m, dir) })
			}
			if plain := meshrun.OK(t.Context(), inbound); plain != (mode == "PERMISSIVE") {
				t.Errorf("a caller without a certificate is admitted: %v", plain)
			}
		})
	}
}
