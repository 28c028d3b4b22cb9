package ca_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/control/ca"
	"github.com/tullemesh/tulle/internal/identity"
	"github.com/tullemesh/tulle/internal/identity/keyfile"
	"github.com/tullemesh/tulle/internal/limit"
)

func TestRootIsGeneratedOnceAndKeptPrivate(t *testing.T) {
	directory := filepath.Join(t.TempDir(), "state", "ca")
	first, err := ca.LoadOrCreate(directory, ca.Options{TrustDomains: domains(t)})
	if err != nil {
		t.Fatal(err)
	}
	second, err := ca.LoadOrCreate(directory, ca.Options{TrustDomains: domains(t)})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Roots(), second.Roots()) {
		t.Error("the second start has another root")
	}
	root, err := identity.ParseCertificates(first.Roots(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if life := time.Until(root[0].NotAfter).Round(time.Hour); life != 10*365*24*time.Hour {
		t.Errorf("the root lives for %s", life)
	}
	if info, _ := os.Stat(directory); info.Mode().Perm() != 0o700 {
		t.Errorf("directory mode %v", info.Mode())
	}
	entries, _ := os.ReadDir(directory)
	if len(entries) != 3 {
		t.Errorf("files %v", entries)
	}
	for _, e := range entries {
		if info, _ := e.Info(); info.Mode() != 0o600 {
			t.Errorf("%s has mode %v", e.Name(), info.Mode())
		}
	}
	if entries, _ := os.ReadDir(filepath.Dir(directory)); len(entries) != 1 {
		t.Errorf("left beside the directory: %v", entries)
	}
}

func TestConcurrentStartsShareOneRoot(t *testing.T) {
	directory := filepath.Join(t.TempDir(), "ca")
	roots := make([]string, 8)
	var all sync.WaitGroup
	for i := range roots {
		all.Go(func() {
			a, err := ca.LoadOrCreate(directory, ca.Options{TrustDomains: domains(t)})
			if err != nil {
				t.Error(err)
				return
			}
			roots[i] = string(a.Roots())
		})
	}
	all.Wait()
	for _, r := range roots[1:] {
		if r != roots[0] {
			t.Fatal("two starts have different roots")
		}
	}
	if entries, _ := os.ReadDir(filepath.Dir(directory)); len(entries) != 1 {
		t.Errorf("left beside the directory: %v", entries)
	}
}

func TestLostKeyIsNotReplacedByANewRoot(t *testing.T) {
	directory := filepath.Join(t.TempDir(), "ca")
	if _, err := ca.LoadOrCreate(directory, ca.Options{TrustDomains: domains(t)}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ca-key.pem", "ca-cert.pem", "root-cert.pem"} {
		path := filepath.Join(directory, name)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		_, err = ca.LoadOrCreate(directory, ca.Options{TrustDomains: domains(t)})
		if !errors.Is(err, ca.ErrAuthority) || !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s was made anew", name)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReadableKeyIsRefusedWithItsRemedy(t *testing.T) {
	directory := filepath.Join(t.TempDir(), "ca")
	if _, err := ca.LoadOrCreate(directory, ca.Options{TrustDomains: domains(t)}); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(directory, "ca-key.pem")
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := ca.LoadOrCreate(directory, ca.Options{TrustDomains: domains(t)})
	if !errors.Is(err, keyfile.ErrExposed) || !strings.Contains(err.Error(), "chmod 600 "+key) {
		t.Errorf("readable key: %v", err)
	}
}

func TestDirectoryThatOthersMayChangeIsRefused(t *testing.T) {
	directory := filepath.Join(t.TempDir(), "ca")
	if _, err := ca.LoadOrCreate(directory, ca.Options{TrustDomains: domains(t)}); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(directory, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := ca.LoadOrCreate(directory, ca.Options{TrustDomains: domains(t)}); !errors.Is(err, keyfile.ErrExposed) {
		t.Errorf("authority: %v, want ErrExposed", err)
	}
	if _, err := ca.NewTokenIssuer(filepath.Join(directory, "token-key.pem"), nil); !errors.Is(err, keyfile.ErrExposed) {
		t.Errorf("tokens: %v, want ErrExposed", err)
	}
}

// An organization's own root signs an intermediate for the mesh, in the layout
// of Istio's cacerts secret; a second root is trusted beside it.
func TestPluggedIntermediateSignsBelowSeveralRoots(t *testing.T) {
	root, other := newPair(t, "corporate root", nil, nil), newPair(t, "next root", nil, nil)
	middle := newPair(t, "regional", root, nil)
	signer := newPair(t, "mesh", middle, nil)
	both := append(root.pem(), other.pem()...)
	for name, chain := range map[string][]byte{
		"signer, intermediate and root": bytes.Join([][]byte{signer.pem(), middle.pem(), root.pem()}, nil),
		"intermediate only":             middle.pem(),
	} {
		a, err := ca.Load(writeFiles(t, map[string][]byte{
			"ca-cert.pem": signer.pem(), "ca-key.pem": signer.keyPEM(t), "root-cert.pem": both, "cert-chain.pem": chain,
		}), ca.Options{TrustDomains: domains(t)})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		csr, key := request(t, nil)
		issued, err := a.Sign(csr, cart(), 0)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		b, err := identity.NewBundle(issued.Chain(), key, issued.Roots())
		if err != nil || len(b.Certificate().Certificate) != 3 || !bytes.Equal(b.Roots, both) {
			t.Errorf("%s: %v, %d certificates in the chain", name, err, len(b.Certificate().Certificate))
			continue
		}
		if err := b.Verify(time.Now()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		// A peer that trusts the corporate root only.
		if b, err = identity.NewBundle(issued.Chain(), key, root.pem()); err != nil || b.Verify(time.Now()) != nil {
			t.Errorf("%s: a peer with the root alone refuses: %v", name, b.Verify(time.Now()))
		}
	}
}

func TestUnusableAuthoritiesAreRefusedAtStart(t *testing.T) {
	root, other := newPair(t, "root", nil, nil), newPair(t, "other", nil, nil)
	middle := newPair(t, "middle", root, nil)
	signer := newPair(t, "signer", middle, nil)
	expired := newPair(t, "expired", nil, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	leaf := newPair(t, "leaf", root, workload)
	noSign := newPair(t, "no keyCertSign", root, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature })
	narrow := newPair(t, "path length", root, func(c *x509.Certificate) { c.MaxPathLenZero = true })
	constrained := newPair(t, "name constraints", nil, func(c *x509.Certificate) {
		c.PermittedURIDomains, c.PermittedDNSDomainsCritical = []string{"other.example"}, true
	})
	below := newPair(t, "below path length", narrow, nil)
	files := func(signer *pair, key, roots, chain []byte) map[string][]byte {
		f := map[string][]byte{"ca-cert.pem": signer.pem(), "ca-key.pem": key, "root-cert.pem": roots}
		if chain != nil {
			f["cert-chain.pem"] = chain
		}
		return f
	}
	var long [][]byte
	for range limit.ChainCertificatesMax {
		long = append(long, newPair(t, "link", root, nil).pem())
	}
	for name, c := range map[string]struct {
		files map[string][]byte
		want  string
	}{
		"key of another":                {files(root, other.keyPEM(t), root.pem(), nil), "ca-key.pem does not belong to ca-cert.pem"},
		"not signed by the root":        {files(root, root.keyPEM(t), other.pem(), nil), "would not lead to a certificate in root-cert.pem"},
		"intermediate missing":          {files(signer, signer.keyPEM(t), root.pem(), nil), "would not lead to a certificate in root-cert.pem"},
		"expired":                       {files(expired, expired.keyPEM(t), expired.pem(), nil), "its certificate ended at"},
		"a workload's certificate":      {files(leaf, leaf.keyPEM(t), root.pem(), nil), "may not sign certificates"},
		"without keyCertSign":           {files(noSign, noSign.keyPEM(t), root.pem(), nil), "may not sign certificates"},
		"beyond the path length":        {files(below, below.keyPEM(t), root.pem(), narrow.pem()), "would not lead to a certificate in root-cert.pem"},
		"another trust domain only":     {files(constrained, constrained.keyPEM(t), constrained.pem(), nil), "would not lead to a certificate in root-cert.pem"},
		"key is no key":                 {files(root, []byte("x"), root.pem(), nil), "ca-key.pem"},
		"certificate is no certificate": {map[string][]byte{"ca-cert.pem": []byte("x"), "ca-key.pem": root.keyPEM(t), "root-cert.pem": root.pem()}, "ca-cert.pem"},
		"two signing certificates":      {map[string][]byte{"ca-cert.pem": append(root.pem(), root.pem()...), "ca-key.pem": root.keyPEM(t), "root-cert.pem": root.pem()}, "ca-cert.pem"},
		"a chain too long":              {files(root, root.keyPEM(t), root.pem(), bytes.Join(long, nil)), "cert-chain.pem: more than 9 certificates"},
	} {
		directory := writeFiles(t, c.files)
		_, err := ca.Load(directory, ca.Options{TrustDomains: domains(t)})
		if !errors.Is(err, ca.ErrAuthority) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), directory) {
			t.Errorf("%s: %v; want %q and the directory", name, err, c.want)
		}
	}
}

func TestLifetimesOfOptionsAreChecked(t *testing.T) {
	for name, c := range map[string]struct {
		options ca.Options
		good    bool
	}{
		"nothing":                  {ca.Options{}, true},
		"short default":            {ca.Options{TTLDefault: 20 * time.Second}, true},
		"long default":             {ca.Options{TTLDefault: 48 * time.Hour}, true},
		"short maximum":            {ca.Options{TTLMax: time.Hour}, true},
		"default of a second":      {ca.Options{TTLDefault: time.Second}, true},
		"default below a second":   {ca.Options{TTLDefault: time.Second - 1}, false},
		"default beyond maximum":   {ca.Options{TTLDefault: 2 * time.Hour, TTLMax: time.Hour}, false},
		"negative default":         {ca.Options{TTLDefault: -time.Hour}, false},
		"negative maximum":         {ca.Options{TTLMax: -time.Hour}, false},
		"default equal to maximum": {ca.Options{TTLDefault: time.Hour, TTLMax: time.Hour}, true},
	} {
		c.options.TrustDomains = domains(t)
		if _, err := ca.LoadOrCreate(filepath.Join(t.TempDir(), "ca"), c.options); (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
	directory := filepath.Join(t.TempDir(), "ca")
	if _, err := ca.LoadOrCreate(directory, ca.Options{}); err == nil || !strings.Contains(err.Error(), "no trust domain") {
		t.Errorf("without trust domain: %v", err)
	}
	if _, err := os.Stat(directory); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("bad options left a directory: %v", err)
	}
}
