package certs_test

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/test/bufconn"
	securityapi "istio.io/api/security/v1alpha1"

	"github.com/tullemesh/tulle/internal/agent/certs"
	"github.com/tullemesh/tulle/internal/control/ca"
	"github.com/tullemesh/tulle/internal/identity"
)

const serverName = "istiod.istio-system.svc"

// cart is the workload of these tests.
func cart() identity.ID {
	return identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "cart"}
}

// mesh is a real certificate authority behind a real gRPC server with TLS, on
// a listener in memory, so that it also runs under virtual time.
type mesh struct {
	t         testing.TB
	now       func() time.Time
	authority *ca.Authority
	tokens    *ca.TokenIssuer
	service   *ca.Server

	listener *bufconn.Listener
	server   *grpc.Server
}

// newMesh makes an authority whose certificates live for ttl and serves it
// until the test calls stop.
func newMesh(t testing.TB, ttl time.Duration) *mesh {
	t.Helper()
	return newMeshAt(t, ttl, time.Now)
}

// newMeshAt is newMesh with a clock.
func newMeshAt(t testing.TB, ttl time.Duration, now func() time.Time) *mesh {
	t.Helper()
	domains, err := identity.NewTrustDomains("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	directory := filepath.Join(t.TempDir(), "ca")
	authority, err := ca.LoadOrCreate(directory, ca.Options{TrustDomains: domains, TTLDefault: ttl, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := ca.NewTokenIssuer(filepath.Join(directory, "token-key.pem"), now)
	if err != nil {
		t.Fatal(err)
	}
	m := &mesh{t: t, now: now, authority: authority, tokens: tokens}
	m.service = ca.NewServer(authority, ca.ServerOptions{Authenticators: []ca.Authenticator{
		ca.NewCertificateAuthenticator(authority), ca.NewTokenAuthenticator(tokens),
	}})
	m.start()
	return m
}

func (m *mesh) start() {
	m.t.Helper()
	certificate, err := ca.NewServerCertificate(m.authority, []string{serverName}, 0)
	if err != nil {
		m.t.Fatal(err)
	}
	m.listener = bufconn.Listen(1 << 16)
	m.server = grpc.NewServer(grpc.Creds(credentials.NewTLS(certificate.TLSConfig())))
	securityapi.RegisterIstioCertificateServiceServer(m.server, m.service)
	go m.server.Serve(m.listener) // ends with stop
}

// stop kills the control plane.
func (m *mesh) stop() { m.server.Stop() }

// client returns a client that trusts roots.
func (m *mesh) client(roots []byte) *certs.Client {
	m.t.Helper()
	c, err := certs.NewClient(certs.ClientOptions{
		Address: serverName + ":15012",
		Now:     m.now,
		Roots:   func() ([]byte, error) { return roots, nil },
		Dial:    func(ctx context.Context, _ string) (net.Conn, error) { return m.listener.DialContext(ctx) },
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return c
}

// options returns those of cart with a fresh token at each use.
func (m *mesh) options() certs.Options {
	m.t.Helper()
	return certs.Options{
		ID: cart(), Authority: m.client(m.authority.Roots()), Now: m.now,
		Token: func(context.Context) (identity.Token, error) { return m.tokens.Issue(cart(), 0) },
	}
}

// run starts a keeper and returns it with a function that stops it and waits.
func run(t *testing.T, options certs.Options) (*certs.Keeper, func()) {
	t.Helper()
	k, err := certs.New(options)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	return k, func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}
