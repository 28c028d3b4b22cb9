package identity_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/identity"
)

const cart = "spiffe://cluster.local/ns/shop/sa/cart"

// testRoot signs certificates, also bad ones, which control/ca would not.
type testRoot struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

// workload says what to sign; the zero value is a good certificate of cart.
type workload struct {
	uris   []string // nil means cart
	key    crypto.Signer
	public crypto.PublicKey
	change func(*x509.Certificate)
}

func newTestRoot(t testing.TB) testRoot {
	t.Helper()
	key := newSigner(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test root"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	return testRoot{create(t, template, template, key.Public(), key), key}
}

// sub returns an intermediate authority.
func (r testRoot) sub(t testing.TB) testRoot {
	t.Helper()
	key := newSigner(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test intermediate"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(2 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	return testRoot{create(t, template, r.certificate, key.Public(), r.key), key}
}

func (r testRoot) sign(t testing.TB, w workload) (*x509.Certificate, crypto.Signer) {
	t.Helper()
	if w.key == nil {
		w.key = newSigner(t)
	}
	if w.uris == nil {
		w.uris = []string{cart}
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		NotBefore:    time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	for _, s := range w.uris {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = append(template.URIs, u)
	}
	if w.change != nil {
		w.change(template)
	}
	return create(t, template, r.certificate, w.key.Public(), r.key), w.key
}

func (r testRoot) bundle(t testing.TB, w workload) *identity.Bundle {
	t.Helper()
	leaf, key := r.sign(t, w)
	b, err := identity.NewBundle(identity.EncodeCertificates(leaf), parseKey(t, "PRIVATE KEY", pkcs8(t, key)), identity.EncodeCertificates(r.certificate))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (r testRoot) pool() *x509.CertPool {
	return identity.NewPool([]*x509.Certificate{r.certificate})
}

func create(t testing.TB, template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newSigner(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func pkcs8(t testing.TB, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func parseKey(t testing.TB, kind string, der []byte) identity.PrivateKey {
	t.Helper()
	k, err := identity.ParsePrivateKey(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	return k
}
