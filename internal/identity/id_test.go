package identity_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/identity"
	"github.com/tullemesh/tulle/internal/limit"
)

func TestParseReadsBackWhatStringWrites(t *testing.T) {
	for _, s := range []string{
		"spiffe://cluster.local/ns/shop/sa/cart",
		"spiffe://td/ns/a/sa/b",
		"spiffe://my_td-1.example/ns/n-1/sa/My_App.v2",
		"spiffe://ns/ns/ns/sa/sa",
	} {
		id, err := identity.Parse(s)
		if err != nil {
			t.Errorf("%s: %v", s, err)
			continue
		}
		if id.String() != s || id.URL().String() != s || "spiffe://"+id.Principal() != s {
			t.Errorf("%s came back as %s, URL %s, principal %s", s, id, id.URL(), id.Principal())
		}
		if err := id.Validate(); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
}

func TestMalformedIDsAreRefused(t *testing.T) {
	for name, s := range map[string]string{
		"empty":                       "",
		"no scheme":                   "cluster.local/ns/shop/sa/cart",
		"another scheme":              "https://cluster.local/ns/shop/sa/cart",
		"upper-case scheme":           "SPIFFE://cluster.local/ns/shop/sa/cart",
		"upper-case trust domain":     "spiffe://Cluster.local/ns/shop/sa/cart",
		"no trust domain":             "spiffe:///ns/shop/sa/cart",
		"port in the trust domain":    "spiffe://cluster.local:80/ns/shop/sa/cart",
		"user in the trust domain":    "spiffe://me@cluster.local/ns/shop/sa/cart",
		"query":                       "spiffe://cluster.local/ns/shop/sa/cart?x=1",
		"fragment":                    "spiffe://cluster.local/ns/shop/sa/cart#x",
		"percent-encoding":            "spiffe://cluster.local/ns/sh%6fp/sa/cart",
		"slash at the end":            "spiffe://cluster.local/ns/shop/sa/cart/",
		"two slashes":                 "spiffe://cluster.local//ns/shop/sa/cart",
		"empty namespace":             "spiffe://cluster.local/ns//sa/cart",
		"dot segment":                 "spiffe://cluster.local/ns/./sa/cart",
		"dot-dot segment":             "spiffe://cluster.local/ns/shop/sa/..",
		"another path":                "spiffe://cluster.local/workload/cart",
		"more path":                   "spiffe://cluster.local/ns/shop/sa/cart/x",
		"less path":                   "spiffe://cluster.local/ns/shop",
		"parts exchanged":             "spiffe://cluster.local/sa/cart/ns/shop",
		"non-ASCII":                   "spiffe://cluster.local/ns/shöp/sa/cart",
		"invalid UTF-8":               "spiffe://cluster.local/ns/\xff/sa/cart",
		"zero byte":                   "spiffe://cluster.local/ns/shop/sa/cart\x00",
		"space":                       "spiffe://cluster.local/ns/shop/sa/ca rt",
		"wildcard of a policy":        "spiffe://cluster.local/ns/shop/sa/*",
		"trust domain alone":          "spiffe://cluster.local",
		"trust domain beyond 255":     "spiffe://" + strings.Repeat("a", limit.TrustDomainBytesMax+1) + "/ns/shop/sa/cart",
		"more than 2048 bytes in all": "spiffe://td/ns/shop/sa/" + strings.Repeat("a", limit.SPIFFEIDBytesMax),
	} {
		t.Run(name, func(t *testing.T) {
			if id, err := identity.Parse(s); !errors.Is(err, identity.ErrID) {
				t.Errorf("Parse gave %+v, %v; want ErrID", id, err)
			}
		})
	}
}

func TestLengthLimitsOfAnID(t *testing.T) {
	of := func(bytes int) string {
		s := "spiffe://td/ns/shop/sa/"
		return s + strings.Repeat("a", bytes-len(s))
	}
	domain := func(bytes int) string { return "spiffe://" + strings.Repeat("a", bytes) + "/ns/n/sa/s" }
	for _, c := range []struct {
		name string
		s    string
		good bool
	}{
		{"one byte less than the limit", of(limit.SPIFFEIDBytesMax - 1), true},
		{"at the limit", of(limit.SPIFFEIDBytesMax), true},
		{"one byte more than the limit", of(limit.SPIFFEIDBytesMax + 1), false},
		{"trust domain of one byte less than the limit", domain(limit.TrustDomainBytesMax - 1), true},
		{"trust domain at the limit", domain(limit.TrustDomainBytesMax), true},
		{"trust domain of one byte more than the limit", domain(limit.TrustDomainBytesMax + 1), false},
	} {
		if _, err := identity.Parse(c.s); (err == nil) != c.good {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestForeignIDsAreURIs(t *testing.T) {
	for _, s := range []string{"spiffe://other.example", "spiffe://other.example/workload/cart", "spiffe://other.example/ns/shop/sa/cart/x"} {
		u, err := identity.ParseURI(s)
		if err != nil || string(u) != s || u.TrustDomain() != "other.example" {
			t.Errorf("%s: %q of %q, %v", s, u, u.TrustDomain(), err)
		}
		if id, ok := u.ID(); ok {
			t.Errorf("%s is %s in Istio's form", s, id)
		}
	}
}

// A part with a slash could otherwise pass for another workload.
func TestPartsThatWouldMoveTheBordersAreRefused(t *testing.T) {
	for _, id := range []identity.ID{
		{},
		{TrustDomain: "td", Namespace: "shop"},
		{TrustDomain: "td", Namespace: "a/sa/b", ServiceAccount: "c"},
		{TrustDomain: "td/ns/x", Namespace: "shop", ServiceAccount: "cart"},
		{TrustDomain: "td", Namespace: "shop", ServiceAccount: "cart/../admin"},
		{TrustDomain: "", Namespace: "shop", ServiceAccount: "cart"},
	} {
		if err := id.Validate(); !errors.Is(err, identity.ErrID) {
			t.Errorf("%+v: %v, want ErrID", id, err)
		}
	}
}

func TestTrustDomainAliasesMeanTheSameMesh(t *testing.T) {
	domains, err := identity.NewTrustDomains("new.example", "old.example", "new.example", "older.example")
	if err != nil {
		t.Fatal(err)
	}
	if domains.Own() != "new.example" || !domains.Contains("older.example") || domains.Contains("example") || domains.Contains("") {
		t.Errorf("own %q", domains.Own())
	}
	if _, err := identity.NewTrustDomains("ok.example", "Bad"); !errors.Is(err, identity.ErrID) {
		t.Errorf("bad alias: %v, want ErrID", err)
	}
	var none identity.TrustDomains
	if none.Own() != "" || none.Contains("") {
		t.Error("the zero value contains something")
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"spiffe://cluster.local/ns/shop/sa/cart", "spiffe://td", "spiffe://a/ns/../sa/b", "spiffe://a/ns/%2e/sa/b", "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, uriErr := identity.ParseURI(s)
		id, err := identity.Parse(s)
		if err == nil && uriErr != nil {
			t.Fatalf("%q is an ID and no URI: %v", s, uriErr)
		}
		if uriErr == nil && (string(u) != s || identity.ValidateTrustDomain(u.TrustDomain()) != nil) {
			t.Fatalf("%q was read as %q", s, u)
		}
		if err != nil {
			return
		}
		if id.String() != s || id.URL().String() != s || id.Validate() != nil {
			t.Fatalf("%q was read as %+v", s, id)
		}
		if id.URL().Host != id.TrustDomain || strings.ContainsAny(id.Namespace+id.ServiceAccount, "/%?#") {
			t.Fatalf("%q was taken apart as %+v", s, id)
		}
	})
}
