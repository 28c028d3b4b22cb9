package model

import (
	"maps"
	"slices"
	"strings"
)

// mergeDelegates puts the routes of delegates in the place of the root's routes
// that name them (Istio, "VirtualService Delegate"). A route whose delegate is
// unknown or not exported to the root's namespace is left out, and reported.
func mergeDelegates(root *virtualService, lookup func(delegateRef) *virtualService, report func(finding)) *Rules {
	out := *root.rules
	out.HTTP = make([]*Route, 0, len(root.rules.HTTP))
	namespace := root.rules.Origin.Key.Namespace
	for _, r := range root.rules.HTTP {
		if r.delegate == nil {
			out.HTTP = append(out.HTTP, r)
			continue
		}
		at := Origin{Key: r.Origin.Key, Path: r.Origin.Path + ".delegate"}
		d := lookup(*r.delegate)
		if d == nil {
			report(delegateMissing(at, *r.delegate))
			continue
		}
		if !slices.Contains(d.rules.ExportTo, "*") && !slices.Contains(d.rules.ExportTo, namespace) {
			report(delegateHidden(at, *r.delegate, namespace))
			continue
		}
		for _, sub := range d.rules.HTTP {
			if merged, ok := mergeRoute(r, sub); ok {
				out.HTTP = append(out.HTTP, merged)
			} else {
				report(delegateConflict(sub.Origin, r))
			}
		}
	}
	return &out
}

// mergeRoute is the delegate's route under the root's conditions. The delegate
// keeps what it says; it takes the rest from the root. False: their conditions
// contradict one another.
func mergeRoute(root, sub *Route) (*Route, bool) {
	out := *sub
	matches, ok := mergeMatches(root.Matches, sub.Matches)
	if !ok {
		return nil, false
	}
	out.Matches = matches
	out.Name = joinNames(root.Name, sub.Name)
	if out.Rewrite == nil {
		out.Rewrite = root.Rewrite
	}
	if out.Direct == nil {
		out.Direct = root.Direct
	}
	if !out.timeoutSet {
		out.Timeout, out.timeoutSet = root.Timeout, root.timeoutSet
	}
	if out.Retries == nil {
		out.Retries = root.Retries
	}
	if !out.headersSet {
		out.RequestHeaders, out.ResponseHeaders, out.headersSet = root.RequestHeaders, root.ResponseHeaders, root.headersSet
	}
	out.delegate = nil
	return &out, true
}

func joinNames(root, sub string) string {
	switch {
	case sub == "":
		return root
	case root == "":
		return sub
	}
	return root + "-" + sub
}

// mergeMatches pairs every alternative of the delegate with those of the root
// that it does not contradict; each needs at least one.
func mergeMatches(root, sub []*Match) ([]*Match, bool) {
	if len(root) == 0 {
		return sub, true
	}
	if len(sub) == 0 {
		return root, true
	}
	var out []*Match
	for _, s := range sub {
		found := false
		for _, r := range root {
			if !contradict(r, s) {
				out = append(out, mergeMatch(r, s))
				found = true
			}
		}
		if !found {
			return nil, false
		}
	}
	return out, true
}

func mergeMatch(root, sub *Match) *Match {
	out := *sub
	out.Name = joinNames(root.Name, sub.Name)
	for _, f := range []struct{ to, from **StringMatch }{
		{&out.URI, &root.URI}, {&out.Scheme, &root.Scheme}, {&out.Method, &root.Method}, {&out.Authority, &root.Authority},
	} {
		if *f.to == nil {
			*f.to = *f.from
		}
	}
	out.Headers = mergeHeaders(root.Headers, sub.Headers)
	out.Query = mergeHeaders(root.Query, sub.Query)
	if out.Port == 0 {
		out.Port = root.Port
	}
	if len(root.SourceLabels) > 0 {
		out.SourceLabels = maps.Clone(root.SourceLabels)
		maps.Copy(out.SourceLabels, sub.SourceLabels)
	}
	if out.SourceNamespace == "" {
		out.SourceNamespace = root.SourceNamespace
	}
	if len(out.Gateways) == 0 {
		out.Gateways = root.Gateways
	}
	return &out
}

// mergeHeaders is the union; the delegate's condition on a name replaces the
// root's. Wanted headers and unwanted ones are two lists. Sorted by Invert, name.
func mergeHeaders(root, sub []HeaderMatch) []HeaderMatch {
	out := slices.Clone(sub)
	for _, r := range root {
		if findHeader(sub, r.Name, r.Invert) == nil {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b HeaderMatch) int {
		if a.Invert != b.Invert {
			if b.Invert {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
	return out
}

func findHeader(list []HeaderMatch, name string, invert bool) *HeaderMatch {
	for i := range list {
		if list[i].Name == name && list[i].Invert == invert {
			return &list[i]
		}
	}
	return nil
}

// contradict follows Istio: a delegate may narrow what the root asks, not leave it.
func contradict(root, sub *Match) bool {
	if leaves(root.URI, sub.URI) || leaves(root.Scheme, sub.Scheme) || leaves(root.Method, sub.Method) || leaves(root.Authority, sub.Authority) {
		return true
	}
	for _, h := range sub.Headers {
		if r := findHeader(root.Headers, h.Name, h.Invert); r != nil && leaves(r.Value, h.Value) {
			return true
		}
	}
	for _, q := range sub.Query {
		if r := findHeader(root.Query, q.Name, q.Invert); r != nil && leaves(r.Value, q.Value) {
			return true
		}
	}
	if root.IgnoreURICase != sub.IgnoreURICase {
		return true
	}
	if root.Port > 0 && sub.Port > 0 && root.Port != sub.Port {
		return true
	}
	if root.SourceNamespace != "" && sub.SourceNamespace != root.SourceNamespace {
		return true
	}
	for name, value := range sub.SourceLabels {
		if r, ok := root.SourceLabels[name]; ok && r != value {
			return true
		}
	}
	if len(root.Gateways) > 0 {
		return slices.ContainsFunc(sub.Gateways, func(g string) bool { return !slices.Contains(root.Gateways, g) })
	}
	return false
}

// leaves reports whether sub matches values that root does not, as far as Istio
// looks: two expressions are never compared, so they count as contradicting.
func leaves(root, sub *StringMatch) bool {
	if root == nil || sub == nil {
		return false
	}
	switch {
	case root.Kind == Regex || sub.Kind == Regex:
		return true
	case root.Kind == Exact:
		return sub.Kind != Exact || sub.Value != root.Value
	}
	return !strings.HasPrefix(sub.Value, root.Value)
}
