package translate

import (
	"cmp"
	"slices"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	upstreamsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/wire"
)

const (
	// passthroughIdle ends idle connections to addresses that nobody
	// registered (Istio, PILOT_PASSTHROUGH idle timeout).
	passthroughIdle = 5 * time.Minute
	// dnsRefresh is how often names are resolved when the answer's TTL does
	// not say so (Istio, PILOT_DNS_REFRESH_RATE); dnsJitter spreads it.
	dnsRefresh = 60 * time.Second
	dnsJitter  = 100 * time.Millisecond
	// inboundCleanup keeps the app's address of an inbound cluster forever
	// (Istio's value, the largest that Envoy takes).
	inboundCleanup = 9223372035 * time.Second
)

// clusterNames lists the clusters of a proxy: one for each port and subset of
// each service in scope, those of the app's own ports, and the constant ones.
func (t *Translator) clusterNames(r *reader) []string {
	names := t.outboundNames(r)
	var more []string
	switch r.role() {
	case RoleGateway:
		more = append(t.sniClusterNames(r), wire.BlackHoleCluster)
	case RoleSidecar:
		more = []string{wire.BlackHoleCluster, wire.PassthroughCluster, wire.InboundPassthroughCluster}
		for _, p := range t.inboundPorts(r) {
			more = append(more, wire.ClusterName(wire.Inbound, p.target, "", ""))
		}
	}
	names = append(slices.Clip(names), more...)
	slices.Sort(names)
	return slices.Compact(names)
}

// outboundNames lists the clusters of services, which the clients of a
// namespace share.
func (t *Translator) outboundNames(outer *reader) []string {
	names, _ := remember(t, outer, outer.v, tableClusters, "", func(r *reader) ([]string, error) {
		r.ask(askClient, "")
		var out []string
		for _, svc := range r.scope().services {
			if svc.Resolution == registry.Alias {
				continue
			}
			dr := r.destination(svc.Hostname)
			for _, p := range svc.Ports {
				if p.Protocol == registry.UDP {
					continue
				}
				out = append(out, wire.ClusterName(wire.Outbound, p.Number, "", svc.Hostname))
				if dr == nil {
					continue
				}
				for _, s := range dr.Subsets {
					out = append(out, wire.ClusterName(wire.Outbound, p.Number, s.Name, svc.Hostname))
				}
			}
		}
		slices.Sort(out)
		return slices.Compact(out), nil
	})
	return names
}

// cluster builds one cluster; nil: the proxy has none of this name.
func (t *Translator) cluster(r *reader, name string) (*clusterv3.Cluster, error) {
	role := r.role()
	if role != RoleGRPC && name == wire.BlackHoleCluster {
		return &clusterv3.Cluster{Name: name, AltStatName: name + ";", ConnectTimeout: t.connectTimeout(), ClusterDiscoveryType: kindOf(clusterv3.Cluster_STATIC)}, nil
	}
	if role == RoleSidecar {
		switch name {
		case wire.PassthroughCluster:
			return t.passthroughCluster(name), nil
		case wire.InboundPassthroughCluster:
			c := t.passthroughCluster(name)
			c.UpstreamBindConfig = t.inboundBind(r)
			return c, nil
		}
	}
	direction, port, subset, host, ok := parseCluster(name)
	if !ok {
		return nil, nil
	}
	if direction == wire.Inbound {
		if role != RoleSidecar {
			return nil, nil
		}
		return t.inboundCluster(r, name, port), nil
	}
	return t.outboundCluster(r, name, host, subset, port), nil
}

func kindOf(k clusterv3.Cluster_DiscoveryType) *clusterv3.Cluster_Type {
	return &clusterv3.Cluster_Type{Type: k}
}

func (t *Translator) connectTimeout() *durationpb.Duration {
	return durationpb.New(t.snap.Mesh().ConnectTimeout)
}

// target is what an outbound cluster name means to a proxy.
type target struct {
	svc    *registry.Service
	port   registry.Port
	dr     *model.DestinationRule
	subset *model.Subset
	// mutualOnly leaves out endpoints that do not take mutual TLS.
	mutualOnly bool
	// addressesOnly leaves out endpoints that are names: proxies refuse them in
	// EDS. They come of another ServiceEntry for the host, which resolves them.
	addressesOnly bool
}

// target resolves an outbound cluster; ok is false when the proxy has no such
// service, port or subset.
func (r *reader) target(host, subset string, port int) (target, bool) {
	svc := r.service(host)
	if svc == nil || svc.Resolution == registry.Alias {
		return target{}, false
	}
	p, ok := portOf(svc, port)
	if !ok || p.Protocol == registry.UDP {
		return target{}, false
	}
	out := target{svc: svc, port: p, dr: r.destination(host)}
	if subset == "" {
		return out, true
	}
	if out.dr == nil {
		return target{}, false
	}
	out.subset = out.dr.Subset(subset)
	return out, out.subset != nil
}

// policy is the traffic policy in effect: each setting from the most specific
// place that has it, of the subset's port, the subset, the port and the host.
// A port's settings replace the host's as a whole (DestinationRule docs,
// portLevelSettings).
func (g *target) policy() model.TrafficPolicy {
	var out model.TrafficPolicy
	if g.dr == nil {
		return out
	}
	level := func(general *model.TrafficPolicy, ports map[int]*model.TrafficPolicy) {
		header := out.ProxyHeader
		if general != nil {
			header = cmp.Or(general.ProxyHeader, header)
		}
		if p := ports[g.port.Number]; p != nil {
			out = *p
			out.ProxyHeader = header // which port settings can't say
			return
		}
		if general != nil {
			out = overlay(out, *general)
		}
	}
	level(g.dr.Policy, g.dr.Ports)
	if g.subset != nil {
		level(g.subset.Policy, g.subset.Ports)
	}
	return out
}

