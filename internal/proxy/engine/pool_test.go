package engine

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/observe"
	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
	"github.com/tullemesh/tulle/internal/testkit/blackhole"
)

// heldBackend is a backend that answers a request when the test says so.
type heldBackend struct {
	*backend
	goOn   chan struct{} // closed by answer
	answer func()
}

func newHeldBackend(t testing.TB) *heldBackend {
	h := &heldBackend{goOn: make(chan struct{})}
	h.answer = sync.OnceFunc(func() { close(h.goOn) })
	h.backend = serveWith(t, func(_ int, c net.Conn) {
		for r := bufio.NewReader(c); ; {
			if _, err := rawRequest(r); err != nil {
				return
			}
			<-h.goOn
			if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
				return
			}
		}
	})
	t.Cleanup(h.answer)
	return h
}

// pooled is a proxy to one endpoint by a connection pool.
func pooled(t testing.TB, b *backend, limits func(*cluster.Spec)) *proxy {
	t.Helper()
	s := static("cart", b.at)
	limits(s)
	return start(t, &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{s}})
}

const askOnce = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

// Circuit breakers answer as Envoy's do, and are counted.
func TestRequestsBeyondThePoolAreAnsweredAtOnce(t *testing.T) {
	for _, c := range []struct {
		name   string
		limits func(*cluster.Spec)
		// active and waiting are served at once; one more is answered 503.
		active, waiting int
	}{
		{"as many requests as may be", func(s *cluster.Spec) { s.MaxRequests = 2 }, 2, 0},
		{"one connection, one waits", func(s *cluster.Spec) { s.MaxConnections, s.MaxPending = 1, 1 }, 1, 1},
		{"two connections, one waits", func(s *cluster.Spec) { s.MaxConnections, s.MaxPending = 2, 1 }, 2, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newHeldBackend(t)
			p := pooled(t, b.backend, c.limits)
			served := c.active + c.waiting
			answers := make(chan string, served)
			cl := p.Live().Get("cart")
			for i := 1; i <= served; i++ {
				go func() { answers <- p.talk(t, askOnce) }()
				eventually(t, "the request is sent or waits", func() bool {
					return cl.Members()[0].Host.Active.Load() == int64(i) && cl.Waiting() == int64(max(i-c.active, 0))
				})
			}
			got := p.talk(t, askOnce)
			if !strings.HasPrefix(got, "HTTP/1.1 503 ") || !strings.Contains(got, "\r\nx-envoy-overloaded: true\r\n") || !strings.HasSuffix(got, "reset reason: overflow") {
				t.Errorf("one more: %q", got)
			}
			b.answer()
			for range served {
				if got := <-answers; !strings.HasPrefix(got, "HTTP/1.1 200 ") {
					t.Errorf("one that may be: %.100q", got)
				}
			}
			if log := p.logged(); strings.Count(log, " 503 UO ") != 1 || strings.Count(log, " 200 - ") != served {
				t.Errorf("log %q", log)
			}
			if n := p.registry.Sum("envoy_cluster_upstream_rq_pending_overflow", observe.Label{Name: "cluster_name", Value: "cart"}); n != 1 {
				t.Errorf("%v overflows are counted", n)
			}
		})
	}
}

func TestConnectionsAreUsedAsOftenAsThePoolSays(t *testing.T) {
	for name, c := range map[string]struct {
		limits func(*cluster.Spec)
		conns  int
	}{
		"no bound": {func(*cluster.Spec) {}, 1}, "one request each": {func(s *cluster.Spec) { s.MaxRequestsPerConn = 1 }, 6},
		"two requests each": {func(s *cluster.Spec) { s.MaxRequestsPerConn = 2 }, 3},
	} {
		t.Run(name, func(t *testing.T) {
			b := echo(t)
			p := pooled(t, b, c.limits)
			for range 6 {
				if got := p.talk(t, askOnce); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
					t.Fatalf("%.100q", got)
				}
			}
			if b.accepted() != c.conns {
				t.Errorf("%d connections, want %d", b.accepted(), c.conns)
			}
		})
	}
}

// The backend sees pooled connections end by the pool's times.
func TestIdleConnectionsEndByThePoolsTimes(t *testing.T) {
	for name, c := range map[string]struct {
		limits func(*cluster.Spec)
		metric string
	}{
		"idle": {func(s *cluster.Spec) { s.IdleTimeout = 200 * time.Millisecond }, "envoy_cluster_upstream_cx_idle_timeout"},
		"age":  {func(s *cluster.Spec) { s.MaxConnDuration = 200 * time.Millisecond }, "envoy_cluster_upstream_cx_max_duration_reached"},
	} {
		t.Run(name, func(t *testing.T) {
			ended := make(chan error, 1)
			b := serveWith(t, func(_ int, c net.Conn) {
				r := bufio.NewReader(c)
				if _, err := rawRequest(r); err != nil {
					return
				}
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				_, err := r.ReadByte()
				ended <- err
			})
			p := pooled(t, b, c.limits)
			if got := p.talk(t, askOnce); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
				t.Fatalf("%.100q", got)
			}
			if err := <-ended; !errors.Is(err, io.EOF) {
				t.Errorf("the connection ended by %v", err)
			}
			if n := p.registry.Sum(c.metric); n != 1 {
				t.Errorf("%v counted", n)
			}
		})
	}
}

func TestConnectTimeoutOfThePool(t *testing.T) {
	s := static("cart", blackhole.Listen(t))
	s.ConnectTimeout = 60 * time.Millisecond
	p := start(t, &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{s}})
	if got := p.talk(t, askOnce); !strings.HasPrefix(got, "HTTP/1.1 503 ") || !strings.HasSuffix(got, "reset reason: connection timeout") {
		t.Errorf("%q", got)
	}
	if n := p.registry.Sum("envoy_cluster_upstream_cx_connect_timeout"); n == 0 {
		t.Error("not counted")
	}
	if log := p.logged(); !strings.Contains(log, " 503 UF ") {
		t.Errorf("log %q", log)
	}
}

// A server that says how long it keeps connections is believed.
func TestConnectionsAreNotUsedBeyondWhatTheServerAnnounced(t *testing.T) {
	b := serveWith(t, func(_ int, c net.Conn) {
		for r := bufio.NewReader(c); ; {
			if _, err := rawRequest(r); err != nil {
				return
			}
			if _, err := fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nKeep-Alive: timeout=0\r\n\r\nok"); err != nil {
				return
			}
		}
	})
	p := pooled(t, b, func(*cluster.Spec) {})
	for range 3 {
		if got := p.talk(t, askOnce); strings.Contains(strings.ToLower(got), "keep-alive:") {
			t.Errorf("the client is told of it: %q", got)
		}
		<-time.After(2 * time.Millisecond)
	}
	if b.accepted() != 3 {
		t.Errorf("%d connections for 3 requests", b.accepted())
	}
}
