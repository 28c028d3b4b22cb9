// Package listener is where connections come in: configuration (Spec) and the
// choice of a filter chain (Matcher: a pure function over facts) here, accepting
// in accept*.go. A Spec is immutable; sockets belong to whoever runs the engine.
// Read types.go first, then matcher.go.
package listener

import (
	"net/netip"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/filter"
	"github.com/tullemesh/tulle/internal/proxy/engine/filter/authz"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
	"github.com/tullemesh/tulle/internal/proxy/engine/tls"
)

// Direction is Envoy's TrafficDirection; telemetry reports by it.
type Direction uint8

// The traffic directions.
const (
	Unspecified Direction = iota
	Inbound
	Outbound
)

// Spec is one listener (Envoy: config.listener.v3.Listener).
type Spec struct {
	Name string
	// Addresses to listen at, the first being the primary.
	Addresses []netip.AddrPort
	// BindToPort false: reached only from another listener that hands over
	// redirected connections (UseOriginalDst).
	BindToPort bool
	// UseOriginalDst hands a connection to the listener whose address is the
	// original destination, else to the wildcard address of that port, else
	// keeps it.
	UseOriginalDst bool
	// OriginalDst: the original_dst listener filter is present.
	OriginalDst bool
	Direction   Direction
	// Proxy reads a PROXY protocol header first; nil: there is none.
	Proxy *ProxyProtocol
	// InspectTLS and InspectHTTP say which inspectors run. Each may be
	// disabled for destination ports.
	InspectTLS, InspectHTTP             bool
	InspectTLSExcept, InspectHTTPExcept PortMatch
	// SniffTimeout bounds the wait of the inspectors; 0: 15 s, because every wait
	// has an end (Envoy: none).
	// ContinueOnTimeout goes on without an answer, else closes.
	SniffTimeout      time.Duration
	ContinueOnTimeout bool
	Chains            []*Chain
	// Default is used when no chain matches; nil: the connection is closed.
	Default *Chain
	// AccessLog of connections that no chain took.
	AccessLog []AccessLog
	// Hash is of the resource's bytes; equal hashes are equal listeners.
	Hash string
}

// PortMatch is a set of destination ports, ranges half-open as Envoy's.
type PortMatch struct {
	Not    bool
	Ranges []PortRange
}

// PortRange is [Start, End).
type PortRange struct{ Start, End uint32 }

// Contains reports whether port is in the set.
func (m PortMatch) Contains(port uint16) bool {
	in := false
	for _, r := range m.Ranges {
		if uint32(port) >= r.Start && uint32(port) < r.End {
			in = true
			break
		}
	}
	return in != m.Not && (len(m.Ranges) > 0 || m.Not)
}

// Chain is one filter chain with its match
// (Envoy: config.listener.v3.FilterChain).
type Chain struct {
	Name  string
	Match ChainMatch
	// TLS terminates TLS; nil: plaintext.
	TLS *tls.ServerSpec
	// L4 are network filters in order before the terminal one.
	L4 []*authz.Policies
	// Exactly one terminal filter: HTTP or TCP.
	HTTP *HTTPManager
	TCP  *TCPProxy
	// TransportTimeout bounds the handshake; 0: default.
	TransportTimeout time.Duration
	Origin           string
}

// ChainMatch holds the criteria of Envoy's FilterChainMatch; empty: any. It is
// evaluated in Envoy's documented order without backtracking: destination
// port, destination address, server names, transport protocol, application
// protocols, directly connected source address, source type, source address,
// source port.
type ChainMatch struct {
	DestinationPort    uint16
	DestinationPrefix  []netip.Prefix
	ServerNames        []string
	Transport          string // "", "tls", "raw_buffer"
	ApplicationProtos  []string
	DirectSourcePrefix []netip.Prefix
	SourceType         SourceType
	SourcePrefix       []netip.Prefix
	SourcePorts        []uint16
}

// SourceType is Envoy's ConnectionSourceType.
type SourceType uint8

