package engine

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/match"
	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/filter"
	"github.com/tullemesh/tulle/internal/proxy/engine/filter/authz"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
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

// istioText and istioJSON are the greater part of Istio's default formats.
const istioText = `[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% ` +
	`%RESPONSE_CODE_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% ` +
	`%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" ` +
	`"%UPSTREAM_HOST%" %UPSTREAM_CLUSTER% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%` + "\n"

func istioJSON() []listener.JSONField {
	return []listener.JSONField{
		{Key: "start_time", Format: "%START_TIME%"}, {Key: "method", Format: "%REQ(:METHOD)%"}, {Key: "path", Format: "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"},
		{Key: "response_code", Format: "%RESPONSE_CODE%"}, {Key: "response_flags", Format: "%RESPONSE_FLAGS%"}, {Key: "duration", Format: "%DURATION%"},
		{Key: "request_id", Format: "%REQ(X-REQUEST-ID)%"}, {Key: "upstream_host", Format: "%UPSTREAM_HOST%"}, {Key: "user_agent", Format: "%REQ(USER-AGENT)%"},
	}
}

// sidecarSetup is what a sidecar evaluates at the least: five routes with
// prefixes and headers, RBAC, metrics, a request id, timeouts.
func sidecarSetup(at netip.AddrPort, log ...listener.AccessLog) *setup {
	guarded := func(prefix, header, value string) *router.Route {
		r := to(prefix, "cart")
		r.Match.Headers = []match.Header{{Name: header, Kind: match.HeaderValue, Value: match.Exact(value, match.CaseSensitive)}}
		r.Forward.Timeout, r.Forward.IdleTimeout = 15*time.Second, time.Minute
		return r
	}
	if log == nil {
		log = []listener.AccessLog{} // none; nil is the tests' own
	}
	readers := authz.Policy{Name: "readers", Principal: authz.Condition{Kind: authz.Any},
		Permission: authz.Condition{Kind: authz.Or, Sub: []authz.Condition{
			{Kind: authz.Path, String: match.Exact("/products", match.CaseSensitive)}, {Kind: authz.Path, String: match.Exact("/order", match.CaseSensitive)},
		}}}
	last := to("/", "cart")
	last.Forward.Timeout = 15 * time.Second
	return &setup{
		manager: &listener.HTTPManager{
			AccessLog: log, RequestTimeout: time.Minute, StreamIdleTimeout: 5 * time.Minute, UseRemoteAddress: true,
			Filters: []filter.Spec{{Name: "rbac", Authz: &authz.Policies{Rules: &authz.Rules{Action: authz.Allow, Policies: []authz.Policy{readers}}}}},
		},
		routes:   []*router.Route{guarded("/admin", "x-admin", "1"), guarded("/static", "x-a", "b"), guarded("/", "x-tenant", "green"), guarded("/order", "x-tenant", "blue"), last},
		clusters: []*cluster.Spec{static("cart", at)},
	}
}

// The plain path costs no allocation: accept, parse, route, authorize, pool,
// forward, answer, count and log; nor do bodies that stream.
func TestPlainRequestDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	const traced = "GET /products?page=1 HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: curl/8\r\nAccept: */*\r\nx-tenant: blue\r\n" +
		"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\nx-b3-sampled: 1\r\ncookie: session=0123456789abcdef\r\n\r\n"
	post := func(n int) string {
		return fmt.Sprintf("POST /order HTTP/1.1\r\nHost: shop.example\r\nContent-Length: %d\r\n\r\n%s", n, strings.Repeat("x", n))
	}
	const large = 64 << 10
	for _, c := range []struct {
		name, request string
		log           []listener.AccessLog
		answer        int // bytes of body
	}{
		{"no access log", traced, nil, 5},
		{"text access log", traced, []listener.AccessLog{{Path: "log", Format: istioText}}, 5},
		{"JSON access log", traced, []listener.AccessLog{{Path: "log", JSON: istioJSON()}}, 5},
		{"body in one read", post(1024), nil, 5},
		{"64 KiB up", post(large), nil, 5},
		{"64 KiB down", traced, nil, large},
		{"64 KiB both ways", post(large), nil, large},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := cannedFor(t, len(c.request)/large*large, c.answer)
			p := start(t, sidecarSetup(b.at, c.log...))
			conn, request, buf := p.dial(t), []byte(c.request), make([]byte, large+4096)
			once := func() { roundTrip(t, conn, request, buf) }
			for range 200 { // pools, series and log buffers grow once
				once()
			}
			const want = 0
			if n := testing.AllocsPerRun(1000, once); n > want {
				t.Errorf("%v allocations per request, want %d", n, want)
			}
		})
	}
}

// cannedFor answers each request, whose body has so many bytes, without
// allocating; 0: one that comes in one read.
func cannedFor(t testing.TB, body, answer int) *backend {
	return serveWith(t, func(_ int, c net.Conn) {
		buf := make([]byte, 64<<10)
		out := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", answer, strings.Repeat("y", answer-5)+"hello")
		for {
			for got := 0; ; {
				n, err := c.Read(buf)
				if err != nil {
					return
				}
				if got == 0 {
					n -= bytes.Index(buf[:n], []byte("\r\n\r\n")) + 4
				}
				if got += max(n, 1); got >= body {
					break
				}
			}
			if _, err := c.Write(out); err != nil {
				return
			}
		}
	})
}

// Between two sidecars, with their metadata in each message, only TLS allocates.
func TestOnlyTLSAllocatesBetweenSidecars(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	web, _ := sidecarsOf(t, true, cannedFor(t, 0, 1024).at)
	c, request, buf := web.dial(t), []byte("GET / HTTP/1.1\r\nHost: shop\r\n\r\n"), make([]byte, 8192)
	once := func() { roundTrip(t, c, request, buf) }
	for range 200 {
		once()
	}
	const want = 2 // crypto/tls: its Conn.readFromUntil makes a reader for each record, of which there are two
	if n := testing.AllocsPerRun(1000, once); n > want {
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
