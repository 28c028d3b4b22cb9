package script_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tullemesh/tulle/internal/app/dataplane"
)

const sigtermBootstrap = `
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
static_resources:
  clusters:
  - name: backend
    type: STATIC
    load_assignment: {cluster_name: backend, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}}]}]}
  listeners:
  - name: plain
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          route_config:
            name: front
            virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: backend}}]}]
          http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
`

// runningProxy is the program, as an orchestrator runs it.
type runningProxy struct {
	cmd         *exec.Cmd
	output      *bytes.Buffer
	admin, data string
}

func startProxy(t *testing.T, backend net.Addr) *runningProxy {
	t.Helper()
	dir := t.TempDir()
	boot, addr := filepath.Join(dir, "boot.yaml"), filepath.Join(dir, "admin")
	if err := os.WriteFile(boot, fmt.Appendf(nil, sigtermBootstrap, backend.(*net.TCPAddr).Port), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &runningProxy{cmd: exec.Command("tulle-proxy", "-c", boot, "--address-file", addr), output: &bytes.Buffer{}}
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
		}
	})
	soon(t, "the proxy listens", func() bool {
		text, _ := os.ReadFile(addr)
		p.admin = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(string(text)), "ADMIN="))
		if p.admin == "" {
			return false
		}
		rows := p.ask(t, http.MethodGet, "/listeners")
		_, p.data, _ = strings.Cut(strings.TrimSpace(rows), "plain::")
		return p.data != ""
	})
	return p
}

// ask asks the admin port.
func (p *runningProxy) ask(t *testing.T, method, path string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+p.admin+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return ""
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	return string(body)
}

// soon waits until something holds.
func soon(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatal("waited in vain until " + what)
		}
	}
}

// load is clients that ask until their connections have ended and nobody takes
// new ones. They repeat nothing.
type load struct {
	wg             sync.WaitGroup
	answered, told atomic.Int64
	mu             sync.Mutex
	lost           []string
}

func (l *load) lose(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost = append(l.lost, err.Error())
}

// one uses HTTP/1.1 connections, each for a hundred requests.
func (l *load) one(at string) {
	for l.connection(at) {
	}
}

func (l *load) connection(at string) (more bool) {
	c, err := net.DialTimeout("tcp", at, time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	r := bufio.NewReader(c)
	for range 100 {
		if ended(c) {
			return true // it was idle for too long on this machine, and nothing is sent
		}
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			l.lose(err)
			return true
		}
		res, err := http.ReadResponse(r, nil)
		if err == nil {
			_, err = io.Copy(io.Discard, res.Body)
			res.Body.Close()
		}
		switch {
		case err != nil:
			l.lose(err)
			return true
		case res.StatusCode != http.StatusOK:
			l.lose(errors.New(res.Status))
		}
		l.answered.Add(1)
		if res.Close {
			l.told.Add(1)
			return true
		}
	}
	return true
}

// ended reports whether the peer has closed an idle connection.
func ended(c net.Conn) bool {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return true
	}
	over := false
	_ = raw.Control(func(fd uintptr) {
		n, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		over = err == nil && n == 0 || err != nil && !errors.Is(err, unix.EAGAIN)
	})
	return over
}

// two uses an HTTP/2 connection. A request that a GOAWAY leaves out goes to the
// next connection, as every client of HTTP/2 does (RFC 9113 §6.8).
func (l *load) two(at string) {
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: &p}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 20 * time.Second}
	for {
		res, err := client.Get("http://" + at + "/")
		if err == nil {
			_, err = io.Copy(io.Discard, res.Body)
			res.Body.Close()
		}
		var dial *net.OpError
		switch {
		case errors.As(err, &dial) && dial.Op == "dial":
			return
		case err != nil:
			l.lose(err)
			return
		case res.StatusCode != http.StatusOK:
			l.lose(errors.New(res.Status))
		}
		l.answered.Add(1)
	}
}

// A proxy that is told to end loses no request, tells its clients to go
// elsewhere, and ends in order within the time that it has.
func TestSIGTERMUnderLoadLosesNothing(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }))
	defer backend.Close()
	p := startProxy(t, backend.Listener.Addr())
	var l load
	for range 8 {
		l.wg.Go(func() { l.one(p.data) })
	}
	for range 4 {
		l.wg.Go(func() { l.two(p.data) })
	}
	soon(t, "there is load", func() bool { return l.answered.Load() > 500 })
	begun := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	err := p.cmd.Wait()
	took := time.Since(begun)
	l.wg.Wait()
	if err != nil {
		t.Errorf("it ended with %v:\n%s", err, p.output)
	}
	if took > dataplane.DrainMax+2*time.Second { // what a busy machine may add
		t.Errorf("it took %v", took)
	}
	if len(l.lost) > 0 {
		t.Errorf("%d of %d requests are lost: %q", len(l.lost), l.answered.Load()+int64(len(l.lost)), l.lost[:min(5, len(l.lost))])
	}
	if l.told.Load() == 0 {
		t.Error("nobody was told to go elsewhere")
	}
	t.Logf("%d answered, %d connections told to close, %v", l.answered.Load(), l.told.Load(), took)
}
