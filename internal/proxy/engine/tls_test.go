package engine

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/match"
	"github.com/tullemesh/tulle/internal/observe"
	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/filter"
	"github.com/tullemesh/tulle/internal/proxy/engine/filter/authz"
	"github.com/tullemesh/tulle/internal/proxy/engine/generation"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
	etls "github.com/tullemesh/tulle/internal/proxy/engine/tls"
)

// authority is a test CA.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// issue makes a workload's secret.
func (a *authority) issue(t testing.TB, name, spiffe string) *etls.Secret {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	uri, err := url.Parse(spiffe)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		URIs: []*url.URL{uri}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return &etls.Secret{Name: name,
		Chain: etls.Data{Inline: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})},
		Key:   etls.Data{Inline: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})}}
}

func (a *authority) roots() *etls.Secret {
	return &etls.Secret{Name: "ROOTCA", Roots: etls.Data{Inline: a.pem}}
}

const (
	cartID  = "spiffe://cluster.local/ns/shop/sa/cart"
	otherID = "spiffe://cluster.local/ns/shop/sa/other"
)

// inbound is a sidecar that terminates mTLS in front of b; it shows cart's
// certificate.
func inbound(t testing.TB, a *authority, b *backend) (*proxy, *setup) {
	t.Helper()
	secrets := map[string]*etls.Secret{"default": a.issue(t, "default", cartID), "ROOTCA": a.roots()}
	s := &setup{
		routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{static("cart", b.at)},
		manager: &listener.HTTPManager{ForwardClientCert: listener.ForwardClientCert{Mode: listener.XFCCSanitizeSet, URI: true}},
		chain:   listener.Chain{TLS: &etls.ServerSpec{Certificates: []string{"default"}, Validation: "ROOTCA", RequireClientCert: true, ALPN: []string{"istio-peer-exchange", "h2", "http/1.1"}}},
		extra: func(p *generation.Parts) {
			p.Secrets = secrets
			p.Listeners[0].Spec().Direction = listener.Inbound
			p.Listeners[0].Spec().InspectTLS = true
		},
	}
	return start(t, s), s
}

// outbound is a sidecar that sends to at with mTLS as client; it expects peer.
func outbound(t testing.TB, a *authority, target *proxy, client, peer string) *proxy {
	t.Helper()
	spec := static("cart", target.Listening()[listenAny()])
	spec.TLS = []cluster.TLSMatch{{Spec: &etls.ClientSpec{Certificate: "default", Validation: "ROOTCA", ALPN: []string{"istio-peer-exchange", "istio"},
		SANs: []match.String{match.Exact(peer, match.CaseSensitive)}, SNI: "outbound_.80_._.cart.shop.svc"}}}
	return start(t, &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{spec}, extra: func(p *generation.Parts) {
		p.Secrets = map[string]*etls.Secret{"default": a.issue(t, "default", client), "ROOTCA": a.roots()}
	}})
}

func TestTwoSidecarsSpeakMutualTLS(t *testing.T) {
	a := newAuthority(t)
	in, _ := inbound(t, a, echo(t))
	out := outbound(t, a, in, otherID, cartID)
	for range 3 {
		got := out.talk(t, "GET / HTTP/1.1\r\nHost: cart\r\nConnection: close\r\nx-forwarded-client-cert: forged\r\n\r\n")
		if !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") || !strings.Contains(got, "URI="+otherID+"\r\n") || !strings.Contains(got, "By="+cartID) || strings.Contains(got, "forged") {
			t.Fatalf("got\n%s", got)
		}
	}
	out.stop()
	in.stop()
	if n := in.registry.Sum("istio_requests_total", observe.Label{Name: "reporter", Value: "destination"}, observe.Label{Name: "source_principal", Value: otherID},
		observe.Label{Name: "connection_security_policy", Value: "mutual_tls"}); n != 3 {
		t.Errorf("%v requests are counted for the peer, want 3", n)
	}
}

func TestAnUnexpectedServerIdentityIsAConnectFailure(t *testing.T) {
	a := newAuthority(t)
	in, _ := inbound(t, a, echo(t))
	out := outbound(t, a, in, otherID, "spiffe://cluster.local/ns/shop/sa/payment")
	if got := out.talk(t, get); !strings.HasPrefix(got, "HTTP/1.1 503 ") {
		t.Errorf("got %.60q", got)
	}
	if log := out.logged(); !strings.Contains(log, " 503 UF ") {
		t.Errorf("log %q", log)
	}
}

func TestAClientOfAnotherAuthorityIsRefused(t *testing.T) {
	a, foreign := newAuthority(t), newAuthority(t)
	in, _ := inbound(t, a, echo(t))
	out := outbound(t, foreign, in, otherID, cartID)
	if got := out.talk(t, get); !strings.HasPrefix(got, "HTTP/1.1 503 ") {
		t.Errorf("got %.60q", got)
	}
}

