//go:build soak

package soak_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/testkit/pressure"
)

// What a slow reader may take of the proxy, in bytes: a connection of HTTP/1.1 holds its request's buffer, one with a part of the response, and
// the stacks of three goroutines; a stream of HTTP/2 a narrow window. And by how much more than before the proxy may hold a while after they left:
// what was used by so many is used again before the heap grows, and returned by and by.
const (
	slowReaderBytesMax = 96 << 10
	slowStreamBytesMax = 48 << 10
	leftBytesMax       = 96 << 20
)

// TestSlowReadersHoldOnlyTheirShare: clients that ask for a mebibyte and read a kilobyte each second must not make the proxy keep the rest of it,
// nor slow those who share their upstream connections; what they held is given back.
func TestSlowReadersHoldOnlyTheirShare(t *testing.T) {
	n := min(sized(10_000, 200), connectionsMax(t)-100)
	// A reader of HTTP/1.1 from an HTTP/1.1 backend takes two files of the proxy.
	pairs := min(n, connectionsMax(t)/2-100)
	const streams = 100
	for _, c := range []struct {
		name  string
		n     int
		bytes int64
		at    func(*volumeProxy) string
		open  func(*testing.T, string, int) []*slowReader
	}{
		{"HTTP/1.1 to HTTP/1.1", pairs, slowReaderBytesMax, func(p *volumeProxy) string { return p.h1 }, slowHTTP1},
		{"HTTP/1.1 to HTTP/2", n, slowReaderBytesMax, func(p *volumeProxy) string { return p.h2 }, slowHTTP1},
		{"HTTP/2 to HTTP/2", n, slowStreamBytesMax, func(p *volumeProxy) string { return p.h2 }, func(t *testing.T, at string, n int) []*slowReader { return slowHTTP2(t, at, n, streams) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := pressure.Read()
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("the kernel meanwhile: %s", pressure.Since(before))
				}
			})
			p := startVolume(t, false)
			each := readSlowly(t, p, c.at(p), c.n, c.open)
			// Few readers share what the first of them made the heap grow by.
			if full() && each > c.bytes {
				t.Errorf("a slow reader takes %d bytes, want %d at most", each, c.bytes)
			}
			t.Logf("the kernel meanwhile: %s", pressure.Since(before))
		})
	}
}

// readSlowly measures users alone and then beside n slow readers, all at the same address, and gives the memory that each of those takes.
func readSlowly(t *testing.T, p *volumeProxy, at string, n int, open func(*testing.T, string, int) []*slowReader) (each int64) {
	t.Helper()
	dialAll(t, 8, at, exchanged)
	latencies(t, at, time.Second)
	alone := calmest(t, at)
	start, files := p.RSS(t), p.files(t)
	peak := p.peak(t)
	began := time.Now()
	readers := open(t, at, n)
	opened := time.Since(began)
	stop := trickle(t, readers)
	latencies(t, at, sized(8*time.Second, time.Second))
	beside := calmest(t, at)
	stop()
	most := peak()
	each = (most - start) / int64(n)
	t.Logf("%d slow readers within %v: %.1f kB each, %.0f MB in all; p99 of others %v, without them %v", n, opened.Round(time.Millisecond), float64(each)/1e3, float64(most)/1e6, beside, alone)
	if allowed := 2*alone + slack(); beside > allowed {
		t.Errorf("others' p99 is %v beside slow readers, want %v at most", beside, allowed)
	}
	starved := 0
	for _, r := range readers {
		if r.got == 0 {
			starved++
		}
	}
	if starved > 0 {
		t.Errorf("%d readers got nothing", starved)
	}
	// One of them gets in a hurry: nothing was lost.
	if rest, err := readers[0].finish(); err != nil || rest != mebibyte {
		t.Errorf("a slow reader got %d bytes, want %d: %v", rest, mebibyte, err)
	}
	if t.Failed() {
		slowLines(t, p)
	}
	for _, r := range readers {
		r.leave()
	}
	p.Await(t, 30*time.Second, "the proxy let go of who left", func() bool { return p.files(t) <= files+20 })
	// The runtime collects garbage every two minutes at the latest, needs a second time for what its pools kept, and then returns it to the
	// kernel by and by.
	p.Await(t, 6*time.Minute, "what slow readers held is given back", func() bool { return p.RSS(t) < start+leftBytesMax })
	t.Logf("%.0f MB are resident %v after they left, %.0f MB were before", float64(p.RSS(t))/1e6, time.Since(began).Round(time.Second), float64(start)/1e6)
	return each
}

// calmest is the least 99th percentile of a few windows: other work on the machine slows some.
func calmest(t *testing.T, at string) time.Duration {
	t.Helper()
	least := time.Hour
	for range 4 {
		least = min(least, quantile(latencies(t, at, sized(2*time.Second, 700*time.Millisecond)), .99))
	}
	return least
}

