package wire

import (
	"errors"
	"fmt"
	"net/netip"
	"sort"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// nodeBytesMax bounds a node with its metadata. Istio's own nodes have 2 to
// 5 kB; labels and annotations of Kubernetes may reach 256 KiB.
const nodeBytesMax = 256 << 10

// Features that our proxy announces in Node.client_features. A server that
// does not know them sends everything inline, which our proxy takes as well.
const (
	// FeatureVHDS asks for virtual hosts as resources of their own.
	FeatureVHDS = "tulle.vhds"
	// FeatureRanks says that the proxy ranks localities itself, so that
	// endpoints are sent the same to proxies of all localities.
	FeatureRanks = "tulle.ranks"
)

// ErrNode is wrapped by every error of ParseNode.
var ErrNode = errors.New("node refused")

// NodeType is the first part of Istio's node id.
type NodeType string

// The node types that we serve (Istio, pilot/pkg/model NodeType).
const (
	Sidecar NodeType = "sidecar"
	Router  NodeType = "router"
)

// Node is what an xDS client says about itself, by Istio's conventions: the id
// is "TYPE~IP~NAME.NAMESPACE~DOMAIN", the metadata is that of Istio's bootstrap.
// It holds claims: who the client really is says its certificate.
type Node struct {
	ID   string
	Type NodeType
	// IPs are the workload's addresses: INSTANCE_IPS, else the id's.
	IPs             []netip.Addr
	Name, Namespace string
	// Domain is the DNS search domain, e.g. "default.svc.cluster.local".
	Domain  string
	Cluster string
	// Region, Zone and SubZone are the locality.
	Region, Zone, SubZone string
	UserAgent             string
	UserAgentVersion      string
	Features              []string
	Metadata              NodeMetadata
}

// NodeMetadata is the part of Istio's bootstrap metadata (pkg/model
// BootstrapNodeMetadata) that configuration may depend on.
type NodeMetadata struct {
	ClusterID       string            // CLUSTER_ID
	MeshID          string            // MESH_ID
	Network         string            // NETWORK
	IstioVersion    string            // ISTIO_VERSION
	Revision        string            // ISTIO_REVISION
	ServiceAccount  string            // SERVICE_ACCOUNT
	WorkloadName    string            // WORKLOAD_NAME
	Owner           string            // OWNER
	NodeName        string            // NODE_NAME
	Interception    string            // INTERCEPTION_MODE: REDIRECT, TPROXY, NONE
	Generator       string            // GENERATOR: "grpc" for proxyless clients
	Labels          map[string]string // LABELS
	NetworkViews    []string          // REQUESTED_NETWORK_VIEW
	HTTPProxyPort   int               // HTTP_PROXY_PORT; 0: none
	DNSCapture      bool              // DNS_CAPTURE
	DNSAutoAllocate bool              // DNS_AUTO_ALLOCATE
	UnprivilegedPod bool              // UNPRIVILEGED_POD
	// AppPorts (TULLE_APP_PORTS) maps a port of the workload, as services
	// target it, to the address at which the app itself listens, for proxies
	// that share a host with others: {"8080": "127.0.0.1:41001"}.
	AppPorts map[string]string
	// Egress (TULLE_EGRESS) maps a "host:port" that the app calls to an
	// address on which the proxy shall listen for it.
	Egress map[string]string
}

// Supports reports whether the client announced the feature.
func (n *Node) Supports(feature string) bool {
	for _, f := range n.Features {
		if f == feature {
			return true
		}
	}
	return false
}

// NodeID is Istio's node id.
func NodeID(t NodeType, ip netip.Addr, name, namespace, domain string) string {
	return string(t) + "~" + ip.String() + "~" + name + "." + namespace + "~" + domain
}

// ParseNode reads a node strictly where identity depends on it (type, address,
// name, namespace) and leniently in metadata, where Istio itself writes numbers
// and booleans as strings. The result shares nothing with p.
func ParseNode(p *corev3.Node) (*Node, error) {
	if p == nil {
		return nil, fmt.Errorf("%w: the first request has none", ErrNode)
	}
	if size := proto.Size(p); size > nodeBytesMax {
		return nil, fmt.Errorf("%w: %d bytes of node and metadata, the limit is %d", ErrNode, size, nodeBytesMax)
	}
	n, err := parseNodeID(p.GetId())
	if err != nil {
		return nil, err
	}
	n.Cluster = p.GetCluster()
	n.Region, n.Zone, n.SubZone = p.GetLocality().GetRegion(), p.GetLocality().GetZone(), p.GetLocality().GetSubZone()
	n.UserAgent = p.GetUserAgentName()
	n.UserAgentVersion = p.GetUserAgentVersion()
	n.Features = append([]string(nil), p.GetClientFeatures()...)
	sort.Strings(n.Features)

	m := p.GetMetadata().GetFields()
	n.Metadata = parseNodeMetadata(m)
	if ns := m["NAMESPACE"].GetStringValue(); ns != "" && ns != n.Namespace {
		return nil, fmt.Errorf("%w: id %q names namespace %q, metadata NAMESPACE is %q", ErrNode, n.ID, n.Namespace, ns)
	}
	if v := m["INSTANCE_IPS"].GetStringValue(); v != "" {
		if n.IPs, err = parseIPs(v); err != nil {
			return nil, fmt.Errorf("%w: metadata INSTANCE_IPS: %w", ErrNode, err)
		}
	}
	if len(n.IPs) == 0 {
		return nil, fmt.Errorf("%w: id %q has no address and metadata has no INSTANCE_IPS", ErrNode, n.ID)
	}
	return n, nil
}

func parseNodeID(id string) (*Node, error) {
	parts := strings.Split(id, "~")
	if len(parts) != 4 {
		return nil, fmt.Errorf("%w: id %q is not TYPE~IP~NAME.NAMESPACE~DOMAIN", ErrNode, id)
	}
	n := &Node{ID: id, Type: NodeType(parts[0]), Domain: parts[3]}
	if n.Type != Sidecar && n.Type != Router {
		return nil, fmt.Errorf("%w: id %q: type %q is neither sidecar nor router", ErrNode, id, parts[0])
	}
	if parts[1] != "" {
		ip, err := netip.ParseAddr(parts[1])
		if err != nil {
			return nil, fmt.Errorf("%w: id %q: %w", ErrNode, id, err)
		}
		n.IPs = []netip.Addr{ip}
	}
	// A pod's name may hold dots, a namespace may not.
	dot := strings.LastIndexByte(parts[2], '.')
	if dot <= 0 || dot == len(parts[2])-1 {
		return nil, fmt.Errorf("%w: id %q: %q is not NAME.NAMESPACE", ErrNode, id, parts[2])
	}
	n.Name, n.Namespace = parts[2][:dot], parts[2][dot+1:]
	return n, nil
}

func parseIPs(list string) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, s := range strings.Split(list, ",") {
		ip, err := netip.ParseAddr(strings.TrimSpace(s))
		if err != nil {
			return nil, err
		}
		out = append(out, ip)
	}
	return out, nil
}

