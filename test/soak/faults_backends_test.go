//go:build soak

package soak_test

import (
	"bufio"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/testkit/held"
)

// faultBackend serves HTTP/1.1 in one way of misbehaving.
type faultBackend struct {
	at string
	// answer handles a request; false: the connection ends.
	answer func(c net.Conn, req *http.Request) bool

	mu    sync.Mutex
	l     net.Listener
	conns map[net.Conn]struct{}
	all   sync.WaitGroup
}

// newFaultBackend listens and serves until the test ends.
func newFaultBackend(t *testing.T, answer func(net.Conn, *http.Request) bool) *faultBackend {
	t.Helper()
	b := &faultBackend{at: net.JoinHostPort("127.0.0.1", strconv.Itoa(held.Port(t, "127.0.0.1"))), answer: answer, conns: map[net.Conn]struct{}{}}
	if err := b.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.kill(); b.all.Wait() })
	return b
}

// start listens, at the same address as before.
func (b *faultBackend) start() error {
	l, err := net.Listen("tcp", b.at)
	if err != nil {
		return err
	}
	b.mu.Lock()
	b.l, b.at = l, l.Addr().String()
	b.mu.Unlock()
	b.all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			b.conns[c] = struct{}{}
			b.mu.Unlock()
			b.all.Go(func() { b.serve(c) })
		}
	})
	return nil
}

// kill ends everything as the end of a process does.
func (b *faultBackend) kill() {
	b.mu.Lock()
	defer b.mu.Unlock()
	_ = b.l.Close()
	for c := range b.conns {
		reset(c)
	}
}

// reset closes a connection with a RST.
func reset(c net.Conn) {
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
}

func (b *faultBackend) serve(c net.Conn) {
	defer func() {
		_ = c.Close()
		b.mu.Lock()
		delete(b.conns, c)
		b.mu.Unlock()
	}()
	for r := bufio.NewReader(c); ; {
		req, err := http.ReadRequest(r)
		if err != nil || !b.answer(c, req) {
			return
		}
	}
}

const plainAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

func say(c net.Conn, answer string) bool {
	_, err := io.WriteString(c, answer)
	return err == nil
}

func wait(d time.Duration) { <-time.After(d) }

// untilLeft waits until the proxy gives the connection up.
func untilLeft(c net.Conn) bool {
	_, _ = io.Copy(io.Discard, c)
	return false
}

// seen is what clients have read of responses that break off: a response that
// is reset at once may never be read.
type seen struct{ ids sync.Map }

func (s *seen) at(id string) chan struct{} {
	c, _ := s.ids.LoadOrStore(id, make(chan struct{}, 1))
	return c.(chan struct{})
}

// await waits until the client has read the head, within reason.
func (s *seen) await(id string) {
	select {
	case <-s.at(id):
	case <-time.After(5 * time.Second):
	}
	s.ids.Delete(id)
}

// fickle closes its connections at a random time after 1 to 50 ms of idleness,
// and counts what it carries out by path.
type fickle struct {
	l    net.Listener
	done sync.Map // *atomic.Int64 by path
	all  sync.WaitGroup
}

func newFickle(t *testing.T) *fickle {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fickle{l: l}
	t.Cleanup(func() { _ = l.Close(); f.all.Wait() })
	f.all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f.all.Go(func() { f.serve(c) })
		}
	})
	return f
}

func (f *fickle) serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	for idle := time.Minute; ; idle = time.Duration(1000+rand.IntN(49_000)) * time.Microsecond {
		_ = c.SetReadDeadline(time.Now().Add(idle))
		if _, err := r.Peek(1); err != nil {
			return // idle for long enough
		}
		_ = c.SetReadDeadline(time.Time{})
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return
		}
		n, _ := f.done.LoadOrStore(req.URL.Path, &atomic.Int64{})
		n.(*atomic.Int64).Add(1)
		if !say(c, plainAnswer) {
			return
		}
	}
}

// twice counts the paths with a part that were carried out more than once.
func (f *fickle) twice(part string) int {
	found := 0
	f.done.Range(func(path, n any) bool {
		if strings.Contains(path.(string), part) && n.(*atomic.Int64).Load() > 1 {
			found++
		}
		return true
	})
	return found
}
