package tls

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"testing"
	"time"
)

// issuer is a certificate authority of the test.
type issuer struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newIssuer(t *testing.T, name string) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{t: t, key: key}
	i.cert = i.sign(&x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}, key)
	return i
}

func (i *issuer) sign(c *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	i.t.Helper()
	parent := i.cert
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), i.key)
	if err != nil {
		i.t.Fatal(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		i.t.Fatal(err)
	}
	return out
}

func (i *issuer) leaf(serial int64) *x509.Certificate {
	i.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		i.t.Fatal(err)
	}
	return i.sign(&x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, key)
}

// list is a revocation list that is in force until then.
func (i *issuer) list(until time.Time, serials ...int64) *x509.RevocationList {
	i.t.Helper()
	l := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-2 * time.Hour), NextUpdate: until}
	for _, s := range serials {
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(s), RevocationTime: time.Now().Add(-time.Hour)})
	}
	der, err := x509.CreateRevocationList(rand.Reader, l, i.cert, i.key)
	if err != nil {
		i.t.Fatal(err)
	}
	out, err := x509.ParseRevocationList(der)
	if err != nil {
		i.t.Fatal(err)
	}
	return out
}

func TestRevocationListsRefuseWhatTheyNameAndWhatTheyDoNotCover(t *testing.T) {
	ca, other := newIssuer(t, "mesh"), newIssuer(t, "other")
	later, before := time.Now().Add(time.Hour), time.Now().Add(-time.Minute)
	for name, c := range map[string]struct {
		lists  []*x509.RevocationList
		refuse bool
	}{
		"no lists":                            {nil, false},
		"a list that names others":            {[]*x509.RevocationList{ca.list(later, 8)}, false},
		"a list that names it":                {[]*x509.RevocationList{ca.list(later, 7)}, true},
		"an outdated list that names it":      {[]*x509.RevocationList{ca.list(before, 7)}, true},
		"an outdated list that names others":  {[]*x509.RevocationList{ca.list(before, 8)}, true},
		"a list of another issuer only":       {[]*x509.RevocationList{other.list(later)}, true},
		"an outdated list and a current one":  {[]*x509.RevocationList{ca.list(before), ca.list(later)}, false},
		"lists of two issuers, both in force": {[]*x509.RevocationList{other.list(later, 7), ca.list(later)}, false},
	} {
		v := &verifier{crl: c.lists}
		err := v.revoked([][]*x509.Certificate{{ca.leaf(7), ca.cert}})
		if errors.Is(err, ErrRevoked) != c.refuse {
			t.Errorf("%s: %v, want refused: %t", name, err, c.refuse)
		}
	}
}

func TestContextsOfEditedListenersDoNotPileUp(t *testing.T) {
	s := NewStore()
	for range contextsMax + 10 {
		if _, err := s.server(&ServerSpec{}); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	s.state.Load().contexts.Range(func(any, any) bool {
		n++
		return true
	})
	if n > contextsMax {
		t.Errorf("%d contexts are kept, the bound is %d", n, contextsMax)
	}
	spec := &ServerSpec{}
	first, err := s.server(spec)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := s.server(spec); again != first {
		t.Error("a context is made anew for each handshake")
	}
	if first.MinVersion != tls.VersionTLS12 {
		t.Errorf("version %x is accepted", first.MinVersion)
	}
}
