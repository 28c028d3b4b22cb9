// Package wire holds what both planes must spell alike when they speak xDS v3:
// type URLs, Istio's names of clusters, listeners and route configurations,
// the resource envelope, and the origin that travels in resource metadata.
//
// node.go reads Istio's node conventions; rejection.go spells NACK details.
// Nothing here owns state. Read wire.go first, then names.go and origin.go.
package wire

import "google.golang.org/protobuf/types/known/anypb"

// Type URLs of the xDS v3 resources that tulle serves and takes
// (Envoy API, "xDS REST and gRPC protocol", resource types).
const (
	ListenerType    = "type.googleapis.com/envoy.config.listener.v3.Listener"
	FilterChainType = "type.googleapis.com/envoy.config.listener.v3.FilterChain"
	RouteType       = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	VirtualHostType = "type.googleapis.com/envoy.config.route.v3.VirtualHost"
	ClusterType     = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	EndpointType    = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	SecretType      = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
	ExtensionType   = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
	NameTableType   = "type.googleapis.com/istio.networking.nds.v1.NameTable"
)

// Resource is one xDS resource as it goes over the wire. It is immutable and
// shared by every stream that gets equal bytes.
type Resource struct {
	// Name is the resource's name within its type.
	Name string
	// Version is a hash of Body's bytes: equal content has equal versions.
	Version string
	// Body is the packed resource, serialized once, deterministically.
	Body *anypb.Any

	// entry is the encoded element of a discovery response, of which
	// Body.Value is a part; anyAt is where its Any begins (see resource.go).
	// Both are zero in a resource that was written as a literal.
	entry []byte
	anyAt int
}

// ShortType is istioctl's short name of an xDS type; the type URL when there
// is none.
func ShortType(url string) string {
	switch url {
	case ClusterType:
		return "CDS"
	case EndpointType:
		return "EDS"
	case ListenerType:
		return "LDS"
	case RouteType:
		return "RDS"
	case VirtualHostType:
		return "VHDS"
	case SecretType:
		return "SDS"
	case NameTableType:
		return "NDS"
	case ExtensionType:
		return "ECDS"
	}
	return url
}
