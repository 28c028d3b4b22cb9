//go:build soak

package soak_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tullemesh/tulle/internal/app/port"
	"github.com/tullemesh/tulle/internal/testkit/pressure"
	"github.com/tullemesh/tulle/internal/testkit/proxyrun"
)

// The tests of volume run the data plane alone, as tulle-proxy is built, before a backend that is a process of its own. VOLUME=full makes
// them as big as the figures in docs/reference/benchmarks.md; else they are small.

// volumeBackend is the role of the backend.
const volumeBackend = "volume-backend"

// full reports whether the tests run at their full size.
func full() bool { return os.Getenv("VOLUME") == "full" }

// sized is how many, or how long, at full size and else.
func sized[T any](all, small T) T {
	if full() {
		return all
	}
	return small
}

// slack is by how much beyond twice the calm the 99th percentile of others may be: below the noise of a timer is no slowing, and in the short
// windows of the small form one stall of the machine is their percentile, so that it tells of starvation only.
func slack() time.Duration { return sized(500*time.Microsecond, 200*time.Millisecond) }

// mebibyte is what slow readers ask for.
const mebibyte = 1 << 20

// serveVolume is the backend: /bytes?n= answers so many, /sum hashes what comes, /echo sends it back at once. It tells its address in a file.
func serveVolume(place string) error {
	block := []byte(strings.Repeat("0123456789abcdef", 4096))
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	mux.HandleFunc("/bytes", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.URL.Query().Get("n"))
		w.Header().Set("Content-Length", strconv.Itoa(n))
		for n > 0 {
			k, err := w.Write(block[:min(n, len(block))])
			if n -= k; err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/sum", func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		n, err := io.Copy(sum, r.Body)
		fmt.Fprintf(w, "%d %x %v", n, sum.Sum(nil), err)
	})
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		_ = rc.Flush()
		_, _ = io.Copy(w, r.Body)
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if err := port.WriteAddresses(place, l.Addr().String()); err != nil {
		return err
	}
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, ConnContext: holdLittle, Protocols: new(http.Protocols), HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 1000}}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	return s.Serve(l)
}

// holdLittle bounds what waits in the kernel for the proxy to read: elsewhere that would be another machine's memory.
func holdLittle(ctx context.Context, c net.Conn) context.Context {
	if raw, err := c.(*net.TCPConn).SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, 16<<10) })
	}
	return ctx
}

// volumeProxy is the data plane alone before the backend.
type volumeProxy struct {
	*proxyrun.Proxy
	credentials *proxyrun.Credentials
	h1, h2, tls string // addresses: to HTTP/1.1, to HTTP/2, TLS to HTTP/1.1
}

// The deadlines that a slow client meets.
const (
	headTime      = 2 * time.Second
	requestTime   = 4 * time.Second
	handshakeTime = 2 * time.Second
)

// startVolume starts the backend and the proxy. Deadlines hold where the test asks for them.
func startVolume(t *testing.T, deadlines bool) *volumeProxy {
	t.Helper()
	place := filepath.Join(t.TempDir(), "backend")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	backend := exec.Command(exe)
	backend.Env = append(os.Environ(), role+"="+volumeBackend, "PLACE="+place)
	backend.Stderr = t.Output()
	backend.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := backend.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = backend.Process.Kill()
		_ = backend.Wait()
	})
	at := ""
	eventually(t, 10*time.Second, "the backend serves", func() bool {
		data, err := os.ReadFile(place)
		at = strings.TrimSpace(string(data))
		return err == nil
	})
	p := &volumeProxy{credentials: proxyrun.NewAuthority(t).Issue(t, "volume", "volume.example")}
	limits := proxyrun.Object{"thresholds": []proxyrun.Object{{"max_connections": 50_000, "max_pending_requests": 50_000, "max_requests": 50_000}}}
	manager := proxyrun.Object{}
	if deadlines {
		manager = proxyrun.Object{"request_headers_timeout": headTime.String(), "request_timeout": requestTime.String()}
	}
	// No timeout of the route's: it would bound whole responses, slow readers' among them.
	to := func(cluster string) []proxyrun.Object {
		return []proxyrun.Object{proxyrun.Forward("/", cluster, proxyrun.Object{"timeout": "0s"})}
	}
	boot := proxyrun.Bootstrap([]proxyrun.Listener{
		{Name: "h1", Manager: manager, Routes: to("be")},
		{Name: "h2", Manager: manager, Routes: to("be2")},
		{Name: "tls", Manager: manager, TLS: p.credentials, Routes: to("be")},
	}, []proxyrun.Cluster{
		{Name: "be", To: []string{at}, More: proxyrun.Object{"circuit_breakers": limits}},
		{Name: "be2", To: []string{at}, HTTP2: true, More: proxyrun.Object{"circuit_breakers": limits}},
	})
	if deadlines {
		chain := boot["static_resources"].(proxyrun.Object)["listeners"].([]proxyrun.Object)[2]["filter_chains"].([]proxyrun.Object)[0]
		chain["transport_socket_connect_timeout"] = handshakeTime.String()
	}
	p.Proxy = proxyrun.Start(t, dataplane(t), boot)
	p.h1, p.h2, p.tls = p.At(t, "h1"), p.At(t, "h2"), p.At(t, "tls")
	return p
}

