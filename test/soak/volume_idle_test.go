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
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/testkit/proxyrun"
)

// What the data plane may hold, in bytes. The figures of record are in docs/reference/benchmarks.md; these bounds leave room for what
// differs between kernels.
const (
	startBytesMax      = 22 << 20 // the goal is 20 MB; pages of the program that the kernel maps beside those in use differ by one or two
	idlePlainBytesMax  = 9 << 10
	idleTLSBytesMax    = 30 << 10
	slowReaderBytesMax = 64 << 10
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

// TestSlowReadersHoldOnlyTheirShare: clients that ask for a mebibyte and read a few kilobytes each second must not make the proxy keep the
// rest of it.
func TestSlowReadersHoldOnlyTheirShare(t *testing.T) {
	// A reader of HTTP/1.1 from an HTTP/1.1 backend takes two files of the proxy.
	n := min(sized(10_000, 200), connectionsMax(t)-100)
	pairs := min(n, connectionsMax(t)/2-100)
	// Over HTTP/2 the window of a stream waits as well; so many fewer.
	n = min(n, 2000)
	const streams, windowed = 100, slowReaderBytesMax + limit.HTTP2StreamWindow
	for _, c := range []struct {
		name  string
		n     int
		bytes int64
		open  func(*testing.T, *volumeProxy, int) []slowReader
	}{
		{"HTTP/1.1 to HTTP/1.1", pairs, slowReaderBytesMax, func(t *testing.T, p *volumeProxy, n int) []slowReader { return slowHTTP1(t, p.h1, n) }},
		{"HTTP/1.1 to HTTP/2", n, windowed, func(t *testing.T, p *volumeProxy, n int) []slowReader { return slowHTTP1(t, p.h2, n) }},
		{"HTTP/2 to HTTP/2", n, windowed, func(t *testing.T, p *volumeProxy, n int) []slowReader { return slowHTTP2(t, p.h2, n, streams) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := startVolume(t, false)
			for _, at := range []string{p.h1, p.h2} {
				dialAll(t, 8, at, exchanged)
			}
			before, files := p.RSS(t), p.files(t)
			peak := p.peak(t)
			readers := c.open(t, p, c.n)
			readSlowly(t, readers, sized(20*time.Second, 3*time.Second))
			good := latencies(t, p.h1, time.Second)
			most := peak()
			each := (most - before) / int64(c.n)
			t.Logf("%d slow readers: %.1f kB each, %.0f MB in all; p99 of others %v", c.n, float64(each)/1e3, float64(most)/1e6, quantile(good, .99))
			if full() && each > c.bytes {
				t.Errorf("a slow reader takes %d bytes, want %d at most", each, c.bytes)
			}
			// One of them gets in a hurry: nothing was lost.
			rest, err := readers[0].finish()
			if err != nil || rest != mebibyte {
				t.Errorf("a slow reader got %d bytes, want %d: %v", rest, mebibyte, err)
			}
			if t.Failed() {
				for line := range strings.Lines(p.AccessLog()) {
					if !strings.HasPrefix(line, "GET / ") {
						t.Logf("the proxy logged %s", line)
					}
				}
			}
			for _, r := range readers {
				r.leave()
			}
			p.Await(t, 30*time.Second, "the proxy let go of who left", func() bool { return p.files(t) <= files+20 })
		})
	}
}

// slowReader reads a response of a mebibyte as it likes.
type slowReader struct {
	read   func(most int) error
	finish func() (total int64, err error)
	leave  func()
}

func (s *slowBody) reader(leave func()) slowReader {
	return slowReader{read: s.read, leave: leave, finish: func() (int64, error) {
		// A window of two kilobytes takes its time.
		defer time.AfterFunc(2*time.Minute, leave).Stop()
		n, err := io.Copy(io.Discard, s.body)
		return s.got + n, err
	}}
}

type slowBody struct {
	body io.Reader
	got  int64
}

func (s *slowBody) read(most int) error {
	n, err := io.ReadFull(s.body, make([]byte, most))
	s.got += int64(n)
	return err
}

const slowRequest = "GET /bytes?n=1048576 HTTP/1.1\r\nHost: volume.example\r\n\r\n"

func slowHTTP1(t *testing.T, at string, n int) []slowReader {
	t.Helper()
	var mu sync.Mutex
	var all []slowReader
	dialAll(t, n, at, func(c net.Conn) error {
		if _, err := io.WriteString(c, slowRequest); err != nil {
			return err
		}
		if err := c.SetReadDeadline(time.Now().Add(5 * time.Minute)); err != nil {
			return err
		}
		r := bufio.NewReaderSize(c, 1024)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK || resp.ContentLength != mebibyte {
			return fmt.Errorf("answered %s with %d bytes", resp.Status, resp.ContentLength)
		}
		s := &slowBody{body: resp.Body}
		mu.Lock()
		defer mu.Unlock()
		all = append(all, s.reader(func() { _ = c.Close() }))
		return nil
	})
	return all
}

// slowHTTP2 opens n streams, so many on each connection.
func slowHTTP2(t *testing.T, at string, n, streams int) []slowReader {
	t.Helper()
	var all []slowReader
	for len(all) < n {
		tr := &http.Transport{Protocols: new(http.Protocols), DialContext: small().DialContext, HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10, MaxReceiveBufferPerConnection: 64 << 10 * streams}}
		tr.Protocols.SetUnencryptedHTTP2(true)
		t.Cleanup(tr.CloseIdleConnections)
		client := &http.Client{Transport: tr}
		for range min(streams, n-len(all)) {
			resp, err := client.Get("http://" + at + "/bytes?n=1048576")
			if err != nil {
				t.Fatalf("stream %d: %v", len(all), err)
			}
			s := &slowBody{body: resp.Body}
			all = append(all, s.reader(func() { _ = resp.Body.Close() }))
		}
	}
	return all
}

// readSlowly lets every reader take two kilobytes a second.
func readSlowly(t *testing.T, all []slowReader, length time.Duration) {
	t.Helper()
	const a, rounds = 1024, 2
	end := time.NewTimer(length)
	defer end.Stop()
	tick := time.NewTicker(time.Second / rounds)
	defer tick.Stop()
	for {
		var wait sync.WaitGroup
		var next atomic.Int64
		for range 8 {
			wait.Go(func() {
				for i := int(next.Add(1)) - 1; i < len(all) && !t.Failed(); i = int(next.Add(1)) - 1 {
					if err := all[i].read(a); err != nil {
						t.Errorf("reader %d: %v", i, err)
					}
				}
			})
		}
		wait.Wait()
		select {
		case <-end.C:
			return
		case <-tick.C:
		}
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
