package engine

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

const short = 60 * time.Millisecond

// silent takes connections and says nothing.
func silent(t testing.TB) *backend {
	return serveWith(t, func(_ int, c net.Conn) { _, _ = io.Copy(io.Discard, c) })
}

// Every wait for a client or an upstream ends, with Envoy's status and flag.
func TestEveryWaitEnds(t *testing.T) {
	slow := to("/", "cart")
	slow.Forward.Timeout = short
	idle := to("/", "cart")
	idle.Forward.IdleTimeout = short
	life := to("/", "cart")
	life.Forward.MaxStreamDuration = short
	cases := []struct {
		name    string
		manager listener.HTTPManager
		route   *router.Route
		request string
		status  int // 0: the connection ends without an answer
		flag    string
	}{
		{"nothing comes at all", listener.HTTPManager{IdleTimeout: short}, nil, "", 0, ""},
		{"the head stops", listener.HTTPManager{HeadersTimeout: short}, nil, "GET / HT", 408, "-"},
		{"the body stops", listener.HTTPManager{RequestTimeout: short}, nil, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabc", 408, "-"},
		{"the response does not come", listener.HTTPManager{}, slow, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 504, "UT"},
		{"nothing moves", listener.HTTPManager{StreamIdleTimeout: short}, nil, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 504, "SI"},
		{"nothing moves, by the route", listener.HTTPManager{StreamIdleTimeout: time.Hour}, idle, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 504, "SI"},
		{"the stream is too old", listener.HTTPManager{MaxStreamDuration: short}, nil, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 504, "-"},
		{"the stream is too old, by the route", listener.HTTPManager{}, life, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 504, "-"},
	}
	b := silent(t)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if c.route == nil {
				c.route = to("/", "cart")
			}
			p := start(t, &setup{manager: &c.manager, routes: []*router.Route{c.route}, clusters: []*cluster.Spec{static("cart", b.at)}})
			conn := p.dial(t)
			if _, err := io.WriteString(conn, c.request); err != nil {
				t.Fatal(err)
			}
			line, err := bufio.NewReader(conn).ReadString('\n')
			if c.status == 0 {
				if line != "" || !errors.Is(err, io.EOF) {
					t.Errorf("%q, %v; want an orderly end", line, err)
				}
				return
			}
			if !strings.HasPrefix(line, fmt.Sprintf("HTTP/1.1 %d ", c.status)) {
				t.Errorf("%q, %v; want %d", line, err, c.status)
			}
			if log := p.logged(); !strings.Contains(log, fmt.Sprintf(" %d %s ", c.status, c.flag)) {
				t.Errorf("log %q, want %d %s", log, c.status, c.flag)
			}
		})
	}
}

// The route's timeout runs from the complete request (Envoy: RouteAction.timeout).
func TestRouteTimeoutDoesNotCountTheUpload(t *testing.T) {
	timed := to("/", "cart")
	timed.Forward.Timeout = 4 * short
	p := start(t, &setup{routes: []*router.Route{timed}, clusters: []*cluster.Spec{static("cart", echo(t).at)}})
	c := p.dial(t)
	if _, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 6\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	for range 6 {
		<-time.After(short)
		if _, err := io.WriteString(c, "x"); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 200 ") {
		t.Errorf("%.100q, %v", got, err)
	}
}

