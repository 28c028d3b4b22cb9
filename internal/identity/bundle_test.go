package identity_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tullemesh/tulle/internal/identity"
	"github.com/tullemesh/tulle/internal/limit"
)

func TestBundleTellsWhoAndUntilWhen(t *testing.T) {
	root := newTestRoot(t)
	sub := root.sub(t)
	leaf, key := sub.sign(t, workload{})
	chain := identity.EncodeCertificates(leaf, sub.certificate)
	b, err := identity.NewBundle(chain, parseKey(t, "PRIVATE KEY", pkcs8(t, key)), identity.EncodeCertificates(root.certificate))
	if err != nil {
		t.Fatal(err)
	}
	if b.ID.String() != cart || string(b.URI) != cart || !b.NotBefore.Equal(leaf.NotBefore) || !b.NotAfter.Equal(leaf.NotAfter) {
		t.Errorf("bundle of %s from %s to %s", b.URI, b.NotBefore, b.NotAfter)
	}
	if len(b.Certificate().Certificate) != 2 || !bytes.Equal(b.Chain, chain) {
		t.Error("the chain is not leaf and intermediate")
	}
	if err := b.Verify(time.Now()); err != nil {
		t.Error(err)
	}
	if !strings.Contains(b.String(), cart) {
		t.Errorf("printed as %q", b.String())
	}
}

func TestBundleEndsWithTheFirstOfItsChain(t *testing.T) {
	root := newTestRoot(t)
	sub := root.sub(t) // ends after two hours
	leaf, key := sub.sign(t, workload{change: func(c *x509.Certificate) { c.NotAfter = time.Now().Add(20 * time.Hour) }})
	b, err := identity.NewBundle(identity.EncodeCertificates(leaf, sub.certificate), parseKey(t, "PRIVATE KEY", pkcs8(t, key)), identity.EncodeCertificates(root.certificate))
	if err != nil {
		t.Fatal(err)
	}
	if !b.NotAfter.Equal(sub.certificate.NotAfter) {
		t.Errorf("bundle ends at %s, its intermediate at %s", b.NotAfter, sub.certificate.NotAfter)
	}
	if err := b.Verify(sub.certificate.NotAfter); !errors.Is(err, identity.ErrExpired) {
		t.Errorf("Verify at the end: %v, want ErrExpired", err)
	}
	if err := b.Verify(sub.certificate.NotAfter.Add(-time.Second)); err != nil {
		t.Errorf("Verify a second before: %v", err)
	}
	if err := b.Verify(leaf.NotBefore.Add(-time.Second)); !errors.Is(err, identity.ErrUntrusted) {
		t.Errorf("Verify before the beginning: %v, want ErrUntrusted", err)
	}
}

