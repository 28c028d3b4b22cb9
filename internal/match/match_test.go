package match_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/match"
)

// must unwraps a constructor whose pattern the test knows to be valid.
func must[T any](t testing.TB, v T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestStringMatchesAsEnvoyDoes(t *testing.T) {
	prefix := func(s string, c match.Case) match.String { v, err := match.Prefix(s, c); return must(t, v, err) }
	suffix := func(s string, c match.Case) match.String { v, err := match.Suffix(s, c); return must(t, v, err) }
	contains := func(s string, c match.Case) match.String { v, err := match.Contains(s, c); return must(t, v, err) }
	regex := func(s string) match.String { v, err := match.Regex(s); return must(t, v, err) }
	for _, c := range []struct {
		name    string
		pattern match.String
		yes, no []string
	}{
		{"the zero pattern takes all", match.String{}, []string{"", "x"}, nil},
		{"any takes the empty value", match.Any(), []string{"", "\x00"}, nil},
		{"exact", match.Exact("jason", match.CaseSensitive), []string{"jason"}, []string{"", "Jason", "jason ", "jaso"}},
		{"exact empty takes only the empty value", match.Exact("", match.CaseSensitive), []string{""}, []string{"x"}},
		{"exact in any case", match.Exact("JaSon", match.CaseIgnored), []string{"jason", "JASON"}, []string{"jasón", "jasons"}},
		{"case folds ASCII only", match.Exact("straße", match.CaseIgnored), []string{"STRAßE"}, []string{"STRASSE", "straSSe"}},
		{"prefix", prefix("/api", match.CaseSensitive), []string{"/api", "/apis", "/api/"}, []string{"/ap", "/API", ""}},
		{"prefix in any case", prefix("/Api", match.CaseIgnored), []string{"/API/x", "/api"}, []string{"/ap"}},
		{"suffix", suffix(".com", match.CaseSensitive), []string{".com", "a.com"}, []string{"com", "a.COM", ".com "}},
		{"suffix in any case", suffix(".COM", match.CaseIgnored), []string{"a.com"}, []string{"acom"}},
		{"contains", contains("mid", match.CaseSensitive), []string{"mid", "amidst"}, []string{"m-id", "MID", ""}},
		{"contains in any case", contains("MID", match.CaseIgnored), []string{"aMidst", "mid"}, []string{"mi", "mmiid"}},
		{"regex must match all", regex("v[0-9]+"), []string{"v1", "v22"}, []string{"v", "av1", "v1a", "v1\n"}},
		{"regex alternatives are grouped", regex("a|bc"), []string{"a", "bc"}, []string{"ac", "abc", "b"}},
		{"regex flags stay inside", regex("(?i)abc"), []string{"ABC"}, []string{"ABCD"}},
		{"regex dot takes no newline", regex(".*"), []string{"", "abc"}, []string{"a\nb"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, v := range c.yes {
				if !c.pattern.Match([]byte(v)) || !c.pattern.MatchString(v) {
					t.Errorf("%s does not match %q", c.pattern.String(), v)
				}
			}
			for _, v := range c.no {
				if c.pattern.Match([]byte(v)) || c.pattern.MatchString(v) {
					t.Errorf("%s matches %q", c.pattern.String(), v)
				}
			}
		})
	}
}

func TestConstructorsRefuseWhatCannotRun(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		make func() error
	}{
		{"empty prefix", match.ErrEmpty, func() error { _, err := match.Prefix("", match.CaseSensitive); return err }},
		{"empty suffix", match.ErrEmpty, func() error { _, err := match.Suffix("", match.CaseSensitive); return err }},
		{"empty contains", match.ErrEmpty, func() error { _, err := match.Contains("", match.CaseIgnored); return err }},
		{"open group", match.ErrRegex, func() error { _, err := match.Regex("("); return err }},
		{"a group closed from outside", match.ErrRegex, func() error { _, err := match.Regex(")|("); return err }},
		{"look-ahead, which RE2 lacks", match.ErrRegex, func() error { _, err := match.Regex("a(?=b)"); return err }},
		{"back reference, which RE2 lacks", match.ErrRegex, func() error { _, err := match.Regex(`(a)\1`); return err }},
		{"a program beyond the limit", match.ErrRegexLimit, func() error { _, err := match.Regex(strings.Repeat("a{900}", 12)); return err }},
		{"one byte beyond the limit", match.ErrRegexLimit, func() error { _, err := match.Regex(strings.Repeat("a", limit.RegexBytesMax+1)); return err }},
		{"an empty range", match.ErrRange, func() error { _, err := match.NewRange(5, 5); return err }},
		{"no address", match.ErrCIDR, func() error { _, err := match.NewCIDR("10.0.0.0/8", "host"); return err }},
		{"an address with a zone", match.ErrCIDR, func() error { _, err := match.NewCIDR("fe80::1%eth0"); return err }},
		{"too many bits", match.ErrCIDR, func() error { _, err := match.NewCIDR("10.0.0.0/33"); return err }},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.make(); !errors.Is(err, c.err) {
				t.Errorf("error is %v, want %v", err, c.err)
			}
		})
	}
	if _, err := match.Regex(strings.Repeat("a", limit.RegexBytesMax-10)); err != nil {
		t.Errorf("just below the limit: %v", err)
	}
}

