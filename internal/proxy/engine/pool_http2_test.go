package engine

import (
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"testing"

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
