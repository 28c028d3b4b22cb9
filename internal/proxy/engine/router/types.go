package router

import (
	"regexp"
	"time"

	"github.com/tullemesh/tulle/internal/match"
	"github.com/tullemesh/tulle/internal/proxy/engine/filter"
)

// VirtualHost is a set of routes for a set of hosts
// (Envoy: config.route.v3.VirtualHost).
type VirtualHost struct {
	Name    string
	Domains []string
	// RequireTLS is Envoy's require_tls: a plaintext request is redirected.
	RequireTLS      TLSRequirement
	Routes          []*Route
	RequestHeaders  HeaderOps
	ResponseHeaders HeaderOps
	// PerFilter overrides filter configuration by filter name.
	PerFilter map[string]filter.RouteConfig
	// AttemptCount sends x-envoy-attempt-count upstream (Envoy:
	// include_request_attempt_count).
	AttemptCount bool
	// Origin is the encoded wire.Origin, or empty.
	Origin string
}

// TLSRequirement says which plaintext requests a virtual host redirects.
type TLSRequirement uint8

// Values of VirtualHost.RequireTLS.
const (
	TLSNone TLSRequirement = iota
	TLSExternalOnly
	TLSAll
)

// Route is one rule: the first whose Match holds decides
// (Envoy: config.route.v3.Route). Exactly one of Forward, Redirect, Direct and
// NonForwarding is set.
type Route struct {
	Name            string
	Match           Match
	Forward         *Forward
	Redirect        *Redirect
	Direct          *Direct
	NonForwarding   bool
	RequestHeaders  HeaderOps
	ResponseHeaders HeaderOps
	PerFilter       map[string]filter.RouteConfig
	// Origin is the encoded wire.Origin, or empty.
	Origin string
}

// Match holds the conditions of a route; all must hold.
type Match struct {
	// Path is the condition on the path without query.
	Path PathMatch
	// IgnoreCase applies to exact, prefix and path-separated prefix.
	IgnoreCase bool
	Headers    []match.Header
	Query      []QueryMatch
	// GRPC matches gRPC requests only (content-type application/grpc).
	GRPC bool
	// FractionNum of FractionDen of the requests match; FractionDen 0: all.
	FractionNum, FractionDen uint32
}

// PathKind says how PathMatch.Value is compared.
type PathKind uint8

// The kinds of path match (Envoy: RouteMatch.path_specifier).
const (
	PathPrefix PathKind = iota
	PathExact
	PathSeparatedPrefix
	PathRegex
	PathTemplate
	PathConnect
)

// PathMatch is a condition on the path.
type PathMatch struct {
	Kind PathKind
	// Value is the prefix, path, expression or template as configured.
	Value string
	// Regex of kind PathRegex matches the whole path.
	Regex match.String
	// Template of kind PathTemplate.
	Template match.Template
}

// QueryMatch is a condition on a query parameter's first value.
type QueryMatch struct {
	Name    string
	Value   match.String
	Present bool // only presence is asked for
}

// Forward sends the request to a cluster.
type Forward struct {
	// Clusters to choose from by weight; one entry when there is no split.
	Clusters    []Weighted
	TotalWeight uint32
	// ClusterHeader names the request header that holds the cluster's name.
	ClusterHeader string
	// ClusterNotFound is the status when the cluster does not exist (503).
	ClusterNotFound int
	// Timeout is for the whole response; 0: none. IdleTimeout for a stream
	// without activity; 0: the connection manager's, or NoBound.
	Timeout, IdleTimeout time.Duration
	// PrefixRewrite replaces the matched prefix or exact path;
	// RegexRewrite substitutes within the path.
	PrefixRewrite string
	RegexRewrite  *regexp.Regexp
	RegexSubst    string
	// HostRewrite replaces the authority; AutoHostRewrite takes the upstream
	// endpoint's host name.
	HostRewrite     string
	AutoHostRewrite bool
	// AppendForwardedHost keeps a replaced authority in x-forwarded-host.
	AppendForwardedHost bool
	// Upgrades lists upgrade types that are allowed, in lower case.
	Upgrades []string
	// Retry is what the route asks for beyond safe repetition; nil: nothing.
	Retry *Retry
	// MaxStreamDuration bounds a stream's life; 0: the connection manager's does,
	// or NoBound.
	MaxStreamDuration time.Duration
}

// NoBound in place of a duration says that there is none, whatever the connection
// manager says.
const NoBound time.Duration = -1

// Weighted is one cluster of a split.
type Weighted struct {
	Cluster         string
	Weight          uint32
	HostRewrite     string
	RequestHeaders  HeaderOps
	ResponseHeaders HeaderOps
	PerFilter       map[string]filter.RouteConfig
}

// Redirect answers with a redirect (Envoy: RedirectAction).
type Redirect struct {
	Status                  int
	Scheme, Host            string
	Port                    int
	Path, PrefixRewrite     string
	RegexRewrite            *regexp.Regexp
	RegexSubst              string
	HTTPSRedirect, StripQry bool
}

// Direct answers from the proxy (Envoy: DirectResponseAction).
type Direct struct {
	Status int
	Body   []byte
}

// HeaderOps are header mutations, applied in Envoy's order: removals, then
// additions in order (Envoy: HeaderParser, "remove-before-add"). Templates are
// compiled at compile time.
type HeaderOps struct {
	Set    []HeaderOp
	Remove []string
}

// HeaderOp is one addition.
type HeaderOp struct {
	Name string
	// Value is a literal or, when Parts is set, Envoy's substitution format.
	Value  string
	Parts  []ValuePart
	Action HeaderAction
	// KeepEmpty sends the header even when its value came out empty.
	KeepEmpty bool
}

// ValuePart is a literal or a command operator such as "%DOWNSTREAM_REMOTE_ADDRESS%".
type ValuePart struct{ Literal, Operator, Arg string }

// HeaderAction is Envoy's HeaderAppendAction.
type HeaderAction uint8

// The header actions.
const (
	AppendOrAdd HeaderAction = iota
	AddIfAbsent
	OverwriteOrAdd
	OverwriteIfExists
)
