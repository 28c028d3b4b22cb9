package message

import (
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	upstreamsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/control/translate/plan"
	"github.com/tullemesh/tulle/internal/control/translate/view"
	"github.com/tullemesh/tulle/internal/wire"
)

const (
	// passthroughIdle ends idle connections to addresses that nobody
	// registered (Istio, PILOT_PASSTHROUGH idle timeout).
	passthroughIdle = 5 * time.Minute
	// dnsJitter spreads the resolving of names (Istio, PILOT_DNS_JITTER_DURATION).
	dnsJitter = 100 * time.Millisecond
	// inboundCleanup keeps the app's address of an inbound cluster forever
	// (Istio's value, the largest that Envoy takes).
	inboundCleanup = 9223372035 * time.Second
)

// cluster builds one cluster; nil: the proxy has none of this name.
func (w *Writer) cluster(r *view.Reader, name string) *clusterv3.Cluster {
	role := r.Role()
	if role != view.RoleGRPC && name == wire.BlackHoleCluster {
		return &clusterv3.Cluster{Name: name, AltStatName: name + ";", ConnectTimeout: w.connectTimeout(), ClusterDiscoveryType: kindOf(clusterv3.Cluster_STATIC)}
	}
	if role == view.RoleSidecar {
		switch name {
		case wire.PassthroughCluster:
			return w.passthroughCluster(name)
		case wire.InboundPassthroughCluster:
			c := w.passthroughCluster(name)
			c.UpstreamBindConfig = w.inboundBind(r)
			return c
		}
	}
	direction, port, subset, host, ok := plan.ParseCluster(name)
	if !ok {
		return nil
	}
	if direction == wire.Inbound {
		if role != view.RoleSidecar {
			return nil
		}
		return w.inboundCluster(r, name, port)
	}
	return w.outboundCluster(r, name, host, subset, port)
}

func kindOf(k clusterv3.Cluster_DiscoveryType) *clusterv3.Cluster_Type {
	return &clusterv3.Cluster_Type{Type: k}
}

func (w *Writer) connectTimeout() *durationpb.Duration {
	return durationpb.New(w.snap.Mesh().ConnectTimeout)
}

func (w *Writer) outboundCluster(r *view.Reader, name, host, subset string, port int) *clusterv3.Cluster {
	g, ok := plan.TargetOf(r, host, subset, port)
	if !ok {
		return nil
	}
	if r.Role() == view.RoleGRPC {
		return w.grpcCluster(name, g)
	}
	c := &clusterv3.Cluster{
		Name:           name,
		AltStatName:    name + ";",
		ConnectTimeout: w.connectTimeout(),
		Metadata:       clusterMetadata(g, subset),
		CommonLbConfig: &clusterv3.Cluster_CommonLbConfig{HealthyPanicThreshold: &typev3.Percent{}},
	}
	policy := g.Policy()
	w.limitConnections(c, policy.Pool)
	if r.Role() == view.RoleGateway && g.Port.Protocol == registry.Unsupported {
		g.Port.Protocol = registry.TCP // a gateway knows what its clients speak
	}
	g.Port.Protocol = called(g.Port.Protocol, policy.Pool, w.snap.Mesh())
	c.TypedExtensionProtocolOptions = protocolOptions(g.Port.Protocol, policy.Pool)
	w.discovery(r, c, g, policy)
	if plan.IsSNI(name) {
		// The caller's mutual TLS passes through: no TLS of our own.
		if r.Role() != view.RoleGateway {
			return nil
		}
		return c
	}
	w.secure(c, g, subset, policy)
	tellClient(c, policy.ProxyHeader)
	return c
}

// discovery says where the endpoints come from and how one is chosen.
func (w *Writer) discovery(r *view.Reader, c *clusterv3.Cluster, g plan.Target, policy model.TrafficPolicy) {
	c.ClusterDiscoveryType, c.LbPolicy = kindOf(clusterv3.Cluster_EDS), balancer(policy.Balancer)
	resolution := g.Service.Resolution
	if r.Role() == view.RoleGateway && resolution == registry.Passthrough {
		// A gateway has no original destination: it picks an endpoint.
		resolution = registry.Static
	}
	if policy.Balancer == "PASSTHROUGH" && r.Role() == view.RoleSidecar {
		resolution = registry.Passthrough
	}
	switch resolution {
	case registry.Passthrough:
		c.ClusterDiscoveryType, c.LbPolicy = kindOf(clusterv3.Cluster_ORIGINAL_DST), clusterv3.Cluster_CLUSTER_PROVIDED
		if port := g.Port.Target; port != 0 && g.Service.Resolution == registry.Passthrough && !g.Service.FromKubernetes {
			// A ServiceEntry without resolution: the address that was called, at
			// targetPort (ServicePort.targetPort).
			c.LbConfig = &clusterv3.Cluster_OriginalDstLbConfig_{OriginalDstLbConfig: &clusterv3.Cluster_OriginalDstLbConfig{
				UpstreamPortOverride: wrapperspb.UInt32(uint32(port)),
			}}
		}
	case registry.DNS, registry.DNSRoundRobin:
		c.ClusterDiscoveryType = kindOf(clusterv3.Cluster_STRICT_DNS)
		if resolution == registry.DNSRoundRobin {
			c.ClusterDiscoveryType = kindOf(clusterv3.Cluster_LOGICAL_DNS)
		}
		w.dns(r, c, g)
	default:
		c.EdsClusterConfig = &clusterv3.Cluster_EdsClusterConfig{EdsConfig: adsSource(), ServiceName: c.Name}
	}
}

