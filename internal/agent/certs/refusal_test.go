package certs_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tullemesh/tulle/internal/agent/certs"
	"github.com/tullemesh/tulle/internal/identity"
	"github.com/tullemesh/tulle/internal/identity/keyfile"
)

// lines is a log that tests read.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *lines) contains(s string) bool { return strings.Contains(l.String(), s) }

func logger() (*slog.Logger, *lines) {
	l := &lines{}
	return slog.New(slog.NewTextHandler(l, nil)), l
}

// The request proves the key, names the identity and holds nothing secret.
func TestRequestProvesTheKeyAndKeepsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []byte
		_, stop := run(t, certs.Options{
			ID: cart(), Token: func(context.Context) (identity.Token, error) { return identity.NewToken("t"), nil },
			Authority: authority(func(_ context.Context, csr []byte, c certs.Credential) ([]string, error) {
				got = csr
				if c.Certificate != nil || c.Token.Reveal() != "t" {
					t.Errorf("credential %v", c)
				}
				return nil, errors.New("no")
			}),
		})
		synctest.Wait()
		stop()
		block, rest := pem.Decode(got)
		if block == nil || len(rest) != 0 || block.Type != "CERTIFICATE REQUEST" {
			t.Fatalf("request %q", got)
		}
		request, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if err := request.CheckSignature(); err != nil || len(request.URIs) != 1 || request.URIs[0].String() != cart().String() {
			t.Errorf("names %v, signature %v", request.URIs, err)
		}
	})
}

func TestUnusableAnswersAreRefusedAndTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t, time.Hour)
		defer m.stop()
		foreign := newMesh(t, time.Hour)
		defer foreign.stop()
		sign := func(m *mesh, csr []byte, id identity.ID, ttl time.Duration) []string {
			issued, err := m.authority.Sign(csr, id, ttl)
			if err != nil {
				t.Fatal(err)
			}
			return []string{string(issued.Chain()), string(issued.Roots())}
		}
		other, err := m.authority.Issue(cart(), nil, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for name, c := range map[string]struct {
			answer func(csr []byte) []string
			want   error
		}{
			"nothing":    {func([]byte) []string { return nil }, identity.ErrCertificate},
			"text":       {func([]byte) []string { return []string{"x", "y"} }, identity.ErrCertificate},
			"no root":    {func(csr []byte) []string { return sign(m, csr, cart(), 0)[:1] }, identity.ErrCertificate},
			"roots only": {func([]byte) []string { r := string(m.authority.Roots()); return []string{r, r} }, identity.ErrCertificate},
			"another's identity": {func(csr []byte) []string {
				return sign(m, csr, identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "other"}, 0)
			}, identity.ErrIdentity},
			"another's key": {func([]byte) []string { return []string{string(other.Chain), string(other.Roots)} }, identity.ErrKey},
			"another root": {func(csr []byte) []string {
				return []string{sign(m, csr, cart(), 0)[0], string(foreign.authority.Roots())}
			}, identity.ErrUntrusted},
			"expired": {func(csr []byte) []string {
				chain := sign(m, csr, cart(), time.Second)
				<-time.After(2 * time.Second)
				return chain
			}, identity.ErrExpired},
		} {
			log, text := logger()
			calls := 0
			options := certs.Options{
				ID: cart(), Log: log, Token: m.options().Token,
				Authority: authority(func(_ context.Context, csr []byte, _ certs.Credential) ([]string, error) {
					if calls++; calls == 1 {
						return c.answer(csr), nil
					}
					return sign(m, csr, cart(), 0), nil
				}),
			}
			k, stop := run(t, options)
			changes := k.Watch(t.Context())
			<-changes
			stop()
			if !text.contains(certs.ErrIssued.Error()) || !text.contains(c.want.Error()) {
				t.Errorf("%s: log:\n%s\nwant %q", name, text, c.want)
			}
			if k.Current().Verify(time.Now()) != nil || calls != 2 {
				t.Errorf("%s: after %d calls the certificate is %v", name, calls, k.Current())
			}
		}
	})
}

// Somebody in the place of the control plane gets neither token nor request.
func TestImpostorOfTheAuthorityIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, impostor := newMesh(t, time.Hour), newMesh(t, time.Hour)
		defer m.stop()
		defer impostor.stop()
		options := m.options()
		options.Authority = impostor.client(m.authority.Roots())
		log, text := logger()
		options.Log = log
		k, stop := run(t, options)
		pass(time.Second)
		stop()
		if k.Current() != nil || !text.contains("certificate signed by unknown authority") {
			t.Errorf("certificate %v, log:\n%s", k.Current(), text)
		}
	})
}

