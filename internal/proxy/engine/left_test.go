package engine

import (
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/observe"
	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

// A client that leaves is logged and counted with the status that it was told, which is 0 before a head (Envoy 1.40: RESPONSE_CODE).
func TestStatusOfClientsThatLeave(t *testing.T) {
	for name, c := range map[string]struct{ path, status string }{"before the head": {"/silent", "0"}, "behind the head": {"/begins", "200"}} {
		t.Run(name, func(t *testing.T) {
			eachVersion(t, func(t *testing.T, down, up bool) {
				began := make(chan struct{}, 1)
				at := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/begins" {
						_, _ = io.WriteString(w, "abc")
						_ = http.NewResponseController(w).Flush()
					}
					began <- struct{}{}
					<-r.Context().Done()
				})
				p := start(t, &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{speaking(up, "cart", at)}})
				ctx, leave := context.WithCancel(t.Context())
				defer leave()
				r, err := http.NewRequestWithContext(ctx, "GET", "http://"+p.addr()+c.path, nil)
				if err != nil {
					t.Fatal(err)
				}
				if c.path == "/silent" {
					go func() { <-began; leave() }()
				}
				res, err := client(t, down).Do(r)
				if err == nil {
					_, _ = io.ReadFull(res.Body, make([]byte, 3))
					leave()
					res.Body.Close()
				}
				eventually(t, "a log line", func() bool { return p.log.String() != "" })
				flag := "DC"
				if down {
					flag = "DR" // net/http resets the stream, and keeps the connection
				}
				if !strings.HasPrefix(p.logged(), "GET "+c.path+" "+c.status+" "+flag+" ") {
					t.Errorf("log %q, want %s %s", p.logged(), c.status, flag)
				}
				if n := p.registry.Sum("istio_requests_total", observe.Label{Name: "response_code", Value: c.status}, observe.Label{Name: "response_flags", Value: flag}); n != 1 {
					t.Errorf("%v requests are counted with status %s and %s", n, c.status, flag)
				}
			})
		})
	}
}

// The log names our end of the connection that the last attempt got.
func TestLocalAddressOfUpstreamConnections(t *testing.T) {
	const format = "%REQ(:PATH)% %UPSTREAM_LOCAL_ADDRESS% %UPSTREAM_HOST%\n"
	manager := func() *listener.HTTPManager {
		return &listener.HTTPManager{AccessLog: []listener.AccessLog{{Path: "log", Format: format}}}
	}
	eachVersion(t, func(t *testing.T, down, up bool) {
		var mu sync.Mutex
		var seen []string
		at := serveHTTP(t, func(_ http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, r.RemoteAddr)
		})
		none := dead(t)
		p := start(t, &setup{manager: manager(), routes: []*router.Route{to("/dead", "dead"), to("/", "cart")},
			clusters: []*cluster.Spec{speaking(up, "cart", at), speaking(up, "dead", none)}})
		for _, path := range []string{"/a", "/b", "/dead"} { // on a new connection, on one that is there, on none
			do(t, client(t, down), "GET", "http://"+p.addr()+path, nil, nil)
		}
		lines := strings.SplitAfter(p.logged(), "\n")
		slices.Sort(lines) // requests on connections of their own end when they end
		got := strings.Join(lines, "")
		if want := "/a " + seen[0] + " " + at.String() + "\n/b " + seen[1] + " " + at.String() + "\n/dead - " + none.String() + "\n"; got != want {
			t.Errorf("log %q, want %q", got, want)
		}
	})
	t.Run("TCP", func(t *testing.T) {
		seen := make(chan string, 1)
		b := serveWith(t, func(_ int, c net.Conn) { seen <- c.RemoteAddr().String() })
		p := start(t, &setup{tcp: &listener.TCPProxy{Clusters: []router.Weighted{{Cluster: "cart", Weight: 1}}, TotalWeight: 1,
			AccessLog: []listener.AccessLog{{Path: "log", Format: format}}}, clusters: []*cluster.Spec{static("cart", b.at)}})
		c := p.dial(t)
		_, _ = io.Copy(io.Discard, c)
		select {
		case from := <-seen:
			if want := "- " + from + " " + b.at.String() + "\n"; p.logged() != want {
				t.Errorf("log %q, want %q", p.logged(), want)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("no connection at the backend")
		}
	})
}