// builtDataplane is where dataplane's program lies, made once.
var builtDataplane struct {
	sync.Once
	path string
	err  error
}

// dataplane is the program tulle-proxy, built as `make build` does.
func dataplane(t *testing.T) string {
	t.Helper()
	builtDataplane.Do(func() {
		dir := filepath.Dir(binary)
		builtDataplane.path = filepath.Join(dir, "tulle-proxy")
		if out, err := exec.Command("make", "-s", "-C", filepath.Join("..", ".."), "build-proxy", "BIN="+dir).CombinedOutput(); err != nil {
			builtDataplane.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	if builtDataplane.err != nil {
		t.Fatal(builtDataplane.err)
	}
	return builtDataplane.path
}

// eventually waits until ok; the test fails after limit.
func eventually(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("not within %v: %s; the kernel since it began: %s", limit, what, pressure.Since(nil))
		case <-tick.C:
		}
	}
}

// peak samples the proxy's memory until the returned function is called, which gives the most that there was.
func (p *volumeProxy) peak(t *testing.T) func() int64 {
	t.Helper()
	var most atomic.Int64
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			most.Store(max(most.Load(), p.RSS(t)))
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	}()
	return func() int64 {
		close(done)
		<-ended
		return most.Load()
	}
}

// files is how many files the proxy has open.
func (p *volumeProxy) files(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.PID))
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// connectionsMax is how many files one process may have open.
func connectionsMax(t *testing.T) int {
	t.Helper()
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		t.Fatal(err)
	}
	return int(l.Max)
}

// small is a dialer whose connections take little before their reader reads.
func small() *net.Dialer {
	return &net.Dialer{Timeout: 10 * time.Second, Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) { failed = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096) })
		if err != nil {
			return err
		}
		return failed
	}}
}

// dialAll opens n connections, each given to use before the next of its goroutine.
func dialAll(t *testing.T, n int, at string, use func(net.Conn) error) []net.Conn {
	t.Helper()
	conns := make([]net.Conn, n)
	var next atomic.Int64
	var wait sync.WaitGroup
	for range 16 {
		wait.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && !t.Failed(); i = int(next.Add(1)) - 1 {
				c, err := small().DialContext(t.Context(), "tcp", at)
				if err == nil {
					conns[i] = c
					err = use(c)
				}
				if err != nil {
					t.Errorf("connection %d: %v", i, err)
					return
				}
			}
		})
	}
	wait.Wait()
	t.Cleanup(func() {
		for _, c := range conns {
			if c != nil {
				_ = c.Close()
			}
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	return conns
}

// exchanged sends a GET and reads its short answer.
func exchanged(c net.Conn) error {
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: volume.example\r\n\r\n"); err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	text := make([]byte, 4096)
	n := 0
	for !strings.HasSuffix(string(text[:n]), "ok\n") {
		k, err := c.Read(text[n:])
		if n += k; err != nil {
			return fmt.Errorf("after %q: %w", text[:n], err)
		}
	}
	if !strings.HasPrefix(string(text), "HTTP/1.1 200") {
		return fmt.Errorf("answered %q", text[:n])
	}
	return nil
}

// latencies asks the proxy over a few kept connections at an even rate, and gives the times in order.
func latencies(t *testing.T, at string, length time.Duration) []time.Duration {
	t.Helper()
	const users, every = 4, 2 * time.Millisecond
	var mu sync.Mutex
	var all []time.Duration
	var wait sync.WaitGroup
	for range users {
		wait.Go(func() {
			c, err := net.Dial("tcp", at)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			end := time.NewTimer(length)
			defer end.Stop()
			tick := time.NewTicker(every)
			defer tick.Stop()
			var mine []time.Duration
			for {
				began := time.Now()
				if err := exchanged(c); err != nil {
					t.Errorf("good traffic: %v", err)
					return
				}
				mine = append(mine, time.Since(began))
				select {
				case <-end.C:
					mu.Lock()
					all = append(all, mine...)
					mu.Unlock()
					return
				case <-tick.C:
				}
			}
		})
	}
	wait.Wait()
	slices.Sort(all)
	if len(all) < 100 {
		t.Fatalf("only %d good requests", len(all))
	}
	return all
}

// quantile is the time below which the share q of sorted times lies.
func quantile(sorted []time.Duration, q float64) time.Duration {
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// pattern is endless bytes in an order that tells lost and doubled blocks.
type pattern struct{ at, end int64 }

// Read implements io.Reader.
func (p *pattern) Read(b []byte) (int, error) {
	if p.at == p.end {
		return 0, io.EOF
	}
	n := int(min(int64(len(b)), p.end-p.at))
	for i := range n {
		at := p.at + int64(i)
		b[i] = byte(at) ^ byte(at>>8) ^ byte(at>>16)
	}
	p.at += int64(n)
	return n, nil
}

// sumOf is the hash of all that r gives, or why it ended.
func sumOf(r io.Reader) string {
	sum := sha256.New()
	if _, err := io.Copy(sum, r); err != nil {
		return err.Error()
	}
	return hex.EncodeToString(sum.Sum(nil))
}
