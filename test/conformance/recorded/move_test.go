//go:build conformance

package recorded_test

import (
	"slices"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	managerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tullemesh/tulle/internal/testkit/draw"
	"github.com/tullemesh/tulle/internal/wire"
)

const managerURL = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"

func address(ip string, port int) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: ip, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)}}}}
}

// here is a cluster of the same name whose one endpoint is a stand-in that
// speaks plaintext HTTP/1.1. One without endpoints stays without.
func (r *run) here(c *clusterv3.Cluster, port int) *clusterv3.Cluster {
	const connectTimeout = 5e9
	out := &clusterv3.Cluster{Name: c.GetName(), ConnectTimeout: durationpb.New(connectTimeout), ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}}
	if c.GetType() == clusterv3.Cluster_STATIC && len(c.GetLoadAssignment().GetEndpoints()) == 0 {
		return out
	}
	r.taken["cluster's endpoints, TLS and protocol, a stand-in instead"]++
	out.LoadAssignment = &endpointv3.ClusterLoadAssignment{ClusterName: c.GetName(), Endpoints: []*endpointv3.LocalityLbEndpoints{{
		LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: address("127.0.0.1", port)}}}},
	}}}
	return out
}

// without takes the routes out of a refused route configuration that it is
// refused for; the configuration goes when what is left is refused, too.
func (r *run) without(t *testing.T, name string, routes map[string]*routev3.RouteConfiguration) {
	t.Helper()
	left := proto.CloneOf(routes[name])
	for _, vh := range left.GetVirtualHosts() {
		vh.Routes = slices.DeleteFunc(vh.Routes, func(route *routev3.Route) bool {
			alone := &routev3.RouteConfiguration{Name: name, VirtualHosts: []*routev3.VirtualHost{{Name: vh.GetName(), Domains: []string{"*"}, Routes: []*routev3.Route{route}}}}
			reason := refused(t, wire.RouteType, name, alone)
			if reason != "" {
				r.named = append(r.named, "route "+route.GetName()+" of "+vh.GetName()+", left out for both: "+reason)
			}
			return reason != ""
		})
	}
	routes[name] = left
	if reason := refused(t, wire.RouteType, name, left); reason != "" {
		r.named = append(r.named, "route configuration "+name+" as a whole: "+reason)
		delete(routes, name)
	}
}

// istios reports whether an extension is Istio's own, which stock Envoy lacks.
func istios(name string) bool { return strings.HasPrefix(name, "istio.") }

// move puts a listener on this machine, with its routes inline; false: its
// routes are refused.
func (r *run) move(t *testing.T, l *listenerv3.Listener, routes map[string]*routev3.RouteConfiguration) bool {
	t.Helper()
	l.AdditionalAddresses, l.BindToPort = nil, wrapperspb.Bool(true)
	for _, c := range chainsOf(l) {
		c.Filters = slices.DeleteFunc(c.Filters, func(f *listenerv3.Filter) bool {
			if istios(f.GetName()) {
				r.taken["network filter "+f.GetName()]++
			}
			return istios(f.GetName())
		})
		for _, f := range c.Filters {
			if f.GetTypedConfig().GetTypeUrl() == managerURL && !r.manager(t, f, routes) {
				return false
			}
		}
	}
	return true
}

func chainsOf(l *listenerv3.Listener) []*listenerv3.FilterChain {
	chains := slices.Clone(l.GetFilterChains())
	if d := l.GetDefaultFilterChain(); d != nil {
		chains = append(chains, d)
	}
	return chains
}

func (r *run) manager(t *testing.T, f *listenerv3.Filter, routes map[string]*routev3.RouteConfiguration) bool {
	t.Helper()
	var m managerv3.HttpConnectionManager
	if err := f.GetTypedConfig().UnmarshalTo(&m); err != nil {
		t.Fatal(err)
	}
	m.HttpFilters = slices.DeleteFunc(m.HttpFilters, func(f *managerv3.HttpFilter) bool {
		if istios(f.GetName()) {
			r.taken["http filter "+f.GetName()]++
		}
		return istios(f.GetName())
	})
	if name := m.GetRds().GetRouteConfigName(); name != "" {
		rc := routes[name]
		if rc == nil {
			r.taken["listener whose route configuration "+name+" is refused"]++
			return false
		}
		rc = proto.CloneOf(rc)
		for _, vh := range rc.GetVirtualHosts() {
			for _, route := range vh.GetRoutes() {
				r.certain(route)
			}
		}
		m.RouteSpecifier = &managerv3.HttpConnectionManager_RouteConfig{RouteConfig: rc}
	}
	packed, err := anypb.New(&m)
	if err != nil {
		t.Fatal(err)
	}
	f.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: packed}
	return true
}

// certain gives all weight to the last of several clusters, so that answers can
// be compared one by one.
func (r *run) certain(route *routev3.Route) {
	clusters := route.GetRoute().GetWeightedClusters().GetClusters()
	if len(clusters) < 2 {
		return
	}
	r.taken["weights, all to one cluster"]++
	for i, c := range clusters {
		c.Weight = wrapperspb.UInt32(0)
		if i == len(clusters)-1 {
			c.Weight = wrapperspb.UInt32(100)
		}
	}
}

// hostsOf are domains of the virtual hosts behind a listener, and one of nobody.
func hostsOf(h *held, listener string) []string {
	out := []string{"nobody.test"}
	for _, vh := range hostsBehind(h, listener) {
		for _, d := range vh.GetDomains() {
			out = append(out, strings.ReplaceAll(d, "*", "x"))
		}
	}
	return out
}

func hostsBehind(h *held, listener string) []*routev3.VirtualHost {
	for _, c := range chainsOf(h.listeners[listener]) {
		for _, f := range c.GetFilters() {
			var m managerv3.HttpConnectionManager
			if f.GetTypedConfig().GetTypeUrl() == managerURL && f.GetTypedConfig().UnmarshalTo(&m) == nil {
				return m.GetRouteConfig().GetVirtualHosts()
			}
		}
	}
	return nil
}

// request draws a request that meets one of the listener's routes, or misses it
// by something.
func request(g draw.Source, h *held, listener string, hosts []string) draw.Request {
	out := g.Request(hosts...)
	all := hostsBehind(h, listener)
	if len(all) == 0 {
		return out
	}
	vh := draw.Pick(g, all...)
	// Hosts with rules of their own are asked more often.
	if len(vh.GetRoutes()) < 2 {
		vh = draw.Pick(g, all...)
	}
	if g.IntN(5) > 0 {
		out.Host = strings.ReplaceAll(draw.Pick(g, vh.GetDomains()...), "*", "x")
	}
	if len(vh.GetRoutes()) == 0 {
		return out
	}
	m := draw.Pick(g, vh.GetRoutes()...).GetMatch()
	path := m.GetPath() + m.GetPrefix() + m.GetPathSeparatedPrefix()
	if path != "" && g.IntN(4) > 0 {
		out.Path = path + draw.Pick(g, "", "", "x", "/x", "?debug=true")
	}
	for _, hm := range m.GetHeaders() {
		value := hm.GetStringMatch().GetExact() + hm.GetStringMatch().GetPrefix() + hm.GetStringMatch().GetSuffix()
		switch {
		case hm.GetName() == ":method" && value != "":
			out.Method = value
		case strings.HasPrefix(hm.GetName(), ":") || g.IntN(4) == 0:
		default:
			out.Headers = append(out.Headers, [2]string{hm.GetName(), value + draw.Pick(g, "", "", "y")})
		}
	}
	return out
}
