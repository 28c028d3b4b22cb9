package engine

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/observe"
	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

func cartProxy(t testing.TB, b *backend) *proxy {
	return start(t, &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{static("cart", b.at)}})
}

// answering gives the same bytes to each request, which it reads as a whole.
func answering(t testing.TB, answer string) *backend {
	return serveWith(t, func(_ int, c net.Conn) {
		r := bufio.NewReader(c)
		for {
			if _, err := rawRequest(r); err != nil {
				return
			}
			if _, err := io.WriteString(c, answer); err != nil {
				return
			}
			if !strings.Contains(answer, "ength") && !strings.Contains(answer, "chunked") {
				return // the end of the connection is the end of the body
			}
		}
	})
}

func TestBodiesPassInBothDirections(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 64<<10/16*5)
	chunks := fmt.Sprintf("%x\r\n%s\r\n3;ext=\"a\"\r\nend\r\n0\r\nx-sum: 1\r\n\r\n", len(big), big)
	cases := []struct{ name, request, want string }{
		{"length, in one piece", "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello", "content-length: 5\r\n"},
		{"length, in many pieces", fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(big), big), "cdef" + "0123456789"},
		{"chunked, small, extension dropped, trailer kept", "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n", "5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n"},
		{"chunked, many pieces", "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks, "end\r\n0\r\nx-sum: 1\r\n\r\n"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p := cartProxy(t, echo(t))
			got := p.talk(t, c.request)
			if !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") || !strings.Contains(got, c.want) {
				t.Errorf("got %.600q ... %q", got, got[max(0, len(got)-60):])
			}
		})
	}
}

func TestResponsesKeepTheirMeaning(t *testing.T) {
	big := strings.Repeat("z", 100<<10)
	cases := []struct{ name, request, answer, want, lacks string }{
		{"chunked with trailers", get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n", "\r\n\r\n3\r\nabc\r\n0\r\nx-t: 1\r\n\r\n", ""},
		{"until close becomes chunked", get, "HTTP/1.1 200 OK\r\n\r\nabc", "3\r\nabc\r\n", ""},
		{"big, until close", get, "HTTP/1.1 200 OK\r\n\r\n" + big, "0\r\n\r\n", ""},
		{"big, by length", get, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(big), big), big, ""},
		{"big, chunked", get, fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(big), big), "zzzz\r\n0\r\n\r\n", ""},
		{"204 has no length", get, "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 204 No Content\r\n", "content-length"},
		{"304 keeps its length and has no body", get, "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", "content-length: 9\r\n", ""},
		{"HEAD keeps the length and has no body", "HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "content-length: 9\r\n", ""},
		{"early hints come before", get, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK", ""},
		{"100 is not passed on", get, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", "HTTP/1.1 200 OK", "100 Continue"},
		{"hop-by-hop fields stay here", get, "HTTP/1.1 200 OK\r\nConnection: x-private\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\nContent-Length: 1\r\n\r\nx", "HTTP/1.1 200 OK", "x-private"},
		{"peer metadata stays here", get, "HTTP/1.1 200 OK\r\nx-envoy-peer-metadata: abc\r\nContent-Length: 1\r\n\r\nx", "HTTP/1.1 200 OK", "peer-metadata"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p := cartProxy(t, answering(t, c.answer))
			got := p.talk(t, c.request)
			if !strings.Contains(got, c.want) || c.lacks != "" && strings.Contains(got, c.lacks) {
				t.Errorf("got %.400q, want %.60q in it and not %q", got, c.want, c.lacks)
			}
		})
	}
}

func TestTruncatedResponseDoesNotLookComplete(t *testing.T) {
	b := serveWith(t, func(_ int, c net.Conn) {
		_, _ = rawRequest(bufio.NewReader(c))
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
	})
	p := cartProxy(t, b)
	c := p.dial(t)
	if _, err := io.WriteString(c, get); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err == nil {
		t.Errorf("an orderly end after %q", got)
	}
	if log := p.logged(); !strings.Contains(log, " 200 UC ") {
		t.Errorf("log %q", log)
	}
}

func TestClientThatLeavesCancelsTheUpstreamsWork(t *testing.T) {
	gone := make(chan struct{})
	b := serveWith(t, func(_ int, c net.Conn) {
		r := bufio.NewReader(c)
		_, _ = rawRequest(r)
		_, _ = r.ReadByte() // ends when the proxy gives up
		close(gone)
	})
	p := cartProxy(t, b)
	c := p.dial(t)
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "request at the backend", func() bool { return b.accepted() == 1 })
	c.Close()
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Fatal("the upstream still works")
	}
	eventually(t, "open connections", func() bool { return p.Open() == 0 })
	if log := p.logged(); !strings.Contains(log, " DC ") {
		t.Errorf("log %q", log)
	}
}

