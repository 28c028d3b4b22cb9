package ca_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
	securityapi "istio.io/api/security/v1alpha1"

	"github.com/tullemesh/tulle/internal/control/ca"
	"github.com/tullemesh/tulle/internal/identity"
	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/observe"
)

const serverName = "istiod.istio-system.svc"

// service is a running authority: real gRPC, real TLS, loopback.
type service struct {
	t         *testing.T
	clock     *clock
	authority *ca.Authority
	tokens    *ca.TokenIssuer
	registry  *observe.Registry
	server    *ca.ServerCertificate
	address   string // TLS
	plain     string // no TLS
}

func newService(t *testing.T, rates ca.Rates) *service {
	t.Helper()
	s := &service{t: t, clock: &clock{}, registry: observe.NewRegistry()}
	s.authority = newAuthority(t, ca.Options{Now: s.clock.now})
	return s.start(rates)
}

func (s *service) start(rates ca.Rates) *service {
	s.t.Helper()
	var err error
	if s.tokens, err = ca.NewTokenIssuer(filepath.Join(privateDirectory(s.t), "token-key.pem"), s.clock.now); err != nil {
		s.t.Fatal(err)
	}
	if s.server, err = ca.NewServerCertificate(s.authority, []string{serverName, "127.0.0.1"}, 0); err != nil {
		s.t.Fatal(err)
	}
	handler := ca.NewServer(s.authority, ca.ServerOptions{
		Authenticators: []ca.Authenticator{ca.NewCertificateAuthenticator(s.authority), ca.NewTokenAuthenticator(s.tokens)},
		Rates:          rates, Registry: s.registry,
	})
	s.address = s.listen(handler, credentials.NewTLS(s.server.TLSConfig()))
	s.plain = s.listen(handler, insecure.NewCredentials())
	return s
}

func (s *service) listen(handler *ca.Server, creds credentials.TransportCredentials) string {
	s.t.Helper()
	l, err := (&net.ListenConfig{}).Listen(s.t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(creds))
	securityapi.RegisterIstioCertificateServiceServer(server, handler)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	s.t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			s.t.Errorf("Serve: %v", err)
		}
	})
	return l.Addr().String()
}

// dial connects with a client certificate, or without when it is nil.
func (s *service) dial(certificate *tls.Certificate) securityapi.IstioCertificateServiceClient {
	s.t.Helper()
	config := &tls.Config{RootCAs: s.authority.Pool(), ServerName: serverName, Time: s.clock.now}
	if certificate != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil }
	}
	return s.connect(s.address, credentials.NewTLS(config))
}

func (s *service) connect(address string, creds credentials.TransportCredentials) securityapi.IstioCertificateServiceClient {
	s.t.Helper()
	connection, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(creds))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { connection.Close() })
	return securityapi.NewIstioCertificateServiceClient(connection)
}

// bearer returns a context with authorization values.
func (s *service) bearer(values ...string) context.Context {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	s.t.Cleanup(cancel)
	for _, v := range values {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", v)
	}
	return ctx
}

func (s *service) token() string {
	s.t.Helper()
	token, err := s.tokens.Issue(cart(), 0)
	if err != nil {
		s.t.Fatal(err)
	}
	return "Bearer " + token.Reveal()
}

func (s *service) metric(name string) float64 { return s.registry.Sum(name) }

// obtain asks for a certificate and returns the answer as a bundle.
func (s *service) obtain(ctx context.Context, client securityapi.IstioCertificateServiceClient) (*identity.Bundle, error) {
	s.t.Helper()
	csr, key := request(s.t, greedy)
	response, err := client.CreateCertificate(ctx, &securityapi.IstioCertificateRequest{Csr: string(csr)})
	if err != nil {
		return nil, err
	}
	chain := response.GetCertChain()
	last := len(chain) - 1
	return identity.NewBundle([]byte(strings.Join(chain[:last], "")), key, []byte(chain[last]))
}

