package engine

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/generation"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

// beforeServing connects a client that has sent a request, runs f, and lets the
// engine serve the client only then. The client's kernel has connected it, which
// is all that it can know.
func beforeServing(t *testing.T, p *proxy, request string, f func()) net.Conn {
	t.Helper()
	at := p.addr()
	p.mu.Lock()
	defer p.mu.Unlock()
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	f()
	return c
}

const keptAlive = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"

// Who connected before a listener was removed is served, and told to go, also
// when the routes go with the listener.
func TestAClientThatConnectedBeforeARemovalIsServed(t *testing.T) {
	for name, remove := range map[string]func(*generation.Parts){
		"the listener":            func(p *generation.Parts) { p.Listeners = nil },
		"the listener and routes": func(p *generation.Parts) { p.Listeners, p.Tables = nil, nil },
	} {
		t.Run(name, func(t *testing.T) {
			s := &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{static("cart", echo(t).at)}}
			p := start(t, s)
			s.extra = remove
			none := s.config(t)
			c := beforeServing(t, p, keptAlive, func() {
				if err := p.applyLocked(none); err != nil {
					t.Error(err)
				}
			})
			all, err := io.ReadAll(c)
			if err != nil || !strings.HasPrefix(string(all), "HTTP/1.1 200 ") || !strings.Contains(string(all), "connection: close\r\n") {
				t.Errorf("%q, %v", all, err)
			}
		})
	}
}

// Routes that are gone while their listener is there are gone for everybody.
func TestRoutesThatAreRemovedAloneAreGone(t *testing.T) {
	s := &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{static("cart", canned(t, plainAnswer).at)}}
	p := start(t, s)
	c := p.dial(t)
	buf := make([]byte, 4096)
	roundTrip(t, c, []byte(keptAlive), buf)
	s.extra = func(p *generation.Parts) { p.Tables = nil }
	if err := p.Apply(s.config(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, get); err != nil {
		t.Fatal(err)
	}
	if all, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(all), "HTTP/1.1 404 ") {
		t.Errorf("%q, %v", all, err)
	}
}

// A request that is there when the idle time of its connection ends is served.
func TestARequestThatComesWithTheIdleTimeoutIsServed(t *testing.T) {
	p := start(t, &setup{manager: &listener.HTTPManager{IdleTimeout: 1}, routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{static("cart", echo(t).at)}})
	for i := range 50 {
		all, err := io.ReadAll(beforeServing(t, p, keptAlive, func() {}))
		if err != nil || !strings.HasPrefix(string(all), "HTTP/1.1 200 ") {
			t.Fatalf("client %d: %q, %v", i, all, err)
		}
	}
}

// Uploads whose answer takes long leave no watcher of the client with the
// connection: it would hold back the next request.
func TestSlowUploadsOnOneConnectionAreServed(t *testing.T) {
	const body = 128 << 10
	b := serveWith(t, func(_ int, c net.Conn) {
		buf := make([]byte, body)
		for {
			head := 0
			for !strings.HasSuffix(string(buf[:head]), "\r\n\r\n") {
				if _, err := io.ReadFull(c, buf[head:head+1]); err != nil {
					return
				}
				head++
			}
			if _, err := io.ReadFull(c, buf); err != nil {
				return
			}
			<-time.After(200 * time.Millisecond) // a watcher comes after half of it
			if _, err := io.WriteString(c, plainAnswer); err != nil {
				return
			}
		}
	})
	p := start(t, &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{static("cart", b.at)}})
	c, buf := p.dial(t), make([]byte, 4096)
	request := []byte(fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", body, strings.Repeat("x", body)))
	for range 3 {
		roundTrip(t, c, request, buf)
	}
}

// A response that is with the client was in time: a deadline that passes at the
// same moment must not close the connection under the next request, as nothing
// said that it would end.
func TestAResponseThatComesWithItsDeadlineKeepsTheConnection(t *testing.T) {
	const timeout = 10 * time.Millisecond
	be := serveWith(t, func(_ int, c net.Conn) {
		r := bufio.NewReader(c)
		for i := 0; ; i++ {
			if _, err := rawRequest(r); err != nil {
				return
			}
			early := time.NewTimer(timeout - time.Duration(i%40)*20*time.Microsecond)
			<-early.C
			if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"); err != nil {
				return
			}
		}
	})
	route := to("/", "cart")
	route.Forward.Timeout = timeout
	p := start(t, &setup{routes: []*router.Route{route}, clusters: []*cluster.Spec{static("cart", be.at)}})
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			c := p.dial(t)
			r := bufio.NewReader(c)
			for i := range 150 {
				_, _ = io.WriteString(c, keptAlive)
				resp, err := http.ReadResponse(r, nil)
				if err != nil {
					t.Errorf("request %d: %v", i, err)
					return
				}
				_, err = io.Copy(io.Discard, resp.Body)
				if err != nil || resp.Close || resp.StatusCode != 200 && resp.StatusCode != 504 {
					t.Errorf("request %d: %v, %v", i, resp, err)
					return
				}
			}
		})
	}
	all.Wait()
}
