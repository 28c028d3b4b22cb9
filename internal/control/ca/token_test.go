package ca_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/control/ca"
	"github.com/tullemesh/tulle/internal/identity"
	"github.com/tullemesh/tulle/internal/identity/keyfile"
	"github.com/tullemesh/tulle/internal/limit"
)

// forge signs tokens with the issuer's own key or another one, also such as
// the issuer never would.
type forge struct {
	key    *ecdsa.PrivateKey
	header string // the issuer's
	claims map[string]any
}

func encode(data []byte) string { return base64.RawURLEncoding.EncodeToString(data) }

func decode(t testing.TB, segment string) []byte {
	t.Helper()
	data, err := base64.RawURLEncoding.DecodeString(segment)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func (f forge) sign(t testing.TB, header, payload string) string {
	t.Helper()
	signed := header + "." + payload
	sum := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, f.key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return signed + "." + encode(signature)
}

// with returns a token of the issuer's form with some claims replaced; a nil
// value removes the claim.
func (f forge) with(t testing.TB, changes map[string]any) string {
	t.Helper()
	claims := maps.Clone(f.claims)
	for name, value := range changes {
		if claims[name] = value; value == nil {
			delete(claims, name)
		}
	}
	data, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	return f.sign(t, f.header, encode(data))
}

func newTokens(t testing.TB) (*ca.TokenIssuer, *clock, forge, string) {
	t.Helper()
	path, c := filepath.Join(t.TempDir(), "tokens", "token-key.pem"), &clock{}
	issuer, err := ca.NewTokenIssuer(path, c.now)
	if err != nil {
		t.Fatal(err)
	}
	token, err := issuer.Issue(cart(), 0)
	if err != nil {
		t.Fatal(err)
	}
	text, err := keyfile.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	key, err := identity.ParsePrivateKey(text)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(token.Reveal(), ".")
	f := forge{key: key.Signer().(*ecdsa.PrivateKey), header: parts[0]}
	if err := json.Unmarshal(decode(t, parts[1]), &f.claims); err != nil {
		t.Fatal(err)
	}
	return issuer, c, f, path
}

func TestTokenNamesItsHolderUntilItExpires(t *testing.T) {
	issuer, c, _, path := newTokens(t)
	token, err := issuer.Issue(cart(), 10*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	// After a restart the key is the same.
	again, err := ca.NewTokenIssuer(path, c.now)
	if err != nil {
		t.Fatal(err)
	}
	for name, i := range map[string]*ca.TokenIssuer{"issuer": issuer, "restarted issuer": again} {
		if id, err := i.Check(token); err != nil || id != cart() {
			t.Errorf("%s: %v, %v", name, id, err)
		}
	}
	c.advance(10*time.Minute - 2*time.Second)
	if _, err := issuer.Check(token); err != nil {
		t.Errorf("just before its end: %v", err)
	}
	c.advance(2 * time.Second)
	if _, err := issuer.Check(token); !errors.Is(err, ca.ErrToken) || !strings.Contains(err.Error(), "expired") {
		t.Errorf("at its end: %v", err)
	}
	if info, _ := os.Stat(path); info.Mode() != 0o600 {
		t.Errorf("key mode %v", info.Mode())
	}
}

func TestLifetimeOfTokensIsBounded(t *testing.T) {
	issuer, c, _, _ := newTokens(t)
	for ttl, good := range map[time.Duration]bool{
		time.Second - 1: false, time.Second: true, -time.Hour: false,
		24*time.Hour - time.Second: true, 24 * time.Hour: true, 24*time.Hour + 1: false,
	} {
		token, err := issuer.Issue(cart(), ttl)
		if (err == nil) != good {
			t.Errorf("%s: %v", ttl, err)
		}
		if good {
			if _, err := issuer.Check(token); err != nil && ttl > time.Second {
				t.Errorf("%s: %v", ttl, err)
			}
		}
	}
	standard, err := issuer.Issue(cart(), 0)
	if err != nil {
		t.Fatal(err)
	}
	c.advance(61 * time.Minute)
	if _, err := issuer.Check(standard); !errors.Is(err, ca.ErrToken) {
		t.Errorf("the default lifetime is more than an hour: %v", err)
	}
	if _, err := issuer.Issue(identity.ID{TrustDomain: "x"}, 0); !errors.Is(err, identity.ErrID) {
		t.Errorf("token for nobody: %v", err)
	}
}

// Whoever bears a token can't choose by which algorithm, key or purpose it is
// judged, nor spell it differently.
func TestForgedTokensAreRefused(t *testing.T) {
	issuer, _, f, path := newTokens(t)
	_, _, stranger, _ := newTokens(t)
	good := f.with(t, nil)
	if id, err := issuer.Check(identity.NewToken(good)); err != nil || id != cart() {
		t.Fatalf("the forge's own good token: %v, %v", id, err)
	}
	parts := strings.Split(good, ".")
	header := func(text string) string { return encode([]byte(text)) }
	var kid struct {
		Kid string `json:"kid"`
	}
	if err := json.Unmarshal(decode(t, parts[0]), &kid); err != nil {
		t.Fatal(err)
	}
	// Algorithm confusion: the public key, which is no secret, as HMAC key.
	public, err := x509.MarshalPKIXPublicKey(&f.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	hs256 := header(`{"alg":"HS256","kid":"` + kid.Kid + `","typ":"tulle-join+jwt"}`)
	mac := hmac.New(sha256.New, public)
	mac.Write([]byte(hs256 + "." + parts[1]))
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	fileMAC := hmac.New(sha256.New, file)
	fileMAC.Write([]byte(parts[0] + "." + parts[1]))
	signature := decode(t, parts[2])
	der, err := ecdsa.SignASN1(rand.Reader, f.key, func() []byte { s := sha256.Sum256([]byte(parts[0] + "." + parts[1])); return s[:] }())
	if err != nil {
		t.Fatal(err)
	}
	admin := strings.Replace(string(decode(t, parts[1])), "cart", "root", 1)
	for name, token := range map[string]string{
		"nothing":                         "",
		"no segments":                     "token",
		"two segments":                    parts[0] + "." + parts[1],
		"four segments":                   good + ".x",
		"empty segments":                  "..",
		"algorithm none":                  header(`{"alg":"none"}`) + "." + parts[1] + ".",
		"algorithm none, our type":        header(`{"alg":"none","kid":"`+kid.Kid+`","typ":"tulle-join+jwt"}`) + "." + parts[1] + ".",
		"our header without signature":    parts[0] + "." + parts[1] + ".",
		"HMAC by the public key":          hs256 + "." + parts[1] + "." + encode(mac.Sum(nil)),
		"HMAC under our header":           parts[0] + "." + parts[1] + "." + encode(fileMAC.Sum(nil)),
		"another issuer's token":          stranger.with(t, nil),
		"another key under our header":    stranger.sign(t, parts[0], parts[1]),
		"our key under another header":    f.sign(t, stranger.header, parts[1]),
		"a key in the header":             f.sign(t, header(`{"alg":"ES256","jwk":{},"kid":"`+kid.Kid+`","typ":"tulle-join+jwt"}`), parts[1]),
		"a key's address in the header":   f.sign(t, header(`{"alg":"ES256","jku":"http://127.0.0.1/","kid":"`+kid.Kid+`","typ":"tulle-join+jwt"}`), parts[1]),
		"type JWT":                        f.sign(t, header(`{"alg":"ES256","kid":"`+kid.Kid+`","typ":"JWT"}`), parts[1]),
		"header in another order":         f.sign(t, header(`{"typ":"tulle-join+jwt","alg":"ES256","kid":"`+kid.Kid+`"}`), parts[1]),
		"claims changed":                  parts[0] + "." + encode([]byte(admin)) + "." + parts[2],
		"signature of another token":      strings.Join(append(parts[:2:2], strings.Split(f.with(t, map[string]any{"iat": 1}), ".")[2]), "."),
		"signature cut":                   parts[0] + "." + parts[1] + "." + encode(signature[:63]),
		"signature too long":              parts[0] + "." + parts[1] + "." + encode(append(signature[:64:64], 0)),
		"signature of zeros":              parts[0] + "." + parts[1] + "." + encode(make([]byte, 64)),
		"signature in DER":                parts[0] + "." + parts[1] + "." + encode(der),
		"padding":                         good + "==",
		"line break":                      good + "\n",
		"line break inside the signature": parts[0] + "." + parts[1] + "." + parts[2][:10] + "\n" + parts[2][10:],
		"standard alphabet":               parts[0] + "." + parts[1] + "." + strings.Replace(parts[2], parts[2][:1], "+", 1),
		"space before":                    " " + good,
	} {
		if id, err := issuer.Check(identity.NewToken(token)); !errors.Is(err, ca.ErrToken) {
			t.Errorf("%s: %v, %v; want ErrToken", name, id, err)
		}
	}
	// The last character of 64 bytes carries four unused bits.
	for _, last := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" {
		token := good[:len(good)-1] + string(last)
		if _, err := issuer.Check(identity.NewToken(token)); (err == nil) != (token == good) {
			t.Errorf("last character %q instead of %q: %v", last, good[len(good)-1:], err)
		}
	}
}

// These are signed by the issuer's own key, so that only the claims matter.
func TestClaimsThatDoNotHoldAreRefused(t *testing.T) {
	issuer, c, f, _ := newTokens(t)
	at := func(d time.Duration) int64 { return c.now().Add(d).Unix() }
	for name, changes := range map[string]map[string]any{
		"another audience":      {"aud": "kubernetes"},
		"several audiences":     {"aud": []string{"istio-ca", "kubernetes"}},
		"no audience":           {"aud": nil},
		"another issuer":        {"iss": "kubernetes/serviceaccount"},
		"no issuer":             {"iss": nil},
		"expired":               {"iat": at(-2 * time.Hour), "exp": at(-time.Hour)},
		"no expiry":             {"exp": nil},
		"expiry as text":        {"exp": "never"},
		"expiry as fraction":    {"exp": 1e300},
		"lives too long":        {"exp": at(48 * time.Hour)},
		"lives since ever":      {"iat": nil},
		"issued in the future":  {"iat": at(2 * time.Minute)},
		"no subject":            {"sub": nil},
		"a subject without ID":  {"sub": "system:serviceaccount:shop:cart"},
		"a subject with escape": {"sub": "spiffe://cluster.local/ns/shop/sa/c%61rt"},
		"a claim we don't know": {"admin": true},
	} {
		if id, err := issuer.Check(identity.NewToken(f.with(t, changes))); !errors.Is(err, ca.ErrToken) {
			t.Errorf("%s: %v, %v; want ErrToken", name, id, err)
		}
	}
	for name, payload := range map[string]string{
		"no JSON": "x", "an array": "[]", "null": "null", "nothing": "", "two documents": `{}{}`,
		"a tail": string(decode(t, strings.Split(f.with(t, nil), ".")[1])) + "x",
	} {
		if _, err := issuer.Check(identity.NewToken(f.sign(t, f.header, encode([]byte(payload))))); !errors.Is(err, ca.ErrToken) {
			t.Errorf("payload is %s: %v", name, err)
		}
	}
	slow := f.with(t, map[string]any{"iat": at(30 * time.Second)})
	if _, err := issuer.Check(identity.NewToken(slow)); err != nil {
		t.Errorf("issued half a minute in the future, by a clock ahead: %v", err)
	}
}

func TestTokenSizeIsLimitedBeforeParsing(t *testing.T) {
	issuer, _, _, _ := newTokens(t)
	for n, want := range map[int]string{
		limit.JoinTokenBytesMax - 1: "segments", limit.JoinTokenBytesMax: "segments", limit.JoinTokenBytesMax + 1: "bytes",
	} {
		if _, err := issuer.Check(identity.NewToken(strings.Repeat("x", n))); !errors.Is(err, ca.ErrToken) || !strings.Contains(err.Error(), want) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	longest := identity.ID{TrustDomain: strings.Repeat("d", 255), Namespace: strings.Repeat("n", 63), ServiceAccount: strings.Repeat("s", 253)}
	token, err := issuer.Issue(longest, 0)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := issuer.Check(token); err != nil || id != longest {
		t.Errorf("the longest names of Kubernetes: %v", err)
	}
}

// privateDirectory is one that nobody else can write to, whatever the umask.
func privateDirectory(t testing.TB) string {
	t.Helper()
	directory := filepath.Join(t.TempDir(), "private")
	if err := keyfile.MakeDirectory(directory); err != nil {
		t.Fatal(err)
	}
	return directory
}

func TestUnusableTokenKeysAreRefused(t *testing.T) {
	exposed := filepath.Join(privateDirectory(t), "key")
	if err := os.WriteFile(exposed, newPair(t, "x", nil, nil).keyPEM(t), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ca.NewTokenIssuer(exposed, nil); !errors.Is(err, keyfile.ErrExposed) {
		t.Errorf("readable key: %v", err)
	}
	damaged := filepath.Join(privateDirectory(t), "key")
	if err := os.WriteFile(damaged, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ca.NewTokenIssuer(damaged, nil); !errors.Is(err, identity.ErrKey) {
		t.Errorf("damaged key: %v", err)
	}
	other := newPair(t, "x", nil, nil)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other.key = p384
	if err := os.WriteFile(damaged, other.keyPEM(t), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ca.NewTokenIssuer(damaged, nil); !errors.Is(err, identity.ErrKey) {
		t.Errorf("key of another curve: %v", err)
	}
	if _, err := ca.NewTokenIssuer(filepath.Join(damaged, "key"), nil); err == nil {
		t.Error("a file in place of the directory: accepted")
	}
}

func FuzzCheckToken(f *testing.F) {
	issuer, _, forged, _ := newTokens(f)
	good := forged.with(f, nil)
	f.Add(good)
	f.Add("a.b.c")
	f.Add(forged.header + ".e30." + encode(make([]byte, 64)))
	f.Fuzz(func(t *testing.T, s string) {
		id, err := issuer.Check(identity.NewToken(s))
		if err == nil && s != good {
			t.Fatalf("a token that nobody issued names %s", id)
		}
		if err != nil && !errors.Is(err, ca.ErrToken) {
			t.Fatalf("unnamed error %v", err)
		}
	})
}
