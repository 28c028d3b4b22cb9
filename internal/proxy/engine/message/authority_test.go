package message

import (
	"net/url"
	"strings"
	"testing"
)

func TestAuthorities(t *testing.T) {
	for authority, want := range map[string]struct{ host, port bool }{ // as Host, and where a port is wanted
		"shop.example": {true, false}, "shop.example:80": {true, true}, "shop.example:": {true, false}, "SHOP": {true, false},
		"127.0.0.1:65535": {true, true}, "[::1]": {true, false}, "[::1]:8": {true, true}, "a%20b": {true, false}, "a_b.c-d~": {true, false},
		"": {}, ":80": {}, "shop.example:65536": {}, "shop.example:http": {}, "shop.example:80:80": {}, "me@shop.example": {}, "a,b": {}, "a b": {}, "a/b": {},
		"[::1": {}, "[::1]8": {}, "[shop]": {}, "[::1%25eth0]": {}, "[]": {}, "::1": {}, "a]": {}, "a%": {}, "a%2": {}, "a%zz": {}, "\u00e4": {},
	} {
		if got := ValidAuthority([]byte(authority), false); got != want.host {
			t.Errorf("%q as Host: %t", authority, got)
		}
		if got := ValidAuthority([]byte(authority), true); got != want.port {
			t.Errorf("%q with a port: %t", authority, got)
		}
	}
}

// What is accepted as an authority is one for net/url, too, with the same host
// and port and no user.
func FuzzAuthority(f *testing.F) {
	for _, seed := range []string{"a", "a:80", "a:", "[::1]", "[::1]:8", "[::]", "127.0.0.1:65535", "a:65536", "u@a", "a%20b", "a%", "[::1%25eth0]", "[a]", "a_b.c-d~", "!$&'()*+;=", "", ":", "[]", "a:b:c", "é"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		if !ValidAuthority([]byte(raw), false) {
			return
		}
		if strings.Contains(raw, "%") {
			return // net/url decodes host names, which we leave as they are
		}
		u, err := url.Parse("http://" + raw + "/")
		if err != nil || u.Host != raw || u.User != nil || u.Path != "/" {
			t.Fatalf("%q: %+v, %v", raw, u, err)
		}
	})
}
