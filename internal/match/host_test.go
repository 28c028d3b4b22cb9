package match_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/match"
)

func TestHostsOverlapAndContainAsInIstio(t *testing.T) {
	for _, c := range []struct {
		a, b            string
		overlap, within bool
	}{
		{"foo.com", "foo.com", true, true},
		{"foo.com", "bar.com", false, false},
		{"*.com", "foo.com", true, false},
		{"foo.com", "*.com", true, true},
		{"*.foo.com", "*.com", true, true},
		{"*.com", "*.foo.com", true, false},
		{"*.foo.com", "*.bar.com", false, false},
		{"*", "foo.com", true, false},
		{"foo.com", "*", true, true},
		{"*", "*", true, true},
		{"*", "*.com", true, false},
		{"*foo.com", "barfoo.com", true, false},
		{"foo.com", "*.foo.com", false, false},
		{"", "*", true, true},
		{"", "", true, true},
	} {
		if got := match.HostsOverlap(c.a, c.b); got != c.overlap {
			t.Errorf("HostsOverlap(%q, %q) is %v", c.a, c.b, got)
		}
		if match.HostsOverlap(c.b, c.a) != c.overlap {
			t.Errorf("HostsOverlap(%q, %q) depends on the order", c.a, c.b)
		}
		if got := match.HostWithin(c.a, c.b); got != c.within {
			t.Errorf("HostWithin(%q, %q) is %v", c.a, c.b, got)
		}
	}
}

func TestMoreSpecificHostsComeFirst(t *testing.T) {
	hosts := []string{"*", "*.com", "a.com", "*.foo.com", "b.com", "a.foo.com", "*.bar.com"}
	slices.SortFunc(hosts, match.CompareHosts)
	want := "a.foo.com a.com b.com *.bar.com *.foo.com *.com *"
	if got := strings.Join(hosts, " "); got != want {
		t.Errorf("order is %s, want %s", got, want)
	}
}

func TestHostTableFollowsEnvoysPrecedence(t *testing.T) {
	var table match.HostTable[string]
	for _, d := range []string{"*", "*.com", "*.Foo.com", "*-bar.foo.com", "a.foo.com", "www.foo.*", "www.*"} {
		if err := table.Add(d, d); err != nil {
			t.Fatal(err)
		}
	}
	for host, want := range map[string]string{
		"a.foo.com":     "a.foo.com",
		"A.FOO.COM":     "a.foo.com",
		"b.foo.com":     "*.Foo.com",
		"x-bar.foo.com": "*-bar.foo.com",
		"-bar.foo.com":  "*.Foo.com", // a wildcard stands for at least one character
		"other.com":     "*.com",
		"www.foo.org":   "www.foo.*",
		"www.org":       "www.*",
		"www.":          "*",
		"localhost":     "*",
		"":              "*",
		"a.foo.com:80":  "*", // the port is the caller's to strip
	} {
		if got, ok := table.Find([]byte(host)); !ok || got != want {
			t.Errorf("%q finds %q, want %q", host, got, want)
		}
	}
}

func TestHostTableRefusesDuplicatesAndMisplacedWildcards(t *testing.T) {
	var table match.HostTable[int]
	for _, d := range []string{"a.com", "*.com", "www.*", "*"} {
		if err := table.Add(d, 1); err != nil {
			t.Fatal(err)
		}
		if err := table.Add(strings.ToUpper(d), 2); !errors.Is(err, match.ErrTaken) {
			t.Errorf("second %s: %v", d, err)
		}
	}
	for _, d := range []string{"", "a.*.com", "*.a.*", "**"} {
		if err := table.Add(d, 1); !errors.Is(err, match.ErrDomain) {
			t.Errorf("%q: %v", d, err)
		}
	}
	var empty match.HostTable[int]
	if _, ok := empty.Find([]byte("a")); ok {
		t.Error("the empty table finds something")
	}
}

