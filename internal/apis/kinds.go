package apis

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayv1alpha2 "sigs.k8s.io/gateway-api/apis/v1alpha2"
	gatewayv1alpha3 "sigs.k8s.io/gateway-api/apis/v1alpha3"
	gatewayv1beta1 "sigs.k8s.io/gateway-api/apis/v1beta1"

	"google.golang.org/protobuf/proto"
	extensions "istio.io/api/extensions/v1alpha1"
	networking "istio.io/api/networking/v1alpha3"
	networkingbeta "istio.io/api/networking/v1beta1"
	security "istio.io/api/security/v1beta1"
	telemetry "istio.io/api/telemetry/v1alpha1"
)

// The API groups that are read. Everything of other groups is left alone.
const (
	groupNetworking = "networking.istio.io"
	groupSecurity   = "security.istio.io"
	groupTelemetry  = "telemetry.istio.io"
	groupExtensions = "extensions.istio.io"
	groupGateway    = "gateway.networking.k8s.io"
	groupGatewayX   = "gateway.networking.x-k8s.io"
)

// role decides what a refused object does to traffic.
type role uint8

const (
	routing   role = iota // a refused object counts as absent
	guarding              // a refused object denies the workloads it selects
	observing             // traffic is not affected
	inventory             // services and workloads
)

// kind is an API kind that Decode knows.
type kind struct {
	group    string
	versions []string
	name     string
	role     role
	cluster  bool // cluster-scoped: no namespace

	// Exactly one is set. message makes the type of spec; whole makes the type of the entire object, of the given version.
	message func() proto.Message
	whole   func(version string) any
}

// istio reports whether the kind is one of Istio's, whose spec is a message.
func (k *kind) istio() bool { return k.message != nil }

// key is the kind's name within Key.
func (k *kind) key() string {
	if k.group == groupGateway && k.name == "Gateway" {
		return k.name + "." + groupGateway
	}
	return k.name
}

func fixed[T any](string) any { return new(T) }

