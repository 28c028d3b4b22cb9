package identity

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/tullemesh/tulle/internal/limit"
)

// Sentinels of certificates that can't be used.
var (
	// ErrCertificate is in the chain of every error about a malformed
	// certificate, chain or bundle.
	ErrCertificate = errors.New("unusable certificate")
	// ErrExpired says that a certificate is past its end.
	ErrExpired = errors.New("certificate has expired")
)

// Bundle is what a workload needs for mTLS: its chain and key, and the roots
// by which it judges peers. It is immutable: callers must not write to Chain
// and Roots.
type Bundle struct {
	Chain     []byte     // PEM, leaf first, roots left out
	Key       PrivateKey // of the leaf
	Roots     []byte     // PEM, at least one certificate
	NotBefore time.Time  // of the leaf
	NotAfter  time.Time  // the earliest of the chain
	URI       URI        // the leaf's only URI SAN
	ID        ID         // URI in Istio's form, zero when it has another

	certificate func() *tls.Certificate // a function for the reason of hidden
	chain       []*x509.Certificate
	roots       *x509.CertPool
}

// NewBundle checks that all parts parse, that key is the leaf's, and that the
// leaf is a workload certificate (FromCertificate). Verify checks trust and
// time.
func NewBundle(chain []byte, key PrivateKey, roots []byte) (*Bundle, error) {
	certificates, err := ParseCertificates(chain, limit.ChainCertificatesMax)
	if err != nil {
		return nil, fmt.Errorf("chain: %w", err)
	}
	anchors, err := ParseCertificates(roots, limit.RootCertificatesMax)
	if err != nil {
		return nil, fmt.Errorf("roots: %w", err)
	}
	leaf := certificates[0]
	uri, err := FromCertificate(leaf)
	if err != nil {
		return nil, err
	}
	if !key.Matches(leaf.PublicKey) {
		return nil, fmt.Errorf("%w: it does not belong to the certificate of %s", ErrKey, uri)
	}
	certificate := &tls.Certificate{PrivateKey: key.Signer(), Leaf: leaf}
	b := &Bundle{
		Chain: bytes.Clone(chain), Key: key, Roots: bytes.Clone(roots),
		NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, URI: uri,
		certificate: func() *tls.Certificate { return certificate },
		chain:       certificates,
		roots:       NewPool(anchors),
	}
	b.ID, _ = uri.ID()
	for _, c := range certificates {
		certificate.Certificate = append(certificate.Certificate, c.Raw)
		if c.NotAfter.Before(b.NotAfter) {
			b.NotAfter = c.NotAfter
		}
	}
	return b, nil
}

// Certificate returns the chain and key for a tls.Config. It is shared:
// callers must not change it.
func (b *Bundle) Certificate() *tls.Certificate { return b.certificate() }

// Pool returns the roots. The pool is shared: callers must not add to it.
func (b *Bundle) Pool() *x509.CertPool { return b.roots }

// Verify reports whether the bundle's own chain leads to its own roots at now,
// for both sides of a connection. Past the end, ErrExpired is in the error's
// chain.
func (b *Bundle) Verify(now time.Time) error {
	if !now.Before(b.NotAfter) {
		return fmt.Errorf("%w: %s ended at %s, it is %s", ErrExpired, b.URI, b.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	for _, side := range []Side{Server, Client} {
		if _, err := (Verifier{Roots: b.roots, Peer: side, Now: func() time.Time { return now }}).Verify(b.chain); err != nil {
			return fmt.Errorf("as %s: %w", side, err)
		}
	}
	return nil
}

// String names the identity and the end of the bundle, for messages.
func (b *Bundle) String() string {
	return string(b.URI) + " until " + b.NotAfter.UTC().Format(time.RFC3339)
}

// ParseCertificates reads 1 to most PEM certificates. Text between the blocks
// is ignored (RFC 7468 §2), but blocks of another type and damaged blocks are
// refused: a bundle that is only half read trusts something else than its
// writer meant.
func ParseCertificates(text []byte, most int) ([]*x509.Certificate, error) {
	if len(text) > limit.KeyFileBytesMax {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrCertificate, len(text), limit.KeyFileBytesMax)
	}
	var out []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%w: PEM block %q among certificates", ErrCertificate, block.Type)
		}
		if len(out) == most {
			return nil, fmt.Errorf("%w: more than %d certificates", ErrCertificate, most)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%w: certificate %d: %w", ErrCertificate, len(out)+1, err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: there is none", ErrCertificate)
	}
	// The decoder passes over what it can't read.
	if begun := bytes.Count(text, []byte("-----BEGIN ")); begun != len(out) {
		return nil, fmt.Errorf("%w: only %d of %d PEM blocks can be read", ErrCertificate, len(out), begun)
	}
	return out, nil
}

// EncodeCertificates writes certificates as PEM, in order.
func EncodeCertificates(certificates ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certificates {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// NewPool returns a pool of the given roots.
func NewPool(certificates []*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range certificates {
		pool.AddCert(c)
	}
	return pool
}
