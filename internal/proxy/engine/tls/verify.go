package tls

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tullemesh/tulle/internal/identity"
	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/match"
)

// verifier judges peers' chains by one validation secret. It belongs to one
// generation: other roots or lists make another verifier.
type verifier struct {
	// Fixed at creation.
	roots *x509.CertPool
	crl   []*x509.RevocationList
	sans  []match.String
	usage x509.ExtKeyUsage

	// Guarded by mu.
	mu     sync.Mutex
	passed map[[sha256.Size]byte]time.Time // chains that passed, and until when they do
}

func (g *generation) verifier(name string, sans []match.String, usage x509.ExtKeyUsage) (*verifier, error) {
	m, err := g.get(name)
	if err != nil {
		return nil, err
	}
	if m.roots == nil {
		return nil, fmt.Errorf("%w: %q holds no trusted roots", ErrNoSecret, name)
	}
	return &verifier{roots: m.roots, crl: m.crl, sans: append(slices.Clone(sans), m.sans...), usage: usage}, nil
}

// verifyClient passes clients without a certificate: whether one is required
// is the context's ClientAuth.
func (v *verifier) verifyClient(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return nil
	}
	return v.verify(state)
}

// verifyServer runs on resumed sessions too, with today's roots.
func (v *verifier) verifyServer(state tls.ConnectionState) error { return v.verify(state) }

func (v *verifier) verify(state tls.ConnectionState) error {
	chain := state.PeerCertificates
	if len(chain) == 0 {
		return identity.ErrNoCertificate
	}
	if len(chain) > limit.ChainCertificatesMax {
		return fmt.Errorf("%w: %d certificates in the chain", identity.ErrUntrusted, len(chain))
	}
	now := time.Now()
	key := fingerprint(chain)
	if v.hasPassed(key, now) {
		return nil
	}
	chains, err := v.judge(chain)
	if err != nil {
		return err
	}
	v.pass(key, v.validUntil(chains, now))
	return nil
}

// judge builds the chains to the roots and looks at revocations and names.
func (v *verifier) judge(chain []*x509.Certificate) ([][]*x509.Certificate, error) {
	chains, err := chain[0].Verify(x509.VerifyOptions{
		Roots:         v.roots,
		Intermediates: identity.NewPool(chain[1:]),
		KeyUsages:     []x509.ExtKeyUsage{v.usage},
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", identity.ErrUntrusted, err)
	}
	if err := v.revoked(chains); err != nil {
		return nil, err
	}
	if len(v.sans) == 0 {
		return chains, nil
	}
	for _, name := range names(chain[0]) {
		for i := range v.sans {
			if v.sans[i].MatchString(name) {
				return chains, nil
			}
		}
	}
	return nil, fmt.Errorf("%w: it has %s", ErrName, strings.Join(names(chain[0]), ", "))
}

// fingerprint names a chain. A peer that connects again, or resumes a session,
// shows the same one. What passed is not computed again for as long as nothing
// in it can run out; the proof that the peer has the key is crypto/tls's and
// is never skipped.
func fingerprint(chain []*x509.Certificate) (key [sha256.Size]byte) {
	h := sha256.New()
	for _, c := range chain {
		h.Write(c.Raw) // DER says its own length
	}
	h.Sum(key[:0])
	return key
}

func (v *verifier) hasPassed(key [sha256.Size]byte, now time.Time) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	until, ok := v.passed[key]
	return ok && now.Before(until)
}

func (v *verifier) pass(key [sha256.Size]byte, until time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.passed == nil || len(v.passed) >= limit.PassedChainsMax {
		v.passed = map[[sha256.Size]byte]time.Time{} // who still comes is judged again
	}
	v.passed[key] = until
}

// validUntil is when the first certificate or revocation list runs out.
func (v *verifier) validUntil(chains [][]*x509.Certificate, now time.Time) time.Time {
	until := chains[0][0].NotAfter
	for _, chain := range chains {
		for _, c := range chain {
			if c.NotAfter.Before(until) {
				until = c.NotAfter
			}
		}
	}
	for _, list := range v.crl {
		if next := list.NextUpdate; !next.IsZero() && next.After(now) && next.Before(until) {
			until = next
		}
	}
	return until
}

// names are a certificate's subject alternative names of all kinds.
func names(c *x509.Certificate) []string {
	var out []string
	for _, u := range c.URIs {
		out = append(out, u.String())
	}
	out = append(out, c.DNSNames...)
	for _, ip := range c.IPAddresses {
		out = append(out, ip.String())
	}
	return out
}

// revoked looks each certificate of the verified chains up in the lists that
// its issuer signed. Where there are lists, one that is missing or out of date
// refuses: a peer could otherwise be accepted by keeping a list away
// (Envoy: CertificateValidationContext.crl, every certificate of the chain).
func (v *verifier) revoked(chains [][]*x509.Certificate) error {
	if len(v.crl) == 0 {
		return nil
	}
	now := time.Now()
	var missing error
	covered := false
	for _, chain := range chains {
		complete := true
		for i := 0; i+1 < len(chain); i++ {
			current, err := v.listed(chain[i], chain[i+1], now)
			if err != nil {
				return err
			}
			if !current {
				complete = false
				missing = fmt.Errorf("%w: no current list of %s", ErrRevoked, chain[i+1].Subject)
			}
		}
		covered = covered || complete
	}
	if covered {
		return nil
	}
	return missing
}

// listed looks a certificate up in its issuer's lists; current says that one of
// them is in force.
func (v *verifier) listed(c, issuer *x509.Certificate, now time.Time) (current bool, err error) {
	for _, list := range v.crl {
		if list.CheckSignatureFrom(issuer) != nil {
			continue
		}
		current = current || list.NextUpdate.IsZero() || now.Before(list.NextUpdate)
		for _, entry := range list.RevokedCertificateEntries {
			if entry.SerialNumber.Cmp(c.SerialNumber) == 0 {
				return current, fmt.Errorf("%w: serial %s", ErrRevoked, entry.SerialNumber)
			}
		}
	}
	return current, nil
}

func parseCRL(text []byte) ([]*x509.RevocationList, error) {
	var out []*x509.RevocationList
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("revocation list: %w", err)
		}
		out = append(out, list)
	}
	if len(out) == 0 {
		return nil, errors.New("revocation list: no PEM block")
	}
	return out, nil
}