func TestResponseThatBreaksOffResetsTheClient(t *testing.T) {
	for name, c := range map[string]struct{ sent, flag string }{
		"reset in a measured body": {"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc", "UC"},
		"reset in a chunk":         {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nabc", "UC"},
		"garbage for a chunk":      {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n", "UPE"},
	} {
		t.Run(name, func(t *testing.T) {
			head, body, _ := strings.Cut(c.sent, "\r\n\r\n")
			more := make(chan struct{})
			b := serveWith(t, func(_ int, conn net.Conn) {
				_, _ = rawRequest(bufio.NewReader(conn))
				_, _ = io.WriteString(conn, head+"\r\n\r\n")
				<-more // the client has the head: it can't be told any more
				_, _ = io.WriteString(conn, body)
				if c.flag == "UC" {
					_ = conn.(*net.TCPConn).SetLinger(0)
				}
			})
			p := cartProxy(t, b)
			conn := p.dial(t)
			if _, err := io.WriteString(conn, get); err != nil {
				t.Fatal(err)
			}
			r := bufio.NewReader(conn)
			if line, err := r.ReadString('\n'); err != nil || line != "HTTP/1.1 200 OK\r\n" {
				t.Errorf("%q, %v", line, err)
			}
			close(more)
			if rest, err := io.ReadAll(r); err == nil {
				t.Errorf("an orderly end after %q", rest)
			}
			if log := p.logged(); !strings.Contains(log, " 200 "+c.flag+" ") {
				t.Errorf("log %q, want 200 %s", log, c.flag)
			}
		})
	}
}

func TestGarbageInsteadOfAResponse(t *testing.T) {
	for name, sent := range map[string]string{
		"not HTTP": "SSH-2.0-OpenSSH_9.6\r\n\r\n", "a bad status": "HTTP/1.1 abc OK\r\n\r\n", "two codings": "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
		"a head without end": "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", 1<<20),
	} {
		t.Run(name, func(t *testing.T) {
			p := cartProxy(t, serveWith(t, func(_ int, c net.Conn) {
				_, _ = rawRequest(bufio.NewReader(c))
				_, _ = io.WriteString(c, sent)
				_, _ = io.Copy(io.Discard, c)
			}))
			if got := p.talk(t, get); !strings.HasPrefix(got, "HTTP/1.1 502 ") || !strings.HasSuffix(got, "reset reason: protocol error") {
				t.Errorf("got %.200q", got)
			}
			if log := p.logged(); !strings.Contains(log, " 502 UPE ") {
				t.Errorf("log %q", log)
			}
		})
	}
}

// A response of which something has come is a broken one, also when the
// connection was reset; nothing at all, or an informational response alone, is
// a connection that ended (stock Envoy 1.40 answers all of these so).
func TestResponseThatEndsWithinItsHead(t *testing.T) {
	for _, c := range []struct{ name, sent, status, flag string }{
		{"nothing", "", "503", "UC"},
		{"half a status line", "HTTP/1.1 20", "502", "UPE"},
		{"a status line", "HTTP/1.1 200 OK\r\n", "502", "UPE"},
		{"half a field", "HTTP/1.1 200 OK\r\nContent-Le", "502", "UPE"},
		{"fields without an end", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n", "502", "UPE"},
		{"an informational response", "HTTP/1.1 100 Continue\r\n\r\n", "503", "UC"},
		{"half a head behind an informational response", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 2", "502", "UPE"},
	} {
		for _, two := range []bool{false, true} {
			for _, reset := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/reset %v", c.name, version(two), reset), func(t *testing.T) {
					p := cartProxy(t, serveWith(t, func(_ int, conn net.Conn) {
						_, _ = rawRequest(bufio.NewReader(conn))
						_, _ = io.WriteString(conn, c.sent)
						if reset {
							_ = conn.(*net.TCPConn).SetLinger(0)
						}
					}))
					resp, err := client(t, two).Get("http://" + p.addr() + "/")
					if err != nil {
						t.Fatal(err)
					}
					resp.Body.Close()
					if log, want := p.logged(), fmt.Sprintf(" %s %s ", c.status, c.flag); !strings.Contains(log, want) || fmt.Sprint(resp.StatusCode) != c.status {
						t.Errorf("%s, log %q, want %s", resp.Status, log, want)
					}
				})
			}
		}
	}
}

func TestLimitsOfARequestsHeadAreExact(t *testing.T) {
	const bytesMax, countMax = 4 << 10, 20
	p := start(t, &setup{manager: &listener.HTTPManager{HeaderBytesMax: bytesMax, HeaderCountMax: countMax},
		routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{static("cart", echo(t).at)}})
	sized := func(n int) string {
		head := "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: \r\n\r\n"
		return strings.Replace(head, "X: ", "X: "+strings.Repeat("a", n-len(head)), 1)
	}
	counted := func(n int) string {
		return "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + strings.Repeat("X: a\r\n", n-2) + "\r\n"
	}
	target := func(n int) string {
		head := "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
		return strings.Replace(head, "GET /", "GET /"+strings.Repeat("a", n-len(head)), 1)
	}
	for _, c := range []struct {
		name, request string
		status        int
	}{
		{"bytes, limit-1", sized(bytesMax - 1), 200}, {"bytes, limit", sized(bytesMax), 200}, {"bytes, limit+1", sized(bytesMax + 1), 431},
		{"fields, limit-1", counted(countMax - 1), 200}, {"fields, limit", counted(countMax), 200}, {"fields, limit+1", counted(countMax + 1), 431},
		{"target within the bytes", target(bytesMax), 200}, {"target beyond the bytes", target(2 * bytesMax), 414},
	} {
		if got := p.talk(t, c.request); !strings.HasPrefix(got, fmt.Sprintf("HTTP/1.1 %d ", c.status)) {
			t.Errorf("%s: got %.80q, want %d", c.name, got, c.status)
		}
	}
}

