// Package script_test runs the real command line on loopback: one file of
// testdata for each behaviour that a user sees, commands and output together.
package script_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"github.com/tullemesh/tulle/internal/cli"
	"github.com/tullemesh/tulle/internal/cli/call"
	"github.com/tullemesh/tulle/internal/cli/proxy"
	"github.com/tullemesh/tulle/internal/testkit/held"
)

func TestMain(m *testing.M) {
	program := func(run func(context.Context, []string, call.Streams) int) func() {
		return func() {
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
			code := run(ctx, os.Args[1:], call.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
			stop()
			os.Exit(code)
		}
	}
	testscript.Main(leakless{m}, map[string]func(){"tulle": program(cli.Run), "tulle-proxy": program(proxy.Run), "backend": program(runBackend)})
}

// leakless are tests that have passed only when they leave no goroutine.
type leakless struct{ *testing.M }

// Run runs them.
func (l leakless) Run() int {
	code := l.M.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return code
}

func TestScripts(t *testing.T) {
	testscript.Run(t, params(t, "testdata", func(*testscript.Env) error { return nil }))
}

// TestClients runs clients that people use through a proxy.
func TestClients(t *testing.T) {
	dir := filepath.Join("testdata", "clients")
	front, err := os.ReadFile(filepath.Join(dir, "front.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, params(t, dir, func(e *testscript.Env) error {
		return errors.Join(os.WriteFile(filepath.Join(e.WorkDir, "front.yaml"), front, 0o600),
			os.WriteFile(filepath.Join(e.WorkDir, "big"), bytes.Repeat([]byte("0123456789"), 200_000), 0o600))
	}))
}

func params(t *testing.T, dir string, setup func(*testscript.Env) error) testscript.Params {
	t.Helper()
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	return testscript.Params{
		Dir:                 dir,
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		RequireExplicitExec: true,
		Condition:           missing,
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", filepath.Join(e.WorkDir, "home"))
			e.Setenv("ROOT", root)
			e.Setenv("CI", os.Getenv("CI"))
			return setup(e)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits":       exits,
			"waitfile":    waitFile,
			"waitfor":     waitForText,
			"retry":       retry,
			"port":        port,
			"hold":        hold,
			"lines":       lines,
			"empty":       empty,
			"nomesh":      noMesh,
			"certificate": certificate,
			"fill":        fill,
			"listener":    listener,
		},
	}
}

// missing is the condition [missing:PROGRAM], which CI does not forgive.
func missing(cond string) (bool, error) {
	name, ok := strings.CutPrefix(cond, "missing:")
	if !ok {
		return false, fmt.Errorf("no condition %q", cond)
	}
	_, err := exec.LookPath(name)
	if err != nil && os.Getenv("CI") != "" {
		return false, fmt.Errorf("CI has no %s: %w", name, err)
	}
	return err != nil, nil
}

// exits CODE COMMAND...: the command ends with that exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if err != nil {
		code, ok := err.(interface{ ExitCode() int })
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = code.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// patience ends a wait for what does not come. It is long because browsers and meshes start slowly beside other suites and under the race detector.
const patience = 30 * time.Second

// waitfile FILE: until the file is there, patience at most.
func waitFile(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[0])
	until(ts, fmt.Sprintf("%s does not appear", args[0]), func() bool {
		_, err := os.Stat(path)
		return err == nil
	})
}

// waitfor FILE TEXT: until the file contains the text, patience at most.
func waitForText(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[0])
	until(ts, fmt.Sprintf("%s does not come to contain %q", args[0], args[1]), func() bool {
		data, err := os.ReadFile(path)
		return err == nil && strings.Contains(string(data), args[1])
	})
}

func until(ts *testscript.TestScript, what string, ok func() bool) {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			ts.Fatalf("%s within %v", what, patience)
		case <-tick.C:
		}
	}
}

// port NAME: sets an environment variable to a port of loopback that nobody else is given until the script ends.
func port(ts *testscript.TestScript, _ bool, args []string) {
	number, release, err := held.Bind("127.0.0.1")
	ts.Check(err)
	ts.Defer(release)
	ts.Setenv(args[0], strconv.Itoa(number))
}

// hold PORT: somebody else listens there, until the script ends.
func hold(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", args[0]))
	ts.Check(err)
	ts.Defer(func() { _ = l.Close() })
}

// retry REGEXP COMMAND...: until the command succeeds and its output matches,
// patience at most.
func retry(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: retry REGEXP COMMAND...")
	}
	want, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	until(ts, fmt.Sprintf("%s does not come to print %s", strings.Join(args[1:], " "), args[0]), func() bool {
		return ts.Exec(args[1], args[2:]...) == nil && want.MatchString(ts.ReadFile("stdout"))
	})
}

// lines FILE NAME...: sets environment variables to the lines of a file.
func lines(ts *testscript.TestScript, _ bool, args []string) {
	text := strings.Split(ts.ReadFile(args[0]), "\n")
	for i, name := range args[1:] {
		if i >= len(text) {
			ts.Fatalf("%s has only %d lines", args[0], len(text))
		}
		ts.Setenv(name, text[i])
	}
}

// empty DIR: nothing is in it.
func empty(ts *testscript.TestScript, _ bool, args []string) {
	found, err := os.ReadDir(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(found) > 0 {
		ts.Fatalf("%s is left in %s", found[0].Name(), args[0])
	}
}

// nomesh: no process is left that this script started, directly or not.
func noMesh(ts *testscript.TestScript, _ bool, _ []string) {
	mine := []byte("\x00WORK=" + ts.Getenv("WORK") + "\x00")
	var left string
	until(ts, "processes are left:", func() bool {
		left = ""
		all, err := filepath.Glob("/proc/[0-9]*/environ")
		ts.Check(err)
		for _, path := range all {
			if env, err := os.ReadFile(path); err == nil && bytes.Contains(append([]byte{0}, env...), mine) {
				left = path
			}
		}
		return left == ""
	})
}
