//go:build soak

package soak_test

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/testkit/proxyrun"
)

// What the data plane may hold, in bytes. The figures of record are in docs/reference/benchmarks.md; these bounds leave room for what
// differs between kernels.
const (
	startBytesMax     = 22 << 20 // the goal is 20 MB; pages of the program that the kernel maps beside those in use differ by one or two
	idlePlainBytesMax = 9 << 10
	idleTLSBytesMax   = 30 << 10
)

// TestTheDataPlaneStartsSmall: with what it needs to forward, without an admin port, as the benchmark measures.
func TestTheDataPlaneStartsSmall(t *testing.T) {
	boot := proxyrun.Bootstrap([]proxyrun.Listener{{Name: "front"}}, []proxyrun.Cluster{{Name: "be", To: []string{"127.0.0.1:1"}}})
	delete(boot, "admin")
	data, err := json.Marshal(boot)
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "bootstrap.json")
	if err := os.WriteFile(config, data, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(dataplane(t), "-c", config)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	line, err := bufio.NewReader(said).ReadString('\n')
	_, at, ok := strings.Cut(strings.TrimSpace(line), "address=")
	if err != nil || !ok {
		t.Fatalf("the proxy said %q: %v", line, err)
	}
	// It forwards: nobody listens behind it.
	resp, err := http.Get("http://" + at)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	p := &proxyrun.Proxy{PID: cmd.Process.Pid}
	rss := p.RSS(t)
	t.Logf("resident after start and a request (%s): %d KiB", resp.Status, rss>>10)
	if rss > startBytesMax {
		t.Errorf("%d bytes are resident after start, want %d at most", rss, startBytesMax)
	}
}

func TestIdleConnectionsCostLittle(t *testing.T) {
	n := sized(10_000, 500)
	for _, c := range []struct {
		name  string
		at    func(*volumeProxy) string
		open  func(net.Conn) error
		bytes int64
	}{
		{"plain", func(p *volumeProxy) string { return p.h1 }, exchanged, idlePlainBytesMax},
		{"TLS", func(p *volumeProxy) string { return p.tls }, func(c net.Conn) error {
			return exchanged(tls.Client(c, &tls.Config{InsecureSkipVerify: true})) //nolint:gosec // what is measured is the proxy's side
		}, idleTLSBytesMax},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := startVolume(t, false)
			warm := dialAll(t, 32, c.at(p), c.open)
			before := p.RSS(t)
			conns := dialAll(t, n, c.at(p), c.open)
			each := (p.RSS(t) - before) / int64(n)
			t.Logf("%d idle connections: %.1f kB each", n, float64(each)/1e3)
			// Few connections share what the first of them made the heap grow by.
			if full() && each > c.bytes {
				t.Errorf("an idle connection takes %d bytes, want %d at most", each, c.bytes)
			}
			if err := exchanged(dialAll(t, 1, p.h1, func(net.Conn) error { return nil })[0]); err != nil {
				t.Errorf("beside idle connections: %v", err)
			}
			files := p.files(t)
			for _, c := range append(conns, warm...) {
				_ = c.Close()
			}
			p.Await(t, 20*time.Second, "the proxy has closed what its clients closed", func() bool { return p.files(t) < files-n })
		})
	}
}

// TestBodiesOfAnySizePassThrough: memory does not grow with a body, and what arrives is what was sent.
func TestBodiesOfAnySizePassThrough(t *testing.T) {
	size := int64(sized(100<<20, 16<<20))
	want := sumOf(&pattern{end: size})
	p := startVolume(t, false)
	for _, c := range []struct {
		name, at string
		http2    bool
	}{{"HTTP/1.1 to HTTP/1.1", p.h1, false}, {"HTTP/1.1 to HTTP/2", p.h2, false}, {"HTTP/2 to HTTP/1.1", p.h1, true}, {"HTTP/2 to HTTP/2", p.h2, true}} {
		t.Run(c.name, func(t *testing.T) {
			tr := &http.Transport{Protocols: new(http.Protocols)}
			tr.Protocols.SetHTTP1(!c.http2)
			tr.Protocols.SetUnencryptedHTTP2(c.http2)
			defer tr.CloseIdleConnections()
			client := &http.Client{Transport: tr}
			before := p.RSS(t)
			peak := p.peak(t)
			resp, err := client.Post("http://"+c.at+"/sum", "application/octet-stream", &pattern{end: size})
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if got := fmt.Sprintf("%d %s %v", size, want, error(nil)); err != nil || string(text) != got {
				t.Errorf("up: the backend saw %q (%v), want %q", text, err, got)
			}
			// Both ways at once: the answer begins before the request ends.
			if resp, err = client.Post("http://"+c.at+"/echo", "application/octet-stream", &pattern{end: size}); err != nil {
				t.Fatal(err)
			}
			got := sumOf(resp.Body)
			_ = resp.Body.Close()
			if got != want {
				t.Errorf("there and back: %s, want %s", got, want)
			}
			grown := peak() - before
			t.Logf("%d MiB each way: %.1f MB more are resident at most", size>>20, float64(grown)/1e6)
			if grown > 16<<20 {
				t.Errorf("memory grew by %d bytes with a body of %d", grown, size)
			}
			if !strings.HasPrefix(resp.Proto, map[bool]string{true: "HTTP/2", false: "HTTP/1"}[c.http2]) {
				t.Errorf("the client spoke %s", resp.Proto)
			}
		})
	}
}
