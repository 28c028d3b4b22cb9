package translate

import (
	"fmt"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tullemesh/tulle/internal/wire"
)

// directBodyBytesMax bounds bodies of direct responses in Envoy (Istio's value).
const directBodyBytesMax = 1 << 20

// fieldVirtualHosts is virtual_hosts of envoy.config.route.v3.RouteConfiguration.
const fieldVirtualHosts = 2

// routeConfiguration builds a route configuration. Its virtual hosts are the
// bytes of the virtual host resources, so that an edit of one leaves the
// others as they were serialized. A client that takes virtual hosts as
// resources of their own gets none inline.
func (t *Translator) routeConfiguration(r *reader, name string) (*wire.Resource, error) {
	plan := t.routePlanOf(r, r.v, name)
	if plan == nil {
		return nil, nil
	}
	rc := &routev3.RouteConfiguration{Name: name, ValidateClusters: wrapperspb.Bool(false)}
	switch r.role() {
	case RoleSidecar:
		rc.IgnorePortInHostMatching = !plan.keepPorts
		rc.MaxDirectResponseBodySizeBytes = wrapperspb.UInt32(directBodyBytesMax)
	case RoleGateway:
		rc.IgnorePortInHostMatching = true
		rc.MaxDirectResponseBodySizeBytes = wrapperspb.UInt32(directBodyBytesMax)
	case RoleGRPC:
		rc.ValidateClusters = nil
	}
	if r.takesVHDS() {
		rc.Vhds = &routev3.Vhds{ConfigSource: adsSource()}
		return wire.NewResource(name, rc)
	}
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(rc)
	if err != nil {
		return nil, fmt.Errorf("route configuration %q: %w", name, err)
	}
	for _, h := range plan.hosts {
		res, err := t.build(r, r.v, wire.VirtualHostType, wire.VirtualHostResourceName(name, h.name))
		if err != nil {
			return nil, err
		}
		if res != nil {
			value = protowire.AppendTag(value, fieldVirtualHosts, protowire.BytesType)
			value = protowire.AppendBytes(value, res.Body.GetValue())
		}
	}
	return wire.PackResource(name, wire.RouteType, value), nil
}

// routeNames lists the route configurations that the proxy's listeners name.
func (t *Translator) routeNames(r *reader) []string {
	switch r.role() {
	case RoleGateway:
		return t.gatewayPlanOf(r, r.v).routeNames()
	case RoleGRPC:
		return t.grpcRouteNames(r)
	}
	names := make(map[string]struct{})
	for _, p := range t.listenerPlansOf(r, r.v).all {
		if n := p.routeName(); n != "" {
			names[n] = struct{}{}
		}
	}
	for target := range r.egress() {
		if e := t.egressTarget(r, target); e.http {
			names[e.routes] = struct{}{}
		}
	}
	if r.httpProxyPort() != 0 {
		names[httpProxyRoutes] = struct{}{}
	}
	return sortedKeys(names)
}

// virtualHostNames lists the virtual hosts of all route configurations of a
// client that takes them one by one.
func (t *Translator) virtualHostNames(r *reader) []string {
	if !r.takesVHDS() {
		return nil
	}
	var out []string
	for _, rc := range t.routeNames(r) {
		plan := t.routePlanOf(r, r.v, rc)
		if plan == nil {
			continue
		}
		for _, h := range plan.hosts {
			out = append(out, wire.VirtualHostResourceName(rc, h.name))
		}
	}
	return out
}

// virtualHostNameFor is the name of the resource that answers for a name which
// a client asked for: "route configuration/host", the host as in a Host header
// or as the virtual host is called. Empty: there is none.
func (t *Translator) virtualHostNameFor(outer *reader, v *View, name string) string {
	rc, host, ok := strings.Cut(name, "/")
	if !ok {
		return ""
	}
	plan := t.routePlanOf(outer, v, rc)
	if plan == nil {
		return ""
	}
	h := plan.find(host)
	if h == nil {
		return ""
	}
	return wire.VirtualHostResourceName(rc, h.name)
}

