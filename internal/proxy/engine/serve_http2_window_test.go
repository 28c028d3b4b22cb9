package engine

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/http2"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

// closedWindow is a server of HTTP/2 that never takes a byte of a body. It
// answers at once, or never.
func closedWindow(t testing.TB, answers bool) netip.AddrPort {
	return serveWith(t, func(_ int, c net.Conn) {
		f := &frames{c: c}
		if _, err := io.ReadFull(c, f.buf[:len(http2.Preface)]); err != nil {
			return
		}
		settings := append(appendFrame(nil, 6, frameSettings, 0, 0), 0, 4, 0, 0, 0, 0)
		if _, err := c.Write(appendFrame(settings, 0, frameSettings, 1, 0)); err != nil {
			return
		}
		for {
			kind, _, stream, _, err := f.next()
			if err != nil {
				return
			}
			if kind == frameHeaders && answers {
				if _, err := c.Write(append(appendFrame(nil, 1, frameHeaders, endHeaders|endStream, stream), 0x88)); err != nil {
					return
				}
			}
		}
	}).at
}

func TestABodyThatWaitsForTheUpstreamsWindowStopsNeitherAnswerNorTimeout(t *testing.T) {
	route := func(name string) *router.Route {
		r := to("/"+name, name)
		r.Forward.Timeout = 300 * time.Millisecond
		return r
	}
	p := start(t, &setup{routes: []*router.Route{route("answers"), route("silent")}, clusters: []*cluster.Spec{
		speaking(true, "answers", closedWindow(t, true)), speaking(true, "silent", closedWindow(t, false))}})
	for _, two := range []bool{false, true} {
		c := client(t, two)
		for path, want := range map[string]int{"/answers": http.StatusOK, "/silent": http.StatusGatewayTimeout} {
			res, _ := do(t, c, "POST", "http://"+p.addr()+path, strings.NewReader("short"), nil)
			if res.StatusCode != want {
				t.Errorf("HTTP/2 %v, %s: %d, want %d", two, path, res.StatusCode, want)
			}
		}
		if !two {
			continue // its client may not read the answer while it writes
		}
		res, _ := do(t, c, "POST", "http://"+p.addr()+"/answers", strings.NewReader(strings.Repeat("x", 1<<20)), nil)
		if res.StatusCode != http.StatusOK {
			t.Errorf("HTTP/2 %v, a body larger than all windows: %d", two, res.StatusCode)
		}
	}
}

// A request at an endpoint that does not answer PING ends long before its
// timeout.
func TestEndpointsThatDoNotAnswerPingAreLeft(t *testing.T) {
	spec := speaking(true, "silent", closedWindow(t, false))
	spec.PingInterval, spec.PingTimeout = 50*time.Millisecond, 50*time.Millisecond
	p := start(t, &setup{routes: []*router.Route{to("/", "silent")}, clusters: []*cluster.Spec{spec}})
	for _, two := range []bool{false, true} {
		res, _ := do(t, client(t, two), "POST", "http://"+p.addr()+"/", strings.NewReader("x"), nil)
		if res.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("HTTP/2 %v: %d", two, res.StatusCode)
		}
	}
	if log := p.logged(); !strings.Contains(log, " 503 UC ") {
		t.Errorf("log %q", log)
	}
}

// The route's timeout runs from the request that the client has sent, also
// where its body came late and the endpoint never takes it.
func TestBodiesThatTheEndpointNeverTakesEndInTime(t *testing.T) {
	for _, down := range []bool{true, false} {
		t.Run(version(down), func(t *testing.T) {
			route := to("/", "cart")
			route.Forward.Timeout = 300 * time.Millisecond
			p := start(t, &setup{routes: []*router.Route{route}, clusters: []*cluster.Spec{speaking(true, "cart", closedWindow(t, false))}})
			for _, which := range []string{"first", "on the connection that is there"} {
				begun := time.Now()
				status := 0
				if down {
					r, w := io.Pipe()
					go func() {
						_, _ = io.WriteString(w, "body") // behind the head, in a frame of its own
						w.Close()
					}()
					res, _ := do(t, client(t, true), "POST", "http://"+p.addr()+"/", r, nil)
					status = res.StatusCode
				} else {
					status = postLate(t, p)
				}
				if took := time.Since(begun); status != 504 || took > 10*time.Second {
					t.Errorf("%s: %d after %v", which, status, took)
				}
			}
			if log := p.logged(); strings.Count(log, " 504 UT ") != 2 {
				t.Errorf("log %q", log)
			}
		})
	}
}

// postLate sends a head over HTTP/1.1, and its body when the proxy has passed the
// head on. The body is whole when it is there: of a chunked one the end may lie
// behind what the endpoint does not take, and who waits does not read it.
func postLate(t *testing.T, p *proxy) (status int) {
	t.Helper()
	c := p.dial(t)
	r := bufio.NewReader(c)
	for _, part := range []string{"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n", "body"} {
		if _, err := io.WriteString(c, part); err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		status = res.StatusCode
	}
	return status
}
