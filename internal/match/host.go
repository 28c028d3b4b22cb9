package match

import (
	"cmp"
	"strings"
)

// Wildcard reports whether an Istio host begins with *.
func Wildcard(host string) bool { return strings.HasPrefix(host, "*") }

// HostsOverlap reports whether some name matches both hosts, each of which may begin with a wildcard: Istio's host.Name.Matches.
func HostsOverlap(a, b string) bool {
	switch aw, bw := Wildcard(a), Wildcard(b); {
	case aw && bw && len(a) < len(b):
		return strings.HasSuffix(b[1:], a[1:])
	case aw && bw:
		return strings.HasSuffix(a[1:], b[1:])
	case aw:
		return strings.HasSuffix(b, a[1:])
	case bw:
		return strings.HasSuffix(a, b[1:])
	}
	return a == b
}

// HostWithin reports whether every name that matches the host a also matches b: Istio's host.Name.SubsetOf.
func HostWithin(a, b string) bool {
	switch aw, bw := Wildcard(a), Wildcard(b); {
	case aw && bw:
		return len(a) >= len(b) && strings.HasSuffix(a[1:], b[1:])
	case aw:
		return false
	case bw:
		return strings.HasSuffix(a, b[1:])
	}
	return a == b
}

// CompareHosts orders hosts from the most to the least specific, as Istio's host.MoreSpecific: names before wildcards, longer before shorter, then by
// the alphabet.
func CompareHosts(a, b string) int {
	aw, bw := Wildcard(a), Wildcard(b)
	if aw != bw {
		if aw {
			return 1
		}
		return -1
	}
	return cmp.Or(cmp.Compare(len(b), len(a)), strings.Compare(a, b))
}
