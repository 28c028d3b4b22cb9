package match_test

import (
	"errors"
	"regexp/syntax"
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/match"
)

// program is how many instructions an expression takes.
func program(t *testing.T, expression string) int {
	t.Helper()
	parsed, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		t.Fatal(err)
	}
	p, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		t.Fatal(err)
	}
	return len(p.Inst)
}

func TestProgramsAndTemplatesHaveALargestSize(t *testing.T) {
	// A repetition of one letter takes an instruction for each time.
	most := strings.Repeat("a{1000}", 9)
	base := program(t, most)
	for _, n := range []int{limit.RegexProgramMax - 1, limit.RegexProgramMax, limit.RegexProgramMax + 1} {
		expression := most + strings.Repeat("a", n-base)
		if got := program(t, expression); got != n {
			t.Fatalf("%d instructions, want %d", got, n)
		}
		if _, err := match.CompileSearch(expression); errors.Is(err, match.ErrRegexLimit) != (n > limit.RegexProgramMax) {
			t.Errorf("%d instructions: %v", n, err)
		}
	}
	for _, n := range []int{limit.TemplateSegmentsMax - 1, limit.TemplateSegmentsMax, limit.TemplateSegmentsMax + 1} {
		if _, err := match.NewTemplate(strings.Repeat("/a", n)); errors.Is(err, match.ErrTemplate) != (n > limit.TemplateSegmentsMax) {
			t.Errorf("%d segments: %v", n, err)
		}
	}
}

func TestRegisteredStatusCodesAreKnown(t *testing.T) {
	for code, want := range map[int]bool{100: true, 200: true, 503: true, 511: true, 0: false, 99: false, 299: false, 600: false, -200: false} {
		if match.KnownStatus(code) != want {
			t.Errorf("%d: known %t, want %t", code, !want, want)
		}
	}
}

func TestExpressionsHaveALargestLength(t *testing.T) {
	const most = limit.RegexBytesMax
	for _, n := range []int{most - 1, most, most + 1} {
		if _, err := match.Regex(strings.Repeat("a", n)); errors.Is(err, match.ErrRegexLimit) != (n > most) || err != nil && n <= most {
			t.Errorf("an expression of %d bytes, the limit is %d: %v", n, most, err)
		}
	}
}