func TestUnusableBundlesAreRefused(t *testing.T) {
	root, other := newTestRoot(t), newTestRoot(t)
	leaf, signer := root.sign(t, workload{})
	key := parseKey(t, "PRIVATE KEY", pkcs8(t, signer))
	foreign := parseKey(t, "PRIVATE KEY", pkcs8(t, newSigner(t)))
	chain, roots := identity.EncodeCertificates(leaf), identity.EncodeCertificates(root.certificate)
	ca := parseKey(t, "PRIVATE KEY", pkcs8(t, root.key))
	damaged := bytes.Replace(roots, []byte("MII"), []byte("M!I"), 1)
	many := bytes.Repeat(roots, limit.RootCertificatesMax+1)
	for _, c := range []struct {
		name  string
		chain []byte
		key   identity.PrivateKey
		roots []byte
		want  error
	}{
		{"no chain", nil, key, roots, identity.ErrCertificate},
		{"no roots", chain, key, nil, identity.ErrCertificate},
		{"no key", chain, identity.PrivateKey{}, roots, identity.ErrKey},
		{"another key", chain, foreign, roots, identity.ErrKey},
		{"an authority as leaf", roots, ca, roots, identity.ErrCertificate},
		{"a damaged certificate among good ones", append(append(bytes.Clone(chain), damaged...), chain...), key, roots, identity.ErrCertificate},
		{"a key among the certificates", append(bytes.Clone(chain), key.PEM()...), key, roots, identity.ErrCertificate},
		{"cut in the middle", chain[:len(chain)/2], key, roots, identity.ErrCertificate},
		{"a chain too long", bytes.Repeat(chain, limit.ChainCertificatesMax+1), key, roots, identity.ErrCertificate},
		{"too many roots", chain, key, many, identity.ErrCertificate},
		{"too many bytes", chain, key, bytes.Repeat([]byte(" "), limit.KeyFileBytesMax+1), identity.ErrCertificate},
	} {
		if _, err := identity.NewBundle(c.chain, c.key, c.roots); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	b, err := identity.NewBundle(chain, key, identity.EncodeCertificates(other.certificate))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Verify(time.Now()); !errors.Is(err, identity.ErrUntrusted) {
		t.Errorf("chain to another root: %v, want ErrUntrusted", err)
	}
}

// openssl writes a certificate's text before its PEM block.
func TestTextAroundCertificatesIsIgnored(t *testing.T) {
	one := identity.EncodeCertificates(newTestRoot(t).certificate)
	text := append([]byte("# our root\nCertificate:\n    Data:\n"), one...)
	text = append(append(text, "\n# the old root\n"...), one...)
	if out, err := identity.ParseCertificates(append(text, "# end\n"...), 2); err != nil || len(out) != 2 {
		t.Errorf("%d certificates, %v", len(out), err)
	}
}

func TestNumberLimitsOfCertificates(t *testing.T) {
	text := identity.EncodeCertificates(newTestRoot(t).certificate)
	for n, good := range map[int]bool{limit.RootCertificatesMax - 1: true, limit.RootCertificatesMax: true, limit.RootCertificatesMax + 1: false} {
		out, err := identity.ParseCertificates(bytes.Repeat(text, n), limit.RootCertificatesMax)
		if (err == nil) != good || good && len(out) != n {
			t.Errorf("%d certificates: %d, %v", n, len(out), err)
		}
	}
}

func TestCertificatesThatAreNoWorkloads(t *testing.T) {
	root := newTestRoot(t)
	for name, w := range map[string]workload{
		"no URI":                   {uris: []string{}},
		"two URIs":                 {uris: []string{cart, "spiffe://cluster.local/ns/shop/sa/other"}},
		"another scheme":           {uris: []string{"https://cluster.local/ns/shop/sa/cart"}},
		"a malformed ID":           {uris: []string{"spiffe://cluster.local/ns//sa/cart"}},
		"an authority":             {change: func(c *x509.Certificate) { c.IsCA = true }},
		"may sign certificates":    {change: func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }},
		"may sign revocations":     {change: func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign }},
		"may not sign a handshake": {change: func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }},
	} {
		leaf, _ := root.sign(t, w)
		if uri, err := identity.FromCertificate(leaf); !errors.Is(err, identity.ErrCertificate) && !errors.Is(err, identity.ErrID) {
			t.Errorf("%s: %q, %v", name, uri, err)
		}
		if uri, err := (identity.Verifier{Roots: root.pool()}).Verify([]*x509.Certificate{leaf}); !errors.Is(err, identity.ErrIdentity) && !errors.Is(err, identity.ErrUntrusted) {
			t.Errorf("%s was accepted as a peer: %q, %v", name, uri, err)
		}
	}
}

