// Package http1_test holds the engine to RFC 9110 and RFC 9112 with raw bytes:
// each case has the bytes of a client or of a server, the rule's place and
// what must become of them, and runs through the real engine in front of
// backends with parsers that are not ours. What the backends saw is compared
// message by message, and behind what is forwarded comes a marker request on
// the same connection: a message that one side sees and the other does not,
// fails.
//
// Read world_test.go for the machine, request_test.go for how a case of a
// request is judged, response_test.go for one of a response; the tables are in
// the other files, by theme.
package http1_test

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tullemesh/tulle/internal/observe"
	"github.com/tullemesh/tulle/internal/proxy/engine"
	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/generation"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
	"github.com/tullemesh/tulle/internal/proxy/engine/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience ends a test that waits for what does not come.
const patience = 20 * time.Second

// asIstio is a connection manager as Istio configures a sidecar's.
func asIstio() *listener.HTTPManager {
	return &listener.HTTPManager{
		NormalizePath: true, GenerateRequestID: true, Proxy100Continue: true,
		ServerName: "istio-envoy", Upgrades: []string{"websocket"},
	}
}

// proxy is an engine with one listener in front of one backend.
type proxy struct {
	at   string
	stop func()
}

// startProxy runs an engine that sends all requests to one address.
func startProxy(t testing.TB, m *listener.HTTPManager, to netip.AddrPort, routes ...*router.Route) *proxy {
	t.Helper()
	e := engine.New(engine.Options{
		Registry: observe.NewRegistry(),
		OpenLog:  func(string) (io.WriteCloser, error) { return nopCloser{io.Discard}, nil },
		Self:     telemetry.Workload{Name: "edge-1", Namespace: "demo"},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	p := &proxy{stop: sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})}
	t.Cleanup(p.stop)
	any := netip.MustParseAddrPort("127.0.0.1:0")
	if err := e.Apply(oneBackend(t, m, any, to, routes)); err != nil {
		t.Fatal(err)
	}
	p.at = e.Listening()[any].String()
	return p
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func oneBackend(t testing.TB, m *listener.HTTPManager, at, to netip.AddrPort, routes []*router.Route) *generation.Config {
	t.Helper()
	m.RouteName = "routes"
	all := &router.Route{
		Name: "all", Match: router.Match{Path: router.PathMatch{Kind: router.PathPrefix, Value: ""}},
		Forward: &router.Forward{Clusters: []router.Weighted{{Cluster: "backend", Weight: 1}}, TotalWeight: 1},
	}
	table, err := router.NewTable("routes", []*router.VirtualHost{{Name: "all", Domains: []string{"*"}, Routes: append(routes, all)}}, router.Options{})
	if err != nil {
		t.Fatal(err)
	}
	chain := &listener.Chain{Name: "main", HTTP: m}
	l, err := listener.NewMatcher(&listener.Spec{
		Name: "l", Addresses: []netip.AddrPort{at}, BindToPort: true, Direction: listener.Outbound, Chains: []*listener.Chain{chain},
	})
	if err != nil {
		t.Fatal(err)
	}
	endpoints := &cluster.Assignment{Name: "backend", Localities: []cluster.Locality{{Endpoints: []cluster.Endpoint{{Addr: to, Weight: 1}}}}}
	return generation.NewConfig(generation.Parts{
		Listeners: []*listener.Matcher{l},
		Tables:    map[string]*router.Table{"routes": table},
		Clusters: map[string]*cluster.Spec{"backend": {
			Name: "backend", Kind: cluster.Static, Endpoints: endpoints, ConnectTimeout: 5 * time.Second,
			Service: cluster.Service{Host: "backend.demo.svc", Name: "backend", Namespace: "demo"},
		}},
	})
}

// dial opens a connection that ends with the test at the latest.
func dial(t testing.TB, at string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	tcp, _ := c.(*net.TCPConn)
	return tcp
}

// server runs handle for each connection until the test ends.
type server struct {
	at netip.AddrPort
	// close ends accepting and waits for the connections.
	close func()
}

func serve(t testing.TB, handle func(c *net.TCPConn)) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(patience))
				tcp, _ := c.(*net.TCPConn)
				handle(tcp)
			})
		}
	})
	s := &server{at: netip.MustParseAddrPort(l.Addr().String()), close: sync.OnceFunc(func() { l.Close(); wg.Wait() })}
	t.Cleanup(s.close)
	return s
}
