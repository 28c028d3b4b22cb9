package proxyrun

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/tullemesh/tulle/internal/control/ca"
	"github.com/tullemesh/tulle/internal/identity"
)

// Authority issues certificates of the trust domain cluster.local.
type Authority struct {
	dir string
	ca  *ca.Authority
}

// NewAuthority returns one whose files live as long as the test.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	domains, err := identity.NewTrustDomains("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	a := &Authority{dir: t.TempDir()}
	if a.ca, err = ca.LoadOrCreate(filepath.Join(a.dir, "ca"), ca.Options{TrustDomains: domains}); err != nil {
		t.Fatal(err)
	}
	return a
}

// Issue returns the credentials of a service account in the namespace demo; names are DNS names of its certificate.
func (a *Authority) Issue(t testing.TB, account string, names ...string) *Credentials {
	t.Helper()
	b, err := a.ca.Issue(identity.ID{TrustDomain: "cluster.local", Namespace: "demo", ServiceAccount: account}, names, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, data []byte) string {
		path := filepath.Join(a.dir, account+"."+name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return &Credentials{Chain: write("chain", b.Chain), Key: write("key", b.Key.PEM()), Roots: write("roots", b.Roots)}
}