func TestPeersAreJudgedByRootsNamesDomainsAndUse(t *testing.T) {
	root, other := newTestRoot(t), newTestRoot(t)
	mesh, err := identity.NewTrustDomains("new.example", "cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := identity.NewTrustDomains("foreign.example")
	if err != nil {
		t.Fatal(err)
	}
	only := func(usage x509.ExtKeyUsage) workload {
		return workload{change: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{usage} }}
	}
	clock := func(d time.Duration) func() time.Time {
		return func() time.Time { return time.Now().Add(d) }
	}
	for _, c := range []struct {
		name     string
		verifier identity.Verifier
		peer     workload
		want     error
	}{
		{"a good peer", identity.Verifier{Roots: root.pool()}, workload{}, nil},
		{"one of the names", identity.Verifier{Roots: root.pool(), Names: []string{"spiffe://x/ns/a/sa/b", cart}}, workload{}, nil},
		{"none of the names", identity.Verifier{Roots: root.pool(), Names: []string{"spiffe://cluster.local/ns/shop/sa/cart2"}}, workload{}, identity.ErrIdentity},
		{"a name's prefix", identity.Verifier{Roots: root.pool(), Names: []string{"spiffe://cluster.local/ns/shop/sa/car"}}, workload{}, identity.ErrIdentity},
		{"a DNS name that is expected", identity.Verifier{Roots: root.pool(), Names: []string{"cart.shop.svc"}},
			workload{change: func(c *x509.Certificate) { c.DNSNames = []string{"cart.shop.svc"} }}, identity.ErrIdentity},
		{"an alias of the trust domain", identity.Verifier{Roots: root.pool(), Domains: mesh}, workload{}, nil},
		{"a foreign trust domain", identity.Verifier{Roots: root.pool(), Domains: foreign}, workload{}, identity.ErrIdentity},
		{"another root", identity.Verifier{Roots: other.pool()}, workload{}, identity.ErrUntrusted},
		{"no roots at all", identity.Verifier{}, workload{}, identity.ErrUntrusted},
		{"expired", identity.Verifier{Roots: root.pool(), Now: clock(2 * time.Hour)}, workload{}, identity.ErrUntrusted},
		{"not yet valid", identity.Verifier{Roots: root.pool(), Now: clock(-30 * time.Minute)}, workload{}, identity.ErrUntrusted},
		{"a client's certificate on a server", identity.Verifier{Roots: root.pool(), Peer: identity.Server}, only(x509.ExtKeyUsageClientAuth), identity.ErrUntrusted},
		{"a client's certificate on a client", identity.Verifier{Roots: root.pool(), Peer: identity.Client}, only(x509.ExtKeyUsageClientAuth), nil},
		{"a server's certificate on a client", identity.Verifier{Roots: root.pool(), Peer: identity.Client}, only(x509.ExtKeyUsageServerAuth), identity.ErrUntrusted},
		{"a certificate for code signing", identity.Verifier{Roots: root.pool()}, only(x509.ExtKeyUsageCodeSigning), identity.ErrUntrusted},
	} {
		t.Run(c.name, func(t *testing.T) {
			leaf, _ := root.sign(t, c.peer)
			uri, err := c.verifier.Verify([]*x509.Certificate{leaf})
			if !errors.Is(err, c.want) || (err == nil) != (uri == cart) {
				t.Errorf("verdict %q, %v; want %v", uri, err, c.want)
			}
		})
	}
	if _, err := (identity.Verifier{Roots: root.pool()}).Verify(nil); !errors.Is(err, identity.ErrNoCertificate) {
		t.Errorf("no certificate: %v", err)
	}
	leaf, _ := root.sign(t, workload{})
	for n, good := range map[int]bool{limit.ChainCertificatesMax - 1: true, limit.ChainCertificatesMax: true, limit.ChainCertificatesMax + 1: false} {
		chain := []*x509.Certificate{leaf}
		for len(chain) < n {
			chain = append(chain, other.certificate)
		}
		if _, err := (identity.Verifier{Roots: root.pool()}).Verify(chain); (err == nil) != good {
			t.Errorf("chain of %d: %v", n, err)
		}
	}
}

// handshake runs TLS between two workloads over loopback and returns what the
// server and the client say.
func handshake(t *testing.T, server, client *tls.Config) (serverErr, clientErr error) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		raw, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		defer raw.Close()
		c := tls.Server(raw, server)
		if err = c.HandshakeContext(t.Context()); err == nil {
			_, err = c.Write([]byte("x"))
		}
		done <- err
	}()
	raw, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	c := tls.Client(raw, client)
	if clientErr = c.HandshakeContext(t.Context()); clientErr == nil {
		// In TLS 1.3 a refused client learns it from the first read.
		_, clientErr = c.Read(make([]byte, 1))
	}
	return <-done, clientErr
}

func TestMutualTLSBetweenWorkloads(t *testing.T) {
	root := newTestRoot(t)
	cartBundle := root.bundle(t, workload{})
	web := root.bundle(t, workload{uris: []string{"spiffe://cluster.local/ns/shop/sa/web"}})
	stranger := newTestRoot(t).bundle(t, workload{})
	server := func(own *identity.Bundle, names ...string) *tls.Config {
		return &tls.Config{
			Certificates: []tls.Certificate{*own.Certificate()}, ClientAuth: tls.RequireAnyClientCert,
			VerifyConnection: identity.Verifier{Roots: own.Pool(), Peer: identity.Client, Names: names}.VerifyConnection,
		}
	}
	client := func(own *identity.Bundle, names ...string) *tls.Config {
		return &tls.Config{
			Certificates: []tls.Certificate{*own.Certificate()}, InsecureSkipVerify: true, ClientSessionCache: tls.NewLRUClientSessionCache(1),
			VerifyConnection: identity.Verifier{Roots: own.Pool(), Peer: identity.Server, Names: names}.VerifyConnection,
		}
	}
	serverErr, clientErr := handshake(t, server(cartBundle, string(web.URI)), client(web, cart))
	if serverErr != nil || clientErr != nil {
		t.Errorf("workloads that expect each other: %v, %v", serverErr, clientErr)
	}
	trusting := client(stranger)
	trusting.VerifyConnection = nil // so that only the server judges
	if serverErr, _ := handshake(t, server(cartBundle), trusting); !errors.Is(serverErr, identity.ErrUntrusted) {
		t.Errorf("client of another root: %v, want ErrUntrusted", serverErr)
	}
	if _, clientErr := handshake(t, server(cartBundle), client(stranger)); !errors.Is(clientErr, identity.ErrUntrusted) {
		t.Errorf("server of another root: %v, want ErrUntrusted", clientErr)
	}
	if _, clientErr := handshake(t, server(cartBundle), client(web, "spiffe://cluster.local/ns/shop/sa/payment")); !errors.Is(clientErr, identity.ErrIdentity) {
		t.Errorf("server with another identity: %v, want ErrIdentity", clientErr)
	}
	if serverErr, _ := handshake(t, server(cartBundle, "spiffe://cluster.local/ns/shop/sa/payment"), client(web)); !errors.Is(serverErr, identity.ErrIdentity) {
		t.Errorf("client with another identity: %v, want ErrIdentity", serverErr)
	}
	bare := client(web)
	bare.Certificates = nil
	if serverErr, _ := handshake(t, server(cartBundle), bare); serverErr == nil {
		t.Error("a client without certificate was accepted")
	}
}

