// Package identity says who a workload is and proves it.
//
// In come SPIFFE IDs, X.509 certificates, keys and tokens; out go their parsed
// forms, TLS material and verdicts about peers. It implements SPIFFE-ID §2 and
// X509-SVID §2, §4 and §5 for leaf certificates; it leaves out JWT-SVID, the
// Workload API and the SPIFFE bundle format. Values are immutable; only a
// Publisher owns state (the current Bundle). Secrets print as "[redacted]".
//
// Read id.go first, then bundle.go and verify.go. Subpackage keyfile keeps
// secrets on disk.
package identity

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/tullemesh/tulle/internal/limit"
)

// ErrID is in the chain of every error about a malformed SPIFFE ID.
var ErrID = errors.New("not a SPIFFE ID")

const scheme = "spiffe://"

// ID is the identity of a mesh workload in Istio's form,
// spiffe://<trust domain>/ns/<namespace>/sa/<service account>.
type ID struct {
	TrustDomain    string
	Namespace      string
	ServiceAccount string
}

// Parse reads an ID from its only spelling; anything else, percent-encoding
// and upper-case trust domains included, is an error in whose chain ErrID is.
func Parse(s string) (ID, error) {
	u, err := ParseURI(s)
	if err != nil {
		return ID{}, err
	}
	id, ok := u.ID()
	if !ok {
		return ID{}, fmt.Errorf("%w of a workload: %q is not spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT", ErrID, s)
	}
	return id, nil
}

// String returns the ID as Parse reads it.
func (id ID) String() string {
	return scheme + id.TrustDomain + "/ns/" + id.Namespace + "/sa/" + id.ServiceAccount
}

// Principal returns the ID without its scheme, as Istio's AuthorizationPolicy
// spells principals.
func (id ID) Principal() string { return strings.TrimPrefix(id.String(), scheme) }

// Validate returns nil when Parse would read String back.
func (id ID) Validate() error {
	parsed, err := Parse(id.String())
	if err != nil {
		return err
	}
	// A "/" inside a part would move the borders between the parts.
	if parsed != id {
		return fmt.Errorf("%w: a part of %q holds a slash", ErrID, id.String())
	}
	return nil
}

// URL returns the ID as certificates carry it. The ID must be valid.
func (id ID) URL() *url.URL {
	return &url.URL{Scheme: "spiffe", Host: id.TrustDomain, Path: "/ns/" + id.Namespace + "/sa/" + id.ServiceAccount}
}

// URI is a SPIFFE ID of any form, such as peers from other meshes have.
type URI string

// ParseURI checks s against SPIFFE-ID §2: scheme, trust domain and path in
// their restricted alphabets, no query, fragment, user, port, empty or dot
// segments, and the length limits. An ID without a path is valid: it names a
// trust domain.
func ParseURI(s string) (URI, error) {
	if len(s) > limit.SPIFFEIDBytesMax {
		return "", fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrID, len(s), limit.SPIFFEIDBytesMax)
	}
	rest, ok := strings.CutPrefix(s, scheme)
	if !ok {
		return "", fmt.Errorf("%w: %q does not begin with %q", ErrID, s, scheme)
	}
	domain, path, slash := strings.Cut(rest, "/")
	if err := ValidateTrustDomain(domain); err != nil {
		return "", err
	}
	if !slash {
		return URI(s), nil
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "" || segment == "." || segment == ".." || strings.ContainsFunc(segment, notPathRune) {
			return "", fmt.Errorf("%w: path segment %q of %q (letters, digits, '.', '-' and '_' are allowed, \".\" and \"..\" are not)", ErrID, segment, s)
		}
	}
	return URI(s), nil
}

// TrustDomain returns the trust domain of a URI that ParseURI has checked.
func (u URI) TrustDomain() string {
	domain, _, _ := strings.Cut(strings.TrimPrefix(string(u), scheme), "/")
	return domain
}

// ID returns u in Istio's form, or false when u has another one.
func (u URI) ID() (ID, bool) {
	parts := strings.Split(strings.TrimPrefix(string(u), scheme), "/")
	if len(parts) != 5 || parts[1] != "ns" || parts[3] != "sa" {
		return ID{}, false
	}
	return ID{TrustDomain: parts[0], Namespace: parts[2], ServiceAccount: parts[4]}, true
}

// ValidateTrustDomain checks a trust domain's name (SPIFFE-ID §2.1).
func ValidateTrustDomain(domain string) error {
	if domain == "" {
		return fmt.Errorf("%w: the trust domain is empty", ErrID)
	}
	if len(domain) > limit.TrustDomainBytesMax {
		return fmt.Errorf("%w: trust domain of %d bytes, at most %d are allowed", ErrID, len(domain), limit.TrustDomainBytesMax)
	}
	if strings.ContainsFunc(domain, notDomainRune) {
		return fmt.Errorf("%w: trust domain %q (lower-case letters, digits, '.', '-' and '_' are allowed)", ErrID, domain)
	}
	return nil
}

func notDomainRune(r rune) bool {
	return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '.' && r != '-' && r != '_'
}

func notPathRune(r rune) bool {
	return notDomainRune(r) && (r < 'A' || r > 'Z')
}
