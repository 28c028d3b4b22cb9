package engine

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/match"
	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/filter"
	"github.com/tullemesh/tulle/internal/proxy/engine/filter/authz"
	"github.com/tullemesh/tulle/internal/proxy/engine/generation"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

func connectRoute(cluster string) *router.Route {
	r := to("", cluster)
	r.Match.Path = router.PathMatch{Kind: router.PathConnect}
	r.Forward.Upgrades = []string{"connect"}
	return r
}

// named answers every request with its own name, and keeps alive.
func named(t testing.TB, name string) *backend {
	return answering(t, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(name), name))
}

// tunnels is a proxy as capture "proxy" has it: reviews:9080 has routes of its
// own, db:5432 is bytes, everything else goes where it is called. Requests for
// /secret are denied.
func tunnels(t testing.TB, reviews, bytes netip.AddrPort) *proxy {
	t.Helper()
	secret := authz.Policy{Name: "secret", Principal: authz.Condition{Kind: authz.Any},
		Permission: authz.Condition{Kind: authz.Path, String: match.Exact("/secret", match.CaseSensitive)}}
	hosts := []*router.VirtualHost{
		{Name: "reviews:9080", Domains: []string{"reviews:9080"}, Routes: []*router.Route{connectRoute("bytes"), to("/", "reviews")}},
		{Name: "db:5432", Domains: []string{"db:5432"}, Routes: []*router.Route{connectRoute("bytes")}},
		{Name: "allow_any", Domains: []string{"*"}, Routes: []*router.Route{connectRoute("passthrough"), to("/", "passthrough")}},
	}
	return start(t, &setup{
		manager: &listener.HTTPManager{
			Filters: []filter.Spec{{Name: "rbac", Authz: &authz.Policies{Rules: &authz.Rules{Action: authz.Deny, Policies: []authz.Policy{secret}}}}}},
		clusters: []*cluster.Spec{static("reviews", reviews), static("bytes", bytes), {Name: "passthrough", Kind: cluster.OriginalDst}},
		extra: func(p *generation.Parts) {
			table, err := router.NewTable("routes", hosts, router.Options{})
			if err != nil {
				t.Fatal(err)
			}
			p.Tables["routes"] = table
		},
	})
}

