package plan

import (
	"slices"
	"strconv"
	"strings"

	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/control/translate/view"
	"github.com/tullemesh/tulle/internal/wire"
)

// grpcListenerNames lists what a wildcard would give; gRPC asks by name.
func grpcListenerNames(r *view.Reader) []string {
	var out []string
	for _, svc := range r.Scope().Services {
		for _, p := range svc.Ports {
			if svc.Resolution != registry.Alias && HTTPOrSniffed(p.Protocol) {
				out = append(out, svc.Hostname+":"+strconv.Itoa(p.Number))
			}
		}
	}
	slices.Sort(out)
	return out
}

func grpcRouteNames(r *view.Reader) []string {
	var out []string
	for _, l := range grpcListenerNames(r) {
		host, port, _ := SplitRouteName(l)
		out = append(out, wire.ClusterName(wire.Outbound, port, "", host))
	}
	return out
}

// ServiceCalled finds the service that a gRPC client means by a host, which
// may be a short form.
func ServiceCalled(r *view.Reader, host string, port int) *registry.Service {
	x := r.Scope()
	if svc := x.ByHost[host]; svc != nil {
		if _, ok := PortOf(svc, port); ok && svc.Resolution != registry.Alias {
			return svc
		}
		return nil
	}
	domain := r.Domain()
	for _, svc := range x.Services {
		if !strings.HasPrefix(svc.Hostname, host+".") || svc.Resolution == registry.Alias {
			continue
		}
		if _, ok := PortOf(svc, port); ok && slices.Contains(shortForms(svc.Hostname, 0, domain), host) {
			return svc
		}
	}
	return nil
}

// planGRPCRoutes plans the route configuration of one service port.
func planGRPCRoutes(r *view.Reader, name string) *Routes {
	direction, port, _, host, ok := wire.ParseClusterName(name)
	if !ok || direction != wire.Outbound {
		return nil
	}
	b := newHostBuilder(r, name)
	e := b.scope.EgressFor(port)
	if e == nil {
		return nil
	}
	svc := e.ByHost[host]
	if svc == nil {
		return nil
	}
	if _, ok := PortOf(svc, port); !ok {
		return nil
	}
	b.plan.KeepPorts, b.listenPort, b.only = true, port, host
	b.addPort(e, port)
	return b.plan.indexed(r.Memory())
}
