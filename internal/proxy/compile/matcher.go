package compile

import (
	"fmt"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/tullemesh/tulle/internal/match"
)

// text compiles a string matcher.
func (v *conv) text(m *matcherv3.StringMatcher, path string) match.String {
	letters := match.CaseSensitive
	if m.GetIgnoreCase() {
		letters = match.CaseIgnored
	}
	var s match.String
	var err error
	switch p := m.GetMatchPattern().(type) {
	case *matcherv3.StringMatcher_Exact:
		s = match.Exact(p.Exact, letters)
	case *matcherv3.StringMatcher_Prefix:
		s, err = match.Prefix(p.Prefix, letters)
	case *matcherv3.StringMatcher_Suffix:
		s, err = match.Suffix(p.Suffix, letters)
	case *matcherv3.StringMatcher_Contains:
		s, err = match.Contains(p.Contains, letters)
	case *matcherv3.StringMatcher_SafeRegex:
		return v.regex(p.SafeRegex, join(path, "safe_regex"))
	default:
		v.report.invalid(path, "a pattern is needed")
	}
	if err != nil {
		v.report.invalid(path, err.Error())
	}
	return s
}

func (v *conv) regex(m *matcherv3.RegexMatcher, path string) match.String {
	s, err := match.Regex(m.GetRegex())
	if err != nil {
		v.report.invalid(join(path, "regex"), err.Error())
	}
	return s
}

// header compiles a header matcher. No condition at all asks for presence.
func (v *conv) header(m *routev3.HeaderMatcher, path string) match.Header {
	h := match.Header{Name: strings.ToLower(m.GetName()), Invert: m.GetInvertMatch(), TreatMissingAsEmpty: m.GetTreatMissingHeaderAsEmpty()}
	if h.Name == "" {
		v.report.invalid(join(path, "name"), "a header's name is needed")
	}
	var err error
	// the deprecated forms are still sent
	switch s := m.GetHeaderMatchSpecifier().(type) {
	case nil:
		h.Kind = match.HeaderPresent
	case *routev3.HeaderMatcher_StringMatch:
		h.Value = v.text(s.StringMatch, join(path, "string_match"))
	case *routev3.HeaderMatcher_PresentMatch:
		h.Kind = match.HeaderPresent
		if !s.PresentMatch {
			h.Kind = match.HeaderAbsent
		}
	case *routev3.HeaderMatcher_RangeMatch:
		h.Kind = match.HeaderRange
		h.Range, err = match.NewRange(s.RangeMatch.GetStart(), s.RangeMatch.GetEnd())
	case *routev3.HeaderMatcher_ExactMatch:
		h.Value = match.Exact(s.ExactMatch, match.CaseSensitive)
	case *routev3.HeaderMatcher_PrefixMatch:
		h.Value, err = match.Prefix(s.PrefixMatch, match.CaseSensitive)
	case *routev3.HeaderMatcher_SuffixMatch:
		h.Value, err = match.Suffix(s.SuffixMatch, match.CaseSensitive)
	case *routev3.HeaderMatcher_ContainsMatch:
		h.Value, err = match.Contains(s.ContainsMatch, match.CaseSensitive)
	case *routev3.HeaderMatcher_SafeRegexMatch:
		h.Value = v.regex(s.SafeRegexMatch, join(path, "safe_regex_match"))
	default:
		v.report.refuse(path, fmt.Sprintf("condition on header %s is not supported", h.Name))
	}
	if err != nil {
		v.report.invalid(path, err.Error())
	}
	return h
}