func overlay(base, over model.TrafficPolicy) model.TrafficPolicy {
	if over.Balancer != "" {
		base.Balancer = over.Balancer
	}
	if over.TLSMode != "" {
		base.TLSMode = over.TLSMode
	}
	if over.Pool != nil {
		base.Pool = over.Pool
	}
	base.ProxyHeader = cmp.Or(over.ProxyHeader, base.ProxyHeader)
	base.Origin = over.Origin
	return base
}

func (t *Translator) outboundCluster(r *reader, name, host, subset string, port int) *clusterv3.Cluster {
	g, ok := r.target(host, subset, port)
	if !ok {
		return nil
	}
	if r.role() == RoleGRPC {
		return t.grpcCluster(name, g)
	}
	c := &clusterv3.Cluster{
		Name:           name,
		AltStatName:    name + ";",
		ConnectTimeout: t.connectTimeout(),
		Metadata:       clusterMetadata(g, subset),
		CommonLbConfig: &clusterv3.Cluster_CommonLbConfig{HealthyPanicThreshold: &typev3.Percent{}},
	}
	policy := g.policy()
	limitConnections(c, policy.Pool)
	protocol := g.port.Protocol
	if r.role() == RoleGateway && protocol == registry.Unsupported {
		protocol = registry.TCP // a gateway knows what its clients speak
	}
	c.TypedExtensionProtocolOptions = protocolOptions(protocol, policy.Pool)
	t.discovery(r, c, g, policy)
	if isSNI(name) {
		// The caller's mutual TLS passes through: no TLS of our own.
		if r.role() != RoleGateway {
			return nil
		}
		return c
	}
	t.secure(c, g, subset, policy)
	tellClient(c, policy.ProxyHeader)
	return c
}

// discovery says where the endpoints come from and how one is chosen.
func (t *Translator) discovery(r *reader, c *clusterv3.Cluster, g target, policy model.TrafficPolicy) {
	c.ClusterDiscoveryType, c.LbPolicy = kindOf(clusterv3.Cluster_EDS), balancer(policy.Balancer)
	resolution := g.svc.Resolution
	if r.role() == RoleGateway && resolution == registry.Passthrough {
		// A gateway has no original destination: it picks an endpoint.
		resolution = registry.Static
	}
	if policy.Balancer == "PASSTHROUGH" && r.role() == RoleSidecar {
		resolution = registry.Passthrough
	}
	switch resolution {
	case registry.Passthrough:
		c.ClusterDiscoveryType, c.LbPolicy = kindOf(clusterv3.Cluster_ORIGINAL_DST), clusterv3.Cluster_CLUSTER_PROVIDED
	case registry.DNS, registry.DNSRoundRobin:
		c.ClusterDiscoveryType = kindOf(clusterv3.Cluster_STRICT_DNS)
		if resolution == registry.DNSRoundRobin {
			c.ClusterDiscoveryType = kindOf(clusterv3.Cluster_LOGICAL_DNS)
		}
		t.dns(r, c, g)
	default:
		c.EdsClusterConfig = &clusterv3.Cluster_EdsClusterConfig{EdsConfig: adsSource(), ServiceName: c.Name}
	}
}

func (t *Translator) dns(r *reader, c *clusterv3.Cluster, g target) {
	f := r.families()
	switch {
	case f.v4 && f.v6:
		c.DnsLookupFamily = clusterv3.Cluster_ALL
	case f.v6:
		c.DnsLookupFamily = clusterv3.Cluster_V6_ONLY
	default:
		c.DnsLookupFamily = clusterv3.Cluster_V4_ONLY
	}
	c.DnsRefreshRate = durationpb.New(dnsRefresh)
	c.DnsJitter = durationpb.New(dnsJitter)
	c.RespectDnsTtl = true // deprecated, and what Istio sends
	localities := t.localities(r, g)
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

func clusterMetadata(g target, subset string) *corev3.Metadata {
	fields := map[string]*structpb.Value{
		"services": structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{serviceValue(g.svc)}}),
	}
	if g.svc.External {
		fields["external"] = structpb.NewBoolValue(true)
	}
	var origin model.Origin
	if g.dr != nil {
		fields["config"] = structpb.NewStringValue(configPath(g.dr.Origin))
		origin = g.dr.Origin
	}
	if g.subset != nil {
		fields["subset"] = structpb.NewStringValue(subset)
		origin = g.subset.Origin
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
func (t *Translator) passthroughCluster(name string) *clusterv3.Cluster {
	c := &clusterv3.Cluster{
		Name: name, AltStatName: wire.PassthroughCluster + ";", ConnectTimeout: t.connectTimeout(),
		ClusterDiscoveryType: kindOf(clusterv3.Cluster_ORIGINAL_DST), LbPolicy: clusterv3.Cluster_CLUSTER_PROVIDED,
		TypedExtensionProtocolOptions: map[string]*anypb.Any{protocolOptionsName: pack(&upstreamsv3.HttpProtocolOptions{
			CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{IdleTimeout: durationpb.New(passthroughIdle)},
			UpstreamProtocolOptions:   downstreamProtocol(&corev3.Http2ProtocolOptions{}),
		})},
	}
	limitConnections(c, nil)
	return c
}
