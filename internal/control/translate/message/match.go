package message

import (
	"cmp"
	"slices"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tullemesh/tulle/internal/control/model"
)

// routeMatch writes the conditions on the request; nil matches everything.
func routeMatch(m *model.Match) *routev3.RouteMatch {
	out := &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}}
	if m == nil {
		return out
	}
	for _, h := range m.Headers {
		out.Headers = append(out.Headers, headerMatch(h))
	}
	slices.SortStableFunc(out.Headers, func(a, b *routev3.HeaderMatcher) int { return cmp.Compare(a.Name, b.Name) })
	if u := m.URI; u != nil {
		switch u.Kind {
		case model.Exact:
			out.PathSpecifier = &routev3.RouteMatch_Path{Path: u.Value}
		case model.Prefix:
			out.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: u.Value}
		case model.Regex:
			out.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: u.Value}}
		}
	}
	out.CaseSensitive = wrapperspb.Bool(!m.IgnoreURICase)
	pseudo := func(name string, s *model.StringMatch) {
		if s != nil {
			out.Headers = append(out.Headers, headerMatch(model.HeaderMatch{Name: name, Value: s}))
		}
	}
	pseudo(":method", m.Method)
	pseudo(":authority", m.Authority)
	pseudo(":scheme", m.Scheme)
	for _, q := range m.Query {
		out.QueryParameters = append(out.QueryParameters, queryMatch(q))
	}
	return out
}

func headerMatch(h model.HeaderMatch) *routev3.HeaderMatcher {
	out := &routev3.HeaderMatcher{Name: h.Name, InvertMatch: h.Invert}
	if anyValue(h.Value) {
		out.HeaderMatchSpecifier = &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}
		return out
	}
	out.HeaderMatchSpecifier = &routev3.HeaderMatcher_StringMatch{StringMatch: stringMatcher(h.Value)}
	// A header that is missing does not match the value, so "without" holds.
	out.TreatMissingHeaderAsEmpty = h.Invert
	return out
}

func queryMatch(q model.HeaderMatch) *routev3.QueryParameterMatcher {
	out := &routev3.QueryParameterMatcher{Name: q.Name}
	if anyValue(q.Value) {
		out.QueryParameterMatchSpecifier = &routev3.QueryParameterMatcher_PresentMatch{PresentMatch: true}
		return out
	}
	out.QueryParameterMatchSpecifier = &routev3.QueryParameterMatcher_StringMatch{StringMatch: stringMatcher(q.Value)}
	return out
}

// anyValue reports whether only presence is asked for: no value, or the
// regular expression "*", which Istio reads so although it is none.
func anyValue(s *model.StringMatch) bool {
	return s == nil || s.Kind == model.Regex && s.Value == "*"
}

func stringMatcher(s *model.StringMatch) *matcherv3.StringMatcher {
	switch s.Kind {
	case model.Prefix:
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: s.Value}}
	case model.Regex:
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: s.Value}}}
	}
	return exactly(s.Value)
}

func exactly(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: s}}
}

// takesAll reports whether no request gets past a match.
func takesAll(m *routev3.RouteMatch) bool {
	if len(m.GetHeaders()) > 0 || len(m.GetQueryParameters()) > 0 {
		return false
	}
	switch p := m.GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Prefix:
		return p.Prefix == "/"
	case *routev3.RouteMatch_SafeRegex:
		return p.SafeRegex.GetRegex() == "*"
	}
	return false
}
