package ca_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/control/ca"
	"github.com/tullemesh/tulle/internal/identity"
	"github.com/tullemesh/tulle/internal/limit"
)

// A request asks for everything that it should not get.
func greedy(r *x509.CertificateRequest) {
	r.Subject = pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}}
	r.URIs = []*url.URL{{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/istio-system/sa/istiod"}}
	r.DNSNames = []string{"istiod.istio-system.svc"}
	r.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)}
	r.EmailAddresses = []string{"root@cluster.local"}
	r.ExtraExtensions = []pkix.Extension{
		{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}, // CA:TRUE
		{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: []byte{3, 2, 1, 6}},          // keyCertSign
	}
}

func TestCertificateIsTheCallersWhateverTheRequestAsks(t *testing.T) {
	a := newAuthority(t, ca.Options{})
	csr, key := request(t, greedy)
	before := time.Now()
	issued, err := a.Sign(csr, cart(), 0)
	if err != nil {
		t.Fatal(err)
	}
	leaf := issued.Leaf
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != cart().String() || len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) != 0 {
		t.Errorf("names: %v %v %v %v", leaf.URIs, leaf.DNSNames, leaf.IPAddresses, leaf.EmailAddresses)
	}
	if leaf.IsCA || leaf.KeyUsage&x509.KeyUsageCertSign != 0 || leaf.Subject.String() != "" {
		t.Errorf("CA %t, key usage %b, subject %q", leaf.IsCA, leaf.KeyUsage, leaf.Subject)
	}
	if !key.Matches(leaf.PublicKey) {
		t.Error("the key is not the requester's")
	}
	if got := leaf.NotAfter.Sub(before).Round(time.Minute); got != 24*time.Hour {
		t.Errorf("default lifetime %s", got)
	}
	if leaf.NotBefore.After(before) {
		t.Errorf("begins at %s, the request was at %s", leaf.NotBefore, before)
	}
	// X509-SVID §4.1: with an empty subject the names must be critical.
	for _, e := range leaf.Extensions {
		if e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) && !e.Critical {
			t.Error("subject alternative name is not critical")
		}
	}
	b, err := identity.NewBundle(issued.Chain(), key, issued.Roots())
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Verify(time.Now()); err != nil {
		t.Error(err)
	}
}

func TestPeersWithSlowClocksAcceptAFreshCertificate(t *testing.T) {
	c := &clock{}
	a := newAuthority(t, ca.Options{Now: c.now})
	c.advance(time.Hour)
	csr, key := request(t, nil)
	issued, err := a.Sign(csr, cart(), 0)
	if err != nil {
		t.Fatal(err)
	}
	b, err := identity.NewBundle(issued.Chain(), key, issued.Roots())
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Verify(c.now().Add(-110 * time.Second)); err != nil {
		t.Errorf("clock 110 s behind: %v", err)
	}
	if err := b.Verify(c.now().Add(-130 * time.Second)); err == nil {
		t.Error("a clock 130 s behind accepts it: the beginning is too far back")
	}
}

func TestSerialNumbersAreRandomAndPositive(t *testing.T) {
	a := newAuthority(t, ca.Options{})
	csr, _ := request(t, nil)
	seen := map[string]bool{}
	for range 50 {
		issued, err := a.Sign(csr, cart(), 0)
		if err != nil {
			t.Fatal(err)
		}
		n := issued.Leaf.SerialNumber
		if n.Sign() != 1 || n.BitLen() != 127 || seen[n.String()] {
			t.Fatalf("serial %s of %d bits, seen: %t", n, n.BitLen(), seen[n.String()])
		}
		seen[n.String()] = true
	}
}

