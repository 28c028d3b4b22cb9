package proxyrun

import (
	"testing"

	"github.com/tullemesh/tulle/internal/testkit/program"
)

// Envoy runs stock Envoy, which ENVOY names or the script finds, with the bootstrap of a proxy of ours until the test ends, and returns where
// its listeners accept: the kernel chooses their ports, and that of the admin port, which the bootstrap has. Without an Envoy the test is skipped, but not in CI.
func Envoy(t testing.TB, script string, bootstrap Object) map[string]string {
	t.Helper()
	path := program.Need(t, "ENVOY", script)
	config, place := write(t, bootstrap)
	program.Start(t, path, "-c", config, "--admin-address-path", place, "--concurrency", "1", "--disable-hot-restart", "-l", "error")
	return new(Proxy).serve(t, bootstrap, place)
}
