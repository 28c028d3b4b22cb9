package listener

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// keys are the combinations of single criteria that a match stands for: two
// chains with a key in common could both take a connection.
func (m *ChainMatch) keys() []string {
	keys := []string{strconv.Itoa(int(m.DestinationPort)) + "|" + m.Transport + "|" + strconv.Itoa(int(m.SourceType))}
	keys = cross(keys, wholePrefixes(m.DestinationPrefix))
	keys = cross(keys, m.ServerNames)
	keys = cross(keys, m.ApplicationProtos)
	keys = cross(keys, wholePrefixes(m.DirectSourcePrefix))
	keys = cross(keys, wholePrefixes(m.SourcePrefix))
	ports := make([]string, len(m.SourcePorts))
	for i, p := range m.SourcePorts {
		ports[i] = strconv.Itoa(int(p))
	}
	return cross(keys, ports)
}

// cross appends each value to each key; no values at all count as one empty.
func cross(keys, values []string) []string {
	if len(values) == 0 {
		values = []string{""}
	}
	out := make([]string, 0, len(keys)*len(values))
	for _, k := range keys {
		for _, v := range values {
			out = append(out, k+"|"+v)
		}
	}
	return out
}

// wholePrefixes spells out what no prefix means to Envoy: every address.
func wholePrefixes(list []netip.Prefix) []string {
	if len(list) == 0 {
		return []string{"0.0.0.0/0", "::/0"}
	}
	return prefixes(list)
}

func prefixes(list []netip.Prefix) []string {
	out := make([]string, len(list))
	for i, p := range list {
		out[i] = p.Masked().String()
	}
	return out
}

// combinationsTop is where Combinations stops counting, far above any limit.
const combinationsTop = 1 << 30

// Combinations is how many single matches the match stands for. The compiler
// bounds it before a Matcher is built.
func (m *ChainMatch) Combinations() int {
	n := 1
	for _, l := range []int{len(m.DestinationPrefix), len(m.ServerNames), len(m.ApplicationProtos), len(m.DirectSourcePrefix), len(m.SourcePrefix), len(m.SourcePorts)} {
		n = min(n*max(l, 1), combinationsTop)
	}
	return n
}

// AllChains yields every chain, the default one last.
func (s *Spec) AllChains(yield func(*Chain) bool) {
	for _, c := range s.Chains {
		if !yield(c) {
			return
		}
	}
	if s.Default != nil {
		yield(s.Default)
	}
}

// String says the criteria in words.
func (m *ChainMatch) String() string {
	var parts []string
	add := func(name string, values []string) {
		if len(values) > 0 {
			parts = append(parts, name+" "+strings.Join(values, ","))
		}
	}
	if m.DestinationPort != 0 {
		parts = append(parts, fmt.Sprintf("port %d", m.DestinationPort))
	}
	add("address", prefixes(m.DestinationPrefix))
	add("server name", m.ServerNames)
	if m.Transport != "" {
		parts = append(parts, "transport "+m.Transport)
	}
	add("application protocol", m.ApplicationProtos)
	add("direct source", prefixes(m.DirectSourcePrefix))
	add("source", prefixes(m.SourcePrefix))
	switch m.SourceType {
	case SourceSameOrLoopback:
		parts = append(parts, "local source")
	case SourceExternal:
		parts = append(parts, "external source")
	case SourceAny:
	}
	if len(m.SourcePorts) > 0 {
		parts = append(parts, fmt.Sprintf("source port %v", m.SourcePorts))
	}
	if len(parts) == 0 {
		return "any connection"
	}
	return strings.Join(parts, ", ")
}
