package identity_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/tullemesh/tulle/internal/identity"
	"github.com/tullemesh/tulle/internal/limit"
)

// holder has secrets in every place that printing can reach: exported and
// unexported fields, pointers, slices and maps.
type holder struct {
	Key    identity.PrivateKey
	Tokens []identity.Token
	Map    map[string]*identity.Token
	Bundle *identity.Bundle `json:"-" yaml:"-"`
	key    identity.PrivateKey
	token  identity.Token
	bundle identity.Bundle
}

func TestSecretsPrintRedactedEverywhere(t *testing.T) {
	const secret = "eyJhbGciOiJFUzI1NiJ9.very-secret.signature"
	token := identity.NewToken(secret)
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key := parseKey(t, "PRIVATE KEY", pkcs8(t, private))
	bundle := newTestRoot(t).bundle(t, workload{key: private, public: public})
	h := holder{key, []identity.Token{token}, map[string]*identity.Token{"t": &token}, bundle, key, token, *bundle}

	var logged bytes.Buffer
	for _, log := range []*slog.Logger{slog.New(slog.NewTextHandler(&logged, nil)), slog.New(slog.NewJSONHandler(&logged, nil))} {
		log.Info("secrets", slog.Any("key", key), slog.Any("token", token), slog.Any("holder", h), slog.Any("bundle", bundle))
	}
	texts := map[string]string{"slog": logged.String()}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		texts[verb] = fmt.Sprintf(strings.Repeat(verb+" ", 6), key, &key, token, &token, h, &h)
	}
	if data, err := json.Marshal(h); err == nil {
		texts["json"] = string(data)
	} else {
		t.Error(err)
	}
	if data, err := yaml.Marshal(map[string]any{"key": key, "token": token}); err == nil {
		texts["yaml"] = string(data)
	} else {
		t.Error(err)
	}
	texts["error"] = fmt.Errorf("bad %w %v", errors.New("x"), key).Error()

	body := pemBody(key.PEM())
	leaks := map[string]string{
		"token":              secret,
		"token in hex":       fmt.Sprintf("%x", secret),
		"token in decimals":  strings.Trim(fmt.Sprint([]byte(secret)), "[]"),
		"key in PEM":         body[:20],
		"key in decimals":    strings.Trim(fmt.Sprint([]byte(private[:16])), "[]"),
		"key in hex":         fmt.Sprintf("%x", []byte(private[:16])),
		"key in Go's syntax": strings.Trim(fmt.Sprintf("%#v", []byte(private[:16])), "[]byte{}"),
		"PEM in decimals":    strings.Trim(fmt.Sprint([]byte(body[:20])), "[]"),
		"PEM in hex":         fmt.Sprintf("%x", body[:20]),
	}
	for way, text := range texts {
		for what, leak := range leaks {
			if strings.Contains(text, leak) {
				t.Errorf("%s shows the %s", way, what)
			}
		}
		if !strings.Contains(text, "[redacted]") {
			t.Errorf("%s does not say that something is redacted: %s", way, text)
		}
	}
	if token.Reveal() != secret || !bytes.Contains(key.PEM(), []byte(body)) {
		t.Error("the secrets can't be revealed on purpose")
	}
}

func pemBody(text []byte) string { return strings.Split(string(text), "\n")[1] }

func TestZeroSecretsHoldNothing(t *testing.T) {
	var k identity.PrivateKey
	if !k.IsZero() || k.PEM() != nil || k.Signer() != nil || k.Matches(nil) {
		t.Error("the zero key holds something")
	}
	token := identity.NewToken("")
	if !token.IsZero() || token.Reveal() != "" {
		t.Error("the empty token holds something")
	}
}

func TestRevealedKeyIsACopy(t *testing.T) {
	k, err := identity.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	before := string(k.PEM())
	clear(k.PEM())
	if string(k.PEM()) != before {
		t.Error("writing to the revealed key changed it")
	}
}

func TestKeysOfTheAcceptedKindsAreRead(t *testing.T) {
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		sec1, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		for kind, der := range map[string][]byte{"PRIVATE KEY": pkcs8(t, key), "EC PRIVATE KEY": sec1} {
			if got := parseKey(t, kind, der); !got.Matches(&key.PublicKey) {
				t.Errorf("%s over %s reads as another key", kind, curve.Params().Name)
			}
		}
	}
	key, err := rsa.GenerateKey(rand.Reader, limit.RSABitsMin)
	if err != nil {
		t.Fatal(err)
	}
	for kind, der := range map[string][]byte{"PRIVATE KEY": pkcs8(t, key), "RSA PRIVATE KEY": x509.MarshalPKCS1PrivateKey(key)} {
		if got := parseKey(t, kind, der); !got.Matches(&key.PublicKey) {
			t.Errorf("%s of RSA reads as another key", kind)
		}
	}
	// openssl ecparam -genkey writes its parameters first.
	p256, err := identity.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	parameters := pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 8, 42, 134, 72, 206, 61, 3, 1, 7}})
	if got, err := identity.ParsePrivateKey(append(parameters, p256.PEM()...)); err != nil || !got.Matches(p256.Signer().Public()) {
		t.Errorf("key after its parameters: %v", err)
	}
}

func TestUnusableKeysAreRefused(t *testing.T) {
	good, err := identity.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	}
	for name, text := range map[string][]byte{
		"nothing":           nil,
		"no PEM":            []byte("secret"),
		"a certificate":     block("CERTIFICATE", []byte{1}),
		"two keys":          append(good.PEM(), good.PEM()...),
		"broken DER":        block("PRIVATE KEY", []byte{0x30, 1}),
		"wrong label":       block("RSA PRIVATE KEY", pkcs8(t, good.Signer())),
		"encrypted":         block("ENCRYPTED PRIVATE KEY", []byte{1}),
		"a curve too small": block("PRIVATE KEY", pkcs8(t, p224)),
		"too long":          bytes.Repeat([]byte("\n"), limit.KeyFileBytesMax+1),
	} {
		if _, err := identity.ParsePrivateKey(text); !errors.Is(err, identity.ErrKey) {
			t.Errorf("%s: %v, want ErrKey", name, err)
		}
	}
}

func TestSizeLimitsOfRSAKeys(t *testing.T) {
	for _, c := range []struct {
		bits int
		good bool
	}{
		{limit.RSABitsMin - 1, false}, {limit.RSABitsMin, true}, {limit.RSABitsMin + 1, true},
		{limit.RSABitsMax - 1, true}, {limit.RSABitsMax, true}, {limit.RSABitsMax + 1, false},
	} {
		public := &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), c.bits-1, 1), E: 65537}
		if err := identity.CheckPublicKey(public); (err == nil) != c.good || (err != nil && !errors.Is(err, identity.ErrKey)) {
			t.Errorf("%d bits: %v", c.bits, err)
		}
	}
	if err := identity.CheckPublicKey("text"); !errors.Is(err, identity.ErrKey) {
		t.Errorf("no key at all: %v", err)
	}
}

func FuzzParsePrivateKey(f *testing.F) {
	k, err := identity.GenerateKey()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(k.PEM())
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := identity.ParsePrivateKey(text)
		if err != nil {
			if !errors.Is(err, identity.ErrKey) || !k.IsZero() {
				t.Fatalf("error %v with key %v", err, k)
			}
			return
		}
		if !k.Matches(k.Signer().Public()) || identity.CheckPublicKey(k.Signer().Public()) != nil {
			t.Fatal("an unusable key was accepted")
		}
	})
}
