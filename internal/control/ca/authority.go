// Package ca is the mesh's certificate authority.
//
// In come a signing key on disk, certificate requests and their callers'
// credentials; out go workload certificates, through Istio's
// IstioCertificateService (gRPC), the join tokens that let a workload ask for
// its first certificate, and the control plane's own server certificate. What
// a request asks for is ignored except for its public key: the identity comes
// from the authenticated caller alone. An Authority is immutable; Server owns
// its counters and rate limits, ServerCertificate the certificate it rotates.
//
// It implements X509-SVID for leaves, and of JWT (RFC 7519) only the one form
// that TokenIssuer writes (RFC 8725 §3.1, §3.11). It leaves out revocation
// (certificates are short-lived), intermediate issuance, root rotation and
// impersonation by node proxies.
//
// Read authority.go first, then sign.go and server.go.
package ca

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/tullemesh/tulle/internal/identity"
	"github.com/tullemesh/tulle/internal/identity/keyfile"
	"github.com/tullemesh/tulle/internal/limit"
)

// The files of an authority's directory are those of Istio's "cacerts" secret.
const (
	certificateFile = "ca-cert.pem"    // the signing certificate
	keyFile         = "ca-key.pem"     // its key
	rootFile        = "root-cert.pem"  // the roots that workloads trust, one or more
	chainFile       = "cert-chain.pem" // from the signing certificate towards its root; may be absent
)

const (
	// rootLifetime is that of a generated root, as Istio's
	// CITADEL_SELF_SIGNED_CA_CERT_TTL.
	rootLifetime = 10 * 365 * 24 * time.Hour

	// clockSkewMax is how far back certificates begin, for peers whose clock
	// is behind ours (Istio's ClockSkewGracePeriod).
	clockSkewMax = 2 * time.Minute
)

// ErrAuthority is in the chain of every error about the authority's own files.
var ErrAuthority = errors.New("unusable certificate authority")

// Authority signs certificates. It is immutable.
type Authority struct {
	options Options
	key     identity.PrivateKey
	signer  *x509.Certificate   // whose key signs
	chain   []*x509.Certificate // what a leaf is followed by: signer and intermediates, no roots
	roots   []*x509.Certificate
}

// Options are the choices of an Authority.
type Options struct {
	// TrustDomains of the mesh. Certificates are issued in the own one only.
	TrustDomains identity.TrustDomains
	// TTLDefault is the lifetime of a certificate whose caller asks for none;
	// zero means 24 hours (Istio's DEFAULT_WORKLOAD_CERT_TTL).
	TTLDefault time.Duration
	// TTLMax is the longest lifetime that a caller may ask for; zero means 24
	// hours or TTLDefault when that is longer.
	TTLMax time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

const ttlUsual = 24 * time.Hour

func (o Options) complete() (Options, error) {
	if o.TTLDefault == 0 {
		o.TTLDefault = ttlUsual
		if o.TTLMax > 0 {
			o.TTLDefault = min(o.TTLDefault, o.TTLMax)
		}
	}
	if o.TTLMax == 0 {
		o.TTLMax = max(ttlUsual, o.TTLDefault)
	}
	if o.TTLDefault < time.Second || o.TTLMax < o.TTLDefault {
		return o, fmt.Errorf("certificate lifetime: default %s and maximum %s (want 1s ≤ default ≤ maximum)", o.TTLDefault, o.TTLMax)
	}
	if o.TrustDomains.Own() == "" {
		return o, errors.New("certificate authority: no trust domain")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	// The wall clock only: the monotonic one stands still while a machine
	// sleeps, and certificates don't.
	clock := o.Now
	o.Now = func() time.Time { return clock().Round(0) }
	return o, nil
}

// LoadOrCreate loads the authority in directory, or generates a self-signed
// root there when the directory is absent or empty. A directory with only a
// part of the files is an error: a new root would cut off every workload.
// Of several processes that generate at the same time one wins and the others
// load its root. Nobody else may be able to write to the directory.
func LoadOrCreate(directory string, options Options) (*Authority, error) {
	entries, err := os.ReadDir(directory)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrAuthority, err)
	}
	if len(entries) == 0 {
		completed, err := options.complete()
		if err != nil {
			return nil, err
		}
		if err := create(directory, completed); err != nil {
			return nil, fmt.Errorf("%w: create root in %s: %w", ErrAuthority, directory, err)
		}
	}
	if err := keyfile.MakeDirectory(directory); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAuthority, err)
	}
	return Load(directory, options)
}

// create writes a new root to a directory beside the final one and renames it
// there, so that a crash leaves all files or none.
func create(directory string, options Options) error {
	parent := filepath.Dir(filepath.Clean(directory))
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return err
	}
	fresh, err := os.MkdirTemp(parent, ".new-ca-*") // mode 0700
	if err != nil {
		return err
	}
	defer os.RemoveAll(fresh)
	key, certificate, err := newRoot(options)
	if err != nil {
		return err
	}
	text := identity.EncodeCertificates(certificate)
	for _, f := range []struct {
		name string
		data []byte
	}{{certificateFile, text}, {rootFile, text}, {keyFile, key.PEM()}} {
		if err := keyfile.Create(filepath.Join(fresh, f.name), f.data); err != nil {
			return err
		}
	}
	if err := os.Rename(fresh, directory); err != nil {
		if entries, e := os.ReadDir(directory); e == nil && len(entries) > 0 {
			return nil // somebody else was faster
		}
		return err
	}
	return keyfile.SyncDirectory(parent)
}

