// Package proxyrun runs one proxy as users do, for acceptance tests: the built program as a child process with an Envoy bootstrap.
//
// In comes a bootstrap; out go the listeners' addresses, the access log, the metrics and what the process costs. A Proxy owns its process;
// the test's cleanup ends it and fails the test when it does not end. Read this file first; bootstrap.go builds bootstraps, envoy.go runs stock Envoy with one.
package proxyrun

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/testkit/pressure"
	"github.com/tullemesh/tulle/internal/testkit/program"
)

// The waits: for a proxy to serve, for it to be gone, for its admin port, and between two looks.
const (
	startTime = 20 * time.Second
	stopTime  = 20 * time.Second
	adminTime = 20 * time.Second
	lookEvery = 5 * time.Millisecond
)

// Proxy is a running `tulle proxy`, tulle-proxy or stock Envoy.
type Proxy struct {
	// Admin is host:port of the admin port.
	Admin string
	// PID is its process.
	PID int

	cmd    *exec.Cmd
	ended  chan struct{}
	err    error // of the process; complete when ended is closed
	stdout program.Output
	stderr program.Output
}

// Start runs the program, tulle or tulle-proxy, with a bootstrap and waits
// until its listeners accept. More arguments follow `proxy -c FILE`.
func Start(t testing.TB, binary string, bootstrap Object, more ...string) *Proxy {
	t.Helper()
	config, place := write(t, bootstrap)
	args := append([]string{"-c", config, "--address-file", place}, more...)
	if filepath.Base(binary) != "tulle-proxy" {
		args = append([]string{"proxy"}, args...)
	}
	return run(t, exec.Command(binary, args...), bootstrap, place) //nolint:noctx // ended by stop, gently
}

// run runs a proxy and waits until it serves.
func run(t testing.TB, cmd *exec.Cmd, bootstrap Object, place string) *Proxy {
	t.Helper()
	p := &Proxy{cmd: cmd, ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.PID = p.cmd.Process.Pid
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() { p.stop(t) })
	want := len(bootstrap["static_resources"].(Object)["listeners"].([]Object))
	p.Await(t, startTime, "the proxy serves", func() bool {
		at, err := os.ReadFile(place)
		p.Admin = strings.TrimSpace(string(at))
		return err == nil && p.Admin != "" && len(p.listeners(t)) == want
	})
	return p
}

// write writes a bootstrap down and returns its file, and one beside it for the address of the admin port.
func write(t testing.TB, bootstrap Object) (config, place string) {
	t.Helper()
	dir := t.TempDir()
	data, err := json.Marshal(bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	config, place = filepath.Join(dir, "bootstrap.json"), filepath.Join(dir, "admin")
	if err := os.WriteFile(config, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return config, place
}

// stop ends the proxy.
func (p *Proxy) stop(t testing.TB) {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	limit := time.NewTimer(stopTime)
	defer limit.Stop()
	select {
	case <-p.ended:
		if p.err != nil {
			t.Errorf("the proxy: %v", p.err)
		}
	case <-limit.C:
		_ = p.cmd.Process.Signal(syscall.SIGQUIT) // its goroutines tell why
		<-p.ended
		t.Errorf("the proxy did not end within %v", stopTime)
	}
	if t.Failed() {
		out := p.stderr.String()
		t.Logf("the proxy said: ...%s", out[max(0, len(out)-8000):])
	}
}

// Await waits until ok; the test fails after limit.
func (p *Proxy) Await(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for !ok() {
		select {
		case <-p.ended:
			t.Fatalf("the proxy ended (%v) before this: %s\n%s", p.err, what, p.stderr.String())
		case <-deadline.C:
			t.Fatalf("not within %v: %s; the kernel since it began: %s", limit, what, pressure.Since(nil))
		case <-tick.C:
		}
	}
}

// get asks the admin port; nil when it doesn't answer.
func (p *Proxy) get(t testing.TB, path string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.Admin+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true // nothing idle is left to a check for leaks
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil
	}
	return data
}

// listeners are the bound addresses by listener.
func (p *Proxy) listeners(t testing.TB) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(string(p.get(t, "/listeners"))) {
		if name, at, ok := strings.Cut(strings.TrimSpace(line), "::"); ok && !strings.HasSuffix(at, ":0") { // where Envoy has none yet
			out[name] = at
		}
	}
	return out
}

// At is host:port where a listener accepts.
func (p *Proxy) At(t testing.TB, listener string) string {
	t.Helper()
	at := p.listeners(t)[listener]
	if at == "" {
		t.Fatalf("listener %s is not bound", listener)
	}
	return at
}

// AccessLog is what the proxy has logged of requests so far.
func (p *Proxy) AccessLog() string { return p.stdout.String() }

// Metric sums the samples of a metric whose labels contain all of with, each
// in the form name="value".
func (p *Proxy) Metric(t testing.TB, name string, with ...string) float64 {
	t.Helper()
	sum := 0.0
	var text []byte
	p.Await(t, adminTime, "the admin port answers", func() bool {
		text = p.get(t, "/stats/prometheus")
		return text != nil
	})
next:
	for line := range strings.Lines(string(text)) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		for _, label := range with {
			if !strings.Contains(rest, label) {
				continue next
			}
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(rest[strings.LastIndexByte(strings.TrimSpace(rest), ' ')+1:]), 64)
		if err != nil {
			t.Fatalf("metric %q: %v", line, err)
		}
		sum += v
	}
	return sum
}

// RSS is the process's resident memory in bytes.
func (p *Proxy) RSS(t testing.TB) int64 {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", p.PID))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if fields := strings.Fields(s.Text()); len(fields) == 3 && fields[0] == "VmRSS:" {
			kib, err := strconv.ParseInt(fields[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}