func parseNodeMetadata(m map[string]*structpb.Value) NodeMetadata {
	text := func(key string) string { return m[key].GetStringValue() }
	md := NodeMetadata{
		ClusterID:       text("CLUSTER_ID"),
		MeshID:          text("MESH_ID"),
		Network:         text("NETWORK"),
		IstioVersion:    text("ISTIO_VERSION"),
		Revision:        text("ISTIO_REVISION"),
		ServiceAccount:  text("SERVICE_ACCOUNT"),
		WorkloadName:    text("WORKLOAD_NAME"),
		Owner:           text("OWNER"),
		NodeName:        text("NODE_NAME"),
		Interception:    text("INTERCEPTION_MODE"),
		Generator:       text("GENERATOR"),
		DNSCapture:      truth(m["DNS_CAPTURE"]),
		DNSAutoAllocate: truth(m["DNS_AUTO_ALLOCATE"]),
		UnprivilegedPod: truth(m["UNPRIVILEGED_POD"]),
		HTTPProxyPort:   port(m["HTTP_PROXY_PORT"]),
	}
	if labels := m["LABELS"].GetStructValue().GetFields(); len(labels) > 0 {
		md.Labels = make(map[string]string, len(labels))
		for k, v := range labels {
			md.Labels[k] = v.GetStringValue()
		}
	}
	md.AppPorts = texts(m["TULLE_APP_PORTS"])
	md.Egress = texts(m["TULLE_EGRESS"])
	for _, v := range strings.Split(text("REQUESTED_NETWORK_VIEW"), ",") {
		if v = strings.TrimSpace(v); v != "" {
			md.NetworkViews = append(md.NetworkViews, v)
		}
	}
	for _, v := range m["REQUESTED_NETWORK_VIEW"].GetListValue().GetValues() {
		md.NetworkViews = append(md.NetworkViews, v.GetStringValue())
	}
	return md
}

// texts reads an object whose values are strings; nil when it is none.
func texts(v *structpb.Value) map[string]string {
	fields := v.GetStructValue().GetFields()
	if len(fields) == 0 {
		return nil
	}
	out := make(map[string]string, len(fields))
	for k, f := range fields {
		out[k] = f.GetStringValue()
	}
	return out
}

// truth reads Istio's StringBool: true or "true".
func truth(v *structpb.Value) bool {
	b, err := strconv.ParseBool(v.GetStringValue())
	return v.GetBoolValue() || err == nil && b
}

// port reads a port written as number or string; 0 when it is none.
func port(v *structpb.Value) int {
	f := v.GetNumberValue()
	if s := v.GetStringValue(); s != "" {
		i, err := strconv.Atoi(s)
		if err != nil {
			return 0
		}
		f = float64(i)
	}
	if f >= 1 && f <= 65535 {
		return int(f)
	}
	return 0
}