func TestPatternsDescribeThemselves(t *testing.T) {
	p, err := match.Prefix("/API", match.CaseIgnored)
	must(t, p, err)
	for got, want := range map[string]string{
		p.String(): `prefix "/api" (any case)`,
		(&match.Header{Name: "end-user", Value: match.Exact("jason", match.CaseSensitive), Invert: true}).String():                      `not end-user exact "jason"`,
		(&match.Header{Name: "age", Kind: match.HeaderRange, Range: match.Range{Start: 1, End: 9}, TreatMissingAsEmpty: true}).String(): `age in [1, 9) (missing is empty)`,
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	exact := match.Exact("a", match.CaseSensitive)
	if text, ok := exact.Literal(); !ok || text != "a" {
		t.Errorf("literal is %q, %v", text, ok)
	}
	if _, ok := p.Literal(); ok {
		t.Error("a prefix is no literal")
	}
}

func TestHeaderPresenceAndInversion(t *testing.T) {
	jason := match.Exact("jason", match.CaseSensitive)
	teen := match.Range{Start: 13, End: 20}
	for _, c := range []struct {
		name    string
		header  match.Header
		value   string
		present bool
		want    bool
	}{
		{"equal value", match.Header{Value: jason}, "jason", true, true},
		{"other value", match.Header{Value: jason}, "bob", true, false},
		{"other value inverted", match.Header{Value: jason, Invert: true}, "bob", true, true},
		{"missing never matches", match.Header{Value: jason}, "", false, false},
		{"missing never matches inverted", match.Header{Value: jason, Invert: true}, "", false, false},
		{"missing as empty inverted", match.Header{Value: jason, Invert: true, TreatMissingAsEmpty: true}, "", false, true},
		{"missing as empty equals empty", match.Header{Value: match.Exact("", match.CaseSensitive), TreatMissingAsEmpty: true}, "", false, true},
		{"present", match.Header{Kind: match.HeaderPresent}, "", true, true},
		{"present wanted, missing", match.Header{Kind: match.HeaderPresent}, "", false, false},
		{"present inverted, missing", match.Header{Kind: match.HeaderPresent, Invert: true}, "", false, true},
		{"absent", match.Header{Kind: match.HeaderAbsent}, "", false, true},
		{"absent wanted, present", match.Header{Kind: match.HeaderAbsent}, "x", true, false},
		{"absent inverted", match.Header{Kind: match.HeaderAbsent, Invert: true}, "x", true, true},
		{"first of the range", match.Header{Kind: match.HeaderRange, Range: teen}, "13", true, true},
		{"end of the range is outside", match.Header{Kind: match.HeaderRange, Range: teen}, "20", true, false},
		{"below the range inverted", match.Header{Kind: match.HeaderRange, Range: teen, Invert: true}, "12", true, true},
		{"no number", match.Header{Kind: match.HeaderRange, Range: teen}, "13a", true, false},
		{"a number too long", match.Header{Kind: match.HeaderRange, Range: teen}, strings.Repeat("0", 30) + "13", true, false},
		{"negative numbers", match.Header{Kind: match.HeaderRange, Range: match.Range{Start: -5, End: 0}}, "-5", true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.header.Match([]byte(c.value), c.present); got != c.want {
				t.Errorf("%s with %q (present %v): %v", c.header.String(), c.value, c.present, got)
			}
		})
	}
}

func TestMatchingDoesNotAllocate(t *testing.T) {
	contains, err := match.Contains(strings.Repeat("long ", 20), match.CaseSensitive)
	must(t, contains, err)
	regex, err := match.Regex("/api/v[0-9]+/.*")
	must(t, regex, err)
	folded := match.Exact("End-User", match.CaseIgnored)
	template, err := match.NewTemplate("/api/{*}/items/{**}")
	must(t, template, err)
	header := match.Header{Kind: match.HeaderRange, Range: match.Range{Start: 1, End: 100}}
	var table match.HostTable[int]
	for i, d := range []string{"a.example.com", "*.example.com", "www.*", "*"} {
		if err := table.Add(d, i); err != nil {
			t.Fatal(err)
		}
	}
	path, host, number := []byte("/api/v1/items/x"), []byte("B.Example.com"), []byte("42")
	if n := testing.AllocsPerRun(200, func() {
		if contains.Match(path) || !regex.Match(path) || folded.Match(path) || !template.Match(path) || !header.Match(number, true) {
			t.Error("wrong match")
		}
		if v, ok := table.Find(host); !ok || v != 1 {
			t.Error("wrong host")
		}
	}); n != 0 {
		t.Errorf("%v allocations per match, want 0", n)
	}
}

// The byte matcher is the fast one; the plain reference is written with package strings.
func FuzzStringAgreesWithReference(f *testing.F) {
	f.Add("abc", "xabcx", uint8(3), true)
	f.Add("", "", uint8(0), false)
	f.Add("É", "é", uint8(1), true)
	f.Fuzz(func(t *testing.T, pattern, value string, op uint8, fold bool) {
		c, p, v := match.CaseSensitive, pattern, value
		if fold {
			c, p, v = match.CaseIgnored, asciiLower(pattern), asciiLower(value)
		}
		var s match.String
		var err error
		var want bool
		switch op % 4 {
		case 0:
			s, want = match.Exact(pattern, c), p == v
		case 1:
			s, err = match.Prefix(pattern, c)
			want = strings.HasPrefix(v, p)
		case 2:
			s, err = match.Suffix(pattern, c)
			want = strings.HasSuffix(v, p)
		case 3:
			s, err = match.Contains(pattern, c)
			want = strings.Contains(v, p)
		}
		if err != nil {
			if pattern != "" {
				t.Fatalf("%q refused: %v", pattern, err)
			}
			return
		}
		if got := s.Match([]byte(value)); got != want || s.MatchString(value) != want {
			t.Errorf("%s on %q: %v, want %v", s.String(), value, got, want)
		}
	})
}

func asciiLower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 32
		}
	}
	return string(b)
}