// kinds is the table of what Decode reads.
func kinds() []kind {
	v1 := []string{"v1"}
	network := []string{"v1", "v1beta1", "v1alpha3"}
	secure := []string{"v1", "v1beta1"}
	return []kind{
		{group: groupNetworking, versions: network, name: "VirtualService", message: func() proto.Message { return &networking.VirtualService{} }},
		{group: groupNetworking, versions: network, name: "DestinationRule", message: func() proto.Message { return &networking.DestinationRule{} }},
		{group: groupNetworking, versions: network, name: "Gateway", message: func() proto.Message { return &networking.Gateway{} }},
		{group: groupNetworking, versions: network, name: "ServiceEntry", role: inventory, message: func() proto.Message { return &networking.ServiceEntry{} }},
		{group: groupNetworking, versions: network, name: "WorkloadEntry", role: inventory, message: func() proto.Message { return &networking.WorkloadEntry{} }},
		{group: groupNetworking, versions: network, name: "WorkloadGroup", role: inventory, message: func() proto.Message { return &networking.WorkloadGroup{} }},
		{group: groupNetworking, versions: network, name: "Sidecar", message: func() proto.Message { return &networking.Sidecar{} }},
		{group: groupNetworking, versions: []string{"v1alpha3"}, name: "EnvoyFilter", message: func() proto.Message { return &networking.EnvoyFilter{} }},
		{group: groupNetworking, versions: []string{"v1beta1"}, name: "ProxyConfig", role: observing, message: func() proto.Message { return &networkingbeta.ProxyConfig{} }},
		{group: groupSecurity, versions: secure, name: "PeerAuthentication", role: guarding, message: func() proto.Message { return &security.PeerAuthentication{} }},
		{group: groupSecurity, versions: secure, name: "RequestAuthentication", role: guarding, message: func() proto.Message { return &security.RequestAuthentication{} }},
		{group: groupSecurity, versions: secure, name: "AuthorizationPolicy", role: guarding, message: func() proto.Message { return &security.AuthorizationPolicy{} }},
		{group: groupTelemetry, versions: []string{"v1", "v1alpha1"}, name: "Telemetry", role: observing, message: func() proto.Message { return &telemetry.Telemetry{} }},
		{group: groupExtensions, versions: []string{"v1alpha1"}, name: "WasmPlugin", role: guarding, message: func() proto.Message { return &extensions.WasmPlugin{} }},
		{group: groupExtensions, versions: []string{"v1alpha1"}, name: "TrafficExtension", role: guarding, message: func() proto.Message { return &extensions.TrafficExtension{} }},

		{group: groupGateway, versions: []string{"v1", "v1beta1"}, name: "GatewayClass", cluster: true, whole: fixed[gatewayv1.GatewayClass]},
		{group: groupGateway, versions: []string{"v1", "v1beta1"}, name: "Gateway", whole: fixed[gatewayv1.Gateway]},
		{group: groupGateway, versions: []string{"v1", "v1beta1"}, name: "HTTPRoute", whole: fixed[gatewayv1.HTTPRoute]},
		{group: groupGateway, versions: []string{"v1", "v1alpha2"}, name: "GRPCRoute", whole: fixed[gatewayv1.GRPCRoute]},
		{group: groupGateway, versions: []string{"v1", "v1alpha2"}, name: "TCPRoute", whole: fixed[gatewayv1alpha2.TCPRoute]},
		{group: groupGateway, versions: []string{"v1", "v1alpha3", "v1alpha2"}, name: "TLSRoute", whole: tlsRoute},
		{group: groupGateway, versions: []string{"v1", "v1alpha2"}, name: "UDPRoute", whole: fixed[gatewayv1alpha2.UDPRoute]},
		{group: groupGateway, versions: []string{"v1", "v1beta1", "v1alpha2"}, name: "ReferenceGrant", whole: fixed[gatewayv1beta1.ReferenceGrant]},
		{group: groupGateway, versions: []string{"v1", "v1alpha3"}, name: "BackendTLSPolicy", whole: fixed[gatewayv1.BackendTLSPolicy]},
		{group: groupGateway, versions: v1, name: "ListenerSet", whole: fixed[gatewayv1.ListenerSet]},

		{versions: v1, name: "Service", role: inventory, whole: fixed[corev1.Service]},
		{versions: v1, name: "Namespace", role: inventory, cluster: true, whole: fixed[corev1.Namespace]},
		{versions: v1, name: "ServiceAccount", role: inventory, whole: fixed[corev1.ServiceAccount]},
		{versions: v1, name: "Pod", role: inventory, whole: fixed[corev1.Pod]},
		{versions: v1, name: "Secret", role: inventory, whole: fixed[corev1.Secret]},
		{versions: v1, name: "Endpoints", role: inventory, whole: fixed[corev1.Endpoints]}, //nolint:staticcheck // deprecated, but still what old files hold
		{group: "apps", versions: v1, name: "Deployment", role: inventory, whole: fixed[appsv1.Deployment]},
		{group: "apps", versions: v1, name: "StatefulSet", role: inventory, whole: fixed[appsv1.StatefulSet]},
		{group: "apps", versions: v1, name: "DaemonSet", role: inventory, whole: fixed[appsv1.DaemonSet]},
		{group: "apps", versions: v1, name: "ReplicaSet", role: inventory, whole: fixed[appsv1.ReplicaSet]},
		{group: "discovery.k8s.io", versions: v1, name: "EndpointSlice", role: inventory, whole: fixed[discoveryv1.EndpointSlice]},
	}
}

// Guards reports whether a refused object of this kind, without a good version, must deny the workloads that it selects: without it
// they would be less protected than asked for.
func Guards(name string) bool {
	for _, k := range kinds() {
		if k.role == guarding && k.key() == name {
			return true
		}
	}
	return false
}

func tlsRoute(version string) any {
	if version == "v1alpha2" || version == "v1alpha3" {
		return &gatewayv1alpha3.TLSRoute{}
	}
	return &gatewayv1.TLSRoute{}
}