// virtualHostResource builds one virtual host, and no other.
func (t *Translator) virtualHostResource(r *reader, name string) (*routev3.VirtualHost, error) {
	h := r.host(name)
	if h == nil {
		return nil, nil
	}
	rc, _, _ := strings.Cut(name, "/")
	if r.role() == RoleGateway {
		return t.gatewayVirtualHost(r, rc, h), nil
	}
	return t.virtualHost(r, h), nil
}

// plannedHost is the plan of a virtual host resource; nil: there is none.
func (t *Translator) plannedHost(v *View, name string) *hostPlan {
	rc, host, _ := strings.Cut(name, "/")
	plan := t.routePlanOf(nil, v, rc)
	if plan == nil {
		return nil
	}
	return plan.named(host)
}

// virtualHost builds a virtual host of a sidecar; nil: no rule applies to this
// proxy and no service is behind the host.
func (t *Translator) virtualHost(r *reader, h *hostPlan) *routev3.VirtualHost {
	out := &routev3.VirtualHost{Name: h.name, Domains: h.domains, IncludeRequestAttemptCount: true}
	if h.catchAll {
		out.Routes = []*routev3.Route{catchAllRoute(h.name)}
		if h.connect && h.name == wire.AllowAny {
			out.Routes = append([]*routev3.Route{connectRoute(wire.PassthroughCluster)}, out.Routes...)
		}
		return out
	}
	c := &routeContext{r: r, port: h.listenPort, gateway: meshGateway, grpc: r.role() == RoleGRPC}
	if h.rules != nil {
		out.Routes = c.routes(h.rules)
	}
	if h.service == nil {
		if len(out.Routes) == 0 {
			return nil
		}
		return out
	}
	if h.connect {
		p, _ := portOf(h.service, h.port)
		cluster := wire.ClusterName(wire.Outbound, h.port, "", h.service.Hostname)
		out.Routes = append([]*routev3.Route{connectRoute(cluster)}, out.Routes...)
		if !httpOrSniffed(p.Protocol) {
			return out
		}
	}
	if h.rules == nil || len(out.Routes) == 0 || h.connect && len(out.Routes) == 1 {
		out.Routes = append(out.Routes, c.defaultRoute(h.service, h.port))
	}
	return out
}

// meshGateway is the reserved gateway of all sidecars (VirtualService.gateways).
const meshGateway = "mesh"

// catchAllRoute is what happens to requests for hosts that nobody registered.
func catchAllRoute(name string) *routev3.Route {
	out := &routev3.Route{Name: name, Match: routeMatch(nil)}
	if name == wire.BlockAll {
		out.Action = &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: 502}}
		return out
	}
	a := &routev3.RouteAction{
		ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: wire.PassthroughCluster},
		Timeout:          durationpb.New(0),
	}
	a.MaxGrpcTimeout = durationpb.New(0) // deprecated, and what Istio sends
	out.Action = &routev3.Route_Route{Route: a}
	return out
}

// connectRoute ends a CONNECT of the HTTP proxy listener and forwards the
// bytes within to a cluster.
func connectRoute(cluster string) *routev3.Route {
	return &routev3.Route{
		Name:  "connect",
		Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_ConnectMatcher_{ConnectMatcher: &routev3.RouteMatch_ConnectMatcher{}}},
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{
			ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster},
			Timeout:          durationpb.New(0),
			UpgradeConfigs: []*routev3.RouteAction_UpgradeConfig{{
				UpgradeType:   "CONNECT",
				ConnectConfig: &routev3.RouteAction_UpgradeConfig_ConnectConfig{},
			}},
		}},
	}
}

// adsSource says: from the stream that brought this.
func adsSource() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		InitialFetchTimeout:   durationpb.New(0),
		ResourceApiVersion:    corev3.ApiVersion_V3,
	}
}
