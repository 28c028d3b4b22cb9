package plan

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/control/translate/view"
	"github.com/tullemesh/tulle/internal/wire"
)

// Names lists the resources of a type that a proxy gets by a wildcard
// subscription, in no order. Secrets are given to who asks by name.
func Names(r *view.Reader, typeURL string) []string {
	switch typeURL {
	case wire.ClusterType:
		return clusterNames(r)
	case wire.EndpointType:
		return endpointNames(r)
	case wire.ListenerType:
		return listenerNames(r)
	case wire.RouteType:
		return routeNames(r)
	case wire.VirtualHostType:
		return virtualHostNames(r)
	case wire.NameTableType:
		return []string{NameTable}
	}
	return nil
}

// NameTable is the one resource of its type. Clients do not look at it.
const NameTable = "nametable"

// clusterNames lists the clusters of a proxy: one for each port and subset of
// each service in scope, those of the app's own ports, and the constant ones.
func clusterNames(r *view.Reader) []string {
	names := outboundNames(r)
	var more []string
	switch r.Role() {
	case view.RoleGateway:
		more = append(sniClusterNames(r), wire.BlackHoleCluster)
	case view.RoleSidecar:
		more = []string{wire.BlackHoleCluster, wire.PassthroughCluster, wire.InboundPassthroughCluster}
		for _, p := range ServedPorts(r) {
			more = append(more, wire.ClusterName(wire.Inbound, p.Target, "", ""))
		}
	}
	names = append(slices.Clip(names), more...)
	slices.Sort(names)
	return slices.Compact(names)
}

// outboundNames lists the clusters of services, which the clients of a
// namespace share.
func outboundNames(outer *view.Reader) []string {
	names, _ := view.Within(outer, view.TableClusters, "", func(r *view.Reader) ([]string, error) {
		r.AskClient()
		var out []string
		for _, svc := range r.Scope().Services {
			if svc.Resolution == registry.Alias {
				continue
			}
			dr := r.Destination(svc.Hostname)
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

// endpointNames lists the clusters of the proxy whose endpoints are sent.
func endpointNames(r *view.Reader) []string {
	r.AskClient()
	r.Scope()
	names := outboundNames(r)
	if r.Role() == view.RoleGateway {
		names = append(slices.Clip(names), sniClusterNames(r)...)
		slices.Sort(names)
	}
	var out []string
	for _, name := range names {
		_, port, subset, host, ok := ParseCluster(name)
		if !ok || host == "" {
			continue
		}
		if g, ok := TargetOf(r, host, subset, port); ok && g.SendsEndpoints(r) {
			out = append(out, name)
		}
	}
	return out
}

// listenerNames lists the listeners of a proxy.
func listenerNames(r *view.Reader) []string {
	switch r.Role() {
	case view.RoleGateway:
		return GatewayOf(r).listenerNames()
	case view.RoleGRPC:
		return grpcListenerNames(r)
	}
	names := make(map[string]struct{})
	for _, p := range ListenersOf(r).All {
		if len(p.Parts) > 0 && (p.PodAddress == "" || !r.IsOwn(p.PodAddress)) {
			names[p.Name] = struct{}{}
		}
	}
	for host, address := range r.Egress() {
		if _, ok := EgressPortOf(r, host); ok {
			if ap, err := netip.ParseAddrPort(address); err == nil {
				names[ListenerName(ap.Addr().String(), int(ap.Port()))] = struct{}{}
			}
		}
	}
	if port := r.HTTPProxyPort(); port != 0 {
		names[ListenerName(r.Families().Loopback(), port)] = struct{}{}
	}
	for _, p := range BoundPorts(r) {
		names[ListenerName(p.Bind, p.Target)] = struct{}{}
	}
	if r.Intercept() == view.InterceptNone {
		return slices.Sorted(maps.Keys(names))
	}
	names[wire.VirtualOutbound], names[wire.VirtualInbound] = struct{}{}, struct{}{}
	return slices.Sorted(maps.Keys(names))
}

// routeNames lists the route configurations that the proxy's listeners name.
func routeNames(r *view.Reader) []string {
	switch r.Role() {
	case view.RoleGateway:
		return GatewayOf(r).routeNames()
	case view.RoleGRPC:
		return grpcRouteNames(r)
	}
	names := make(map[string]struct{})
	for _, p := range ListenersOf(r).All {
		if n := p.routeName(); n != "" {
			names[n] = struct{}{}
		}
	}
	for target := range r.Egress() {
		if e, _ := EgressPortOf(r, target); e.HTTP {
			names[e.Routes] = struct{}{}
		}
	}
	if r.HTTPProxyPort() != 0 {
		names[HTTPProxyRoutes] = struct{}{}
	}
	return slices.Sorted(maps.Keys(names))
}

// virtualHostNames lists the virtual hosts of all route configurations of a
// client that takes them one by one.
func virtualHostNames(r *view.Reader) []string {
	if !r.TakesVHDS() {
		return nil
	}
	var out []string
	for _, rc := range routeNames(r) {
		plan := RoutesOf(r.Memory(), r, r.View(), rc)
		if plan == nil {
			continue
		}
		for _, h := range plan.Hosts {
			out = append(out, wire.VirtualHostResourceName(rc, h.Name))
		}
	}
	return out
}
