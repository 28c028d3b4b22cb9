// Package meshrun runs a whole mesh as users do, for acceptance tests: the built program as child processes, a project's folder, its
// gateway, load on kept connections.
//
// In comes a project's folder; out go the addresses and processes of the running mesh, and counts of what the load saw. A Mesh owns the
// process of `tulle up`; the test's cleanup ends it and fails the test when a process or a file of it is left. Applications are usually the
// test's own binary, which TestMain lets play a role. Read this file first, then load.go.
package meshrun

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/app"
	"github.com/tullemesh/tulle/internal/app/process"
	"github.com/tullemesh/tulle/internal/testkit/program"
)

// The waits: for a mesh to serve, for it to be gone, and between two looks.
const (
	startTime = 30 * time.Second
	stopTime  = 30 * time.Second
	lookEvery = 10 * time.Millisecond
)

// Mesh is a running `tulle up`.
type Mesh struct {
	// Dir is the project's folder.
	Dir string
	// Gateway is host:port of the first gateway port.
	Gateway string
	// Running is what the run file says.
	Running app.Running

	binary string
	cmd    *exec.Cmd
	ended  chan error
	output *program.Output
	// aborted: the test has killed it, and looks itself for what is left.
	aborted bool
}

// Up runs the project in dir with a gateway port that the kernel chooses, and
// waits until every proxy and process has started. The test's cleanup ends it.
func Up(t testing.TB, binary, dir string, flags ...string) *Mesh {
	t.Helper()
	m := &Mesh{Dir: dir, binary: binary, output: &program.Output{}, ended: make(chan error, 1)}
	m.cmd = exec.Command(binary, append([]string{"up", dir, "--gateway-port", "-1"}, flags...)...) //nolint:noctx // ended by stop, gently
	m.cmd.Stdout, m.cmd.Stderr = m.output, m.output
	m.cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "XDG_STATE_HOME=")
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { m.ended <- m.cmd.Wait() }()
	t.Cleanup(func() { m.stop(t) })
	m.Await(t, startTime, "the mesh starts", func() bool {
		data, err := os.ReadFile(filepath.Join(dir, ".tulle", "run.json"))
		return err == nil && json.Unmarshal(data, &m.Running) == nil
	})
	if len(m.Running.Gateways) > 0 {
		m.Gateway = m.Running.Gateways[0]
	}
	return m
}

// stop ends the mesh and looks for what is left.
func (m *Mesh) stop(t testing.TB) {
	if m.aborted {
		return
	}
	pid := m.cmd.Process.Pid
	_ = m.cmd.Process.Signal(syscall.SIGTERM)
	limit := time.NewTimer(stopTime)
	defer limit.Stop()
	select {
	case err := <-m.ended:
		if err != nil {
			t.Errorf("tulle up: %v", err)
		}
	case <-limit.C:
		_ = m.cmd.Process.Kill()
		<-m.ended
		t.Errorf("tulle up did not end within %v", stopTime)
	}
	if left := process.Marked("mesh-" + strconv.Itoa(pid)); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
	for _, name := range []string{"run", "run.json"} {
		if _, err := os.Stat(filepath.Join(m.Dir, ".tulle", name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", name, err)
		}
	}
	if t.Failed() {
		t.Logf("tulle up said:\n%s", m.output)
		m.logs(t)
	}
}

// logs shows the end of every log of the mesh.
func (m *Mesh) logs(t testing.TB) {
	all, _ := filepath.Glob(filepath.Join(m.Dir, ".tulle", "logs", "*.log"))
	for _, path := range all {
		if data, err := os.ReadFile(path); err == nil {
			t.Logf("%s: ...%s", filepath.Base(path), data[max(0, len(data)-1500):])
		}
	}
}

// Await waits until ok; the test fails after limit.
func (m *Mesh) Await(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for !ok() {
		select {
		case err := <-m.ended:
			m.ended <- nil
			t.Fatalf("tulle up ended (%v) before this: %s\n%s", err, what, m.output)
		case <-deadline.C:
			t.Fatalf("not within %v: %s", limit, what)
		case <-tick.C:
		}
	}
}

// Tulle runs a command of the program in the project's folder and returns its
// standard output and exit code.
func (m *Mesh) Tulle(ctx context.Context, words ...string) (string, int) {
	cmd := exec.CommandContext(ctx, m.binary, words...)
	cmd.Dir, cmd.Env = m.Dir, m.cmd.Env
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return string(out) + string(exit.Stderr), exit.ExitCode()
	}
	return string(out), 0
}

// PID is the process of a name, such as "control-plane" or "web-v1-proxy"; 0
// when it isn't running.
func (m *Mesh) PID(name string) int {
	pids := process.Marked("mesh-" + strconv.Itoa(m.cmd.Process.Pid) + "/" + name)
	if len(pids) == 0 {
		return 0
	}
	return pids[0]
}

// Kill kills a process of the mesh without warning.
func (m *Mesh) Kill(t testing.TB, name string) {
	t.Helper()
	pid := m.PID(name)
	if pid == 0 {
		t.Fatalf("%s does not run", name)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatalf("kill %s: %v", name, err)
	}
}

// Abort kills `tulle up` itself, without warning. What is left then is for the
// test to look for.
func (m *Mesh) Abort(t testing.TB) {
	t.Helper()
	if err := m.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-m.ended
	m.aborted = true
}

// Admin is the admin address of a proxy, by its workload's "name.namespace".
func (m *Mesh) Admin(name string) string {
	for _, p := range m.Running.Proxies {
		if p.Name == name {
			return p.Admin
		}
	}
	return ""
}

// Inbound is where a sidecar takes the connections of others, for a workload
// with one port.
func (m *Mesh) Inbound(t testing.TB, workload string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(m.Dir, ".tulle", "run", workload, "node.json"))
	if err != nil {
		t.Fatal(err)
	}
	var node struct {
		Ports map[string]string `json:"TULLE_APP_PORTS"`
	}
	if err := json.Unmarshal(data, &node); err != nil {
		t.Fatal(err)
	}
	for port := range node.Ports {
		return "127.0.0.1:" + port
	}
	t.Fatalf("%s has no port", workload)
	return ""
}

// OK reports whether a URL answers 200 now.
func OK(ctx context.Context, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// Write replaces a file of the project at once, as editors do.
func (m *Mesh) Write(t testing.TB, name, text string) {
	t.Helper()
	path := filepath.Join(m.Dir, name)
	tmp := filepath.Join(m.Dir, ".edit.tmp")
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		t.Fatal(err)
	}
}
