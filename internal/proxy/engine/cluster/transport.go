package cluster

import (
	"maps"
	"slices"
	"strings"
)

// Transport chooses how endpoints with this transport socket metadata are
// connected to: the first entry of TLS that matches; nil is plaintext
// (Envoy: Cluster.transport_socket_matches).
func (s *Spec) Transport(metadata map[string]string) *TLSMatch {
	for i := range s.TLS {
		if s.TLS[i].holds(metadata) {
			return &s.TLS[i]
		}
	}
	return nil
}

func (m *TLSMatch) holds(metadata map[string]string) bool {
	for key, want := range m.Match {
		value, ok := metadata[key]
		if !ok || !want.MatchString(value) {
			return false
		}
	}
	return true
}

func transportKey(metadata map[string]string) string {
	if len(metadata) == 0 {
		return ""
	}
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(metadata)) {
		b.WriteString("|" + k + "=" + metadata[k])
	}
	return b.String()
}

// sameTLS reports whether two specs connect alike. Pointers are compared
// first: the compiler reuses what did not change. Otherwise equal resources
// mean equal transports.
func sameTLS(a, b *Spec) bool {
	if len(a.TLS) != len(b.TLS) {
		return false
	}
	for i := range a.TLS {
		x, y := &a.TLS[i], &b.TLS[i]
		if x.Name != y.Name || x.Proxy != y.Proxy || len(x.Match) != len(y.Match) || (x.Spec == nil) != (y.Spec == nil) {
			return false
		}
		for key, want := range x.Match {
			other, ok := y.Match[key]
			if !ok || want.String() != other.String() {
				return false
			}
		}
		if x.Spec != nil && x.Spec != y.Spec && !x.Spec.Equal(y.Spec) {
			return false
		}
	}
	return true
}
