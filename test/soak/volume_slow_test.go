//go:build soak

package soak_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// dripper is a client that sends its bytes one by one, and begins again when the proxy has had enough of it.
type dripper struct {
	kind *dripKind
	conn net.Conn
	sent int
}

// dripKind is what clients send byte by byte.
type dripKind struct {
	name string
	at   string
	// first goes out at once; then rest byte by byte, its last byte again and again.
	first, rest string
	// answer begins what the proxy says before it closes.
	answer string
	// The counts of connections that the proxy closed, and of those after the answer.
	closed, answered atomic.Int64
}

// TestSlowClientsDoNotSlowOthers: heads, bodies and handshakes byte by byte, beside users whose 99th percentile stays within twice what
// it is without. Each slow client is closed at its deadline.
func TestSlowClientsDoNotSlowOthers(t *testing.T) {
	p := startVolume(t, true)
	kinds := []*dripKind{
		{name: "head", at: p.h1, first: "GET / HTTP/1.1\r\nHost: volume.example\r\nX-Slow: ", rest: "a", answer: "HTTP/1.1 408 "},
		{name: "body", at: p.h1, first: "POST /sum HTTP/1.1\r\nHost: volume.example\r\nContent-Length: 1000000\r\n\r\n", rest: "a", answer: "HTTP/1.1 408 "},
		{name: "chunked body", at: p.h2, first: "POST /sum HTTP/1.1\r\nHost: volume.example\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n", rest: "a", answer: "HTTP/1.1 408 "},
		{name: "handshake", at: p.tls, rest: clientHello(t)},
	}
	n := sized(1000, 80)
	window := sized(8*time.Second, time.Second)
	latencies(t, p.h1, window/2)
	before := p.RSS(t)
	peak := p.peak(t)
	// Windows without and with them alternate, and the quietest of each count: other work on the machine slows both.
	const windows = 3
	var calm, beside []time.Duration
	for range windows {
		calm = append(calm, quantile(latencies(t, p.h1, window), .99))
		stop := drip(t, kinds, n)
		latencies(t, p.h1, requestTime+time.Second) // the first of each kind have met their deadlines
		beside = append(beside, quantile(latencies(t, p.h1, window), .99))
		stop()
	}
	grown := peak() - before
	best := func(all []time.Duration) time.Duration {
		least := all[0]
		for _, d := range all {
			least = min(least, d)
		}
		return least
	}
	t.Logf("%d slow clients: p99 of others %v, without them %v (all: %v, %v); %.1f MB more resident", n, best(beside), best(calm), beside, calm, float64(grown)/1e6)
	if allowed := 2*best(calm) + slack(); best(beside) > allowed {
		t.Errorf("others' p99 is %v beside slow clients, want %v at most", best(beside), allowed)
	}
	for _, k := range kinds {
		closed, answered := k.closed.Load(), k.answered.Load()
		t.Logf("%s: %d closed at their deadline, %d of them told why", k.name, closed, answered)
		if closed < int64(n/len(kinds)) {
			t.Errorf("%s: only %d of at least %d slow clients were closed at their deadline", k.name, closed, n/len(kinds))
		}
		if k.answer != "" && answered != closed {
			t.Errorf("%s: %d of %d closed clients were told %q", k.name, answered, closed, k.answer)
		}
	}
	// Some ten times as many have come and gone meanwhile: what they left waits for the next collection.
	if each := grown / int64(n); full() && each > 96<<10 {
		t.Errorf("a slow client takes %d bytes", each)
	}
}

// drip starts n slow clients, the kinds in turn; the returned function ends them.
func drip(t *testing.T, kinds []*dripKind, n int) (stop func()) {
	t.Helper()
	const every = 200 * time.Millisecond
	done := make(chan struct{})
	var wait sync.WaitGroup
	groups := min(100, n/len(kinds)) // each sends at another moment: slow clients do not know of one another
	for g := range groups {
		wait.Go(func() {
			var mine []*dripper
			for i := g; i < n; i += groups {
				mine = append(mine, &dripper{kind: kinds[i/groups%len(kinds)]})
			}
			defer func() {
				for _, d := range mine {
					d.close()
				}
			}()
			start := time.NewTimer(time.Duration(g) * every / time.Duration(groups))
			defer start.Stop()
			select {
			case <-done:
				return
			case <-start.C:
			}
			tick := time.NewTicker(every)
			defer tick.Stop()
			for {
				for _, d := range mine {
					if err := d.step(); err != nil {
						t.Errorf("%s: %v", d.kind.name, err)
						return
					}
				}
				select {
				case <-done:
					return
				case <-tick.C:
				}
			}
		})
	}
	return func() {
		close(done)
		wait.Wait()
	}
}

func (d *dripper) close() {
	if d.conn != nil {
		_ = d.conn.Close()
	}
	d.conn, d.sent = nil, 0
}

// step connects, or sends one more byte and looks whether the proxy has ended it.
func (d *dripper) step() error {
	if d.conn == nil {
		c, err := net.Dial("tcp", d.kind.at)
		if err != nil {
			return err
		}
		d.conn = c
		_, err = io.WriteString(c, d.kind.first)
		return err
	}
	var text [512]byte
	got, err := look(d.conn, text[:])
	if errors.Is(err, syscall.EAGAIN) {
		rest := d.kind.rest
		_, err = d.conn.Write([]byte{rest[min(d.sent, len(rest)-1)]})
		d.sent++
		if err == nil {
			return nil
		}
	}
	d.kind.closed.Add(1)
	if strings.HasPrefix(string(text[:got]), d.kind.answer) && got > 0 {
		d.kind.answered.Add(1)
	}
	d.close()
	return nil
}

// look reads what is there, without waiting: a wait for each of a thousand clients would take the processor from the users that are measured.
func look(c net.Conn, text []byte) (n int, err error) {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	failed := raw.Read(func(fd uintptr) bool {
		n, err = syscall.Read(int(fd), text)
		return true
	})
	return max(n, 0), errors.Join(err, failed)
}

// clientHello is what a TLS client sends first.
func clientHello(t *testing.T) string {
	t.Helper()
	a, b := net.Pipe()
	defer b.Close()
	handshake := make(chan struct{})
	go func() {
		defer close(handshake)
		_ = tls.Client(a, &tls.Config{ServerName: "volume.example"}).Handshake()
	}()
	text := make([]byte, 16<<10)
	n, err := b.Read(text)
	_ = b.Close()
	<-handshake
	if err != nil || !bytes.HasPrefix(text, []byte{22, 3}) {
		t.Fatalf("no client hello: %x %v", text[:n], err)
	}
	return string(text[:n])
}
