package model

import (
	"net/netip"
	"time"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/control/model/pool"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/match"
)

// Origin says which field of which object a part of the model comes from.
type Origin struct {
	Key  apis.Key
	Path string
}

// Mesh is the mesh configuration in our own words (Istio: MeshConfig).
type Mesh struct {
	TrustDomain, RootNamespace, DomainSuffix string
	// RegistryOnly: outboundTrafficPolicy REGISTRY_ONLY, else ALLOW_ANY.
	RegistryOnly bool
	AutoMTLS     bool
	// Defaults of exportTo.
	ServiceExportTo, VirtualServiceExportTo, DestinationRuleExportTo []string
	ConnectTimeout, ProtocolDetectionTimeout                         time.Duration
	DNSRefresh                                                       time.Duration // of names whose answers have no lifetime (dnsRefreshRate)
	AccessLogFile, AccessLogFormat                                   string
	AccessLogJSON                                                    bool
	TrustDomainAliases                                               []string
	HTTPProxyPort                                                    int // proxyHttpPort
	PathNormalization                                                PathNormalization
	// H2Upgrade: calls to ports that say HTTP are made over HTTP/2 where no
	// destination rule says otherwise (h2UpgradePolicy).
	H2Upgrade bool
	// Keepalive of connections to all destinations; nil: none (tcpKeepalive).
	Keepalive *pool.Keepalive
	// Topology is what stands before gateways (defaultConfig.gatewayTopology).
	Topology Topology
}

// Topology is what a gateway may believe of those before it (Istio: Topology).
type Topology struct {
	// TrustedProxies is how many of the last addresses in x-forwarded-for are
	// of proxies before the gateway.
	TrustedProxies uint32
	// ClientCert says what becomes of x-forwarded-client-cert.
	ClientCert ClientCert
	// ProxyHeader: connections begin with a header of the PROXY protocol.
	ProxyHeader bool
}

// ClientCert says what a gateway does with x-forwarded-client-cert
// (ForwardClientCertDetails).
type ClientCert uint8

// What a gateway can do with it.
const (
	ClientCertSanitizeSet ClientCert = iota // Istio's default
	ClientCertSanitize
	ClientCertForwardOnly
	ClientCertAppendForward
	ClientCertAlwaysForwardOnly
)

// PathNormalization is what proxies do with the paths of requests before
// routes and policies read them (MeshConfig.pathNormalization). Each one does
// what those before it do.
type PathNormalization uint8

// The ways of normalization.
const (
	// PathAsIs: the application must read paths as the policies do.
	PathAsIs PathNormalization = iota
	// PathBase is RFC 3986's normalization, with backslashes as slashes.
	PathBase
	// PathMergeSlashes makes one slash of several.
	PathMergeSlashes
	// PathDecodeSlashes decodes %2F and %5C first.
	PathDecodeSlashes
)

// Rules are the rules of one VirtualService (delegates merged), HTTPRoute or
// GRPCRoute, ready to be placed under each of Hosts.
type Rules struct {
	Origin  Origin
	Created time.Time
	// Hosts are full names (short ones resolved) in the order of the object.
	Hosts []string
	// Gateways are "mesh" or "namespace/name".
	Gateways []string
	// ExportTo has the mesh default filled in, and "." resolved to the namespace.
	ExportTo []string
	HTTP     []*Route
	TLS      []*L4Route
	TCP      []*L4Route
}

// Route is one HTTP rule: any of Matches (none: always), then one action.
type Route struct {
	Name    string
	Origin  Origin
	Matches []*Match
	// Exactly one action.
	Destinations []Destination
	Redirect     *Redirect
	Direct       *Direct

	Rewrite         *Rewrite
	Timeout         time.Duration // 0: none
	RequestHeaders  HeaderOps
	ResponseHeaders HeaderOps
	Retries         *Retries // nil: not written

	// What a delegate inherits depends on whether it is written at all.
	timeoutSet, headersSet bool
	delegate               *delegateRef
}

// Retries says when a request may be sent again (Istio: HTTPRetry).
type Retries struct {
	// Attempts beside the first; 0: none, not even Istio's default ones.
	Attempts int
	// On lists Envoy's conditions and statuses, separated by commas; empty:
	// Istio's default.
	On string
	// PerTryTimeout bounds each attempt, 0: only the route's timeout does.
	// Backoff is the base of the pauses between them, 0: Envoy's 25 ms.
	PerTryTimeout, Backoff time.Duration
	// SameHosts: an endpoint that failed may be tried again
	// (retryIgnorePreviousHosts: false).
	SameHosts bool
}

// Match is one alternative of a Route's condition.
type Match struct {
	Name   string
	Origin Origin
	// Conditions on the request; zero values ask nothing.
	URI, Scheme, Method, Authority *StringMatch
	IgnoreURICase                  bool
	Headers                        []HeaderMatch
	Query                          []HeaderMatch
	Port                           int
	// Conditions on the proxy that holds the route.
	SourceLabels    map[string]string
	SourceNamespace string
	Gateways        []string
}

// StringMatch keeps the user's form beside the compiled one, because
// translation writes it out again.
type StringMatch struct {
	Kind  StringKind
	Value string
	// Compiled is the matcher that validation built.
	Compiled match.String
}

// StringKind is the kind of a StringMatch.
type StringKind uint8

// The kinds.
const (
	Exact StringKind = iota
	Prefix
	Regex
)

// HeaderMatch is a condition on a header or query parameter. A nil Value asks
// for presence only; Invert negates (withoutHeaders).
type HeaderMatch struct {
	Name   string
	Value  *StringMatch
	Invert bool
}

