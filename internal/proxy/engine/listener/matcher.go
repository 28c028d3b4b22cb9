package listener

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
)

// ErrDuplicateMatch says that two chains have the same match, which Envoy
// refuses ("multiple filter chains with overlapping matching rules").
var ErrDuplicateMatch = errors.New("two filter chains have the same match")

// Matcher picks the filter chain of a connection as Envoy documents it for
// FilterChainMatch: criterion by criterion, each time keeping only the chains
// that match it most specifically, never going back. It is immutable.
type Matcher struct {
	spec *Spec
	// byPort holds the chains of each destination port; the chains without a
	// port are under 0 and are looked at only when no chain has the port.
	byPort map[uint16][]*Chain
}

// NewMatcher indexes the chains of a listener and refuses duplicates.
func NewMatcher(spec *Spec) (*Matcher, error) {
	m := &Matcher{spec: spec, byPort: map[uint16][]*Chain{}}
	seen := map[string]*Chain{}
	var errs []error
	for _, c := range spec.Chains {
		m.byPort[c.Match.DestinationPort] = append(m.byPort[c.Match.DestinationPort], c)
		for _, key := range c.Match.keys() {
			if other := seen[key]; other != nil && other != c {
				errs = append(errs, fmt.Errorf("filter chains %q and %q: %w", other.Name, c.Name, ErrDuplicateMatch))
				break
			}
			seen[key] = c
		}
	}
	return m, errors.Join(errs...)
}

// Spec is the listener that the matcher was built from.
func (m *Matcher) Spec() *Spec { return m.spec }

// chainsOnStack is how many candidates are filtered without an allocation.
const chainsOnStack = 128

// Match picks the chain, the default chain when none matches, or nil. What
// conn does not know yet (SNI, ALPN) counts as empty.
func (m *Matcher) Match(conn *fact.Conn, tr *fact.Trace) *Chain {
	candidates, known := m.byPort[conn.Local.Port()]
	if !known {
		candidates = m.byPort[0]
	}
	if tr != nil {
		m.tracePorts(conn, candidates, tr)
	}
	var stack [chainsOnStack]*Chain
	left := append(stack[:0], candidates...)
	for _, k := range criteria() {
		if len(left) == 0 {
			break
		}
		left = k.keep(left, conn, tr)
	}
	if len(left) > 0 {
		// Duplicates were refused, so exactly one is left.
		if tr != nil {
			tr.Add(fact.Step{Stage: fact.StageFilterChain, Name: left[0].Name, Verdict: fact.Chosen, Reason: left[0].Match.String(), Origin: left[0].Origin})
		}
		return left[0]
	}
	if tr != nil {
		m.traceDefault(tr)
	}
	return m.spec.Default
}

// score says how specifically a chain matches a criterion: below zero not at
// all, zero because it doesn't ask, above zero the higher the more specific.
type score func(*ChainMatch, *fact.Conn) int

type criterion struct {
	name  string
	score score
}

// criteria are in Envoy's documented order, after the destination port.
func criteria() [8]criterion {
	return [...]criterion{
		{"destination address", scoreDestination},
		{"server name", scoreServerName},
		{"transport protocol", scoreTransport},
		{"application protocols", scoreALPN},
		{"directly connected source address", scoreDirectSource},
		{"source type", scoreSourceType},
		{"source address", scoreSource},
		{"source port", scoreSourcePort},
	}
}

// keep filters chains in place down to those with the highest score.
func (k criterion) keep(chains []*Chain, conn *fact.Conn, tr *fact.Trace) []*Chain {
	best := -1
	for _, c := range chains {
		best = max(best, k.score(&c.Match, conn))
	}
	kept := chains[:0]
	for _, c := range chains {
		s := k.score(&c.Match, conn)
		if s >= 0 && s == best {
			kept = append(kept, c)
		} else if tr != nil {
			reason := k.name + " does not match"
			if s >= 0 {
				reason = "another chain matches the " + k.name + " more specifically"
			}
			tr.Add(fact.Step{Stage: fact.StageFilterChain, Name: c.Name, Verdict: fact.Skipped, Reason: reason, Origin: c.Origin})
		}
	}
	return kept
}

func scoreDestination(m *ChainMatch, c *fact.Conn) int {
	return scorePrefix(m.DestinationPrefix, c.Local.Addr())
}

