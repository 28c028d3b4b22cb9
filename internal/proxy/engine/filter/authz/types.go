// Package authz decides whether a connection or a request is allowed: Envoy's
// RBAC (config.rbac.v3, the HTTP and the network filter) compiled into
// Policies. Facts in, Verdict out; nothing here owns state or waits. An
// unreadable policy never gets here: its resource is refused when it is
// compiled, and the last good one stays. Read types.go first.
package authz

import (
	"net/netip"

	"github.com/tullemesh/tulle/internal/match"
)

// Action is what a match of the rules means (Envoy: RBAC.Action).
type Action uint8

// The actions.
const (
	// Allow admits what a policy matches and denies the rest.
	Allow Action = iota
	// Deny denies what a policy matches and admits the rest.
	Deny
	// Log admits everything and names the policy that matched.
	Log
)

// Policies is one RBAC filter: the rules that decide and the shadow rules that
// only report.
type Policies struct {
	// Rules is nil when the filter enforces nothing.
	Rules *Rules
	// Shadow is nil when there is no dry run.
	Shadow *Rules
	// ShadowPrefix goes before the names of the shadow rules' statistics.
	ShadowPrefix string
}

// Rules are the policies of one action, in the order of their names.
type Rules struct {
	Action   Action
	Policies []Policy
}

// Policy matches when one of its permissions and one of its principals do.
type Policy struct {
	Name       string
	Permission Condition
	Principal  Condition
}

// Kind says what a Condition looks at.
type Kind uint8

// The kinds of condition. And and Or hold of an empty list what Go's loops do:
// And is true, Or is false.
const (
	Any Kind = iota
	And
	Or
	Not
	// Header looks at Header, Path at the path without query, Template at the
	// same by a URI template. Of a connection without request they do not hold.
	Header
	Path
	Template
	// DestinationIP and the others look at addresses; Ports is half-open.
	DestinationIP
	DestinationPort
	ServerName
	// Authenticated looks at the peer's certificate; with a zero String any
	// TLS connection will do.
	Authenticated
	// SourceIP is the connection's remote address, DirectRemoteIP the
	// socket's, RemoteIP what x-forwarded-for made of it.
	SourceIP
	DirectRemoteIP
	RemoteIP
)

// Condition is a permission or a principal: a tree of conditions.
type Condition struct {
	Kind Kind
	// Sub are the operands of And, Or and Not (one).
	Sub []Condition
	// Header of kind Header.
	Header match.Header
	// String of kinds Path, ServerName and Authenticated.
	String match.String
	// AnyPeer: kind Authenticated without a name.
	AnyPeer bool
	// Template of kind Template.
	Template match.Template
	// Prefix of the address kinds.
	Prefix netip.Prefix
	// PortStart and PortEnd of kind DestinationPort: [PortStart, PortEnd).
	PortStart, PortEnd uint32
}
