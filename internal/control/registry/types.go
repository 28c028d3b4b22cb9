// Package registry merges what all sources know of services, workloads and
// endpoints, and the configuration objects beside them, into one immutable
// Set. Sources put whole inputs into a Store; model.Build takes the Set out.
//
// The Store owns all state: the last good version of every object, and what was
// made of it, so that a change costs what it touches. A Set never changes once it
// is published; unchanged parts are shared between Sets by pointer. Conversion
// follows Istio's rules for Kubernetes Services, ServiceEntries, WorkloadEntries and
// Pods. Read types.go first, then store.go, version.go (which version of an object
// counts) and converter.go (what becomes of it).
package registry

import (
	"net/netip"
	"time"

	meshconfig "istio.io/api/mesh/v1alpha1"

	"github.com/tullemesh/tulle/internal/apis"
)

// Protocol is the application protocol of a port (Istio, "Protocol Selection").
type Protocol string

// The protocols.
const (
	Unsupported Protocol = "" // not declared: detect
	TCP         Protocol = "TCP"
	UDP         Protocol = "UDP"
	HTTP        Protocol = "HTTP"
	HTTP2       Protocol = "HTTP2"
	GRPC        Protocol = "GRPC"
	GRPCWeb     Protocol = "GRPC-Web"
	HTTPS       Protocol = "HTTPS"
	TLS         Protocol = "TLS"
	Mongo       Protocol = "Mongo"
	MySQL       Protocol = "MySQL"
	Redis       Protocol = "Redis"
	HTTPProxy   Protocol = "HTTP_PROXY"
)

// IsHTTP reports whether requests of the protocol are routed by HTTP rules.
func (p Protocol) IsHTTP() bool {
	switch p {
	case HTTP, HTTP2, GRPC, GRPCWeb, HTTPProxy:
		return true
	}
	return false
}

// IsHTTP2 reports whether the protocol is HTTP/2 by declaration.
func (p Protocol) IsHTTP2() bool { return p == HTTP2 || p == GRPC || p == GRPCWeb }

// IsTLS reports whether the protocol is TLS that the mesh does not terminate.
func (p Protocol) IsTLS() bool { return p == TLS || p == HTTPS }

// Resolution says how a service's endpoints are found (ServiceEntry.resolution).
type Resolution uint8

// The resolutions.
const (
	// Static: the endpoints are known (STATIC, Kubernetes services with VIP).
	Static Resolution = iota
	// Passthrough: the caller's destination address is used (NONE, headless).
	Passthrough
	// DNS and DNSRoundRobin resolve names in the proxy.
	DNS
	DNSRoundRobin
	// Alias: the service is another name of the service ExternalName
	// (Kubernetes ExternalName); it has no cluster of its own.
	Alias
)

// Port is a port of a service.
type Port struct {
	Name     string
	Number   int
	Protocol Protocol
	// Target is the workload's port where the service states one number; 0:
	// it is read off the endpoints.
	Target int
}

// Service is one host name that can be called, in one namespace.
type Service struct {
	// Hostname is the full name, "reviews.default.svc.cluster.local" or the
	// host of a ServiceEntry, which may be a wildcard.
	Hostname, Name, Namespace string
	Ports                     []Port
	// Addresses are the VIPs, CIDRs included. AutoAddress was allocated by us.
	Addresses   []netip.Prefix
	AutoAddress netip.Addr
	Resolution  Resolution
	Headless    bool
	External    bool // ServiceEntry location MESH_EXTERNAL
	// ExportTo: empty means the mesh default; "." own namespace, "*" all, "~" none.
	ExportTo []string
	Labels   map[string]string
	Selector map[string]string // of the workloads; nil: none
	Created  time.Time
	Accounts []string // subjectAltNames
	// FromKubernetes: a Kubernetes Service; false: a ServiceEntry. Kubernetes
	// wins a conflict over the same host (Istio).
	FromKubernetes bool
	Cluster        string // registry key, "Kubernetes" by default
	Key            apis.Key
	// ExternalName is the target host of an Alias.
	ExternalName string
	// Aliases are the hosts of the Alias services that lead here, sorted.
	Aliases []string
}

// Locality is where an endpoint runs.
type Locality struct{ Region, Zone, SubZone string }

// Endpoint is one address at which one port of one service is served.
type Endpoint struct {
	Service   string // hostname
	Namespace string // of the service
	Port      int    // service port number
	// Addresses of the endpoint, the primary first; Host is a DNS name instead;
	// Pipe is a Unix socket instead.
	Addresses []netip.Addr
	Host      string
	Pipe      string
	// TargetPort is the port to dial.
	TargetPort int
	Labels     map[string]string
	Locality   Locality
	Network    string
	Cluster    string
	Weight     uint32 // at least 1
	// Account is the service account; with Workload's namespace it is the identity.
	Account           string
	WorkloadNamespace string
	Workload          string // workload name for telemetry, "reviews-v1"
	Ready             bool
	Draining          bool
	// TLSMode is "istio" when the endpoint has a sidecar, else "disabled"
	// (label security.istio.io/tlsMode).
	TLSMode string
	Key     apis.Key // WorkloadEntry, ServiceEntry, EndpointSlice, Pod
	Path    string   // field path within that object
	// WorkloadKey is the Key of the Workload behind the endpoint; zero: not known.
	WorkloadKey apis.Key
}

// Workload is one running instance that may have a proxy.
type Workload struct {
	Name, Namespace string
	// Owner is the workload's name in telemetry (deployment name).
	Owner       string
	Addresses   []netip.Addr
	Labels      map[string]string
	Annotations map[string]string
	Account     string
	Locality    Locality
	Network     string
	Cluster     string
	// Ports that the workload declares, by name.
	Ports map[string]int
	Ready bool
	Key   apis.Key
}

// MeshConfig is Istio's own type, which sources pass on unread.
type MeshConfig = meshconfig.MeshConfig

// Set is everything that one moment knows. It is immutable.
type Set struct {
	// Version grows with each Set.
	Version   uint64
	Services  []*Service  // sorted by namespace, hostname
	Endpoints []*Endpoint // sorted by service, namespace, port, address
	Workloads []*Workload // sorted by namespace, name
	// Namespaces by name with labels.
	Namespaces map[string]map[string]string
	// Objects are the accepted configuration objects (last good versions),
	// sorted by key; Problems are of everything read, refused objects included.
	Objects  []*apis.Object
	Problems []apis.Problem
	// Denied are security objects without a good version: the workloads that
	// they select must deny (DESIGN, Strictness).
	Denied []*apis.Object
	// MeshConfig is what a source found (a ConfigMap "istio" or a file), nil: none.
	MeshConfig *MeshConfig
}
