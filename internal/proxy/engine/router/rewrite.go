package router

import (
	"regexp"

	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
	"github.com/tullemesh/tulle/internal/proxy/engine/filter"
)

// Rewrites reports whether the route changes the path at all; when it does not,
// the path goes on as it came and AppendPath need not be called.
func (f *Forward) Rewrites() bool { return f.PrefixRewrite != "" || f.RegexRewrite != nil }

// AppendPath appends the request's path, query included, as route r sends it
// on. m is the route's own match, whose matched part PrefixRewrite replaces.
func (f *Forward) AppendPath(dst []byte, m *Match, req *fact.Request) []byte {
	return appendRewritten(dst, m, req, f.PrefixRewrite, f.RegexRewrite, f.RegexSubst)
}

// appendRewritten follows Envoy's finalizePathHeader: a prefix rewrite replaces
// what the path condition matched, a regular expression substitutes within the
// path without query, and the query stays.
func appendRewritten(dst []byte, m *Match, req *fact.Request, prefix string, re *regexp.Regexp, subst string) []byte {
	path, from := req.PathOnly(), len(dst)
	rest := req.Path[len(path):]
	switch {
	case prefix != "":
		dst = append(dst, prefix...)
		if n := m.Path.matchedLen(path); n < len(path) {
			dst = append(dst, path[n:]...)
		}
	case re != nil:
		dst = appendReplaced(dst, path, re, subst)
	default:
		dst = append(dst, path...)
	}
	if len(dst) == from {
		dst = append(dst, '/') // RFC 9112 §3.2.1: nothing would be no request target
	}
	return append(dst, rest...)
}

// matchedLen is how much of the path a prefix rewrite replaces: the prefix for
// prefix conditions, else the whole path.
func (p *PathMatch) matchedLen(path []byte) int {
	switch p.Kind {
	case PathPrefix, PathSeparatedPrefix:
		return len(p.Value)
	case PathExact, PathRegex, PathTemplate, PathConnect:
	}
	return len(path)
}

// appendReplaced is regexp.ReplaceAll that appends.
func appendReplaced(dst, path []byte, re *regexp.Regexp, subst string) []byte {
	last := 0
	for _, loc := range re.FindAllSubmatchIndex(path, -1) {
		dst = append(dst, path[last:loc[0]]...)
		dst = re.ExpandString(dst, subst, string(path), loc)
		last = loc[1]
	}
	return append(dst, path[last:]...)
}

// Authority is the authority that the request goes on with by configuration:
// the weighted cluster's, else the route's; empty: unchanged (or, with
// AutoHostRewrite, the endpoint's).
func (f *Forward) Authority(w *Weighted) string {
	if w != nil && w.HostRewrite != "" {
		return w.HostRewrite
	}
	return f.HostRewrite
}

// Choose picks a cluster of the split. It is nil when ClusterHeader names the
// cluster or when the weights are all zero.
func (f *Forward) Choose(random uint64) *Weighted { return Choose(f.Clusters, f.TotalWeight, random) }

// Choose picks one of weighted clusters. total is the sum of the weights; a
// single cluster is chosen whatever its weight.
func Choose(clusters []Weighted, total uint32, random uint64) *Weighted {
	if len(clusters) == 1 {
		return &clusters[0]
	}
	if total == 0 {
		return nil
	}
	at := uint32(random % uint64(total))
	for i := range clusters {
		if at < clusters[i].Weight {
			return &clusters[i]
		}
		at -= clusters[i].Weight
	}
	return nil
}

// ClusterName is where the request goes: the chosen cluster's name, or what
// ClusterHeader holds; false when there is neither.
func (f *Forward) ClusterName(w *Weighted, req *fact.Request) (string, bool) {
	if w != nil {
		return w.Cluster, true
	}
	if f.ClusterHeader == "" {
		return "", false
	}
	value, present := req.Header(f.ClusterHeader)
	return string(value), present
}

// Override is the most specific configuration of a filter: the weighted
// cluster's, else the route's, else the virtual host's. Each may be nil.
func Override(name string, host *VirtualHost, route *Route, w *Weighted) (filter.RouteConfig, bool) {
	if w != nil && w.PerFilter != nil {
		if c, ok := w.PerFilter[name]; ok {
			return c, true
		}
	}
	if route != nil && route.PerFilter != nil {
		if c, ok := route.PerFilter[name]; ok {
			return c, true
		}
	}
	if host != nil && host.PerFilter != nil {
		if c, ok := host.PerFilter[name]; ok {
			return c, true
		}
	}
	return filter.RouteConfig{}, false
}
