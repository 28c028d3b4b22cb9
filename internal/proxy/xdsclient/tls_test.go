package xdsclient_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/tullemesh/tulle/internal/control/xds"
	"github.com/tullemesh/tulle/internal/proxy/xdsclient"
	"github.com/tullemesh/tulle/internal/testkit/held"
	"github.com/tullemesh/tulle/internal/testkit/xdsworld"
	"github.com/tullemesh/tulle/internal/wire"
)

// authority signs certificates for a test.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, pool: x509.NewCertPool()}
	a.key = a.newKey()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	return a
}

func (a *authority) newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	return key
}

func (a *authority) issue(uri string, dns ...string) tls.Certificate {
	key := a.newKey()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: dns,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if uri != "" {
		u, err := url.Parse(uri)
		if err != nil {
			a.t.Fatal(err)
		}
		template.URIs = []*url.URL{u}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// signal is a handler that passes updates on.
type signal chan xdsclient.Update

func (s signal) Apply(ctx context.Context, u xdsclient.Update) []wire.Rejection {
	select {
	case s <- u:
	case <-ctx.Done():
	}
	return nil
}

func (s signal) wait(t *testing.T) xdsclient.Update {
	t.Helper()
	select {
	case u := <-s:
		return u
	case <-time.After(10 * time.Second):
		t.Fatal("no update came")
	}
	return xdsclient.Update{}
}

func runClient(t *testing.T, opts xdsclient.Options, prepare func(*xdsclient.Client)) {
	c, err := xdsclient.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	prepare(c)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := c.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
}

// TestMutualTLS: the server knows the client by its certificate, and a rotated
// certificate holds from the next connection on.
func TestMutualTLS(t *testing.T) {
	ca := newAuthority(t)
	world := xdsworld.New()
	peers := make(chan string, 10)
	world.Views = func(c *xds.Client) (xds.View, error) {
		peers <- c.Peer
		return xdsworld.View(c.Peer), nil
	}
	world.Put("a", wire.PackResource("a", wire.ClusterType, []byte("1")))
	server := xds.New(xds.Options{})
	world.Publish(server)
	creds := credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{ca.issue("", "istiod.istio-system.svc")}, ClientCAs: ca.pool, ClientAuth: tls.VerifyClientCertIfGiven,
	})
	serve := func(ctx context.Context, lis net.Listener) *sync.WaitGroup {
		g := grpc.NewServer(append(xds.ServerOptions(), grpc.Creds(creds))...)
		server.Register(g)
		var wg sync.WaitGroup
		wg.Go(func() { _ = xds.Serve(ctx, g, lis, 0) })
		return &wg
	}
	at := net.JoinHostPort("127.0.0.1", strconv.Itoa(held.Port(t, "127.0.0.1"))) // for both servers
	lis, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	run, stopRun := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() { _ = server.Run(run) })
	t.Cleanup(func() { stopRun(); all.Wait() })
	first, stop := context.WithCancel(context.Background())
	served := serve(first, lis)

	var mu sync.Mutex
	cert := ca.issue("spiffe://cluster.local/ns/shop/sa/web")
	got := make(signal)
	runClient(t, xdsclient.Options{
		Target: at, Node: &corev3.Node{Id: "sidecar~127.0.0.1~web.shop~shop.svc.cluster.local"}, Handler: got,
		TLS: func() (*tls.Config, error) {
			mu.Lock()
			defer mu.Unlock()
			return &tls.Config{RootCAs: ca.pool, ServerName: "istiod.istio-system.svc", Certificates: []tls.Certificate{cert}}, nil
		},
	}, func(c *xdsclient.Client) { c.Subscribe(wire.ClusterType, xdsclient.Wildcard) })
	got.wait(t)
	if p := <-peers; p != "spiffe://cluster.local/ns/shop/sa/web" {
		t.Fatalf("peer %q", p)
	}

	mu.Lock()
	cert = ca.issue("spiffe://cluster.local/ns/shop/sa/other")
	mu.Unlock()
	stop()
	served.Wait()
	lis, err = net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	second, stop := context.WithCancel(context.Background())
	served = serve(second, lis)
	defer served.Wait()
	defer stop()
	select {
	case p := <-peers:
		if p != "spiffe://cluster.local/ns/shop/sa/other" {
			t.Fatalf("peer %q after rotation", p)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no reconnect")
	}
}

// TestTLSWithoutCertificateIsRefused: claims don't make up for a certificate.
func TestTLSWithoutCertificateIsRefused(t *testing.T) {
	ca := newAuthority(t)
	server := xds.New(xds.Options{})
	xdsworld.New().Publish(server)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(append(xds.ServerOptions(), grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{ca.issue("", "istiod.istio-system.svc")}, ClientCAs: ca.pool, ClientAuth: tls.VerifyClientCertIfGiven,
	})))...)
	server.Register(g)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = xds.Serve(ctx, g, lis, time.Second) })
	wg.Go(func() { _ = server.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })

	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: ca.pool, ServerName: "istiod.istio-system.svc"})))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err = stream.Recv(); status.Code(err) != codes.Unauthenticated {
		t.Errorf("error %v", err)
	}
}

// secrets serves SDS as an agent does: both forms, one secret.
type secrets struct {
	secretv3.UnimplementedSecretDiscoveryServiceServer
	ads *xds.Server
}

func (s secrets) DeltaSecrets(conn secretv3.SecretDiscoveryService_DeltaSecretsServer) error {
	return s.ads.DeltaAggregatedResources(conn)
}

func (s secrets) StreamSecrets(conn secretv3.SecretDiscoveryService_StreamSecretsServer) error {
	return s.ads.StreamAggregatedResources(conn)
}

func TestSecretsOverUnixSocket(t *testing.T) {
	for name, mode := range map[string]xdsclient.Mode{"delta": xdsclient.Delta, "state of the world": xdsclient.SotW} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "sds.sock")
			lis, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			world := xdsworld.New()
			world.Put("default", wire.PackResource("default", wire.SecretType, []byte(namedField("default", "1"))))
			server := xds.New(xds.Options{})
			world.Publish(server)
			g := grpc.NewServer(xds.ServerOptions()...)
			secretv3.RegisterSecretDiscoveryServiceServer(g, secrets{ads: server})
			ctx, cancel := context.WithCancel(context.Background())
			var wg sync.WaitGroup
			wg.Go(func() { _ = xds.Serve(ctx, g, lis, time.Second) })
			wg.Go(func() { _ = server.Run(ctx) })
			t.Cleanup(func() { cancel(); wg.Wait() })

			got := make(signal)
			runClient(t, xdsclient.Options{
				Target: "unix://" + path, Service: xdsclient.SDS, Mode: mode, Handler: got,
				Node: &corev3.Node{Id: "sidecar~127.0.0.1~web.shop~shop.svc.cluster.local"},
			}, func(c *xdsclient.Client) { c.Subscribe(wire.SecretType, "default") })
			if u := got.wait(t); len(u.Added) != 1 || u.Added[0].Name != "default" {
				t.Fatalf("update %+v", u)
			}
			world.Put("default", wire.PackResource("default", wire.SecretType, []byte(namedField("default", "rotated"))))
			world.Publish(server)
			if u := got.wait(t); len(u.Added) != 1 || string(u.Added[0].Body.Value) != namedField("default", "rotated") {
				t.Fatalf("update %+v", u)
			}
		})
	}
}