// The source types.
const (
	SourceAny SourceType = iota
	SourceSameOrLoopback
	SourceExternal
)

// HTTPManager is Envoy's HTTP connection manager.
type HTTPManager struct {
	// Codec is the protocol of the downstream: auto detects.
	Codec Codec
	// RouteName names the route configuration to subscribe to (RDS); Inline is
	// set instead when the routes came with the listener.
	RouteName string
	Inline    *router.Table
	Filters   []filter.Spec
	// StreamIdleTimeout (5 min), RequestTimeout (0), HeadersTimeout (0),
	// IdleTimeout (1 h), MaxConnectionDuration (0), DrainTimeout (5 s); 0: none.
	StreamIdleTimeout, RequestTimeout, HeadersTimeout, IdleTimeout time.Duration
	MaxConnectionDuration, DrainTimeout, MaxStreamDuration         time.Duration
	MaxRequestsPerConnection                                       uint32
	HeaderBytesMax, HeaderCountMax                                 uint32
	MaxConcurrentStreams                                           uint32
	PingInterval, PingTimeout                                      time.Duration // of HTTP/2 connections; 0: no PING
	ServerName                                                     string        // "istio-envoy"
	ServerHeaderPassThrough                                        bool
	UseRemoteAddress, SkipXFFAppend                                bool
	XFFTrustedHops                                                 uint32
	GenerateRequestID, PreserveRequestID, AlwaysRequestIDInResp    bool
	ForwardClientCert                                              ForwardClientCert
	NormalizePath, MergeSlashes                                    bool
	EscapedSlashes                                                 EscapedSlashes
	StripPort                                                      bool // strip_any_host_port / matching
	Upgrades                                                       []string
	// AllowConnect takes extended CONNECT, by which upgrades are asked for over
	// HTTP/2, and lets clients know (RFC 8441).
	AllowConnect bool
	AcceptHTTP10 bool
	// Proxy100Continue passes Expect: 100-continue to the upstream and its 100
	// (Continue) to the client; else the expectation is answered here.
	Proxy100Continue bool
	Via              string
	AccessLog        []AccessLog
}

// Codec is the downstream protocol of an HTTPManager.
type Codec uint8

// The codecs.
const (
	CodecAuto Codec = iota
	CodecHTTP1
	CodecHTTP2
)

// ForwardClientCert says what happens with x-forwarded-client-cert.
type ForwardClientCert struct {
	Mode                    XFCCMode
	Subject, URI, DNS, Cert bool
}

// XFCCMode is Envoy's forward_client_cert_details.
type XFCCMode uint8

// The modes.
const (
	XFCCSanitize XFCCMode = iota
	XFCCForwardOnly
	XFCCAppendForward
	XFCCSanitizeSet
	XFCCAlwaysForwardOnly
)

// EscapedSlashes is Envoy's path_with_escaped_slashes_action.
type EscapedSlashes uint8

// The actions.
const (
	KeepUnchanged EscapedSlashes = iota
	RejectRequest
	UnescapeAndRedirect
	UnescapeAndForward
)

// TCPProxy forwards bytes (Envoy: network tcp_proxy).
type TCPProxy struct {
	Clusters        []router.Weighted
	TotalWeight     uint32
	IdleTimeout     time.Duration // default 1 h; 0: none
	MaxDuration     time.Duration
	AccessLog       []AccessLog
	MaxConnectTries uint32
}

// AccessLog is one sink of access log lines.
type AccessLog struct {
	// Path is a file path, "/dev/stdout" included.
	Path string
	// Format is Envoy's text format, parsed at compile time by access.Parse;
	// JSON holds key and format in order instead.
	Format string
	JSON   []JSONField
	// ResponseFlags, StatusMin...: filters; empty logs everything.
	OnlyFlags []string
	StatusMin int
	NotHealth bool
}

// JSONField is a field of a JSON access log.
type JSONField struct{ Key, Format string }