// open opens a tunnel and returns it behind the answer's head.
func (p *proxy) open(t testing.TB, authority, want string) (net.Conn, *bufio.Reader) {
	t.Helper()
	c := p.dial(t)
	if _, err := fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", authority, authority); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	first, err := r.ReadString('\n')
	if err != nil || !strings.HasPrefix(first, "HTTP/1.1 "+want+" ") {
		t.Fatalf("%q, %v, want %s", first, err, want)
	}
	for line := first; line != "\r\n"; {
		if line, err = r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	return c, r
}

func TestHTTPInATunnelIsJudgedByTheRoutesOfItsDestination(t *testing.T) {
	p := tunnels(t, named(t, "reviews").at, named(t, "bytes").at)
	c, r := p.open(t, "reviews:9080", "200")
	for _, step := range []struct{ request, status, body string }{
		{"GET / HTTP/1.1\r\nHost: reviews:9080\r\n\r\n", "200", "reviews"},
		{"GET / HTTP/1.1\r\nHost: another.example\r\n\r\n", "200", "reviews"}, // the connection is to reviews
		{"GET /secret HTTP/1.1\r\nHost: reviews:9080\r\n\r\n", "403", "RBAC: access denied"},
		{"CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n", "403", ""},
	} {
		if _, err := io.WriteString(c, step.request); err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("%s: %v", step.request, err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil || !strings.HasPrefix(res.Status, step.status) || string(body) != step.body {
			t.Errorf("%q: %s %q %v, want %s %q", step.request, res.Status, body, err, step.status, step.body)
		}
	}
	if log := p.logged(); !strings.HasPrefix(log, "CONNECT - 200 - 0 0 bytes\nGET / 200 - 0 7 reviews\n") {
		t.Errorf("log %q", log)
	}
	if n := p.registry.Sum("istio_requests_total"); n != 4 {
		t.Errorf("%v requests counted, want the 4 inside", n)
	}
}

func TestHTTP2InATunnelIsJudgedToo(t *testing.T) {
	p := tunnels(t, named(t, "reviews").at, dead(t))
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &protocols, DialContext: func(context.Context, string, string) (net.Conn, error) {
		c, _ := p.open(t, "reviews:9080", "200")
		return c, nil
	}}
	defer tr.CloseIdleConnections()
	for path, want := range map[string]int{"/": 200, "/secret": 403} {
		res, err := (&http.Client{Transport: tr}).Get("http://reviews:9080" + path)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if res.StatusCode != want || res.ProtoMajor != 2 {
			t.Errorf("%s: %s %s, want %d", path, res.Proto, res.Status, want)
		}
	}
}

func TestBytesInATunnelArePassedOn(t *testing.T) {
	greeting := serveWith(t, func(_ int, c net.Conn) {
		_, _ = io.WriteString(c, "220 hello\n") // speaks first
		_, _ = io.Copy(c, c)
	})
	for name, authority := range map[string]string{"a host with routes": "reviews:9080", "a host without": "db:5432", "a host that nobody knows": greeting.at.String()} {
		t.Run(name, func(t *testing.T) {
			p := tunnels(t, dead(t), greeting.at)
			c, r := p.open(t, authority, "200")
			if line, err := r.ReadString('\n'); err != nil || line != "220 hello\n" {
				t.Fatalf("%q, %v", line, err)
			}
			if _, err := io.WriteString(c, "GET / HTTP/1.1\n"); err != nil { // it is mail, whatever it looks like
				t.Fatal(err)
			}
			if line, err := r.ReadString('\n'); err != nil || line != "GET / HTTP/1.1\n" {
				t.Fatalf("%q, %v", line, err)
			}
			c.Close()
			eventually(t, "the tunnel ends", func() bool { return p.Open() == 0 })
			if n := p.registry.Sum("istio_tcp_received_bytes_total"); n != 15 {
				t.Errorf("%v bytes counted", n)
			}
			if n := p.registry.Sum("istio_requests_total"); n != 0 {
				t.Errorf("%v requests counted", n)
			}
		})
	}
}

func TestTLSInATunnelIsPassedOnAtOnce(t *testing.T) {
	b := serveWith(t, func(_ int, c net.Conn) { _, _ = io.Copy(c, c) })
	p := tunnels(t, dead(t), b.at)
	c, r := p.open(t, "reviews:9080", "200")
	hello := "\x16\x03\x01\x00\x05hello"
	if _, err := io.WriteString(c, hello); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(hello))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != hello {
		t.Errorf("%q, %v", got, err)
	}
}

func TestTunnelWithoutAWayIsRefused(t *testing.T) {
	p := tunnels(t, dead(t), dead(t))
	p.open(t, "db:5432", "503")
	if log := p.logged(); !strings.HasPrefix(log, "CONNECT - 503 UF 0 ") {
		t.Errorf("log %q", log)
	}
}

func TestUnknownHostsAreReachedWhereTheRequestSays(t *testing.T) {
	b := named(t, "outside")
	p := tunnels(t, dead(t), dead(t))
	for target, want := range map[string]string{
		b.at.String():                            "HTTP/1.1 200 ",
		fmt.Sprintf("localhost:%d", b.at.Port()): "HTTP/1.1 200 ",
		p.addr():                                 "HTTP/1.1 503 ", // not to ourselves for ever
	} {
		got := p.talk(t, fmt.Sprintf("GET http://%s/x HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", target, target))
		if !strings.HasPrefix(got, want) {
			t.Errorf("%s: %.200q, want %s", target, got, want)
		}
	}
	if log := p.logged(); strings.Count(log, " 503 UH ") != 1 {
		t.Errorf("log %q", log)
	}
}
