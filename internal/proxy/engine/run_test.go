package engine

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tullemesh/tulle/internal/observe"
	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/generation"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
	"github.com/tullemesh/tulle/internal/proxy/engine/telemetry"
	"github.com/tullemesh/tulle/internal/testkit/blackhole"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// proxy is an engine under test with what it logged.
type proxy struct {
	*Engine
	registry *observe.Registry
	log      *syncBuffer
	stop     func()
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) Close() error { return nil }

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// listenAny is the configured address of every test listener.
func listenAny() netip.AddrPort { return netip.MustParseAddrPort("127.0.0.1:0") }

const shortLog = "%REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %UPSTREAM_CLUSTER%\n"

// setup is a configuration of one listener.
type setup struct {
	manager  *listener.HTTPManager
	tcp      *listener.TCPProxy
	chain    listener.Chain
	routes   []*router.Route
	clusters []*cluster.Spec
	extra    func(*generation.Parts)
	self     telemetry.Workload // zero: cart-1
	peers    telemetry.PeerCodec
	resolver cluster.Resolver // nil: the system's
}

// to is a route that sends everything with a prefix to a cluster.
func to(prefix, name string) *router.Route {
	return &router.Route{
		Name: name, Match: router.Match{Path: router.PathMatch{Kind: router.PathPrefix, Value: prefix}},
		Forward: &router.Forward{Clusters: []router.Weighted{{Cluster: name, Weight: 1}}, TotalWeight: 1},
	}
}

func static(name string, addrs ...netip.AddrPort) *cluster.Spec {
	a := &cluster.Assignment{Name: name, Localities: []cluster.Locality{{}}}
	for _, at := range addrs {
		a.Localities[0].Endpoints = append(a.Localities[0].Endpoints, cluster.Endpoint{Addr: at, Weight: 1})
	}
	return &cluster.Spec{Name: name, Kind: cluster.Static, Endpoints: a, ConnectTimeout: 5 * time.Second,
		Service: cluster.Service{Host: name + ".shop.svc", Name: name, Namespace: "shop"}}
}

func (s *setup) config(t testing.TB) *generation.Config {
	t.Helper()
	chain := s.chain
	chain.Name = "main"
	parts := generation.Parts{Tables: map[string]*router.Table{}, Clusters: map[string]*cluster.Spec{}}
	if s.tcp != nil {
		tcp := *s.tcp
		if tcp.AccessLog == nil {
			tcp.AccessLog = []listener.AccessLog{{Path: "log", Format: "tcp %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT%\n"}}
		}
		chain.TCP = &tcp
	} else {
		m := &listener.HTTPManager{} // a generation is immutable: each has its own
		if s.manager != nil {
			*m = *s.manager
		}
		m.RouteName = "routes"
		m.GenerateRequestID = true
		m.ServerName = "istio-envoy"
		if m.AccessLog == nil {
			m.AccessLog = []listener.AccessLog{{Path: "log", Format: shortLog}}
		}
		chain.HTTP = m
		table, err := router.NewTable("routes", []*router.VirtualHost{{Name: "all", Domains: []string{"*"}, Routes: s.routes}}, router.Options{})
		if err != nil {
			t.Fatal(err)
		}
		parts.Tables["routes"] = table
	}
	for _, c := range s.clusters {
		parts.Clusters[c.Name] = c
	}
	m, err := listener.NewMatcher(&listener.Spec{
		Name: "l", Addresses: []netip.AddrPort{listenAny()}, BindToPort: true, Direction: listener.Outbound, Chains: []*listener.Chain{&chain},
	})
	if err != nil {
		t.Fatal(err)
	}
	parts.Listeners = []*listener.Matcher{m}
	if s.extra != nil {
		s.extra(&parts)
	}
	return generation.NewConfig(parts)
}

func start(t testing.TB, s *setup) *proxy {
	t.Helper()
	p := &proxy{registry: observe.NewRegistry(), log: &syncBuffer{}}
	p.Engine = New(Options{Registry: p.registry, OpenLog: func(string) (io.WriteCloser, error) { return p.log, nil },
		Self: cmp.Or(s.self, telemetry.Workload{Name: "cart-1", Namespace: "shop", CanonicalService: "cart"}), Peers: s.peers, Resolver: s.resolver})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	p.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(p.stop)
	if err := p.Apply(s.config(t)); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *proxy) addr() string { return p.Listening()[listenAny()].String() }

// logged stops the proxy and returns its access log.
func (p *proxy) logged() string {
	p.stop()
	return p.log.String()
}

func (p *proxy) dial(t testing.TB) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", p.addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second)) // a failed test must end
	return c
}

// talk sends bytes and returns all that comes until the proxy closes.
func (p *proxy) talk(t testing.TB, request string) string {
	t.Helper()
	c := p.dial(t)
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(c)
	if err != nil {
		answer = append(answer, "["+err.Error()+"]"...)
	}
	return string(answer)
}

// backend is a server whose every connection is handled by a function.
type backend struct {
	l  net.Listener
	at netip.AddrPort
	wg sync.WaitGroup

	mu    sync.Mutex
	conns int
}

func serveWith(t testing.TB, handle func(n int, c net.Conn)) *backend {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{l: l, at: conn.AddrPort(l.Addr())}
	b.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			b.conns++
			n := b.conns
			b.mu.Unlock()
			b.wg.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(20 * time.Second))
				handle(n, c)
			})
		}
	})
	t.Cleanup(func() { l.Close(); b.wg.Wait() })
	return b
}

func (b *backend) accepted() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.conns
}

