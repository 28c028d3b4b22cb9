package authz

import (
	"fmt"
	"net/netip"

	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
)

// Verdict is what the policies say.
type Verdict struct {
	Allowed bool
	// Policy is the policy that matched, or empty. A request that no ALLOW
	// policy matches is denied with an empty Policy.
	Policy string
	// Shadowed says that shadow rules ran; ShadowAllowed and ShadowPolicy are
	// what they would have said.
	Shadowed, ShadowAllowed bool
	ShadowPolicy            string
}

// Decide judges a request, or a connection when req is nil. It allocates
// nothing when tr is nil.
func (p *Policies) Decide(conn *fact.Conn, req *fact.Request, tr *fact.Trace) Verdict {
	v := Verdict{Allowed: true}
	if p.Shadow != nil {
		v.Shadowed = true
		v.ShadowAllowed, v.ShadowPolicy = p.Shadow.decide(conn, req)
	}
	if p.Rules != nil {
		v.Allowed, v.Policy = p.Rules.decide(conn, req)
	}
	if tr != nil {
		p.trace(v, req, tr)
	}
	return v
}

func (r *Rules) decide(conn *fact.Conn, req *fact.Request) (allowed bool, policy string) {
	matched := false
	for i := range r.Policies {
		p := &r.Policies[i]
		if p.Permission.holds(conn, req) && p.Principal.holds(conn, req) {
			matched, policy = true, p.Name
			break
		}
	}
	switch r.Action {
	case Allow:
		return matched, policy
	case Deny:
		return !matched, policy
	case Log:
		return true, policy
	}
	// An action that we don't know denies.
	return false, policy
}

// holds evaluates a condition as Envoy's RBAC matchers do.
func (c *Condition) holds(conn *fact.Conn, req *fact.Request) bool {
	switch c.Kind {
	case Any:
		return true
	case And:
		for i := range c.Sub {
			if !c.Sub[i].holds(conn, req) {
				return false
			}
		}
		return true
	case Or:
		for i := range c.Sub {
			if c.Sub[i].holds(conn, req) {
				return true
			}
		}
		return false
	case Not:
		return len(c.Sub) == 1 && !c.Sub[0].holds(conn, req)
	case Header, Path, Template:
		return c.holdsRequest(req)
	case Authenticated:
		return c.authenticated(conn)
	case ServerName:
		return c.String.MatchString(conn.SNI)
	case DestinationPort:
		port := uint32(conn.Local.Port())
		return port >= c.PortStart && port < c.PortEnd
	case DestinationIP:
		return contains(c.Prefix, conn.Local.Addr())
	case SourceIP:
		return contains(c.Prefix, conn.Remote.Addr())
	case DirectRemoteIP:
		return contains(c.Prefix, conn.SocketRemote().Addr())
	case RemoteIP:
		if req == nil {
			return contains(c.Prefix, conn.Remote.Addr())
		}
		return contains(c.Prefix, req.RemoteAddr())
	}
	return false
}

// holdsRequest evaluates what only a request can fulfil. A connection has no
// headers and no path: Envoy evaluates it with an empty header map.
func (c *Condition) holdsRequest(req *fact.Request) bool {
	if c.Kind == Header {
		if req == nil {
			return c.Header.Match(nil, false)
		}
		value, present := req.Header(c.Header.Name)
		return c.Header.Match(value, present)
	}
	if req == nil || len(req.Path) == 0 {
		return false
	}
	if c.Kind == Template {
		return c.Template.Match(req.PathOnly())
	}
	return c.String.Match(req.PathOnly())
}

// authenticated looks at the URI SAN, then the DNS SANs, then the subject of a
// peer whose TLS ended here.
func (c *Condition) authenticated(conn *fact.Conn) bool {
	if !conn.Secured() {
		return false
	}
	if c.AnyPeer {
		return true
	}
	if conn.Peer != "" && c.String.MatchString(conn.Peer) {
		return true
	}
	for _, name := range conn.PeerDNS {
		if c.String.MatchString(name) {
			return true
		}
	}
	return c.String.MatchString(conn.PeerSubject)
}

func contains(p netip.Prefix, a netip.Addr) bool { return a.IsValid() && p.Contains(a.Unmap()) }

func (p *Policies) trace(v Verdict, req *fact.Request, tr *fact.Trace) {
	stage := fact.StageNetwork
	if req != nil {
		stage = fact.StageFilter
	}
	if p.Shadow != nil {
		tr.Add(fact.Step{Stage: stage, Name: "rbac (shadow)", Verdict: fact.Skipped,
			Reason: fmt.Sprintf("dry run: %s", p.Shadow.reason(v.ShadowAllowed, v.ShadowPolicy))})
	}
	if p.Rules == nil {
		return
	}
	step := fact.Step{Stage: stage, Name: "rbac", Verdict: fact.Denied, Reason: p.Rules.reason(v.Allowed, v.Policy)}
	if v.Allowed {
		step.Verdict = fact.Allowed
	}
	tr.Add(step)
}

func (r *Rules) reason(allowed bool, policy string) string {
	switch {
	case policy != "" && r.Action == Deny:
		return fmt.Sprintf("DENY policy %s matches", policy)
	case policy != "" && r.Action == Log:
		return fmt.Sprintf("LOG policy %s matches", policy)
	case policy != "":
		return fmt.Sprintf("ALLOW policy %s matches", policy)
	case allowed:
		return "no policy matches"
	}
	return fmt.Sprintf("none of %d ALLOW policies matches", len(r.Policies))
}
