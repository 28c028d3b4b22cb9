package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"path/filepath"
	"strings"
	"time"

	"github.com/tullemesh/tulle/internal/identity"
	"github.com/tullemesh/tulle/internal/identity/keyfile"
	"github.com/tullemesh/tulle/internal/limit"
)

const (
	// tokenAudience is what Istio's agents ask their platform for.
	tokenAudience = "istio-ca"
	tokenIssuer   = "tulle"

	// Lifetimes of a join token: as long as a start takes, a day at most.
	tokenTTLDefault = time.Hour
	tokenTTLMax     = 24 * time.Hour

	// tokenSkewMax is how far a token may begin in the future.
	tokenSkewMax = time.Minute
)

// ErrToken is in the chain of every error about a refused join token. The
// reasons are for our log; a caller only learns that the token is refused.
var ErrToken = errors.New("join token refused")

// TokenIssuer writes and checks join tokens: short-lived bearer tokens that
// entitle their holder to a certificate of one identity. They are JWTs
// (RFC 7519) of exactly one form: ES256, our own type and key, five claims.
// A TokenIssuer is immutable.
type TokenIssuer struct {
	key    *ecdsa.PrivateKey
	header string // the only accepted first segment
	now    func() time.Time
}

// NewTokenIssuer loads the signing key from path, or generates it there, in a
// directory that only we can change. It is a key of its own, never that of
// certificates. A nil clock means time.Now.
func NewTokenIssuer(path string, now func() time.Time) (*TokenIssuer, error) {
	if err := keyfile.MakeDirectory(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("token key: %w", err)
	}
	text, err := keyfile.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = newTokenKey(path)
	}
	if err != nil {
		return nil, fmt.Errorf("token key: %w", err)
	}
	parsed, err := identity.ParsePrivateKey(text)
	if err != nil {
		return nil, fmt.Errorf("token key %s: %w", path, err)
	}
	key, ok := parsed.Signer().(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("token key %s: %w: ES256 needs ECDSA P-256", path, identity.ErrKey)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, fmt.Errorf("token key %s: %w: %w", path, identity.ErrKey, err)
	}
	sum := sha256.Sum256(point)
	// The header is fixed by the key, so it is compared and never parsed:
	// nothing in it (algorithm, key, type) can be chosen by a token's bearer.
	header := fmt.Sprintf(`{"alg":"ES256","kid":%q,"typ":"tulle-join+jwt"}`, hex.EncodeToString(sum[:8]))
	if now == nil {
		now = time.Now
	}
	return &TokenIssuer{key: key, header: base64.RawURLEncoding.EncodeToString([]byte(header)), now: now}, nil
}

func newTokenKey(path string) ([]byte, error) {
	key, err := identity.GenerateKey()
	if err != nil {
		return nil, err
	}
	if err := keyfile.Create(path, key.PEM()); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return keyfile.Read(path) // ours, or that of somebody faster
}

// claims are all that a join token says; times are Unix seconds.
type claims struct {
	Issuer   string `json:"iss"`
	Subject  string `json:"sub"` // the SPIFFE ID
	Audience string `json:"aud"`
	IssuedAt int64  `json:"iat"`
	Expires  int64  `json:"exp"`
}

// Issue writes a token for id that expires after ttl; zero means an hour, and
// more than a day is refused.
func (t *TokenIssuer) Issue(id identity.ID, ttl time.Duration) (identity.Token, error) {
	if err := id.Validate(); err != nil {
		return identity.Token{}, err
	}
	if ttl == 0 {
		ttl = tokenTTLDefault
	}
	if ttl < time.Second || ttl > tokenTTLMax {
		return identity.Token{}, fmt.Errorf("join token lifetime %s (1s to %s are allowed)", ttl, tokenTTLMax)
	}
	now := t.now()
	payload, err := json.Marshal(claims{
		Issuer: tokenIssuer, Subject: id.String(), Audience: tokenAudience,
		IssuedAt: now.Unix(), Expires: now.Add(ttl).Unix(),
	})
	if err != nil {
		return identity.Token{}, fmt.Errorf("encode join token: %w", err)
	}
	signed := t.header + "." + base64.RawURLEncoding.EncodeToString(payload)
	sum := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, t.key, sum[:])
	if err != nil {
		return identity.Token{}, fmt.Errorf("sign join token: %w", err)
	}
	// RFC 7518 §3.4: R and S, 32 octets each, big-endian.
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return identity.NewToken(signed + "." + base64.RawURLEncoding.EncodeToString(signature)), nil
}

// Check returns the identity of a token that this issuer wrote, for our
// audience, and that holds now. Every other token gives ErrToken.
func (t *TokenIssuer) Check(token identity.Token) (identity.ID, error) {
	text := token.Reveal()
	if len(text) > limit.JoinTokenBytesMax {
		return identity.ID{}, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrToken, len(text), limit.JoinTokenBytesMax)
	}
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return identity.ID{}, fmt.Errorf("%w: %d segments instead of 3", ErrToken, len(parts))
	}
	if parts[0] != t.header {
		return identity.ID{}, fmt.Errorf("%w: its header is not one that this issuer writes (another algorithm, key or type)", ErrToken)
	}
	// Strict: no padding bits that could vary, no line breaks.
	decode := base64.RawURLEncoding.Strict().DecodeString
	signature, err := decode(parts[2])
	if err != nil || len(signature) != 64 || strings.ContainsAny(text, "\r\n") {
		return identity.ID{}, fmt.Errorf("%w: malformed signature", ErrToken)
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
	if !ecdsa.Verify(&t.key.PublicKey, sum[:], r, s) {
		return identity.ID{}, fmt.Errorf("%w: wrong signature", ErrToken)
	}
	payload, err := decode(parts[1])
	if err != nil {
		return identity.ID{}, fmt.Errorf("%w: malformed payload", ErrToken)
	}
	return t.checkClaims(payload)
}

// checkClaims judges a payload whose signature is ours. It is checked all the
// same, so that a later form of token can't be taken for this one.
func (t *TokenIssuer) checkClaims(payload []byte) (identity.ID, error) {
	var c claims
	d := json.NewDecoder(strings.NewReader(string(payload)))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return identity.ID{}, fmt.Errorf("%w: claims: %w", ErrToken, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return identity.ID{}, fmt.Errorf("%w: data after the claims", ErrToken)
	}
	if c.Issuer != tokenIssuer {
		return identity.ID{}, fmt.Errorf("%w: issuer %q", ErrToken, c.Issuer)
	}
	if c.Audience != tokenAudience {
		return identity.ID{}, fmt.Errorf("%w: audience %q, want %q", ErrToken, c.Audience, tokenAudience)
	}
	now := t.now()
	begin, end := time.Unix(c.IssuedAt, 0), time.Unix(c.Expires, 0)
	if begin.After(now.Add(tokenSkewMax)) {
		return identity.ID{}, fmt.Errorf("%w: issued in the future, at %s", ErrToken, begin.UTC().Format(time.RFC3339))
	}
	if !now.Before(end) || end.Sub(begin) > tokenTTLMax {
		return identity.ID{}, fmt.Errorf("%w: expired at %s", ErrToken, end.UTC().Format(time.RFC3339))
	}
	id, err := identity.Parse(c.Subject)
	if err != nil {
		return identity.ID{}, fmt.Errorf("%w: subject: %w", ErrToken, err)
	}
	return id, nil
}
