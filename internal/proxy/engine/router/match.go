package router

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/tullemesh/tulle/internal/match"
	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
)

// Holds reports whether every condition holds. It allocates nothing.
func (m *Match) Holds(req *fact.Request) bool {
	return m.fraction(req.Random) && m.HoldsBesideFraction(req)
}

// Fractional reports whether the route takes only a part of the requests.
func (m *Match) Fractional() bool { return m.FractionDen > 0 && m.FractionNum < m.FractionDen }

// HoldsBesideFraction is Holds without the draw.
func (m *Match) HoldsBesideFraction(req *fact.Request) bool {
	if !m.Path.holds(req, m.IgnoreCase) || (m.GRPC && !isGRPC(req)) {
		return false
	}
	for i := range m.Headers {
		if !headerHolds(&m.Headers[i], req) {
			return false
		}
	}
	if len(m.Query) == 0 {
		return true
	}
	query := req.Query()
	for i := range m.Query {
		if !m.Query[i].holds(query) {
			return false
		}
	}
	return true
}

// unmet says which condition does not hold, or "" when all hold. It asks the
// same functions as Holds.
func (m *Match) unmet(req *fact.Request) string {
	switch {
	case m.Holds(req):
		return ""
	case !m.fraction(req.Random):
		return fmt.Sprintf("outside of the fraction %d/%d", m.FractionNum, m.FractionDen)
	case !m.Path.holds(req, m.IgnoreCase):
		return fmt.Sprintf("path %q is not %s", req.PathOnly(), m.Path.String())
	case m.GRPC && !isGRPC(req):
		return "not a gRPC request"
	}
	for i := range m.Headers {
		h := &m.Headers[i]
		if headerHolds(h, req) {
			continue
		}
		if value, present := req.Header(h.Name); present {
			return fmt.Sprintf("header %s: %q does not fulfil %s", h.Name, value, h.String())
		}
		return fmt.Sprintf("header %s is absent: %s", h.Name, h.String())
	}
	for i := range m.Query {
		if !m.Query[i].holds(req.Query()) {
			return fmt.Sprintf("query parameter %s does not match", m.Query[i].Name)
		}
	}
	return "a condition does not hold"
}

// String says the conditions in words.
func (m *Match) String() string {
	parts := []string{"path " + m.Path.String()}
	for i := range m.Headers {
		parts = append(parts, m.Headers[i].String())
	}
	for i := range m.Query {
		parts = append(parts, "query "+m.Query[i].Name)
	}
	if m.GRPC {
		parts = append(parts, "gRPC")
	}
	return strings.Join(parts, ", ")
}

// fractionSalt separates this draw from the one for weighted clusters, or all
// requests of a small fraction would go to the first cluster.
const fractionSalt = 0x9e3779b97f4a7c15

func (m *Match) fraction(random uint64) bool {
	if m.FractionDen == 0 {
		return true
	}
	return mix(random^fractionSalt)%uint64(m.FractionDen) < uint64(m.FractionNum)
}

// mix is the finalizer of SplitMix64: equal inputs give equal outputs and each
// input bit reaches each output bit.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func headerHolds(h *match.Header, req *fact.Request) bool {
	value, present := req.Header(h.Name)
	return h.Match(value, present)
}

// isGRPC follows Envoy: content-type is application/grpc or
// application/grpc+something.
func isGRPC(req *fact.Request) bool {
	const grpc = "application/grpc"
	value, _ := req.Header("content-type")
	if len(value) < len(grpc) || string(value[:len(grpc)]) != grpc {
		return false
	}
	return len(value) == len(grpc) || value[len(grpc)] == '+'
}

func (p *PathMatch) holds(req *fact.Request, ignoreCase bool) bool {
	if p.Kind == PathConnect {
		return string(req.Method) == "CONNECT"
	}
	path := req.PathOnly()
	if len(path) == 0 {
		return false // CONNECT has none (RFC 9110 §9.3.6)
	}
	switch p.Kind {
	case PathExact:
		return len(path) == len(p.Value) && hasPrefix(path, p.Value, ignoreCase)
	case PathSeparatedPrefix:
		return hasPrefix(path, p.Value, ignoreCase) && (len(path) == len(p.Value) || path[len(p.Value)] == '/')
	case PathRegex:
		return p.Regex.Match(path)
	case PathTemplate:
		return p.Template.Match(path)
	}
	return hasPrefix(path, p.Value, ignoreCase)
}

// String shows the condition.
func (p *PathMatch) String() string {
	switch p.Kind {
	case PathExact:
		return fmt.Sprintf("exact %q", p.Value)
	case PathSeparatedPrefix:
		return fmt.Sprintf("path prefix %q", p.Value)
	case PathRegex:
		return fmt.Sprintf("regex %q", p.Value)
	case PathTemplate:
		return fmt.Sprintf("template %q", p.Value)
	case PathConnect:
		return "CONNECT"
	}
	return fmt.Sprintf("prefix %q", p.Value)
}

func hasPrefix(b []byte, prefix string, ignoreCase bool) bool {
	if len(b) < len(prefix) {
		return false
	}
	if !ignoreCase {
		return string(b[:len(prefix)]) == prefix
	}
	for i := range len(prefix) {
		if lower(b[i]) != lower(prefix[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// holds compares the parameter's first value as it stands in the query: Envoy
// does not decode percent signs here.
func (q *QueryMatch) holds(query []byte) bool {
	for len(query) > 0 {
		var param []byte
		param, query, _ = bytes.Cut(query, []byte{'&'})
		name, value, _ := bytes.Cut(param, []byte{'='})
		if string(name) == q.Name {
			return q.Present || q.Value.Match(value)
		}
	}
	return false
}
