package ca

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	"github.com/tullemesh/tulle/internal/identity"
	"github.com/tullemesh/tulle/internal/limit"
)

// Sentinels of refused requests.
var (
	// ErrRequest says that a certificate request is malformed, not signed by
	// its own key, or has an unacceptable key.
	ErrRequest = errors.New("bad certificate request")
	// ErrLifetime says that a caller asked for a lifetime out of bounds.
	ErrLifetime = errors.New("bad certificate lifetime")
	// ErrSigner says that the authority itself can't sign now.
	ErrSigner = errors.New("certificate authority can't sign")
)

// Issued is a signed certificate with what verifiers need beside it.
type Issued struct {
	Leaf *x509.Certificate

	chain []*x509.Certificate
	roots []*x509.Certificate
}

// Chain returns leaf and intermediates as PEM, without roots.
func (i Issued) Chain() []byte {
	return append(identity.EncodeCertificates(i.Leaf), identity.EncodeCertificates(i.chain...)...)
}

// Roots returns the trusted roots as PEM.
func (i Issued) Roots() []byte { return identity.EncodeCertificates(i.roots...) }

// Sign issues a certificate for id to the key that signed the PEM request csr.
// Everything else in the request is ignored. A ttl of zero means the default;
// one beyond the maximum is refused (ErrLifetime), as Istio does. A
// certificate never outlives the authority's own.
func (a *Authority) Sign(csr []byte, id identity.ID, ttl time.Duration) (Issued, error) {
	if err := id.Validate(); err != nil {
		return Issued{}, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	if own := a.options.TrustDomains.Own(); id.TrustDomain != own {
		return Issued{}, fmt.Errorf("%w: %s is not of the trust domain %s", ErrRequest, id, own)
	}
	public, err := parseRequest(csr)
	if err != nil {
		return Issued{}, err
	}
	return a.issue(public, &x509.Certificate{URIs: []*url.URL{id.URL()}}, ttl)
}

// parseRequest returns the public key of a PEM certificate request, proven to
// be the requester's by the request's signature (RFC 2986 §3).
func parseRequest(csr []byte) (crypto.PublicKey, error) {
	if len(csr) > limit.CSRBytesMax {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrRequest, len(csr), limit.CSRBytesMax)
	}
	block, rest := pem.Decode(csr)
	if block == nil {
		return nil, fmt.Errorf("%w: no PEM block", ErrRequest)
	}
	// RFC 7468 §7: parsers may accept "NEW CERTIFICATE REQUEST".
	if block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST" {
		return nil, fmt.Errorf("%w: PEM block %q", ErrRequest, block.Type)
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("%w: text after the PEM block", ErrRequest)
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	// The key first: checking the signature of a huge key is what costs.
	if err := identity.CheckPublicKey(request.PublicKey); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	if err := request.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: signature: %w", ErrRequest, err)
	}
	return request.PublicKey, nil
}

// issue completes the template, whose names are set, and signs it.
func (a *Authority) issue(public crypto.PublicKey, template *x509.Certificate, ttl time.Duration) (Issued, error) {
	if ttl == 0 {
		ttl = a.options.TTLDefault
	}
	if ttl < time.Second || ttl > a.options.TTLMax {
		return Issued{}, fmt.Errorf("%w: %s (1s to %s are allowed)", ErrLifetime, ttl, a.options.TTLMax)
	}
	now := a.options.Now()
	if !now.Before(a.signer.NotAfter) {
		return Issued{}, fmt.Errorf("%w: its certificate ended at %s", ErrSigner, a.signer.NotAfter.UTC().Format(time.RFC3339))
	}
	serial, err := newSerial()
	if err != nil {
		return Issued{}, fmt.Errorf("%w: %w", ErrSigner, err)
	}
	template.SerialNumber = serial
	template.NotBefore = later(now.Add(-clockSkewMax), a.signer.NotBefore)
	// X.509 counts seconds; rounded up, or a short life could be none.
	template.NotAfter = earlier(now.Add(ttl+time.Second-1).Truncate(time.Second), a.signer.NotAfter)
	template.BasicConstraintsValid = true
	// Key encipherment is for TLS 1.2 with RSA keys; Istio sets both.
	template.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	der, err := x509.CreateCertificate(rand.Reader, template, a.signer, public, a.key.Signer())
	if err != nil {
		return Issued{}, fmt.Errorf("%w: %w", ErrSigner, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return Issued{}, fmt.Errorf("%w: %w", ErrSigner, err)
	}
	return Issued{Leaf: leaf, chain: a.chain, roots: a.roots}, nil
}

// Issue generates a key here and issues a certificate for it: for the control
// plane's own identity, never for a workload, whose key must not leave it.
// The DNS names and addresses are added to the identity's URI.
func (a *Authority) Issue(id identity.ID, names []string, addresses []net.IP, ttl time.Duration) (*identity.Bundle, error) {
	if err := id.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	key, err := identity.GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSigner, err)
	}
	template := &x509.Certificate{URIs: []*url.URL{id.URL()}, DNSNames: names, IPAddresses: addresses}
	issued, err := a.issue(key.Signer().Public(), template, ttl)
	if err != nil {
		return nil, err
	}
	return identity.NewBundle(issued.Chain(), key, issued.Roots())
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