func TestLifetimeIsAsAskedWithinBounds(t *testing.T) {
	a := newAuthority(t, ca.Options{TTLDefault: 20 * time.Second, TTLMax: time.Hour})
	for _, c := range []struct {
		name string
		ttl  time.Duration
		want time.Duration // 0: refused
	}{
		{"no wish", 0, 20 * time.Second},
		{"a second", time.Second, time.Second},
		{"less than a second", time.Second - 1, 0},
		{"negative", -time.Hour, 0},
		{"a second below the maximum", time.Hour - time.Second, time.Hour - time.Second},
		{"the maximum", time.Hour, time.Hour},
		{"beyond the maximum", time.Hour + 1, 0},
	} {
		csr, _ := request(t, nil)
		before := time.Now()
		issued, err := a.Sign(csr, cart(), c.ttl)
		if c.want == 0 {
			if !errors.Is(err, ca.ErrLifetime) {
				t.Errorf("%s: %v, want ErrLifetime", c.name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := issued.Leaf.NotAfter.Sub(before); got < c.want || got > c.want+2*time.Second {
			t.Errorf("%s: lives for %s, want %s", c.name, got, c.want)
		}
	}
}

func TestCertificateNeverOutlivesItsAuthority(t *testing.T) {
	end := time.Now().Add(10 * time.Minute).Truncate(time.Second)
	root := newPair(t, "root", nil, func(c *x509.Certificate) { c.NotAfter = end })
	c := &clock{}
	a, err := ca.Load(writeFiles(t, map[string][]byte{
		"ca-cert.pem": root.pem(), "ca-key.pem": root.keyPEM(t), "root-cert.pem": root.pem(),
	}), ca.Options{TrustDomains: domains(t), Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	csr, _ := request(t, nil)
	issued, err := a.Sign(csr, cart(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if !issued.Leaf.NotAfter.Equal(end) {
		t.Errorf("ends at %s, the authority at %s", issued.Leaf.NotAfter, end)
	}
	c.advance(11 * time.Minute)
	if _, err := a.Sign(csr, cart(), time.Hour); !errors.Is(err, ca.ErrSigner) {
		t.Errorf("after the authority's end: %v, want ErrSigner", err)
	}
}

func TestRequestsOfAllAcceptedKeysAreSigned(t *testing.T) {
	a := newAuthority(t, ca.Options{})
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, limit.RSABitsMin)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]crypto.Signer{"Ed25519": ed, "RSA": rsaKey}
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		if keys[curve.Params().Name], err = ecdsa.GenerateKey(curve, rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	for name, key := range keys {
		if _, err := a.Sign(requestWith(t, key, nil), cart(), 0); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBadRequestsAreRefused(t *testing.T) {
	a := newAuthority(t, ca.Options{})
	good, _ := request(t, nil)
	block, _ := pem.Decode(good)
	encode := func(kind string, der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	}
	tampered := bytes.Clone(block.Bytes)
	tampered[len(tampered)-5] ^= 1
	// The key of one request under the signature of another.
	other, _ := request(t, nil)
	otherBlock, _ := pem.Decode(other)
	var mine, theirs struct {
		Info      asn1.RawValue
		Algorithm asn1.RawValue
		Signature asn1.BitString
	}
	for der, into := range map[*pem.Block]any{block: &mine, otherBlock: &theirs} {
		if _, err := asn1.Unmarshal(der.Bytes, into); err != nil {
			t.Fatal(err)
		}
	}
	mine.Info = theirs.Info
	stolen, err := asn1.Marshal(mine)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, csr := range map[string][]byte{
		"nothing":                     nil,
		"no PEM":                      []byte("give me a certificate"),
		"a certificate":               a.Roots(),
		"another label":               encode("PRIVATE KEY", block.Bytes),
		"two requests":                append(bytes.Clone(good), good...),
		"text after the request":      append(bytes.Clone(good), "x"...),
		"cut DER":                     encode(block.Type, block.Bytes[:len(block.Bytes)-1]),
		"DER with a tail":             encode(block.Type, append(bytes.Clone(block.Bytes), 0)),
		"tampered signature":          encode(block.Type, tampered),
		"key of somebody else":        encode(block.Type, stolen),
		"a curve too small":           requestWith(t, p224, nil),
		"one byte more than accepted": append(bytes.Clone(good), bytes.Repeat([]byte("\n"), limit.CSRBytesMax+1-len(good))...),
	} {
		if _, err := a.Sign(csr, cart(), 0); !errors.Is(err, ca.ErrRequest) {
			t.Errorf("%s: %v, want ErrRequest", name, err)
		}
	}
	for _, n := range []int{limit.CSRBytesMax - 1, limit.CSRBytesMax} {
		if _, err := a.Sign(append(bytes.Clone(good), bytes.Repeat([]byte("\n"), n-len(good))...), cart(), 0); err != nil {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	if _, err := a.Sign(encode("NEW CERTIFICATE REQUEST", block.Bytes), cart(), 0); err != nil {
		t.Errorf("older label (RFC 7468 §7): %v", err)
	}
}

func TestOnlyIdentitiesOfTheMeshAreSigned(t *testing.T) {
	a := newAuthority(t, ca.Options{})
	csr, _ := request(t, nil)
	for name, id := range map[string]identity.ID{
		"none":                   {},
		"a foreign trust domain": {TrustDomain: "foreign.example", Namespace: "shop", ServiceAccount: "cart"},
		"an alias":               {TrustDomain: "old.example", Namespace: "shop", ServiceAccount: "cart"},
		"a slash in a part":      {TrustDomain: "cluster.local", Namespace: "shop/sa/x", ServiceAccount: "cart"},
		"an empty part":          {TrustDomain: "cluster.local", Namespace: "shop"},
	} {
		if _, err := a.Sign(csr, id, 0); !errors.Is(err, ca.ErrRequest) {
			t.Errorf("%s: %v, want ErrRequest", name, err)
		}
	}
	if _, err := a.Issue(identity.ID{}, nil, nil, 0); !errors.Is(err, ca.ErrRequest) {
		t.Errorf("issuing for nobody: %v", err)
	}
}

func FuzzSign(f *testing.F) {
	a := newAuthority(f, ca.Options{})
	csr, _ := request(f, greedy)
	block, _ := pem.Decode(csr)
	f.Add(block.Bytes)
	f.Add([]byte{0x30, 0x80})
	f.Fuzz(func(t *testing.T, der []byte) {
		issued, err := a.Sign(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), cart(), 0)
		if err != nil {
			if !errors.Is(err, ca.ErrRequest) {
				t.Fatalf("unnamed error %v", err)
			}
			return
		}
		if uri, err := identity.FromCertificate(issued.Leaf); err != nil || string(uri) != cart().String() {
			t.Fatalf("issued to %q, %v", uri, err)
		}
	})
}
