package proxyrun

import (
	"os/exec"
	"testing"

	"github.com/tullemesh/tulle/internal/testkit/program"
)

// Envoy is Start for stock Envoy, which ENVOY names or the script finds: the same bootstrap, and the same questions. Without it the test is
// skipped, but not in CI.
func Envoy(t testing.TB, script string, bootstrap Object) *Proxy {
	t.Helper()
	path := program.Need(t, "ENVOY", script)
	config, place := write(t, bootstrap)
	return run(t, exec.Command(path, "-c", config, "--admin-address-path", place, "--concurrency", "1", "--disable-hot-restart", //nolint:noctx // ended by stop, gently
		"--file-flush-interval-msec", "50", "-l", "error"), bootstrap, place)
}
