//go:build conformance

package grpc_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/interop"
	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/tullemesh/tulle/internal/testkit/proxyrun"
)

// plainCases are the interop cases that need no credentials of a cloud and no
// second server (gRPC: doc/interop-test-descriptions.md).
func plainCases() []string {
	return []string{"empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "empty_stream",
		"timeout_on_sleeping_server", "cancel_after_begin", "cancel_after_first_response", "status_code_and_message",
		"special_status_message", "custom_metadata", "unimplemented_method", "unimplemented_service"}
}

// newServer is grpc-go's interop server, with the health service.
func newServer(options ...grpc.ServerOption) *grpc.Server {
	s := grpc.NewServer(options...)
	testpb.RegisterTestServiceServer(s, interop.NewTestServer())
	healthpb.RegisterHealthServer(s, health.NewServer())
	return s
}

// interopServer serves until the test ends; with credentials it asks for mutual TLS.
func interopServer(t *testing.T, own *proxyrun.Credentials) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var options []grpc.ServerOption
	if own != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13,
			Certificates: []tls.Certificate{load(t, own)}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots(t, own)})))
	}
	s := newServer(options...)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Errorf("the interop server: %v", err)
		}
	})
	return l.Addr().String()
}

func load(t *testing.T, c *proxyrun.Credentials) tls.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(c.Chain, c.Key)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func roots(t *testing.T, c *proxyrun.Credentials) *x509.CertPool {
	t.Helper()
	data, err := os.ReadFile(c.Roots)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		t.Fatalf("no root in %s", c.Roots)
	}
	return pool
}

// caseTime bounds one case; timeouts in them are of a second at most.
const caseTime = 30 * time.Second

// interopCases runs all cases from grpc-go's client against an address.
func interopCases(t *testing.T, at string, more ...string) {
	t.Helper()
	for _, name := range plainCases() {
		t.Run(name, func(t *testing.T) {
			if out, err := interopCase(t.Context(), at, name, more...); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

func interopCase(ctx context.Context, at, name string, more ...string) (string, error) {
	host, port, err := net.SplitHostPort(at)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, caseTime)
	defer cancel()
	out, err := exec.CommandContext(ctx, client, append([]string{"-server_host", host, "-server_port", port, "-test_case", name}, more...)...).CombinedOutput()
	return string(out), err
}

// hops is one way from the client to the server.
type hops struct {
	name string
	// proxies in between; tls is of the client, mutual between the last proxy and the server or between the proxies.
	proxies int
	tls     bool
	mutual  bool
}

func ways() []hops {
	return []hops{
		{name: "one sidecar", proxies: 1},
		{name: "one gateway that ends the client's TLS", proxies: 1, tls: true},
		{name: "one sidecar, mutual TLS to a server that has none", proxies: 1, mutual: true},
		{name: "two sidecars", proxies: 2},
		{name: "two sidecars, mutual TLS between them", proxies: 2, mutual: true},
	}
}

// way starts the proxies and the server, the nearest to the client first.
func (h hops) start(t *testing.T, ca *proxyrun.Authority) (proxies []*proxyrun.Proxy, at string) {
	t.Helper()
	server, caller := ca.Issue(t, "server", "localhost"), ca.Issue(t, "caller", "localhost")
	var own, asks *proxyrun.Credentials
	if h.mutual {
		own, asks = server, caller
	}
	be := ""
	if h.proxies == 1 {
		be = interopServer(t, own)
	} else {
		be = interopServer(t, nil)
		p := proxyrun.Start(t, binary, proxyrun.Bootstrap([]proxyrun.Listener{{Name: "inbound", TLS: own, Mutual: own != nil}},
			[]proxyrun.Cluster{{Name: "be", To: []string{be}, HTTP2: true}}))
		proxies, be = append(proxies, p), p.At(t, "inbound")
	}
	var front *proxyrun.Credentials
	if h.tls {
		front = server
	}
	p := proxyrun.Start(t, binary, proxyrun.Bootstrap([]proxyrun.Listener{{Name: "outbound", TLS: front}},
		[]proxyrun.Cluster{{Name: "be", To: []string{be}, HTTP2: true, TLS: asks}}))
	return append([]*proxyrun.Proxy{p}, proxies...), p.At(t, "outbound")
}

func TestInteropCasesPassThroughProxies(t *testing.T) {
	ca := proxyrun.NewAuthority(t)
	for _, way := range ways() {
		t.Run(way.name, func(t *testing.T) {
			proxies, at := way.start(t, ca)
			var more []string
			if way.tls {
				more = []string{"-use_tls", "-use_test_ca", "-ca_file", ca.Issue(t, "client").Roots, "-server_host_override", "localhost"}
			}
			interopCases(t, at, more...)
			for i, p := range proxies {
				// The cancelled cases are the only ones that do not end well.
				for line := range strings.Lines(p.AccessLog()) {
					if f := strings.Fields(line); f[3] != "200" && f[4] != "DR" {
						t.Errorf("proxy %d logged %q", i, line)
					}
				}
			}
		})
	}
}