func TestResponseMayComeBeforeTheRequestEnds(t *testing.T) {
	b := serveWith(t, func(_ int, c net.Conn) {
		r := bufio.NewReader(c)
		for line := ""; line != "\r\n"; {
			var err error
			if line, err = r.ReadString('\n'); err != nil {
				return
			}
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		for { // each chunk comes back at once
			size, err := r.ReadString('\n')
			if err != nil {
				return
			}
			data, err := r.ReadString('\n')
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, size+data)
			if size == "0\r\n" {
				return
			}
		}
	})
	p := cartProxy(t, b)
	c := p.dial(t)
	r := bufio.NewReader(c)
	if _, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	for line := ""; line != "\r\n"; {
		var err error
		if line, err = r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	for _, chunk := range []string{"5\r\nhello\r\n", "1\r\n!\r\n", "0\r\n\r\n"} {
		if _, err := io.WriteString(c, chunk); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(chunk))
		if _, err := io.ReadFull(r, got); err != nil || string(got) != chunk {
			t.Fatalf("%q, %v; want %q", got, err, chunk)
		}
	}
}

func TestEarlyAnswerEndsAnUploadWithoutAReset(t *testing.T) {
	b := serveWith(t, func(_ int, c net.Conn) {
		r := bufio.NewReader(c)
		for line := ""; line != "\r\n"; {
			var err error
			if line, err = r.ReadString('\n'); err != nil {
				return
			}
		}
		_, _ = io.WriteString(c, "HTTP/1.1 413 Payload Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
		_, _ = io.Copy(io.Discard, r)
	})
	p := cartProxy(t, b)
	c := p.dial(t)
	if _, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nabc"); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 413 ") || !strings.HasSuffix(string(got), "\r\n\r\nbig") {
		t.Errorf("%q, %v", got, err)
	}
}

func TestExpectContinueIsAnsweredByTheProxy(t *testing.T) {
	p := cartProxy(t, echo(t))
	c := p.dial(t)
	r := bufio.NewReader(c)
	if _, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := r.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("%q, %v", line, err)
	}
	if _, err := io.WriteString(c, "hi"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if line, err := r.ReadString('\n'); err != nil || line != "HTTP/1.1 200 OK\r\n" {
		t.Errorf("%q, %v", line, err)
	}
}

func TestStalePooledConnectionIsNotTheClientsProblem(t *testing.T) {
	served := make(chan struct{}, 10)
	b := serveWith(t, func(_ int, c net.Conn) { // one answer, then a close that was not announced
		if _, err := rawRequest(bufio.NewReader(c)); err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		served <- struct{}{}
	})
	p := cartProxy(t, b)
	c := p.dial(t)
	r := bufio.NewReader(c)
	for i, method := range []string{"GET", "POST", "GET", "POST", "PUT"} {
		if _, err := fmt.Fprintf(c, "%s / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", method); err != nil {
			t.Fatal(err)
		}
		if line, err := r.ReadString('\n'); err != nil || line != "HTTP/1.1 200 OK\r\n" {
			t.Fatalf("request %d: %q, %v", i, line, err)
		}
		for line := ""; line != "\r\n"; {
			line, _ = r.ReadString('\n')
		}
		if _, err := r.Discard(2); err != nil {
			t.Fatal(err)
		}
		<-served
	}
}

func TestAPostIsNotRepeatedWhenTheBackendMayHaveDoneIt(t *testing.T) {
	b := serveWith(t, func(_ int, c net.Conn) { _, _ = rawRequest(bufio.NewReader(c)) })
	p := cartProxy(t, b)
	got := p.talk(t, "POST /pay HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 1\r\n\r\n1")
	if !strings.HasPrefix(got, "HTTP/1.1 503 ") || b.accepted() != 1 {
		t.Errorf("%d attempts, answer %.60q", b.accepted(), got)
	}
}

func TestAGetIsRepeatedOnAnotherEndpoint(t *testing.T) {
	good := echo(t)
	p := start(t, &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{static("cart", dead(t), good.at)}})
	for range 4 {
		if got := p.talk(t, get); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
			t.Errorf("got %.60q", got)
		}
	}
}

func TestUpgradePassesBytesBothWays(t *testing.T) {
	b := serveWith(t, func(_ int, c net.Conn) {
		r := bufio.NewReader(c)
		raw, err := rawRequest(r)
		if err != nil || !strings.Contains(raw, "upgrade: WebSocket\r\n") || !strings.Contains(raw, "connection: upgrade\r\n") {
			_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst")
		_, _ = io.Copy(c, r)
	})
	s := &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{static("cart", b.at)}, manager: &listener.HTTPManager{Upgrades: []string{"websocket"}}}
	p := start(t, s)
	c := p.dial(t)
	if _, err := io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\nsecond"); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 101 Switching Protocols\r\n") || !strings.HasSuffix(string(got), "\r\n\r\nfirstsecond") {
		t.Errorf("%q, %v", got, err)
	}
}

