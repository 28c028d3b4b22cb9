package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tullemesh/tulle/internal/limit"
)

// Sentinels of peers that are refused.
var (
	// ErrNoCertificate says that a peer showed no certificate.
	ErrNoCertificate = errors.New("peer has no certificate")
	// ErrUntrusted says that a peer's chain leads to none of the roots, is
	// out of its time, or may not be used for its side of the connection.
	ErrUntrusted = errors.New("peer certificate is not trusted")
	// ErrIdentity says that a trusted peer is not one of the expected.
	ErrIdentity = errors.New("peer has an unexpected identity")
)

// FromCertificate returns the SPIFFE ID of a workload certificate. X509-SVID
// asks for exactly one URI SAN (§2), no CA flag (§4.1), and a key that may sign
// handshakes but no certificates and no revocation lists (§4.3).
func FromCertificate(c *x509.Certificate) (URI, error) {
	if len(c.URIs) != 1 {
		return "", fmt.Errorf("%w: %d URI SANs, X509-SVID asks for exactly one", ErrCertificate, len(c.URIs))
	}
	if c.IsCA {
		return "", fmt.Errorf("%w: a certificate authority is no workload", ErrCertificate)
	}
	if c.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 || c.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return "", fmt.Errorf("%w: its key usage is not that of a workload (digital signature, no signing of certificates)", ErrCertificate)
	}
	return ParseURI(c.URIs[0].String())
}

// Side is a side of a TLS connection.
type Side uint8

// The sides.
const (
	Server Side = iota
	Client
)

// String names the side as in messages.
func (s Side) String() string {
	if s == Client {
		return "client"
	}
	return "server"
}

func (s Side) usage() x509.ExtKeyUsage {
	if s == Client {
		return x509.ExtKeyUsageClientAuth
	}
	return x509.ExtKeyUsageServerAuth
}

// Verifier judges the certificates of a peer as Istio's mTLS does: the chain
// must lead to the roots, and the leaf's identity must be expected. The zero
// value refuses everybody, as it has no roots.
type Verifier struct {
	// Roots are the trusted roots; nil trusts nobody (never the system's).
	Roots *x509.CertPool
	// Peer is the side on which the peer is: Server when we dialed.
	Peer Side
	// Names, unless empty, are the accepted identities. One of them must
	// equal the peer's URI SAN exactly.
	Names []string
	// Domains, unless zero, must contain the peer's trust domain.
	Domains TrustDomains
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Verify judges a chain, leaf first, and returns the identity of an accepted
// peer.
func (v Verifier) Verify(chain []*x509.Certificate) (URI, error) {
	if len(chain) == 0 {
		return "", ErrNoCertificate
	}
	if len(chain) > limit.ChainCertificatesMax {
		return "", fmt.Errorf("%w: %d certificates in the chain, at most %d are allowed", ErrUntrusted, len(chain), limit.ChainCertificatesMax)
	}
	if v.Roots == nil {
		// x509 would fall back to the system's roots.
		return "", fmt.Errorf("%w: no roots are configured", ErrUntrusted)
	}
	options := x509.VerifyOptions{
		Roots:         v.Roots,
		Intermediates: NewPool(chain[1:]),
		KeyUsages:     []x509.ExtKeyUsage{v.Peer.usage()},
	}
	if v.Now != nil {
		options.CurrentTime = v.Now()
	}
	leaf := chain[0]
	if _, err := leaf.Verify(options); err != nil {
		return "", fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	uri, err := FromCertificate(leaf)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	if len(v.Domains.names) > 0 && !v.Domains.Contains(uri.TrustDomain()) {
		return "", fmt.Errorf("%w: %s is not of the trust domain %s", ErrIdentity, uri, strings.Join(v.Domains.names, " or "))
	}
	if len(v.Names) > 0 && !slices.Contains(v.Names, string(uri)) {
		return "", fmt.Errorf("%w: %s is not %s", ErrIdentity, uri, strings.Join(v.Names, " or "))
	}
	return uri, nil
}

// VerifyConnection is for tls.Config.VerifyConnection, which also runs on
// resumed sessions, so that a peer is judged by today's roots and clock. The
// Config must carry InsecureSkipVerify on the client (names are not DNS names
// here) or ClientAuth RequireAnyClientCert on the server.
func (v Verifier) VerifyConnection(state tls.ConnectionState) error {
	_, err := v.Verify(state.PeerCertificates)
	return err
}