func TestCIDRListsMatchBothFamilies(t *testing.T) {
	c, err := match.NewCIDR("10.1.2.3/8", "192.168.0.7", "2001:db8::/32", "::ffff:172.16.0.0/108")
	if err != nil {
		t.Fatal(err)
	}
	if want := "10.0.0.0/8, 192.168.0.7/32, 2001:db8::/32, 172.16.0.0/12"; c.String() != want {
		t.Errorf("%s, want %s", c.String(), want)
	}
	for addr, want := range map[string]bool{
		"10.255.255.255": true, "11.0.0.0": false, "192.168.0.7": true, "192.168.0.8": false,
		"2001:db8:1::1": true, "2001:db9::": false, "::ffff:10.0.0.1": true, "172.31.0.1": true, "172.32.0.1": false,
	} {
		if got := c.Match(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %v, want %v", addr, got, want)
		}
	}
	var none match.CIDR
	if none.Match(netip.MustParseAddr("10.0.0.1")) || !none.Empty() || c.Empty() {
		t.Error("the zero list contains something")
	}
	if c.Match(netip.Addr{}) {
		t.Error("an unknown address is in a range")
	}
}

func TestTemplatesMatchWholeSegments(t *testing.T) {
	for _, c := range []struct {
		template string
		yes, no  []string
	}{
		{"/foo/{*}", []string{"/foo/bar", "/foo/b.r"}, []string{"/foo", "/foo/", "/foo/bar/", "/foo/bar/x", "/foo/a b"}},
		{"/{*}/foo", []string{"/a/foo"}, []string{"//foo", "/foo", "/a/foobar", "/a/b/foo"}},
		{"/foo/{**}", []string{"/foo/", "/foo/a", "/foo/a/b"}, []string{"/foo", "/foobar", "/foo/a\x00"}},
		{"/foo/{**}/bar", []string{"/foo//bar", "/foo/a/bar", "/foo/a/b/bar"}, []string{"/foo/bar", "/foo/a/barx"}},
		{"/{*}/{**}/x/y", []string{"/a/b/x/y", "/a//x/y"}, []string{"/a/x/y", "/a/b/x"}},
		{"/{**}", []string{"/", "/a/b"}, []string{"", "a"}},
		{"/a/{*}/", []string{"/a/b/"}, []string{"/a/b"}},
		{"/plain", []string{"/plain"}, []string{"/plain/", "/plainer", "/"}},
	} {
		p, err := match.NewTemplate(c.template)
		if err != nil {
			t.Errorf("%s: %v", c.template, err)
			continue
		}
		for _, path := range c.yes {
			if !p.Match([]byte(path)) {
				t.Errorf("%s does not match %q", c.template, path)
			}
		}
		for _, path := range c.no {
			if p.Match([]byte(path)) {
				t.Errorf("%s matches %q", c.template, path)
			}
		}
	}
}

func TestTemplatesRefuseWhatIstioRefuses(t *testing.T) {
	for _, path := range []string{
		"foo/{*}", "", "/foo/{**}/{*}", "/{**}/{**}", "/foo/{*}.txt", "/foo/{", "/{x}", "/a/{*}b", "/a b/{*}", "/a//{*}", "/*/x",
		"/" + strings.Repeat("a/", 100),
	} {
		if _, err := match.NewTemplate(path); !errors.Is(err, match.ErrTemplate) {
			t.Errorf("%q: %v", path, err)
		}
	}
	if !match.HasTemplate("/a/{*}") || !match.HasTemplate("/{**}") || match.HasTemplate("/a/*") {
		t.Error("operators are not recognized")
	}
}

// A template and the host table take what strangers send: any bytes must be safe.
func FuzzPathsAndHosts(f *testing.F) {
	f.Add("/a/{*}/{**}/z", "/a/b/c/z", "*.foo.com", "x.foo.com")
	f.Fuzz(func(t *testing.T, template, path, domain, host string) {
		if p, err := match.NewTemplate(template); err == nil && p.Match([]byte(path)) && !strings.HasPrefix(path, "/") {
			t.Errorf("%q matches %q, which is no path", template, path)
		}
		var table match.HostTable[bool]
		if err := table.Add(domain, true); err != nil {
			return
		}
		if _, found := table.Find([]byte(host)); found != reference(domain, host) {
			t.Errorf("%q finds %q: %v", domain, host, found)
		}
	})
}

// reference says plainly what one domain of a table matches.
func reference(domain, host string) bool {
	d, h := asciiLower(domain), asciiLower(host)
	switch {
	case d == "*":
		return true
	case strings.HasPrefix(d, "*"):
		return len(h) > len(d)-1 && strings.HasSuffix(h, d[1:])
	case strings.HasSuffix(d, "*"):
		return len(h) > len(d)-1 && strings.HasPrefix(h, d[:len(d)-1])
	}
	return d == h
}
