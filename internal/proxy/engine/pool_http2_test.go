package engine

import (
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"testing"

	"github.com/tullemesh/tulle/internal/observe"
	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

// heldHTTP2 is a backend of HTTP/2 that answers when the test says so, and
// knows its connections.
type heldHTTP2 struct {
	at     netip.AddrPort
	came   chan string // the connection of each request
	answer func()
}

func newHeldHTTP2(t testing.TB) *heldHTTP2 {
	h := &heldHTTP2{came: make(chan string, 64)}
	goOn := make(chan struct{})
	h.answer = sync.OnceFunc(func() { close(goOn) })
	h.at = limited(t, 100, func(w http.ResponseWriter, r *http.Request) {
		h.came <- r.RemoteAddr
		<-goOn
		fmt.Fprint(w, "ok")
	})
	t.Cleanup(h.answer)
	return h
}

// statuses sends n requests, each after the one before has come or waits, and
// returns the connections by how many requests they have, and the answers.
func (h *heldHTTP2) statuses(t *testing.T, limits func(*cluster.Spec), n int, refused int) (byConn map[string]int, byStatus map[int]int) {
	t.Helper()
	spec := speaking(true, "cart", h.at)
	limits(spec)
	p := start(t, &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{spec}})
	c := client(t, true)
	answers := make(chan int, n)
	byConn, byStatus = map[string]int{}, map[int]int{}
	cl := p.Live().Get("cart")
	for i := range n {
		go func() {
			res, err := c.Get("http://" + p.addr() + "/")
			if err != nil {
				t.Error(err)
				answers <- 0
				return
			}
			res.Body.Close()
			answers <- res.StatusCode
		}()
		if i >= n-refused {
			byStatus[<-answers]++
			continue
		}
		eventually(t, "the request has come or waits", func() bool {
			select {
			case at := <-h.came:
				byConn[at]++
			default:
			}
			had := 0
			for _, n := range byConn {
				had += n
			}
			return had+int(cl.Waiting()) == i+1
		})
	}
	h.answer()
	for range n - refused {
		byStatus[<-answers]++
	}
	return byConn, byStatus
}

func TestPoolsOfHTTP2(t *testing.T) {
	for _, c := range []struct {
		name     string
		limits   func(*cluster.Spec)
		requests int
		refused  int
		conns    int // that have requests before any is answered
	}{
		{"one connection for all", func(*cluster.Spec) {}, 6, 0, 1},
		{"two streams on each", func(s *cluster.Spec) { s.MaxConcurrentStreams = 2 }, 6, 0, 3},
		{"two requests on each", func(s *cluster.Spec) { s.MaxRequestsPerConn = 2 }, 6, 0, 3},
		{"as many requests as may be", func(s *cluster.Spec) { s.MaxRequests = 3 }, 5, 2, 1},
		{"one connection, one stream, two wait", func(s *cluster.Spec) { s.MaxConcurrentStreams, s.MaxConnections, s.MaxPending = 1, 1, 2 }, 5, 2, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			byConn, byStatus := newHeldHTTP2(t).statuses(t, c.limits, c.requests, c.refused)
			if len(byConn) != c.conns {
				t.Errorf("connections %v, want %d", byConn, c.conns)
			}
			if byStatus[503] != c.refused || byStatus[200] != c.requests-c.refused {
				t.Errorf("answers %v", byStatus)
			}
		})
	}
}

// all sends n requests at once and counts the answers; those that hold on to the
// end are released by done.
func all(t *testing.T, p *proxy, two bool, n int, done func()) (byStatus map[int]int) {
	t.Helper()
	c := client(t, two)
	answers := make(chan int, n)
	for range n {
		go func() {
			res, err := c.Get("http://" + p.addr() + "/")
			if err != nil {
				t.Error(err)
				answers <- 0
				return
			}
			res.Body.Close()
			answers <- res.StatusCode
		}()
	}
	done()
	byStatus = map[int]int{}
	for range n {
		byStatus[<-answers]++
	}
	return byStatus
}

// Requests that waited for the first connection are active all at once when it
// is there.
func TestRequestsThatWaitedForHTTP2KeepToTheThreshold(t *testing.T) {
	for _, down := range []bool{true, false} {
		t.Run(version(down), func(t *testing.T) {
			const n, most = 10, 2
			h := newHeldHTTP2(t)
			spec := speaking(true, "cart", h.at)
			spec.MaxRequests = most
			p := start(t, &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{spec}})
			byStatus := all(t, p, down, n, func() {
				refused := observe.Label{Name: "response_flags", Value: "UO"}
				eventually(t, "the others are refused", func() bool { return p.registry.Sum("istio_requests_total", refused) >= n-most })
				h.answer()
			})
			if came := len(h.came); came > most || byStatus[200] != came || byStatus[503] != n-came {
				t.Errorf("%d came to the endpoint, answers %v", came, byStatus)
			}
		})
	}
}

// Many requests at once get as many connections as they need, whoever waits for
// whose.
func TestManyRequestsAtOnceFindTheirConnections(t *testing.T) {
	for _, c := range []struct {
		name   string
		limits func(*cluster.Spec)
		each   int // requests on a connection at most; 0: any
	}{
		{"one request on each", func(s *cluster.Spec) { s.MaxRequestsPerConn = 1 }, 1},
		{"three requests on each, one connection at a time", func(s *cluster.Spec) { s.MaxRequestsPerConn, s.MaxConnections = 3, 1 }, 3},
		{"one stream on each of three", func(s *cluster.Spec) { s.MaxConcurrentStreams, s.MaxConnections = 1, 3 }, 0},
		{"what the endpoint takes on one", func(s *cluster.Spec) { s.MaxConnections = 1 }, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			const n = 400
			var mu sync.Mutex
			byConn := map[string]int{}
			at := limited(t, 2, func(_ http.ResponseWriter, r *http.Request) {
				mu.Lock()
				defer mu.Unlock()
				byConn[r.RemoteAddr]++
			})
			spec := speaking(true, "cart", at)
			c.limits(spec)
			p := start(t, &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{spec}})
			if byStatus := all(t, p, true, n, func() {}); byStatus[200] != n {
				t.Errorf("answers %v", byStatus)
			}
			for at, n := range byConn {
				if c.each > 0 && n > c.each {
					t.Errorf("%d requests from %s", n, at)
				}
			}
		})
	}
}