// Destination is one weighted target.
type Destination struct {
	Host            string // full name
	Subset          string
	Port            int // 0: the service's only port, or the listener's port
	Weight          int
	RequestHeaders  HeaderOps
	ResponseHeaders HeaderOps
	Origin          Origin
}

// HeaderOps are set, add and remove of Istio's Headers.HeaderOperations.
type HeaderOps struct {
	Set, Add []Header // sorted by name
	Remove   []string
}

// Header is a name and a value.
type Header struct{ Name, Value string }

// Rewrite changes path and authority before forwarding.
type Rewrite struct {
	URI, Authority         string
	HasURI                 bool
	RegexMatch, RegexSubst string
}

// Redirect answers with a redirect (Istio: HTTPRedirect).
type Redirect struct {
	URI, Authority, Scheme string
	PrefixRewrite          string // replaces the matched prefix, or path (prefixRewrite)
	Port                   int
	PortFromRequest        bool // FROM_REQUEST_PORT
	PortFromProtocol       bool // FROM_PROTOCOL_DEFAULT
	Code                   int
}

// Direct answers from the proxy (Istio: HTTPDirectResponse).
type Direct struct {
	Status int
	Body   []byte
}

// L4Route is one tcp or tls rule.
type L4Route struct {
	Origin       Origin
	Matches      []L4Match
	Destinations []Destination
}

// L4Match is one alternative of an L4Route's condition.
type L4Match struct {
	SNIHosts           []string // tls only
	DestinationSubnets []netip.Prefix
	Port               int
	SourceLabels       map[string]string
	SourceNamespace    string
	Gateways           []string
	Origin             Origin
}

// Gateway is one Gateway object.
type Gateway struct {
	Origin    Origin
	Name      string
	Namespace string
	Selector  map[string]string
	// Services, when there are any, stand instead of the Selector: hosts of
	// services in the Gateway's namespace whose workloads the Gateway is for.
	Services []string
	Created  time.Time
	Servers  []*Server
}

// Server is one server of a Gateway.
type Server struct {
	Origin   Origin
	Name     string
	Port     int
	PortName string
	Protocol registry.Protocol
	Bind     string
	// Hosts as "namespace/host"; namespace "*" or "." resolved to a name.
	Hosts []GatewayHost
	TLS   *ServerTLS
	// TargetPort 0: Port.
	TargetPort int
}

// GatewayHost is a host that a gateway serves, for VirtualServices of Namespace
// ("*": any).
type GatewayHost struct{ Namespace, Host string }

// ServerTLS is a server's TLS settings.
type ServerTLS struct {
	Mode                      string // Istio's ServerTLSSettings.TLSmode name
	HTTPSRedirect             bool
	CredentialNames           []string
	CertFile, KeyFile, CAFile string
	MinVersion, MaxVersion    string
	CipherSuites              []string // OpenSSL's names, each once; nil: the proxy's choice
}

// TrafficPolicy is the part of a DestinationRule's policy that applies to one
// subset and port.
type TrafficPolicy struct {
	Balancer string // "", ROUND_ROBIN, LEAST_REQUEST, RANDOM, PASSTHROUGH
	TLSMode  string // "", DISABLE, ISTIO_MUTUAL
	Pool     *pool.Settings
	// ProxyHeader is the version of the PROXY header that connections begin
	// with, 1 or 2; 0: none. A port's settings do not have one of their own.
	ProxyHeader int
	Origin      Origin
}

// Subset is a named part of a service's endpoints.
type Subset struct {
	Name   string
	Labels map[string]string
	Policy *TrafficPolicy
	Ports  map[int]*TrafficPolicy
	Origin Origin
}

// DestinationRule is what one client namespace sees for one host.
type DestinationRule struct {
	Origin   Origin
	Host     string
	ExportTo []string
	Created  time.Time
	Selector map[string]string
	Policy   *TrafficPolicy
	Ports    map[int]*TrafficPolicy
	Subsets  []*Subset
	// Parts are the rules of which this one is merged, oldest first; nil: it is
	// one object's.
	Parts []*DestinationRule
}

// MTLSMode is PeerAuthentication's mode, resolved.
type MTLSMode uint8

// The modes.
const (
	MTLSPermissive MTLSMode = iota
	MTLSStrict
	MTLSDisable
)

// PeerAuth is the effective PeerAuthentication of a workload.
type PeerAuth struct {
	Mode   MTLSMode
	Origin Origin
	Ports  map[int]MTLSMode
	// Deny: a refused security object without a good version selects the
	// workload; it must refuse all inbound traffic.
	Deny       bool
	DenyOrigin Origin
}

// SidecarScope is the egress scope of a workload (Sidecar resource, or the default).
type SidecarScope struct {
	Origin       Origin
	Default      bool // no Sidecar resource applies: every visible service
	Shared       bool // Default, and the same for all namespaces to which nothing is exported by name
	RegistryOnly *bool
	// Ingress, when there is any, stands instead of the ports of the services.
	Ingress []IngressListener
	// InboundPool limits what the app gets, at ports whose ingress listener has
	// no limits of its own; nil: destination rules do (inboundConnectionPool).
	InboundPool *pool.Settings
	Egress      []EgressListener
	// Services are all that the scope can call: those of every listener, and
	// what the listeners' rules lead to. One for each host.
	Services []*registry.Service
}

// EgressListener is one egress listener of a Sidecar.
type EgressListener struct {
	Port        int // 0: all service ports
	PortName    string
	Protocol    registry.Protocol
	Bind        string
	CaptureNone bool
	// Services in scope, one for each host, in Istio's order: exported to this
	// namespace alone first, then public ones, each by age and name. With a
	// Port they have that port only.
	Services []*registry.Service
	Rules    []*Rules
	Origin   Origin
}