func TestIncompleteOptionsAreRefused(t *testing.T) {
	nobody := authority(nil)
	if _, err := certs.New(certs.Options{Authority: nobody}); !errors.Is(err, identity.ErrID) {
		t.Errorf("without identity: %v", err)
	}
	if _, err := certs.New(certs.Options{ID: cart()}); err == nil {
		t.Error("without authority: accepted")
	}
	roots := func() ([]byte, error) { return nil, errors.New("gone") }
	if _, err := certs.NewClient(certs.ClientOptions{Address: "no-port", Roots: roots}); err == nil {
		t.Error("address without port: accepted")
	}
	if _, err := certs.NewClient(certs.ClientOptions{Address: "127.0.0.1:1"}); err == nil {
		t.Error("without roots: accepted")
	}
	c, err := certs.NewClient(certs.ClientOptions{Address: "127.0.0.1:1", Roots: roots})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Create(t.Context(), nil, 0, certs.Credential{}); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("unreadable roots: %v", err)
	}
}

// A proxy restarted while the control plane is gone has its certificate at
// once, before Run, and renews it when the time of the first one has come.
func TestRestartWithoutControlPlaneUsesTheKeptCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t, time.Hour)
		options := m.options()
		options.Directory = filepath.Join(t.TempDir(), "state", "cart")
		k, stop := run(t, options)
		synctest.Wait()
		first := k.Current()
		stop()
		m.stop()
		pass(10 * time.Minute)

		options.Token = nil
		k, stop = run(t, options)
		defer stop()
		if b := k.Current(); b == nil || serial(b) != serial(first) || !bytes.Equal(b.Key.PEM(), first.Key.PEM()) || !bytes.Equal(b.Roots, first.Roots) {
			t.Fatal("the restarted keeper has another certificate")
		}
		m.start()
		defer func() { m.stop() }()
		pass(15 * time.Minute)
		if serial(k.Current()) != serial(first) {
			t.Error("renewed after 25 minutes of an hour")
		}
		pass(10 * time.Minute)
		if serial(k.Current()) == serial(first) {
			t.Error("not renewed after 35 minutes of an hour")
		}
	})
}

func TestStateIsPrivateAndFollowsEachRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t, 20*time.Second)
		defer m.stop()
		options := m.options()
		options.Directory = filepath.Join(t.TempDir(), "cart")
		k, stop := run(t, options)
		defer stop()
		for range 3 {
			pass(12 * time.Second)
			restarted, err := certs.New(options)
			if err != nil {
				t.Fatal(err)
			}
			if b := restarted.Current(); b == nil || serial(b) != serial(k.Current()) {
				t.Errorf("on disk is %v, published is %v", b, k.Current())
			}
		}
		if info, _ := os.Stat(options.Directory); info.Mode().Perm() != 0o700 {
			t.Errorf("directory mode %v", info.Mode())
		}
		entries, err := os.ReadDir(options.Directory)
		if err != nil || len(entries) != 1 {
			t.Fatalf("state holds %v, %v", entries, err)
		}
		if info, _ := entries[0].Info(); info.Mode() != 0o600 {
			t.Errorf("file mode %v", info.Mode())
		}
	})
}

// kept returns a directory with the state of a good certificate, and the state.
func kept(t *testing.T, m *mesh) (certs.Options, string, map[string]any) {
	t.Helper()
	options := m.options()
	options.Directory = filepath.Join(t.TempDir(), "cart")
	_, stop := run(t, options)
	synctest.Wait()
	stop()
	path := filepath.Join(options.Directory, "workload.json")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var document map[string]any
	if err := json.Unmarshal(data, &document); err != nil {
		t.Fatal(err)
	}
	return options, path, document
}

func TestTamperedStateIsNotUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, foreign := newMesh(t, time.Hour), newMesh(t, time.Hour)
		defer m.stop()
		defer foreign.stop()
		options, path, good := kept(t, m)
		other, err := m.authority.Issue(identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "other"}, nil, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		short, err := m.authority.Issue(cart(), nil, nil, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		pass(2 * time.Second)
		with := func(changes map[string]any) []byte {
			document := map[string]any{}
			for name, value := range good {
				document[name] = value
			}
			for name, value := range changes {
				document[name] = value
			}
			data, err := json.Marshal(document)
			if err != nil {
				t.Fatal(err)
			}
			return data
		}
		of := func(b *identity.Bundle) []byte {
			return with(map[string]any{"chain": string(b.Chain), "key": string(b.Key.PEM()), "roots": string(b.Roots)})
		}
		for name, data := range map[string][]byte{
			"an empty file":         {},
			"half a file":           with(nil)[:200],
			"no document":           []byte("x"),
			"two documents":         append(with(nil), with(nil)...),
			"an unknown field":      with(map[string]any{"comment": "x"}),
			"another version":       with(map[string]any{"version": 2}),
			"another key":           with(map[string]any{"key": string(other.Key.PEM())}),
			"no key":                with(map[string]any{"key": ""}),
			"no roots":              with(map[string]any{"roots": ""}),
			"another root":          with(map[string]any{"roots": string(foreign.authority.Roots())}),
			"another's certificate": of(other),
			"an expired one":        of(short),
			"too large":             append(with(nil), bytes.Repeat([]byte(" "), 1<<20)...),
		} {
			if err := keyfile.Replace(path, data); err != nil {
				t.Fatal(err)
			}
			log, text := logger()
			options.Log = log
			k, err := certs.New(options)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if k.Current() != nil || !text.contains("kept certificate is not used") || text.contains("BEGIN") {
				t.Errorf("%s: certificate %v, log:\n%s", name, k.Current(), text)
			}
		}
		// The control: untouched it is used.
		if err := keyfile.Replace(path, with(nil)); err != nil {
			t.Fatal(err)
		}
		if k, err := certs.New(options); err != nil || k.Current() == nil {
			t.Errorf("the untouched state: %v", err)
		}
	})
}

func FuzzKeptState(f *testing.F) {
	m := newMesh(f, time.Hour)
	m.stop()
	b, err := m.authority.Issue(cart(), nil, nil, 0)
	if err != nil {
		f.Fatal(err)
	}
	good, err := json.Marshal(map[string]any{
		"version": 1, "obtained": time.Now(), "chain": string(b.Chain), "key": string(b.Key.PEM()), "roots": string(b.Roots),
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"version":1}`))
	f.Add([]byte("{"))
	options := m.options()
	options.Directory = filepath.Join(f.TempDir(), "cart")
	if err := keyfile.MakeDirectory(options.Directory); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(filepath.Join(options.Directory, "workload.json"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		k, err := certs.New(options)
		if err != nil {
			t.Fatal(err)
		}
		got := k.Current()
		if got != nil && (got.ID != cart() || got.Verify(time.Now()) != nil || !got.Key.Matches(got.Certificate().Leaf.PublicKey)) {
			t.Fatalf("an unusable certificate was restored: %s", got)
		}
		if bytes.Equal(data, good) && got == nil {
			t.Fatal("the good state is not used")
		}
	})
}

func TestExposedStateIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t, time.Hour)
		defer m.stop()
		options, path, _ := kept(t, m)
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := certs.New(options); !errors.Is(err, keyfile.ErrExposed) {
			t.Errorf("readable file: %v, want ErrExposed", err)
		}
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(options.Directory, 0o777); err != nil {
			t.Fatal(err)
		}
		if _, err := certs.New(options); !errors.Is(err, keyfile.ErrExposed) {
			t.Errorf("writable directory: %v, want ErrExposed", err)
		}
	})
}

// A full or vanished disk costs only the restart.
func TestDiskFailureDoesNotStopRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t, 20*time.Second)
		defer m.stop()
		options := m.options()
		options.Directory = filepath.Join(t.TempDir(), "cart")
		log, text := logger()
		options.Log = log
		k, stop := run(t, options)
		defer stop()
		synctest.Wait()
		first := serial(k.Current())
		if err := os.RemoveAll(options.Directory); err != nil {
			t.Fatal(err)
		}
		pass(15 * time.Second)
		if serial(k.Current()) == first {
			t.Error("not renewed")
		}
		if !text.contains("certificate is not kept on disk") {
			t.Errorf("log:\n%s", text)
		}
	})
}

// Several roots come as several certificates at the end, each for itself.
func TestAllRootsOfAnAnswerAreTrusted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, second := newMesh(t, time.Hour), newMesh(t, time.Hour)
		defer m.stop()
		defer second.stop()
		options := m.options()
		options.Authority = authority(func(_ context.Context, csr []byte, _ certs.Credential) ([]string, error) {
			issued, err := m.authority.Sign(csr, cart(), 0)
			return []string{string(issued.Chain()), string(second.authority.Roots()), string(issued.Roots())}, err
		})
		k, stop := run(t, options)
		defer stop()
		synctest.Wait()
		b := k.Current()
		if b == nil {
			t.Fatal("no certificate")
		}
		if len(b.Certificate().Certificate) != 1 || !bytes.Equal(b.Roots, append(second.authority.Roots(), m.authority.Roots()...)) {
			t.Errorf("%d certificates in the chain, roots:\n%s", len(b.Certificate().Certificate), b.Roots)
		}
	})
}