func TestUpgradeThatNobodyAllowedIsRefused(t *testing.T) {
	p := cartProxy(t, echo(t))
	got := p.talk(t, "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 403 ") {
		t.Errorf("got %.80q", got)
	}
}

func TestConnectTunnelsWhereARouteEndsIt(t *testing.T) {
	b := echo(t)
	tunnel := to("", "cart")
	tunnel.Match.Path = router.PathMatch{Kind: router.PathConnect}
	tunnel.Forward.Upgrades = []string{"connect"}
	s := &setup{routes: []*router.Route{to("/", "cart"), tunnel}, clusters: []*cluster.Spec{static("cart", b.at)}}
	c := start(t, s).dial(t)
	r := bufio.NewReader(c)
	if _, err := io.WriteString(c, "CONNECT cart:80 HTTP/1.1\r\nHost: cart:80\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	for line := ""; line != "\r\n"; {
		var err error
		if line, err = r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.WriteString(c, "GET /inner HTTP/1.1\r\nHost: cart\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := r.ReadString('\n'); err != nil || line != "HTTP/1.1 200 OK\r\n" {
		t.Errorf("%q, %v", line, err)
	}
}

func TestConnectIsNoWayAroundOrdinaryRoutes(t *testing.T) {
	b := echo(t)
	open := to("", "cart")
	open.Match.Path = router.PathMatch{Kind: router.PathConnect} // without an upgrade that ends the tunnel here
	for name, c := range map[string]struct {
		routes []*router.Route
		status string
	}{
		"a prefix route does not hold for it": {[]*router.Route{to("/", "cart"), to("", "cart")}, "404"},
		"a route that does not end it":        {[]*router.Route{open}, "403"},
	} {
		s := &setup{routes: c.routes, clusters: []*cluster.Spec{static("cart", b.at)}}
		got := start(t, s).talk(t, "CONNECT cart:80 HTTP/1.1\r\nHost: cart:80\r\n\r\nGET / HTTP/1.1\r\nHost: cart\r\n\r\n")
		if !strings.HasPrefix(got, "HTTP/1.1 "+c.status+" ") {
			t.Errorf("%s: got %.80q, want %s", name, got, c.status)
		}
	}
}

func TestDrainEndsIdleConnectionsAtOnceAndBusyOnesAfterTheirResponse(t *testing.T) {
	release := make(chan struct{})
	b := serveWith(t, func(_ int, c net.Conn) {
		if _, err := rawRequest(bufio.NewReader(c)); err != nil {
			return
		}
		<-release
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	})
	p := cartProxy(t, b)
	busy, idle := p.dial(t), p.dial(t)
	if _, err := io.WriteString(busy, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both connections", func() bool { return b.accepted() == 1 && p.Open() == 2 })
	done := make(chan error, 1)
	go func() { done <- p.Drain(context.Background()) }()
	_, _ = io.WriteString(idle, "") // nothing: it must end by itself
	eventually(t, "idle connection ends", func() bool { return p.Open() == 1 })
	close(release)
	got, err := io.ReadAll(busy)
	if err != nil || !strings.Contains(string(got), "connection: close\r\n") || !strings.HasSuffix(string(got), "ok") {
		t.Errorf("%q, %v", got, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if c, err := net.Dial("tcp", b.at.String()); err == nil {
		c.Close()
	}
}

func TestNewRoutesApplyToOpenConnectionsAtTheirNextRequest(t *testing.T) {
	s := &setup{routes: []*router.Route{to("/", "a")}, clusters: []*cluster.Spec{
		static("a", answering(t, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na").at),
		static("b", answering(t, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb").at)}}
	p := start(t, s)
	c := p.dial(t)
	r := bufio.NewReader(c)
	for _, want := range []string{"a", "b"} {
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		for line := ""; line != "\r\n"; {
			var err error
			if line, err = r.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := r.ReadByte(); err != nil || string(got) != want {
			t.Errorf("%q, %v; want %s", got, err, want)
		}
		s.routes = []*router.Route{to("/", "b")}
		if err := p.Apply(s.config(t)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPipelinesOfManyTurnsAreAnsweredInOrder: requests that need not wait give way, and none is lost by it.
func TestPipelinesOfManyTurnsAreAnsweredInOrder(t *testing.T) {
	const n = 3*limit.RequestsPerTurn + 1
	p := start(t, &setup{routes: []*router.Route{to("/cart", "cart")}, clusters: []*cluster.Spec{static("cart", echo(t).at)}})
	var all strings.Builder
	for i := range n {
		path, last := "/none", ""
		if i%50 == 49 {
			path = "/cart" // this one waits
		}
		if i == n-1 {
			last = "Connection: close\r\n"
		}
		fmt.Fprintf(&all, "GET %s HTTP/1.1\r\nHost: a\r\n%s\r\n", path, last)
	}
	var want, got []string
	for i := range n {
		want = append(want, map[bool]string{true: "200", false: "404"}[i%50 == 49])
	}
	for _, part := range strings.Split(p.talk(t, all.String()), "HTTP/1.1 ")[1:] {
		if !strings.HasPrefix(part, "\r\n") { // an echo of the request
			got = append(got, part[:3])
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d answers to %d requests: %v", len(got), n, got)
	}
}

func TestHeadersOfThePeerCannotSteerUs(t *testing.T) {
	p := cartProxy(t, echo(t))
	got := p.talk(t, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nx-envoy-upstream-rq-timeout-ms: 1\r\nx-envoy-retry-on: 5xx\r\n"+
		"x-envoy-peer-metadata: forged\r\nx-forwarded-client-cert: By=forged\r\nx-request-id: mine\r\n\r\n")
	for _, bad := range []string{"rq-timeout", "retry-on", "forged"} {
		if strings.Contains(got, bad) {
			t.Errorf("%s reached the backend:\n%s", bad, got)
		}
	}
	if !strings.Contains(got, "x-request-id: mine\r\n") {
		t.Error("the request id was replaced")
	}
}

func TestEdgeStatesTheClientsAddressItself(t *testing.T) {
	s := &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{static("cart", echo(t).at)}, manager: &listener.HTTPManager{UseRemoteAddress: true}}
	p := start(t, s)
	got := p.talk(t, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nx-forwarded-for: 9.9.9.9\r\nx-forwarded-proto: https\r\nx-request-id: mine\r\n\r\n")
	if !strings.Contains(got, "x-forwarded-for: 9.9.9.9,127.0.0.1\r\n") || !strings.Contains(got, "x-forwarded-proto: http\r\n") || strings.Contains(got, "x-request-id: mine") {
		t.Errorf("got\n%s", got)
	}
}

func TestPathsAreNormalizedBeforeTheyAreJudged(t *testing.T) {
	cases := []struct{ name, path, want string }{
		{"dot segments", "/a/../b/./c?x=../y", "/b/c?x=../y"},
		{"escaped dots", "/a/%2e%2E/b", "/b"},
		{"above the root", "/../../a", "/a"},
		{"slashes are merged", "//a///b", "/a/b"},
		{"backslash", "/a\\b", "/a/b"},
		{"unreserved escapes", "/%61%7e", "/a~"},
		{"reserved escapes stay", "/a%3Fb%20c", "/a%3Fb%20c"},
		{"escaped slash", "/a%2fb", "/a/b"},
		{"plain", "/a/b.c", "/a/b.c"},
		{"trailing dot segment keeps the slash", "/a/b/..", "/a/"},
	}
	s := &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{static("cart", echo(t).at)},
		manager: &listener.HTTPManager{NormalizePath: true, MergeSlashes: true, EscapedSlashes: listener.UnescapeAndForward}}
	p := start(t, s)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := p.talk(t, "GET "+c.path+" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
			if !strings.Contains(got, "GET "+c.want+" HTTP/1.1\r\n") {
				t.Errorf("got %.300q, want the path %s", got, c.want)
			}
		})
	}
}

func TestTCPIsPassedOnWithHalfCloseAndCounted(t *testing.T) {
	b := serveWith(t, func(_ int, c net.Conn) {
		_, _ = io.WriteString(c, "banner\n") // the server speaks first
		all, _ := io.ReadAll(c)
		_, _ = c.Write(all)
	})
	p := start(t, &setup{tcp: &listener.TCPProxy{Clusters: []router.Weighted{{Cluster: "ledger", Weight: 1}}, TotalWeight: 1}, clusters: []*cluster.Spec{static("ledger", b.at)}})
	c := p.dial(t)
	banner := make([]byte, 7)
	if _, err := io.ReadFull(c, banner); err != nil || string(banner) != "banner\n" {
		t.Fatalf("%q, %v", banner, err)
	}
	if _, err := io.WriteString(c, "credit 5"); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || string(got) != "credit 5" {
		t.Errorf("%q, %v", got, err)
	}
	if log := p.logged(); log != "tcp - 8 15\n" {
		t.Errorf("log %q", log)
	}
	for name, want := range map[string]float64{"istio_tcp_connections_opened_total": 1, "istio_tcp_connections_closed_total": 1, "istio_tcp_sent_bytes_total": 15, "istio_tcp_received_bytes_total": 8} {
		if got := p.registry.Sum(name, observe.Label{Name: "destination_service_name", Value: "ledger"}); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}