func TestFirstCertificateByTokenAndRenewalByCertificate(t *testing.T) {
	s := newService(t, ca.Rates{})
	first, err := s.obtain(s.bearer(s.token()), s.dial(nil))
	if err != nil {
		t.Fatal(err)
	}
	second, err := s.obtain(s.bearer(), s.dial(first.Certificate()))
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]*identity.Bundle{"first": first, "renewed": second} {
		if b.ID != cart() || b.Verify(s.clock.now()) != nil || string(b.Roots) != string(s.authority.Roots()) {
			t.Errorf("%s certificate is for %s, %v", name, b.URI, b.Verify(s.clock.now()))
		}
	}
	if first.Certificate().Leaf.SerialNumber.Cmp(second.Certificate().Leaf.SerialNumber) == 0 {
		t.Error("the renewed certificate is the first one")
	}
	if s.metric(ca.MetricRequests) != 2 || s.metric(ca.MetricIssued) != 2 || s.metric(ca.MetricAuthentication) != 0 {
		t.Errorf("requests %v, issued %v, refused %v", s.metric(ca.MetricRequests), s.metric(ca.MetricIssued), s.metric(ca.MetricAuthentication))
	}
	root, err := identity.ParseCertificates(s.authority.Roots(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.metric(ca.MetricRootExpiry); got != float64(root[0].NotAfter.Unix()) {
		t.Errorf("%s is %v", ca.MetricRootExpiry, got)
	}
}

// Each element of the answer is one certificate, as Istio's ztunnel expects,
// and several roots come last.
func TestAnswerHasOneCertificatePerElement(t *testing.T) {
	root, other := newPair(t, "root", nil, nil), newPair(t, "next root", nil, nil)
	signer := newPair(t, "mesh", root, nil)
	s := &service{t: t, clock: &clock{}, registry: observe.NewRegistry()}
	var err error
	s.authority, err = ca.Load(writeFiles(t, map[string][]byte{
		"ca-cert.pem": signer.pem(), "ca-key.pem": signer.keyPEM(t), "root-cert.pem": append(root.pem(), other.pem()...),
	}), ca.Options{TrustDomains: domains(t), Now: s.clock.now})
	if err != nil {
		t.Fatal(err)
	}
	s.start(ca.Rates{})
	csr, _ := request(t, nil)
	response, err := s.dial(nil).CreateCertificate(s.bearer(s.token()), &securityapi.IstioCertificateRequest{Csr: string(csr)})
	if err != nil {
		t.Fatal(err)
	}
	chain := response.GetCertChain()
	if len(chain) != 4 || chain[1] != string(signer.pem()) || chain[2] != string(root.pem()) || chain[3] != string(other.pem()) {
		t.Errorf("%d elements: %q", len(chain), chain)
	}
}

func TestCallersWithoutAGoodCredentialAreRefused(t *testing.T) {
	s := newService(t, ca.Rates{})
	foreign := newPair(t, "foreign root", nil, nil)
	foreignTokens, err := ca.NewTokenIssuer(filepath.Join(privateDirectory(t), "key"), s.clock.now)
	if err != nil {
		t.Fatal(err)
	}
	foreignToken, err := foreignTokens.Issue(cart(), 0)
	if err != nil {
		t.Fatal(err)
	}
	short, err := s.tokens.Issue(cart(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	s.clock.advance(2 * time.Second)
	stranger := newPair(t, "stranger", foreign, workload)
	old, err := s.authority.Issue(cart(), nil, nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	outside, err := s.authority.Issue(identity.ID{TrustDomain: "foreign.example", Namespace: "shop", ServiceAccount: "cart"}, nil, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	s.clock.advance(2 * time.Hour)
	good := s.token()
	insecurely := s.connect(s.plain, insecure.NewCredentials())
	for _, c := range []struct {
		name   string
		ctx    context.Context
		client securityapi.IstioCertificateServiceClient
		code   codes.Code // Unavailable: refused in the handshake already
	}{
		{"nothing", s.bearer(), s.dial(nil), codes.Unauthenticated},
		{"expired token", s.bearer("Bearer " + short.Reveal()), s.dial(nil), codes.Unauthenticated},
		{"token of another issuer", s.bearer("Bearer " + foreignToken.Reveal()), s.dial(nil), codes.Unauthenticated},
		{"garbage", s.bearer("Bearer x"), s.dial(nil), codes.Unauthenticated},
		{"another scheme", s.bearer("Basic " + strings.TrimPrefix(good, "Bearer ")), s.dial(nil), codes.Unauthenticated},
		{"no scheme", s.bearer(strings.TrimPrefix(good, "Bearer ")), s.dial(nil), codes.Unauthenticated},
		{"two tokens", s.bearer(good, good), s.dial(nil), codes.Unauthenticated},
		{"good token without TLS", s.bearer(good), insecurely, codes.Unauthenticated},
		{"no token and no TLS", s.bearer(), insecurely, codes.Unauthenticated},
		{"certificate of another root", s.bearer(), s.dial(&tls.Certificate{Certificate: [][]byte{stranger.certificate.Raw}, PrivateKey: stranger.key}), codes.Unavailable},
		{"certificate of another root and a good token", s.bearer(good), s.dial(&tls.Certificate{Certificate: [][]byte{stranger.certificate.Raw}, PrivateKey: stranger.key}), codes.Unavailable},
		{"expired certificate", s.bearer(), s.dial(old.Certificate()), codes.Unavailable},
		{"certificate of a foreign trust domain", s.bearer(), s.dial(outside.Certificate()), codes.Unauthenticated},
		{"certificate of a foreign trust domain and a good token", s.bearer(good), s.dial(outside.Certificate()), codes.Unauthenticated},
	} {
		if _, err := s.obtain(c.ctx, c.client); status.Code(err) != c.code {
			t.Errorf("%s: %v, want %s", c.name, err, c.code)
		} else if strings.Contains(err.Error(), "expired at") || strings.Contains(err.Error(), "signature") {
			t.Errorf("%s: the answer tells why: %v", c.name, err)
		}
	}
	if got := s.metric(ca.MetricAuthentication); got != 11 {
		t.Errorf("%v refused callers counted, want 11", got)
	}
	if s.metric(ca.MetricIssued) != 0 {
		t.Errorf("%v certificates issued", s.metric(ca.MetricIssued))
	}
}

// A connection can outlive the certificate with which it was opened.
func TestExpiredCertificateOnAnOpenConnectionIsRefused(t *testing.T) {
	s := newService(t, ca.Rates{})
	b, err := s.authority.Issue(cart(), nil, nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	client := s.dial(b.Certificate())
	if _, err := s.obtain(s.bearer(), client); err != nil {
		t.Fatal(err)
	}
	s.clock.advance(61 * time.Minute)
	if _, err := s.obtain(s.bearer(), client); status.Code(err) != codes.Unauthenticated {
		t.Errorf("after the end of its certificate: %v, want Unauthenticated", err)
	}
}

// While a trust domain is renamed, workloads come with the old name and leave
// with the new one.
func TestCertificateOfAnAliasIsRenewedUnderTheOwnName(t *testing.T) {
	s := newService(t, ca.Rates{})
	old, err := s.authority.Issue(identity.ID{TrustDomain: "old.example", Namespace: "shop", ServiceAccount: "cart"}, nil, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.obtain(s.bearer(), s.dial(old.Certificate()))
	if err != nil {
		t.Fatal(err)
	}
	if b.ID != cart() {
		t.Errorf("renewed as %s", b.URI)
	}
}

func TestRequestsThatAskForMoreAreRefusedByName(t *testing.T) {
	s := newService(t, ca.Rates{})
	client := s.dial(nil)
	good, _ := request(t, nil)
	many := func(n int) map[string]any {
		fields := map[string]any{}
		for len(fields) < n {
			fields["x"+strconv.Itoa(len(fields))] = ""
		}
		return fields
	}
	for _, c := range []struct {
		name     string
		csr      string
		seconds  int64
		metadata map[string]any
		code     codes.Code
		text     string
	}{
		{"a good request", string(good), 0, nil, codes.OK, ""},
		{"what Istio's agent sends", string(good), 86400, map[string]any{"CertSigner": ""}, codes.OK, ""},
		{"a description of the caller", string(good), 0, map[string]any{"WorkloadName": "cart-1", "WorkloadIP": "10.0.0.1", "ClusterID": "c1"}, codes.OK, ""},
		{"a negative lifetime is no wish", string(good), -1, nil, codes.OK, ""},
		{"no request", "", 0, nil, codes.InvalidArgument, "no PEM block"},
		{"an oversize request", strings.Repeat("x", limit.CSRBytesMax+1), 0, nil, codes.InvalidArgument, "bytes"},
		{"too long a life", string(good), 86401, nil, codes.InvalidArgument, "24h"},
		{"a life that overflows", string(good), math.MaxInt64, nil, codes.InvalidArgument, "lifetime"},
		{"another's identity", string(good), 0, map[string]any{"ImpersonatedIdentity": "spiffe://cluster.local/ns/istio-system/sa/istiod"}, codes.PermissionDenied, "ImpersonatedIdentity"},
		{"nobody's identity", string(good), 0, map[string]any{"ImpersonatedIdentity": ""}, codes.PermissionDenied, "ImpersonatedIdentity"},
		{"another signer", string(good), 0, map[string]any{"CertSigner": "clusterissuers.cert-manager.io/x"}, codes.InvalidArgument, "CertSigner"},
		{"a signer that is no text", string(good), 0, map[string]any{"CertSigner": true}, codes.InvalidArgument, "CertSigner"},
		{"an unknown wish", string(good), 0, map[string]any{"IsCA": true}, codes.InvalidArgument, "IsCA"},
		{"one wish less than are looked at", string(good), 0, many(limit.CertificateAttributesMax - 1), codes.InvalidArgument, "x0"},
		{"as many wishes as are looked at", string(good), 0, many(limit.CertificateAttributesMax), codes.InvalidArgument, "x0"},
		{"one wish more than are looked at", string(good), 0, many(limit.CertificateAttributesMax + 1), codes.InvalidArgument, "17 fields"},
	} {
		fields, err := structpb.NewStruct(c.metadata)
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.CreateCertificate(s.bearer(s.token()), &securityapi.IstioCertificateRequest{Csr: c.csr, ValidityDuration: c.seconds, Metadata: fields})
		if status.Code(err) != c.code || err != nil && !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v, want %s with %q", c.name, err, c.code, c.text)
		}
	}
	for name, want := range map[string]float64{
		ca.MetricRequests: 16, ca.MetricIssued: 4, ca.MetricParsing: 2, ca.MetricSigning: 2, ca.MetricAuthentication: 2,
	} {
		if got := s.metric(name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

func TestServerWithoutAuthenticatorsRefusesEverybody(t *testing.T) {
	a := newAuthority(t, ca.Options{})
	csr, _ := request(t, nil)
	_, err := ca.NewServer(a, ca.ServerOptions{}).CreateCertificate(t.Context(), &securityapi.IstioCertificateRequest{Csr: string(csr)})
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("error %v, want Unauthenticated", err)
	}
}

func TestRequestRatesAreBounded(t *testing.T) {
	for name, rates := range map[string]ca.Rates{
		"of one identity": {IdentityPerSecond: 2, IdentityBurst: 3},
		"of all callers":  {PerSecond: 2, Burst: 3},
	} {
		t.Run(name, func(t *testing.T) {
			// A frozen clock, so that nothing is refilled by accident.
			frozen := time.Now()
			domain := domains(t)
			a, err := ca.LoadOrCreate(filepath.Join(t.TempDir(), "ca"), ca.Options{TrustDomains: domain, Now: func() time.Time { return frozen }})
			if err != nil {
				t.Fatal(err)
			}
			server := ca.NewServer(a, ca.ServerOptions{Authenticators: []ca.Authenticator{everybodyIsCart{}}, Rates: rates})
			csr, _ := request(t, nil)
			ask := func() codes.Code {
				_, err := server.CreateCertificate(t.Context(), &securityapi.IstioCertificateRequest{Csr: string(csr)})
				return status.Code(err)
			}
			for i := range 3 {
				if got := ask(); got != codes.OK {
					t.Fatalf("request %d of the burst: %s", i+1, got)
				}
			}
			if got := ask(); got != codes.ResourceExhausted {
				t.Errorf("one beyond the burst: %s", got)
			}
			frozen = frozen.Add(time.Second)
			for i, want := range []codes.Code{codes.OK, codes.OK, codes.ResourceExhausted} {
				if got := ask(); got != want {
					t.Errorf("a second later, request %d: %s, want %s", i+1, got, want)
				}
			}
			frozen = frozen.Add(-time.Hour)
			if got := ask(); got != codes.ResourceExhausted {
				t.Errorf("after the clock stepped back: %s", got)
			}
		})
	}
}

// The identities whose rate is remembered are bounded: beyond, those that have
// not asked for a while are forgotten, and if there are none the request is
// refused.
func TestRememberedCallersAreBounded(t *testing.T) {
	now := time.Now()
	a := newAuthority(t, ca.Options{Now: func() time.Time { return now }})
	callers := &manyCallers{}
	server := ca.NewServer(a, ca.ServerOptions{
		Authenticators: []ca.Authenticator{callers},
		Rates:          ca.Rates{PerSecond: 1, Burst: 1e9, IdentityPerSecond: 1, IdentityBurst: 2},
	})
	ask := func() codes.Code {
		callers.n++
		_, err := server.CreateCertificate(t.Context(), &securityapi.IstioCertificateRequest{})
		return status.Code(err) // InvalidArgument is past the limits
	}
	for range limit.CertificateCallersMax {
		if got := ask(); got != codes.InvalidArgument {
			t.Fatalf("caller %d: %s", callers.n, got)
		}
	}
	if got := ask(); got != codes.ResourceExhausted {
		t.Errorf("one caller beyond the limit: %s", got)
	}
	now = now.Add(2 * time.Second)
	if got := ask(); got != codes.InvalidArgument {
		t.Errorf("when the others may be forgotten: %s", got)
	}
}

// manyCallers authenticates its n-th identity.
type manyCallers struct{ n int }

func (*manyCallers) Kind() string { return "test" }

func (m *manyCallers) Authenticate(context.Context) (identity.ID, error) {
	return identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "sa" + strconv.Itoa(m.n)}, nil
}

type everybodyIsCart struct{}

func (everybodyIsCart) Kind() string                                      { return "test" }
func (everybodyIsCart) Authenticate(context.Context) (identity.ID, error) { return cart(), nil }

func TestServerCertificateIsRenewedWithoutDroppingConnections(t *testing.T) {
	s := newService(t, ca.Rates{})
	client := s.dial(nil)
	if _, err := s.obtain(s.bearer(s.token()), client); err != nil {
		t.Fatal(err)
	}
	serial := func() string {
		t.Helper()
		connection, err := (&tls.Dialer{Config: &tls.Config{RootCAs: s.authority.Pool(), ServerName: serverName, Time: s.clock.now}}).DialContext(s.bearer(), "tcp", s.address)
		if err != nil {
			t.Fatal(err)
		}
		defer connection.Close()
		return connection.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	first := serial()
	s.clock.advance(11 * time.Hour)
	if serial() != first {
		t.Error("renewed before half of its life")
	}
	s.clock.advance(2 * time.Hour)
	second := serial()
	if second == first {
		t.Error("not renewed after half of its life")
	}
	if serial() != second {
		t.Error("renewed again at once")
	}
	s.clock.advance(24 * time.Hour) // nobody came meanwhile, and it has expired
	if serial() == second {
		t.Error("an expired certificate was served")
	}
	if _, err := s.obtain(s.bearer(s.token()), client); err != nil {
		t.Errorf("the first connection: %v", err)
	}
}

func TestServerCertificateNamesItsHostsAndAddresses(t *testing.T) {
	s := newService(t, ca.Rates{})
	b, err := s.server.Current()
	if err != nil {
		t.Fatal(err)
	}
	leaf := b.Certificate().Leaf
	if b.URI != "spiffe://cluster.local/ns/istio-system/sa/istiod" {
		t.Errorf("identity %s", b.URI)
	}
	for name, good := range map[string]bool{serverName: true, "127.0.0.1": true, "istiod": false, "127.0.0.2": false} {
		if err := leaf.VerifyHostname(name); (err == nil) != good {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// When the authority itself has expired, the server still has its certificate,
// and then nothing.
func TestServerCertificateThatCanNotBeRenewedIsServedToItsEnd(t *testing.T) {
	c := &clock{}
	root := newPair(t, "root", nil, func(x *x509.Certificate) { x.NotAfter = time.Now().Add(time.Hour) })
	a, err := ca.Load(writeFiles(t, map[string][]byte{
		"ca-cert.pem": root.pem(), "ca-key.pem": root.keyPEM(t), "root-cert.pem": root.pem(),
	}), ca.Options{TrustDomains: domains(t), Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	s, err := ca.NewServerCertificate(a, []string{serverName}, 0)
	if err != nil {
		t.Fatal(err)
	}
	c.advance(59 * time.Minute)
	if _, err := s.Current(); err != nil {
		t.Errorf("before the authority's end: %v", err)
	}
	c.advance(2 * time.Minute)
	if _, err := s.Current(); !errors.Is(err, ca.ErrSigner) {
		t.Errorf("after the authority's end: %v, want ErrSigner", err)
	}
	if _, err := ca.NewServerCertificate(a, nil, 0); !errors.Is(err, ca.ErrSigner) {
		t.Errorf("a new one: %v, want ErrSigner", err)
	}
}