// echo answers each request with its own head and body, keeping alive.
func echo(t testing.TB) *backend {
	return serveWith(t, func(_ int, c net.Conn) {
		r := bufio.NewReader(c)
		for {
			raw, err := rawRequest(r)
			if err != nil {
				return
			}
			if _, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX-Backend: yes\r\n\r\n%s", len(raw), raw); err != nil {
				return
			}
		}
	})
}

// rawRequest reads one request as the bytes that came: a head, and a body by
// Content-Length or up to the last chunk.
func rawRequest(r *bufio.Reader) (string, error) {
	var b strings.Builder
	length, chunked := 0, false
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return "", err
		}
		b.WriteString(line)
		if _, err := fmt.Sscanf(strings.ToLower(line), "content-length: %d", &length); err == nil {
			continue
		}
		chunked = chunked || strings.HasPrefix(strings.ToLower(line), "transfer-encoding: chunked")
		if line == "\r\n" {
			break
		}
	}
	if length > 0 {
		if _, err := io.CopyN(&b, r, int64(length)); err != nil {
			return "", err
		}
	}
	for chunked {
		line, err := r.ReadString('\n')
		if err != nil {
			return "", err
		}
		b.WriteString(line)
		size := 0
		_, _ = fmt.Sscanf(line, "%x", &size)
		if size > 0 {
			if _, err := io.CopyN(&b, r, int64(size)+2); err != nil {
				return "", err
			}
			continue
		}
		for line = ""; line != "\r\n"; {
			if line, err = r.ReadString('\n'); err != nil {
				return "", err
			}
			b.WriteString(line)
		}
		chunked = false
	}
	return b.String(), nil
}

// dead is an address where nobody listens.
func dead(t testing.TB) netip.AddrPort { return blackhole.Refuse(t) }

const get = "GET /a?b=c HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n"

func TestRequestIsForwardedAndItsResponseComesBack(t *testing.T) {
	b := echo(t)
	p := start(t, &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{static("cart", b.at)}})
	got := p.talk(t, get)
	for _, want := range []string{"HTTP/1.1 200 OK\r\n", "x-backend: yes\r\n", "server: istio-envoy\r\n", "connection: close\r\n",
		"x-envoy-upstream-service-time: ", "GET /a?b=c HTTP/1.1\r\nhost: shop\r\n", "x-request-id: ", "x-forwarded-proto: http\r\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	if log := p.logged(); !strings.HasPrefix(log, "GET /a?b=c 200 - 0 ") || !strings.HasSuffix(log, " cart\n") {
		t.Errorf("log: %q", log)
	}
	if n := p.registry.Sum("istio_requests_total", observe.Label{Name: "response_code", Value: "200"},
		observe.Label{Name: "destination_service", Value: "cart.shop.svc"}, observe.Label{Name: "source_workload", Value: "cart-1"}); n != 1 {
		t.Errorf("istio_requests_total is %v", n)
	}
}

func TestKeptAliveConnectionsServeManyRequestsOverOneUpstreamConnection(t *testing.T) {
	b := echo(t)
	p := start(t, &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{static("cart", b.at)}})
	got := p.talk(t, strings.Repeat("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nxyz", 5)+get)
	if n := strings.Count(got, "HTTP/1.1 200 OK"); n != 11 {
		t.Errorf("%d answers, want 11:\n%s", n, got)
	}
	if n := b.accepted(); n != 1 {
		t.Errorf("%d upstream connections, want 1", n)
	}
}

// Every fault has Envoy's status and flag.
func TestFaultsAnswerWithEnvoysStatusAndFlag(t *testing.T) {
	reset := serveWith(t, func(_ int, c net.Conn) { _, _ = rawRequest(bufio.NewReader(c)) })
	garbage := serveWith(t, func(_ int, c net.Conn) {
		_, _ = rawRequest(bufio.NewReader(c))
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n")
	})
	silent := serveWith(t, func(_ int, c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	timed := to("/", "cart")
	timed.Forward.Timeout = 50 * time.Millisecond
	cases := []struct {
		name     string
		route    *router.Route
		clusters []*cluster.Spec
		request  string
		status   int
		flag     string
		body     string
	}{
		{"backend is down", to("/", "cart"), []*cluster.Spec{static("cart", dead(t))}, get, 503, "UF", "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure"},
		{"backend resets", to("/", "cart"), []*cluster.Spec{static("cart", reset.at)}, get, 503, "UC", "reset reason: connection termination"},
		{"backend breaks the protocol", to("/", "cart"), []*cluster.Spec{static("cart", garbage.at)}, get, 502, "UPE", "reset reason: protocol error"},
		{"backend is too slow", timed, []*cluster.Spec{static("cart", silent.at)}, get, 504, "UT", "upstream request timeout"},
		{"no endpoint", to("/", "cart"), []*cluster.Spec{static("cart")}, get, 503, "UH", "no healthy upstream"},
		{"no cluster", to("/", "cart"), nil, get, 503, "NC", ""},
		{"no route", to("/other", "cart"), nil, get, 404, "NR", ""},
		{"malformed request", to("/", "cart"), nil, "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "DPE", "Bad Request"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p := start(t, &setup{routes: []*router.Route{c.route}, clusters: c.clusters})
			got := p.talk(t, c.request)
			if !strings.HasPrefix(got, fmt.Sprintf("HTTP/1.1 %d ", c.status)) || !strings.Contains(got, c.body) {
				t.Errorf("got %q", got)
			}
			if log := p.logged(); !strings.Contains(log, fmt.Sprintf(" %d %s ", c.status, c.flag)) {
				t.Errorf("log %q, want %d %s", log, c.status, c.flag)
			}
		})
	}
}

func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-deadline.C:
			t.Fatal(what + ": not within 10 s")
		case <-tick.C:
		}
	}
}
