// Package program builds the programs that acceptance tests run as child processes, once for all tests of a package, and collects what they say.
//
// In comes what TestMain is asked; out go programs in a folder that is removed after the tests. Tests that run under the race detector get
// programs that do, too; tests that fail tell how the kernel fared. A Suite owns the folder; an Output belongs to the process that writes to it.
package program

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"testing"

	"github.com/tullemesh/tulle/internal/testkit/pressure"
)

// Tulle is the import path of the whole program.
const Tulle = "github.com/tullemesh/tulle/cmd/tulle"

// Suite are the tests of a package that run built programs.
type Suite struct {
	// Part, when not nil, is played in place of the tests: the test's own binary is an application that a test has started.
	Part func() error
	// Build builds what the tests run into a folder.
	Build func(dir string) error
	// Leaks looks for goroutines that the tests have left: goleak's Find, which this package does not call itself because it is a dependency of
	// tests alone.
	Leaks func() error
}

// Main is the package's TestMain: it ends the process.
func (s Suite) Main(m *testing.M) {
	if s.Part != nil {
		os.Exit(code(s.Part()))
	}
	os.Exit(s.run(m))
}

// run builds, tests and looks for what is left, and returns the process's exit code.
func (s Suite) run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "tulle-test-")
	if err != nil {
		return code(err)
	}
	defer os.RemoveAll(dir)
	if err := s.Build(dir); err != nil {
		return code(err)
	}
	before := pressure.Read()
	if failed := m.Run(); failed != 0 {
		fmt.Fprintln(os.Stderr, "the kernel while the tests ran:", pressure.Since(before)) // short of TCP memory it looks like a proxy that stands still
		return failed
	}
	return code(s.Leaks())
}

// code says an error and returns the exit code for it.
func code(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "error:", err)
	return 1
}

// Build builds the command of an import path into a folder, under its own name, and returns where it is. The command's module is ours, or one that go.mod names.
func Build(ctx context.Context, dir, command string) (string, error) {
	path := filepath.Join(dir, filepath.Base(command))
	args := []string{"build", "-o", path}
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		args = append(args, "-race")
	}
	if out, err := exec.CommandContext(ctx, "go", append(args, command)...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", command, err, out)
	}
	return path, nil
}

// Output collects what a process writes while it is read.
type Output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

// String is what was written so far.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}