// A session that was admitted is judged again when it is resumed.
func TestResumedSessionIsJudgedByTodaysRoots(t *testing.T) {
	root, next := newTestRoot(t), newTestRoot(t)
	own := root.bundle(t, workload{})
	server := &tls.Config{
		Certificates: []tls.Certificate{*own.Certificate()}, ClientAuth: tls.RequireAnyClientCert,
		VerifyConnection: identity.Verifier{Roots: root.pool(), Peer: identity.Client}.VerifyConnection,
	}
	client := &tls.Config{
		Certificates: []tls.Certificate{*own.Certificate()}, InsecureSkipVerify: true,
		ClientSessionCache: tls.NewLRUClientSessionCache(1), ServerName: "cart",
	}
	if a, b := handshake(t, server, client); a != nil || b != nil {
		t.Fatal(a, b)
	}
	resumed := false
	client.VerifyConnection = func(s tls.ConnectionState) error { resumed = s.DidResume; return nil }
	if a, b := handshake(t, server, client); a != nil || b != nil || !resumed {
		t.Fatalf("second handshake: %v, %v, resumed %t", a, b, resumed)
	}
	// The configuration keeps its ticket keys, only the roots are replaced.
	server.VerifyConnection = identity.Verifier{Roots: next.pool(), Peer: identity.Client}.VerifyConnection
	if serverErr, _ := handshake(t, server, client); !errors.Is(serverErr, identity.ErrUntrusted) {
		t.Errorf("resumption after the roots changed: %v, want ErrUntrusted", serverErr)
	}
}

func TestWatchersGetTheLatestOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := newTestRoot(t)
		var p identity.Publisher
		ctx, cancel := context.WithCancel(t.Context())
		early := p.Watch(ctx)
		select {
		case <-early:
			t.Error("a signal without a bundle")
		default:
		}
		if p.Current() != nil {
			t.Error("the zero value has a bundle")
		}
		var last *identity.Bundle
		for range 3 { // nobody reads meanwhile
			last = root.bundle(t, workload{})
			p.Publish(last)
		}
		late := p.Watch(ctx)
		for name, w := range map[string]<-chan struct{}{"early": early, "late": late} {
			select {
			case <-w:
			default:
				t.Errorf("%s watcher got no signal", name)
			}
			select {
			case <-w:
				t.Errorf("%s watcher got a second signal", name)
			default:
			}
		}
		if p.Current() != last {
			t.Error("current is not the last published")
		}
		cancel()
		synctest.Wait()
		p.Publish(root.bundle(t, workload{}))
		select {
		case <-early:
			t.Error("a signal after the end of the watch")
		default:
		}
	})
}

func FuzzParseCertificates(f *testing.F) {
	root := newTestRoot(f)
	f.Add(identity.EncodeCertificates(root.certificate))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Add(append(identity.EncodeCertificates(root.certificate), "trailing"...))
	f.Fuzz(func(t *testing.T, text []byte) {
		certificates, err := identity.ParseCertificates(text, 4)
		if (err == nil) != (len(certificates) > 0) || len(certificates) > 4 {
			t.Fatalf("%d certificates with error %v", len(certificates), err)
		}
		again, err2 := identity.ParseCertificates(identity.EncodeCertificates(certificates...), 4)
		if err == nil && (err2 != nil || len(again) != len(certificates)) {
			t.Fatalf("encoded again: %d certificates, %v", len(again), err2)
		}
		for _, c := range certificates {
			if uri, err := identity.FromCertificate(c); err == nil {
				if _, err := identity.ParseURI(string(uri)); err != nil {
					t.Fatalf("identity %q: %v", uri, err)
				}
			}
		}
	})
}
