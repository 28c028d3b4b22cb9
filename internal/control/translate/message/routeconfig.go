package message

import (
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tullemesh/tulle/internal/control/translate/plan"
	"github.com/tullemesh/tulle/internal/control/translate/view"
	"github.com/tullemesh/tulle/internal/wire"
)

// directBodyBytesMax bounds bodies of direct responses in Envoy (Istio's value).
const directBodyBytesMax = 1 << 20

// RouteConfiguration writes a route configuration without its virtual hosts,
// which are resources of their own. A client that takes them as such is told so.
func (w *Writer) RouteConfiguration(r *view.Reader, p *plan.Routes) *routev3.RouteConfiguration {
	rc := &routev3.RouteConfiguration{Name: p.Name, ValidateClusters: wrapperspb.Bool(false)}
	switch r.Role() {
	case view.RoleSidecar:
		rc.IgnorePortInHostMatching = !p.KeepPorts
		rc.MaxDirectResponseBodySizeBytes = wrapperspb.UInt32(directBodyBytesMax)
	case view.RoleGateway:
		rc.IgnorePortInHostMatching = true
		rc.MaxDirectResponseBodySizeBytes = wrapperspb.UInt32(directBodyBytesMax)
	case view.RoleGRPC:
		rc.ValidateClusters = nil
	}
	if r.TakesVHDS() {
		rc.Vhds = &routev3.Vhds{ConfigSource: adsSource()}
	}
	return rc
}

// virtualHostResource builds one virtual host, and no other.
func (w *Writer) virtualHostResource(r *view.Reader, name string) *routev3.VirtualHost {
	h := r.Host(name).(*plan.Host)
	if h == nil {
		return nil
	}
	rc, _, _ := strings.Cut(name, "/")
	if r.Role() == view.RoleGateway {
		return w.gatewayVirtualHost(r, rc, h)
	}
	return w.virtualHost(r, h)
}

// virtualHost builds a virtual host of a sidecar; nil: no rule applies to this
// proxy and no service is behind the host.
func (w *Writer) virtualHost(r *view.Reader, h *plan.Host) *routev3.VirtualHost {
	out := &routev3.VirtualHost{Name: h.Name, Domains: h.Domains, IncludeRequestAttemptCount: true}
	if h.CatchAll {
		out.Routes = []*routev3.Route{catchAllRoute(h.Name)}
		if h.Connect && h.Name == wire.AllowAny {
			out.Routes = append([]*routev3.Route{connectRoute(wire.PassthroughCluster)}, out.Routes...)
		}
		return out
	}
	c := &routeContext{w: w, r: r, port: h.ListenPort, gateway: meshGateway, grpc: r.Role() == view.RoleGRPC}
	if h.Rules != nil {
		out.Routes = c.routes(h.Rules)
	}
	if h.Service == nil {
		if len(out.Routes) == 0 {
			return nil
		}
		return out
	}
	if h.Connect {
		p, _ := plan.PortOf(h.Service, h.Port)
		cluster := wire.ClusterName(wire.Outbound, h.Port, "", h.Service.Hostname)
		out.Routes = append([]*routev3.Route{connectRoute(cluster)}, out.Routes...)
		if !plan.HTTPOrSniffed(p.Protocol) {
			return out
		}
	}
	if h.Rules == nil || len(out.Routes) == 0 || h.Connect && len(out.Routes) == 1 {
		out.Routes = append(out.Routes, c.defaultRoute(h.Service, h.Port))
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