func (w *Writer) dns(r *view.Reader, c *clusterv3.Cluster, g plan.Target) {
	f := r.Families()
	switch {
	case f.V4 && f.V6:
		c.DnsLookupFamily = clusterv3.Cluster_ALL
	case f.V6:
		c.DnsLookupFamily = clusterv3.Cluster_V6_ONLY
	default:
		c.DnsLookupFamily = clusterv3.Cluster_V4_ONLY
	}
	c.DnsRefreshRate = durationpb.New(w.snap.Mesh().DNSRefresh)
	c.DnsJitter = durationpb.New(dnsJitter)
	c.RespectDnsTtl = true // deprecated, and what Istio sends
	localities := w.localities(r, g)
	if c.GetType() == clusterv3.Cluster_LOGICAL_DNS {
		// Envoy takes exactly one name here; Istio keeps the first.
		localities = localities[:min(1, len(localities))]
		for _, l := range localities {
			l.LbEndpoints = l.LbEndpoints[:min(1, len(l.LbEndpoints))]
		}
	}
	c.LoadAssignment = &endpointv3.ClusterLoadAssignment{ClusterName: c.Name, Endpoints: localities}
	if len(localities) == 0 {
		// Nothing to resolve: a cluster without endpoints answers 503.
		c.ClusterDiscoveryType = kindOf(clusterv3.Cluster_STATIC)
	}
}

func balancer(simple string) clusterv3.Cluster_LbPolicy {
	switch simple {
	case "ROUND_ROBIN":
		return clusterv3.Cluster_ROUND_ROBIN
	case "RANDOM":
		return clusterv3.Cluster_RANDOM
	}
	// UNSPECIFIED and LEAST_REQUEST; LEAST_CONN is its old name.
	return clusterv3.Cluster_LEAST_REQUEST
}

func clusterMetadata(g plan.Target, subset string) *corev3.Metadata {
	fields := map[string]*structpb.Value{
		"services": structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{serviceValue(g.Service)}}),
	}
	if g.Service.External {
		fields["external"] = structpb.NewBoolValue(true)
	}
	var origin model.Origin
	if g.Rule != nil {
		fields["config"] = structpb.NewStringValue(configPath(g.Rule.Origin))
		origin = g.Rule.Origin
	}
	if g.Subset != nil {
		fields["subset"] = structpb.NewStringValue(subset)
		origin = g.Subset.Origin
	}
	m := &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{istioMetadata: {Fields: fields}}}
	addOrigin(m, origin)
	return m
}

// serviceValue is how Istio's metadata names a service.
func serviceValue(svc *registry.Service) *structpb.Value {
	return structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{
		"host":      structpb.NewStringValue(svc.Hostname),
		"name":      structpb.NewStringValue(svc.Name),
		"namespace": structpb.NewStringValue(svc.Namespace),
	}})
}

// passthroughCluster forwards to where the connection was going.
func (w *Writer) passthroughCluster(name string) *clusterv3.Cluster {
	c := &clusterv3.Cluster{
		Name: name, AltStatName: wire.PassthroughCluster + ";", ConnectTimeout: w.connectTimeout(),
		ClusterDiscoveryType: kindOf(clusterv3.Cluster_ORIGINAL_DST), LbPolicy: clusterv3.Cluster_CLUSTER_PROVIDED,
		TypedExtensionProtocolOptions: map[string]*anypb.Any{protocolOptionsName: pack(&upstreamsv3.HttpProtocolOptions{
			CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{IdleTimeout: durationpb.New(passthroughIdle)},
			UpstreamProtocolOptions:   downstreamProtocol(&corev3.Http2ProtocolOptions{}),
		})},
	}
	w.limitConnections(c, nil)
	return c
}
