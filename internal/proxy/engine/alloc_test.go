package engine

import (
	"net"
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

// canned answers each read of a whole request with the same bytes, without
// allocating.
func canned(t testing.TB, answer string) *backend {
	return serveWith(t, func(_ int, c net.Conn) {
		buf, out := make([]byte, 16<<10), []byte(answer)
		for {
			if _, err := c.Read(buf); err != nil {
				return
			}
			if _, err := c.Write(out); err != nil {
				return
			}
		}
	})
}

const plainAnswer = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nDate: Mon, 01 Jan 2026 00:00:00 GMT\r\nContent-Length: 5\r\n\r\nhello"

// roundTrip sends a request on a kept-alive connection and reads its answer.
func roundTrip(t testing.TB, c net.Conn, request, buf []byte) int {
	if _, err := c.Write(request); err != nil {
		t.Fatal(err)
	}
	n := 0
	for !strings.HasSuffix(string(buf[max(n-5, 0):n]), "hello") {
		m, err := c.Read(buf[n:])
		if err != nil {
			t.Fatal(err)
		}
		n += m
	}
	return n
}

func plainProxy(t testing.TB) (net.Conn, []byte) {
	b := canned(t, plainAnswer)
	p := start(t, &setup{routes: []*router.Route{to("/other", "cart"), to("/", "cart")}, clusters: []*cluster.Spec{static("cart", b.at)}})
	return p.dial(t), []byte("GET /products?page=1 HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: curl/8\r\nAccept: */*\r\n\r\n")
}

// The plain path costs no allocation: accept, parse, route, authorize, pool,
// forward, answer, count and log.
func TestPlainRequestDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	c, request := plainProxy(t)
	buf := make([]byte, 4096)
	for range 200 { // pools, series and log buffers grow once
		roundTrip(t, c, request, buf)
	}
	const want = 0
	if n := testing.AllocsPerRun(2000, func() { roundTrip(t, c, request, buf) }); n > want {
		t.Errorf("%v allocations per request, want %d", n, want)
	}
}

func BenchmarkPlainRequest(b *testing.B) {
	c, request := plainProxy(b)
	buf := make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		roundTrip(b, c, request, buf)
	}
}

func BenchmarkPostWithBody(b *testing.B) {
	c, _ := plainProxy(b)
	request := []byte("POST /order HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 1024\r\n\r\n" + strings.Repeat("x", 1024))
	buf := make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		roundTrip(b, c, request, buf)
	}
}