func TestPlaintextToAStrictPortGetsNoAnswer(t *testing.T) {
	in, _ := inbound(t, newAuthority(t), echo(t))
	if got := in.talk(t, get); strings.Contains(got, "HTTP/1.1") {
		t.Errorf("got %.80q", got)
	}
}

// A rotated certificate is shown to new connections; open ones go on.
func TestCertificatesRotateWithoutClosingConnections(t *testing.T) {
	a := newAuthority(t)
	in, s := inbound(t, a, echo(t))
	client := func() *tls.Conn {
		secret := a.issue(t, "client", otherID)
		cert, err := tls.X509KeyPair(secret.Chain.Inline, secret.Key.Inline)
		if err != nil {
			t.Fatal(err)
		}
		raw := in.dial(t)
		c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}})
		if err := c.Handshake(); err != nil {
			t.Fatal(err)
		}
		return c
	}
	ask := func(c *tls.Conn) {
		t.Helper()
		if _, err := io.WriteString(c, "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(c)
		if line, err := r.ReadString('\n'); err != nil || line != "HTTP/1.1 200 OK\r\n" {
			t.Fatalf("%q, %v", line, err)
		}
	}
	before := client()
	ask(before)
	next := map[string]*etls.Secret{"default": a.issue(t, "default", cartID), "ROOTCA": a.roots()}
	extra := s.extra
	s.extra = func(p *generation.Parts) { extra(p); p.Secrets = next }
	if err := in.Apply(s.config(t)); err != nil {
		t.Fatal(err)
	}
	after := client()
	ask(after)
	if before.ConnectionState().PeerCertificates[0].Equal(after.ConnectionState().PeerCertificates[0]) {
		t.Error("the new connection was shown the old certificate")
	}
	ask(before)
}

func TestAConnectionThatIsNowDeniedDrains(t *testing.T) {
	a := newAuthority(t)
	in, s := inbound(t, a, echo(t))
	secret := a.issue(t, "client", otherID)
	cert, err := tls.X509KeyPair(secret.Chain.Inline, secret.Key.Inline)
	if err != nil {
		t.Fatal(err)
	}
	c := tls.Client(in.dial(t), &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}})
	if _, err := io.WriteString(c, "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(c).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	s.chain.L4 = []*authz.Policies{{Rules: &authz.Rules{Action: authz.Deny, Policies: []authz.Policy{{Name: "nobody",
		Permission: authz.Condition{Kind: authz.Any}, Principal: authz.Condition{Kind: authz.Any}}}}}}
	if err := in.Apply(s.config(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Errorf("not an orderly end: %v", err)
	}
	if in.Open() > 1 {
		t.Errorf("%d connections are open", in.Open())
	}
}

func TestPolicyDeniesARequestWithItsName(t *testing.T) {
	everything := authz.Policy{Name: "nobody", Permission: authz.Condition{Kind: authz.Any}, Principal: authz.Condition{Kind: authz.Any}}
	s := &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{static("cart", echo(t).at)}, manager: &listener.HTTPManager{
		Filters:   []filter.Spec{{Name: "rbac", Authz: &authz.Policies{Rules: &authz.Rules{Action: authz.Deny, Policies: []authz.Policy{everything}}}}},
		AccessLog: []listener.AccessLog{{Path: "log", Format: "%RESPONSE_CODE% %RESPONSE_CODE_DETAILS%\n"}},
	}}
	p := start(t, s)
	if got := p.talk(t, get); !strings.HasPrefix(got, "HTTP/1.1 403 ") || !strings.HasSuffix(got, "\r\n\r\nRBAC: access denied") {
		t.Errorf("got %q", got)
	}
	if log := p.logged(); log != "403 rbac_access_denied_matched_policy[nobody]\n" {
		t.Errorf("log %q", log)
	}
}

func TestSilentTLSClientIsGivenUp(t *testing.T) {
	a := newAuthority(t)
	s := &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{static("cart", dead(t))},
		chain: listener.Chain{TLS: &etls.ServerSpec{Certificates: []string{"default"}}},
		extra: func(p *generation.Parts) {
			p.Secrets = map[string]*etls.Secret{"default": a.issue(t, "default", cartID)}
			spec := p.Listeners[0].Spec()
			spec.InspectTLS, spec.SniffTimeout = true, 50*time.Millisecond
		}}
	p := start(t, s)
	c := p.dial(t)
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("%d, %v", n, err)
	}
}

// tlsClient is a mesh client on a connection.
func tlsClient(t testing.TB, a *authority, raw net.Conn) *tls.Conn {
	t.Helper()
	secret := a.issue(t, "client", otherID)
	cert, err := tls.X509KeyPair(secret.Chain.Inline, secret.Key.Inline)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Client(raw, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}})
}
