package app

import "net/netip"

// Question is one connection or request to explain, and the proxy that it
// meets. Zero values mean what the flags of `tulle explain` say.
type Question struct {
	// Files and folders that hold the objects; MeshConfig is a file or empty.
	Files      []string
	MeshConfig string

	// Gateway asks a gateway (node type router), else a sidecar.
	Gateway   bool
	ProxyIPs  []netip.Addr
	Namespace string
	Labels    map[string]string
	Metadata  map[string]string

	// Inbound: the connection comes from outside to the workload.
	Inbound bool
	// Address is the destination; unset: for the proxy's own addresses when
	// inbound or at a gateway, else any service's address by Host.
	Address netip.Addr
	Port    int
	// Protocol is "http", "http2" or "tcp"; TLS is "none", "tls" or "mtls".
	Protocol, TLS string
	SNI, ALPN     string

	Host, Path, Method string
	Headers            [][2]string
}

// Answer is what happens to a Question. Its JSON is stable: fields are added,
// never changed.
type Answer struct {
	// Decision is forward, direct, redirect, deny, reject, passthrough,
	// blackhole or conditional.
	Decision string `json:"decision"`
	Status   int    `json:"status"`
	// Error is empty or no_listener, no_filter_chain, invalid_mtls, protocol,
	// no_virtual_host, no_route.
	Error       string `json:"error"`
	Listener    string `json:"listener"`
	FilterChain string `json:"filterChain"`
	RouteConfig string `json:"routeConfig"`
	VirtualHost string `json:"virtualHost"`
	Route       string `json:"route"`
	Cluster     string `json:"cluster"`
	// Missing is the name of the cluster that a route leads to and that does
	// not exist, because no service or subset does: such a request is rejected
	// with Status (503), and Cluster is that name too.
	Missing    string            `json:"missing"`
	Weights    map[string]uint32 `json:"weights"`
	Policy     string            `json:"policy"`
	Conditions []string          `json:"conditions"`
	Origin     []Place           `json:"origin"`
	// Refused counts the errors and unsupported fields of the files: what is
	// refused is not a part of the answer. The analyze command tells them.
	Refused int    `json:"refused"`
	Trace   []Step `json:"trace"`
}

// Place is a field of an object, and where it stands.
type Place struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Path      string `json:"path"`
	File      string `json:"file"`
	Line      int    `json:"line"`
	Column    int    `json:"column"`
}

// Step is one thing that was considered on the way.
type Step struct {
	Stage string `json:"stage"`
	Name  string `json:"name"`
	// Verdict is chosen, skipped, allowed, denied or failed.
	Verdict string `json:"verdict"`
	Matched bool   `json:"matched"`
	Why     string `json:"why"`
	Origin  *Place `json:"origin,omitempty"`
}
