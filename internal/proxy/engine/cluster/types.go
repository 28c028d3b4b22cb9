// Package cluster is where requests go: configuration (Spec, Assignment), the
// choice of an endpoint (balance.go: pure functions over an immutable HostSet),
// and live state (endpoints, pools, health), which is keyed by name and outlives
// configuration. Read types.go first, then balance.go.
package cluster

import (
	"net/netip"
	"time"

	"github.com/tullemesh/tulle/internal/match"
	"github.com/tullemesh/tulle/internal/proxy/engine/tls"
)

// Kind says where a cluster's endpoints come from.
type Kind uint8

// The kinds (Envoy: Cluster.DiscoveryType).
const (
	Static Kind = iota
	EDS
	StrictDNS
	LogicalDNS
	OriginalDst
)

// Balancer is the load balancing policy.
type Balancer uint8

// The policies.
const (
	RoundRobin Balancer = iota
	LeastRequest
	Random
	ClusterProvided
)

// Protocol is the upstream HTTP protocol.
type Protocol uint8

// The upstream protocols.
const (
	HTTP1 Protocol = iota
	HTTP2
	// Downstream uses the protocol of the downstream request.
	Downstream
	// Auto negotiates by ALPN.
	Auto
)

// Spec is a cluster's configuration (Envoy: config.cluster.v3.Cluster). Live
// state (endpoints, pools, health) is kept elsewhere, keyed by Name, and
// outlives a Spec.
type Spec struct {
	Name string
	Kind Kind
	// EDSName is the assignment's name when it differs from Name.
	EDSName        string
	Balancer       Balancer
	LeastChoices   uint32 // choices of least request, 2
	ConnectTimeout time.Duration
	Protocol       Protocol
	// Endpoints of Static, StrictDNS, LogicalDNS.
	Endpoints *Assignment
	// TLS by transport socket match: the first entry whose Match the
	// endpoint's metadata fulfils; an entry with nil Spec is plaintext.
	TLS []TLSMatch
	// BindAddress is the source address of upstream connections (127.0.0.6 for
	// inbound passthrough).
	BindAddress netip.Addr
	// Thresholds.
	MaxConnections, MaxPending, MaxRequests, MaxRetries uint32
	MaxRequestsPerConn                                  uint32
	IdleTimeout, MaxConnDuration                        time.Duration
	KeepaliveProbes, KeepaliveTime, KeepaliveInterval   uint32 // seconds; 0: off
	DNSRefresh, DNSJitter                               time.Duration
	DNSFailure                                          Backoff
	RespectDNSTTL                                       bool
	DNSFamily                                           DNSFamily
	PanicThreshold                                      uint32 // percent
	LocalityWeighted                                    bool
	MaxConcurrentStreams                                uint32
	PingInterval, PingTimeout                           time.Duration // of HTTP/2 connections; 0: no PING
	// AutoSNI takes the SNI from the request's authority where TLS names none.
	AutoSNI bool
	// Catchall says that the cluster takes what nobody registered to its original
	// destination, unlike an OriginalDst cluster of a known service.
	Catchall bool
	// OriginalPort replaces the port of original destinations; 0: it stays
	// (Envoy: OriginalDstLbConfig.upstream_port_override).
	OriginalPort uint16
	// Labels for telemetry, from Istio's metadata.
	Service Service
	Origin  string
	// Hash is of the resource's bytes.
	Hash string
}

// DNSFamily is Envoy's DnsLookupFamily.
type DNSFamily uint8

// The families.
const (
	DNSAuto DNSFamily = iota
	DNSV4Only
	DNSV6Only
	DNSV4Preferred
	DNSAll
)

// Service is the destination service of Istio's cluster metadata
// (filter_metadata["istio"].services).
type Service struct{ Host, Name, Namespace string }

// TLSMatch chooses a transport socket by endpoint metadata
// (Envoy: transport_socket_matches).
type TLSMatch struct {
	Name  string
	Match map[string]match.String
	Spec  *tls.ClientSpec
	// Proxy is the version of the PROXY header that connections begin with, 1
	// or 2, before any TLS; 0: none (Envoy: ProxyProtocolUpstreamTransport).
	Proxy int
}

// Assignment is the endpoints of a cluster (Envoy: ClusterLoadAssignment).
type Assignment struct {
	Name       string
	Localities []Locality
	// OverprovisioningFactor in percent; 140 when zero.
	OverprovisioningFactor uint32
	Hash                   string
}

// Count is the number of endpoints.
func (a *Assignment) Count() int {
	n := 0
	for i := range a.Localities {
		n += len(a.Localities[i].Endpoints)
	}
	return n
}

// Locality is a group of endpoints.
type Locality struct {
	Region, Zone, SubZone string
	Priority              uint32
	Weight                uint32
	Endpoints             []Endpoint
}

// Endpoint is one address that serves a cluster.
type Endpoint struct {
	// Addr is the address; for DNS clusters Host and Port are set instead;
	// Pipe is a Unix socket path.
	Addr netip.AddrPort
	Host string
	Port uint16
	Pipe string
	// Extra holds further addresses (happy eyeballs, dual stack).
	Extra  []netip.AddrPort
	Weight uint32
	Health Health
	// TransportMatch is filter_metadata["envoy.transport_socket_match"].
	TransportMatch map[string]string
	// Workload is Istio's "workload" metadata: "name;namespace;service;revision;cluster".
	Workload string
	Hostname string
}

// Health is the health that the assignment states.
type Health uint8

// The health states.
const (
	Healthy Health = iota
	Unhealthy
	Draining
	Degraded
)
