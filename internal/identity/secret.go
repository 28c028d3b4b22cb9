package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/tullemesh/tulle/internal/limit"
)

// ErrKey is in the chain of every error about an unusable key.
var ErrKey = errors.New("unusable key")

const redacted = "[redacted]"

// hidden is what a secret reveals. It is kept behind a function, because fmt
// can't call the methods of an unexported field and would print what a pointer
// leads to (it does for a verb that doesn't suit the type); of a function it
// only knows the address.
type hidden struct {
	value []byte
	key   crypto.Signer // nil in a token
}

func hide(h hidden) func() hidden { return func() hidden { return h } }

// PrivateKey is a private key in PEM form that prints as "[redacted]". The
// zero value holds no key.
type PrivateKey struct{ reveal func() hidden }

// GenerateKey returns a new ECDSA P-256 key.
func GenerateKey() (PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("generate key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("encode key: %w", err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return PrivateKey{hide(hidden{value: text, key: key})}, nil
}

// ParsePrivateKey reads one unencrypted PEM key: PKCS #8, SEC 1 or PKCS #1,
// of a kind that CheckPublicKey accepts. Other PEM blocks are refused, except
// the EC PARAMETERS that openssl writes before its keys.
func ParsePrivateKey(text []byte) (PrivateKey, error) {
	if len(text) > limit.KeyFileBytesMax {
		return PrivateKey{}, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrKey, len(text), limit.KeyFileBytesMax)
	}
	block, rest := pem.Decode(text)
	if block != nil && block.Type == "EC PARAMETERS" {
		block, rest = pem.Decode(rest)
	}
	if block == nil {
		return PrivateKey{}, fmt.Errorf("%w: no PEM block", ErrKey)
	}
	if next, _ := pem.Decode(rest); next != nil {
		return PrivateKey{}, fmt.Errorf("%w: a second PEM block %q", ErrKey, next.Type)
	}
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		return PrivateKey{}, fmt.Errorf("%w: PEM block %q is not a private key", ErrKey, block.Type)
	}
	if err != nil {
		return PrivateKey{}, fmt.Errorf("%w: %w", ErrKey, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return PrivateKey{}, fmt.Errorf("%w: %T can't sign", ErrKey, key)
	}
	if err := CheckPublicKey(signer.Public()); err != nil {
		return PrivateKey{}, err
	}
	return PrivateKey{hide(hidden{value: append([]byte(nil), text...), key: signer})}, nil
}

// CheckPublicKey accepts ECDSA over P-256, P-384 and P-521, Ed25519, and RSA
// of limit.RSABitsMin to limit.RSABitsMax bits.
func CheckPublicKey(public crypto.PublicKey) error {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
			return nil
		}
		return fmt.Errorf("%w: ECDSA over %s (P-256, P-384 and P-521 are accepted)", ErrKey, k.Curve.Params().Name)
	case ed25519.PublicKey:
		return nil
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < limit.RSABitsMin || bits > limit.RSABitsMax {
			return fmt.Errorf("%w: RSA of %d bits (%d to %d are accepted)", ErrKey, bits, limit.RSABitsMin, limit.RSABitsMax)
		}
		return nil
	}
	return fmt.Errorf("%w: %T (ECDSA, Ed25519 and RSA are accepted)", ErrKey, public)
}

// IsZero reports whether there is no key.
func (k PrivateKey) IsZero() bool { return k.reveal == nil }

// PEM reveals the key: a copy of its PEM text.
func (k PrivateKey) PEM() []byte {
	if k.reveal == nil {
		return nil
	}
	return append([]byte(nil), k.reveal().value...)
}

// Signer returns the key for use; nil when there is none.
func (k PrivateKey) Signer() crypto.Signer {
	if k.reveal == nil {
		return nil
	}
	return k.reveal().key
}

// Matches reports whether public is the key's other half; no key matches none.
func (k PrivateKey) Matches(public crypto.PublicKey) bool {
	if k.reveal == nil {
		return false
	}
	own, ok := k.reveal().key.Public().(interface{ Equal(x crypto.PublicKey) bool })
	return ok && own.Equal(public)
}

// Format prints "[redacted]" for every verb.
func (k PrivateKey) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, redacted) }

// String returns "[redacted]".
func (k PrivateKey) String() string { return redacted }

// MarshalText returns "[redacted]": JSON and YAML use it.
func (k PrivateKey) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue returns "[redacted]".
func (k PrivateKey) LogValue() slog.Value { return slog.StringValue(redacted) }

// Token is a bearer token that prints as "[redacted]". The zero value holds no
// token.
type Token struct{ reveal func() hidden }

// NewToken hides a token; the empty string gives the zero value.
func NewToken(s string) Token {
	if s == "" {
		return Token{}
	}
	return Token{hide(hidden{value: []byte(s)})}
}

// IsZero reports whether there is no token.
func (t Token) IsZero() bool { return t.reveal == nil }

// Reveal returns the token itself.
func (t Token) Reveal() string {
	if t.reveal == nil {
		return ""
	}
	return string(t.reveal().value)
}

// Format prints "[redacted]" for every verb.
func (t Token) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, redacted) }

// String returns "[redacted]".
func (t Token) String() string { return redacted }

// MarshalText returns "[redacted]": JSON and YAML use it.
func (t Token) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue returns "[redacted]".
func (t Token) LogValue() slog.Value { return slog.StringValue(redacted) }