// fickle closes its connections after 1 to 50 ms of idleness, and counts in
// done (*atomic.Int64 by path) what it carried out.
func fickle(t testing.TB, done *sync.Map) *backend {
	return serveWith(t, func(_ int, c net.Conn) {
		r := bufio.NewReader(c)
		for served := 0; ; served++ {
			if served > 0 {
				_ = c.SetReadDeadline(time.Now().Add(time.Duration(1+rand.IntN(50)) * time.Millisecond))
			}
			if _, err := r.Peek(1); err != nil {
				return // idle for long enough
			}
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
			raw, err := rawRequest(r)
			if err != nil {
				return
			}
			n, _ := done.LoadOrStore(strings.Fields(raw)[1], &atomic.Int64{})
			n.(*atomic.Int64).Add(1)
			if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
				return
			}
		}
	})
}

// Backends that close their idle connections whenever they like are what stale
// pools are made of: no client may see it, and nothing is carried out twice.
func TestConnectionsThatBackendsCloseAtRandomHarmNobody(t *testing.T) {
	var done sync.Map
	b := fickle(t, &done)
	p := cartProxy(t, b)
	var gets, posts, failedGets, failedPosts atomic.Int64
	var clients sync.WaitGroup
	end := time.Now().Add(2 * time.Second)
	for client := range 16 {
		clients.Go(func() {
			c := p.dial(t)
			r := bufio.NewReader(c)
			for i := 0; time.Now().Before(end); i++ {
				<-time.After(time.Duration(rand.IntN(60)) * time.Millisecond)
				request, all, failed := "GET /%d-%d HTTP/1.1\r\nHost: a\r\n\r\n", &gets, &failedGets
				if i%2 == 1 {
					request, all, failed = "POST /post-%d-%d HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", &posts, &failedPosts
				}
				if _, err := fmt.Fprintf(c, request, client, i); err != nil {
					t.Error(err)
					return
				}
				all.Add(1)
				var status, length int
				line, err := r.ReadString('\n')
				_, _ = fmt.Sscanf(line, "HTTP/1.1 %d", &status)
				for err == nil && line != "\r\n" {
					line, err = r.ReadString('\n')
					_, _ = fmt.Sscanf(line, "content-length: %d", &length)
				}
				if _, err := io.CopyN(io.Discard, r, int64(length)); err != nil {
					t.Error(err)
					return
				}
				if status != 200 {
					failed.Add(1)
				}
			}
		})
	}
	clients.Wait()
	if failedGets.Load() > 0 {
		t.Errorf("%d of %d requests that can be repeated failed", failedGets.Load(), gets.Load())
	}
	twice := 0
	done.Range(func(path, n any) bool {
		if strings.Contains(path.(string), "post") && n.(*atomic.Int64).Load() > 1 {
			twice++
		}
		return true
	})
	if twice > 0 {
		t.Errorf("%d of %d POSTs were carried out twice", twice, posts.Load())
	}
	t.Logf("%d GET, %d POST (%d failed), %d connections to the backend", gets.Load(), posts.Load(), failedPosts.Load(), b.accepted())
}

// An idle connection holds no buffer.
func TestIdleConnectionsAreSmall(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("measures memory")
	}
	const conns, bytesMax = 2000, 8 << 10
	b := echo(t)
	p := cartProxy(t, b)
	ask := func(c net.Conn) {
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
	}
	ask(p.dial(t))
	before := held()
	all := make([]net.Conn, 0, conns)
	defer func() {
		for _, c := range all {
			c.Close()
		}
	}()
	for range conns {
		c, err := net.Dial("tcp", p.addr())
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
		ask(c)
	}
	each := (held() - before) / conns
	t.Logf("%d bytes for each of %d idle connections, the test's own client end included", each, conns)
	if each > bytesMax {
		t.Errorf("%d bytes", each)
	}
}

// held is the memory in use by objects and stacks, after a collection.
func held() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}