// slowLines tells what the proxy logged of others than the users, and how often.
func slowLines(t *testing.T, p *volumeProxy) {
	t.Helper()
	lines := map[string]int{}
	for line := range strings.Lines(p.AccessLog()) {
		if fields := strings.Fields(line); len(fields) > 1 && !strings.HasPrefix(line, "GET / ") {
			lines[strings.Join(fields[:len(fields)-1], " ")]++
		}
	}
	for line, n := range lines {
		t.Logf("the proxy logged %d times %s", n, line)
	}
}

// slowReader reads a response of a mebibyte as it likes.
type slowReader struct {
	body  io.Reader
	got   int64
	hurry func()
	leave func()
}

// finish reads the rest.
func (s *slowReader) finish() (total int64, err error) {
	s.hurry()
	defer time.AfterFunc(time.Minute, s.leave).Stop()
	n, err := io.Copy(io.Discard, s.body)
	return s.got + n, err
}

const slowRequest = "GET /bytes?n=1048576 HTTP/1.1\r\nHost: volume.example\r\n\r\n"

func slowHTTP1(t *testing.T, at string, n int) []*slowReader {
	t.Helper()
	var mu sync.Mutex
	var all []*slowReader
	var heads []time.Duration
	dialAll(t, n, at, func(c net.Conn) error {
		began := time.Now()
		if _, err := io.WriteString(c, slowRequest); err != nil {
			return err
		}
		if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
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
		if err := c.SetReadDeadline(time.Time{}); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		heads = append(heads, time.Since(began))
		all = append(all, &slowReader{body: resp.Body, leave: func() { _ = c.Close() }, hurry: func() {
			_ = c.(*net.TCPConn).SetReadBuffer(mebibyte) // a window of two kilobytes takes its time
		}})
		return nil
	})
	logHeads(t, heads)
	return all
}

// logHeads tells how long the slow readers waited for their heads, in the order in which they came.
func logHeads(t *testing.T, heads []time.Duration) {
	t.Helper()
	for part := range slices.Chunk(heads, max(1, (len(heads)+3)/4)) {
		part := slices.Sorted(slices.Values(part))
		t.Logf("%d heads: median %v, p99 %v", len(part), quantile(part, .5), quantile(part, .99))
	}
}

// slowHTTP2 opens n streams, so many on each connection.
func slowHTTP2(t *testing.T, at string, n, streams int) []*slowReader {
	t.Helper()
	all := make([]*slowReader, n)
	var heads []time.Duration
	var mu sync.Mutex
	var next atomic.Int64
	var wait sync.WaitGroup
	for range 16 {
		wait.Go(func() {
			for from := int(next.Add(int64(streams))) - streams; from < n && !t.Failed(); from = int(next.Add(int64(streams))) - streams {
				tr := &http.Transport{Protocols: new(http.Protocols), DialContext: small().DialContext, HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10, MaxReceiveBufferPerConnection: 64 << 10 * streams}}
				tr.Protocols.SetUnencryptedHTTP2(true)
				t.Cleanup(tr.CloseIdleConnections)
				client := &http.Client{Transport: tr}
				for i := from; i < min(n, from+streams); i++ {
					began := time.Now()
					resp, err := client.Get("http://" + at + "/bytes?n=1048576")
					if err != nil || resp.StatusCode != http.StatusOK || resp.ContentLength != mebibyte {
						t.Errorf("stream %d: %+v %v", i, resp, err)
						return
					}
					all[i] = &slowReader{body: resp.Body, leave: func() {
						_ = resp.Body.Close()
						tr.CloseIdleConnections()
					}, hurry: func() {}}
					mu.Lock()
					heads = append(heads, time.Since(began))
					mu.Unlock()
				}
			}
		})
	}
	wait.Wait()
	logHeads(t, heads)
	if t.Failed() {
		t.FailNow()
	}
	return all
}

// trickle lets every reader take a kilobyte a second, each at its own moment, until stop.
func trickle(t *testing.T, all []*slowReader) (stop func()) {
	t.Helper()
	const bytes, every = 1024, time.Second
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	for i, r := range all {
		wait.Go(func() {
			late := time.NewTimer(every * time.Duration(i) / time.Duration(len(all)))
			defer late.Stop()
			select {
			case <-late.C:
			case <-ctx.Done():
				return
			}
			tick := time.NewTicker(every)
			defer tick.Stop()
			text := make([]byte, bytes)
			for {
				n, err := r.body.Read(text)
				if r.got += int64(n); err != nil {
					t.Errorf("reader %d: %v", i, err)
					return
				}
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	return func() {
		cancel()
		wait.Wait()
	}
}
