package program

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Find returns what an environment variable names, else what a script prints that gets it when it is not there yet.
func Find(ctx context.Context, variable, script string) (string, error) {
	if path := os.Getenv(variable); path != "" {
		return path, nil
	}
	out, err := exec.CommandContext(ctx, script).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w\n%s", err, exit.Stderr)
		}
		return "", fmt.Errorf("%s is not to be had: %w", filepath.Base(script), err)
	}
	return strings.TrimSpace(string(out)), nil
}

// Need is Find for a test that is skipped without it, but not in CI.
func Need(t testing.TB, variable, script string) string {
	t.Helper()
	path, err := Find(t.Context(), variable, script)
	switch {
	case err == nil:
	case os.Getenv("CI") == "true":
		t.Fatal(err)
	default:
		t.Skip(err)
	}
	return path
}

// Start runs a peer's program until the test ends. A test that failed tells what it said.
func Start(t testing.TB, path string, args ...string) {
	t.Helper()
	cmd := exec.Command(path, args...) //nolint:noctx // ended below
	var said Output
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s said:\n%s", filepath.Base(path), said.String())
		}
	})
}
