package ca

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/tullemesh/tulle/internal/identity"
)

// ErrNoCredential says that a caller shows no credential of an authenticator's
// kind, so that the next one is asked.
var ErrNoCredential = errors.New("no credential")

// Authenticator finds out who calls. The first one whose kind of credential
// the caller shows decides: a bad certificate is not made up for by a token.
type Authenticator interface {
	// Authenticate returns the caller's identity, ErrNoCredential, or why the
	// credential is refused.
	Authenticate(ctx context.Context) (identity.ID, error)
	// Kind names the credential in logs.
	Kind() string
}

// CertificateAuthenticator accepts callers that renew: those that hold a
// workload certificate of this mesh, by mutual TLS.
type CertificateAuthenticator struct {
	verifier identity.Verifier
}

// NewCertificateAuthenticator returns an authenticator for certificates that
// lead to the authority's roots.
func NewCertificateAuthenticator(a *Authority) *CertificateAuthenticator {
	return &CertificateAuthenticator{identity.Verifier{
		Roots: a.Pool(), Peer: identity.Client, Domains: a.options.TrustDomains, Now: a.options.Now,
	}}
}

// Kind implements Authenticator.
func (*CertificateAuthenticator) Kind() string { return "client certificate" }

// Authenticate implements Authenticator. The certificate is judged at each
// call, not only in the handshake: a connection may outlive it. An identity
// under an alias of the trust domain is renewed under the own one.
func (c *CertificateAuthenticator) Authenticate(ctx context.Context) (identity.ID, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return identity.ID{}, ErrNoCredential
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return identity.ID{}, ErrNoCredential
	}
	uri, err := c.verifier.Verify(info.State.PeerCertificates)
	if err != nil {
		return identity.ID{}, err
	}
	id, ok := uri.ID()
	if !ok {
		return identity.ID{}, fmt.Errorf("%w: %s is no workload of a namespace", identity.ErrIdentity, uri)
	}
	id.TrustDomain = c.verifier.Domains.Own()
	return id, nil
}

// TokenAuthenticator accepts callers with a join token in the "authorization"
// metadata, over TLS only.
type TokenAuthenticator struct {
	issuer *TokenIssuer
}

// NewTokenAuthenticator returns an authenticator for the issuer's tokens.
func NewTokenAuthenticator(issuer *TokenIssuer) *TokenAuthenticator {
	return &TokenAuthenticator{issuer}
}

// Kind implements Authenticator.
func (*TokenAuthenticator) Kind() string { return "join token" }

// Authenticate implements Authenticator.
func (t *TokenAuthenticator) Authenticate(ctx context.Context) (identity.ID, error) {
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(values) == 0 {
		return identity.ID{}, ErrNoCredential
	}
	if len(values) > 1 {
		return identity.ID{}, fmt.Errorf("%w: %d authorization values", ErrToken, len(values))
	}
	p, ok := peer.FromContext(ctx)
	if !ok {
		return identity.ID{}, fmt.Errorf("%w: sent without TLS", ErrToken)
	}
	if _, ok := p.AuthInfo.(credentials.TLSInfo); !ok {
		return identity.ID{}, fmt.Errorf("%w: sent without TLS", ErrToken)
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") { // RFC 9110 §11.1: schemes ignore case
		return identity.ID{}, fmt.Errorf("%w: not of the form \"Bearer TOKEN\"", ErrToken)
	}
	return t.issuer.Check(identity.NewToken(token))
}