func scoreDirectSource(m *ChainMatch, c *fact.Conn) int {
	return scorePrefix(m.DirectSourcePrefix, c.SocketRemote().Addr())
}

func scoreSource(m *ChainMatch, c *fact.Conn) int {
	return scorePrefix(m.SourcePrefix, c.Remote.Addr())
}

// scorePrefix is one more than the length of the longest prefix that holds the
// address. No prefix at all is Envoy's 0.0.0.0/0 and ::/0, and ranks as such.
func scorePrefix(prefixes []netip.Prefix, a netip.Addr) int {
	if len(prefixes) == 0 {
		return 1
	}
	best := -1
	a = a.Unmap().WithZone("")
	for _, p := range prefixes {
		if p.Contains(a) {
			best = max(best, p.Bits()+1)
		}
	}
	return best
}

// scoreServerName ranks the exact name above wildcards, longer wildcards above
// shorter ones. "*.example.com" stands for one or more labels.
func scoreServerName(m *ChainMatch, c *fact.Conn) int {
	if len(m.ServerNames) == 0 {
		return 0
	}
	const exact = 1 << 16
	best := -1
	for _, name := range m.ServerNames {
		suffix, wildcard := strings.CutPrefix(name, "*")
		switch {
		case !wildcard && name == c.SNI && c.SNI != "":
			return exact
		case wildcard && len(c.SNI) > len(suffix) && strings.HasSuffix(c.SNI, suffix):
			best = max(best, len(suffix)+1)
		}
	}
	return best
}

func scoreTransport(m *ChainMatch, c *fact.Conn) int {
	transport := "raw_buffer"
	if c.TLS {
		transport = "tls"
	}
	switch m.Transport {
	case "":
		return 0
	case transport:
		return 1
	}
	return -1
}

// scoreALPN prefers the protocol that the client names first.
func scoreALPN(m *ChainMatch, c *fact.Conn) int {
	if len(m.ApplicationProtos) == 0 {
		return 0
	}
	for i, offered := range c.ALPN {
		for _, p := range m.ApplicationProtos {
			if p == offered {
				return len(c.ALPN) - i
			}
		}
	}
	return -1
}

func scoreSourceType(m *ChainMatch, c *fact.Conn) int {
	if m.SourceType == SourceAny {
		return 0
	}
	remote, loopback4 := c.Remote.Addr().Unmap(), netip.AddrFrom4([4]byte{127, 0, 0, 1})
	// Of 127.0.0.0/8 Envoy takes only this one for loopback.
	local := remote == loopback4 || remote == netip.IPv6Loopback() || remote == c.Local.Addr().Unmap()
	if local == (m.SourceType == SourceSameOrLoopback) {
		return 1
	}
	return -1
}

func scoreSourcePort(m *ChainMatch, c *fact.Conn) int {
	if len(m.SourcePorts) == 0 {
		return 0
	}
	for _, p := range m.SourcePorts {
		if p == c.Remote.Port() {
			return 1
		}
	}
	return -1
}

func (m *Matcher) tracePorts(conn *fact.Conn, candidates []*Chain, tr *fact.Trace) {
	in := make(map[*Chain]bool, len(candidates))
	for _, c := range candidates {
		in[c] = true
	}
	for _, c := range m.spec.Chains {
		if in[c] {
			continue
		}
		reason := fmt.Sprintf("destination port is %d, not %d", conn.Local.Port(), c.Match.DestinationPort)
		if c.Match.DestinationPort == 0 {
			reason = fmt.Sprintf("other chains ask for destination port %d", conn.Local.Port())
		}
		tr.Add(fact.Step{Stage: fact.StageFilterChain, Name: c.Name, Verdict: fact.Skipped, Reason: reason, Origin: c.Origin})
	}
}

func (m *Matcher) traceDefault(tr *fact.Trace) {
	if d := m.spec.Default; d != nil {
		tr.Add(fact.Step{Stage: fact.StageFilterChain, Name: d.Name, Verdict: fact.Chosen, Reason: "default filter chain: no other matches", Origin: d.Origin})
		return
	}
	tr.Add(fact.Step{Stage: fact.StageFilterChain, Name: m.spec.Name, Verdict: fact.Failed, Reason: "no filter chain matches and there is no default"})
}