func newRoot(options Options) (identity.PrivateKey, *x509.Certificate, error) {
	key, err := identity.GenerateKey()
	if err != nil {
		return key, nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return key, nil, err
	}
	now := options.Now()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{options.TrustDomains.Own()}, CommonName: "tulle root " + serial.Text(16)[:8]},
		NotBefore:             now.Add(-clockSkewMax),
		NotAfter:              now.Add(rootLifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Signer().Public(), key.Signer())
	if err != nil {
		return key, nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	return key, certificate, err
}

// newSerial returns a positive random number of 127 bits (RFC 5280 §4.1.2.2:
// positive, at most 20 octets; CA/Browser baseline: at least 64 random bits).
func newSerial() (*big.Int, error) {
	raw := make([]byte, 16)
	if _, err := rand.Read(raw); err != nil {
		return nil, fmt.Errorf("random serial number: %w", err)
	}
	raw[0] = raw[0]&0x7f | 0x40
	return new(big.Int).SetBytes(raw), nil
}

// Load reads an authority in the layout of Istio's "cacerts" secret:
// ca-cert.pem, ca-key.pem, root-cert.pem and, for a signing certificate that
// is no root, cert-chain.pem. The key file must not be readable by others.
func Load(directory string, options Options) (*Authority, error) {
	options, err := options.complete()
	if err != nil {
		return nil, err
	}
	a := &Authority{options: options}
	if err := a.read(directory); err != nil {
		return nil, fmt.Errorf("%w in %s: %w", ErrAuthority, directory, err)
	}
	if err := a.check(); err != nil {
		return nil, fmt.Errorf("%w in %s: %w", ErrAuthority, directory, err)
	}
	return a, nil
}

func (a *Authority) read(directory string) error {
	text, err := keyfile.Read(filepath.Join(directory, keyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w; restore %s from a backup, or remove the directory to start a new mesh identity (every workload must then join again)", err, keyFile)
	}
	if err != nil {
		return err
	}
	if a.key, err = identity.ParsePrivateKey(text); err != nil {
		return fmt.Errorf("%s: %w", keyFile, err)
	}
	signers, err := readCertificates(directory, certificateFile, 1)
	if err != nil {
		return err
	}
	a.signer = signers[0]
	if a.roots, err = readCertificates(directory, rootFile, limit.RootCertificatesMax); err != nil {
		return err
	}
	links, err := readCertificates(directory, chainFile, limit.ChainCertificatesMax)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// Istio's cert-chain.pem may repeat the signing certificate and end in
	// the root; what peers need is signer and intermediates once.
	for _, c := range append([]*x509.Certificate{a.signer}, links...) {
		if !contains(a.roots, c) && !contains(a.chain, c) {
			a.chain = append(a.chain, c)
		}
	}
	return nil
}

func readCertificates(directory, name string, most int) ([]*x509.Certificate, error) {
	text, err := keyfile.ReadPublic(filepath.Join(directory, name))
	if err != nil {
		return nil, err
	}
	out, err := identity.ParseCertificates(text, most)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return out, nil
}

func contains(list []*x509.Certificate, c *x509.Certificate) bool {
	for _, other := range list {
		if other.Equal(c) {
			return true
		}
	}
	return false
}

// check proves that workloads will accept what the authority issues.
func (a *Authority) check() error {
	if !a.key.Matches(a.signer.PublicKey) {
		return fmt.Errorf("%s does not belong to %s", keyFile, certificateFile)
	}
	if !a.signer.BasicConstraintsValid || !a.signer.IsCA || a.signer.KeyUsage&x509.KeyUsageCertSign == 0 {
		return fmt.Errorf("%s may not sign certificates (it needs basic constraints CA:TRUE and key usage keyCertSign)", certificateFile)
	}
	// A leaf comes before the chain.
	if len(a.chain) >= limit.ChainCertificatesMax {
		return fmt.Errorf("%s: more than %d certificates", chainFile, limit.ChainCertificatesMax-1)
	}
	// A trial is the only full proof: time, path length and name constraints
	// of every link count.
	id := controlPlane(a.options.TrustDomains)
	trial, err := a.Issue(id, nil, nil, 0)
	if err != nil {
		return err
	}
	if err := trial.Verify(a.options.Now()); err != nil {
		return fmt.Errorf("a certificate for %s signed by %s would not lead to a certificate in %s: %w", id, certificateFile, rootFile, err)
	}
	return nil
}

// controlPlane is the identity of the control plane itself, Istio's.
func controlPlane(domains identity.TrustDomains) identity.ID {
	return identity.ID{TrustDomain: domains.Own(), Namespace: "istio-system", ServiceAccount: "istiod"}
}

// Roots returns the trusted roots as PEM.
func (a *Authority) Roots() []byte { return identity.EncodeCertificates(a.roots...) }

// Pool returns the trusted roots. It is fresh and belongs to the caller.
func (a *Authority) Pool() *x509.CertPool { return identity.NewPool(a.roots) }

// TrustDomains returns the mesh's trust domains.
func (a *Authority) TrustDomains() identity.TrustDomains { return a.options.TrustDomains }
