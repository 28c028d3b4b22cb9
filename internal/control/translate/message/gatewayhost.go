package message

import (
	"slices"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/tullemesh/tulle/internal/control/translate/plan"
	"github.com/tullemesh/tulle/internal/control/translate/view"
)

// gatewayVirtualHost builds one virtual host of a gateway.
func (w *Writer) gatewayVirtualHost(r *view.Reader, rcName string, h *plan.Host) *routev3.VirtualHost {
	out := &routev3.VirtualHost{Name: h.Name, Domains: h.Domains}
	if h.CatchAll {
		return out
	}
	out.IncludeRequestAttemptCount = true
	rc := plan.GatewayOf(r).Routes[rcName]
	host := h.Domains[0]
	for _, s := range rc.Servers {
		redirect := s.TLS != nil && s.TLS.HTTPSRedirect
		if redirect && slices.Contains(s.SNI, host) {
			out.RequireTls = routev3.VirtualHost_ALL
		}
		for _, x := range w.snap.GatewayRules(s.Gateway, r.Namespace()) {
			if !slices.Contains(plan.Intersect(s.Hosts, x), host) {
				continue
			}
			c := &routeContext{w: w, r: r, port: s.Port, gateway: s.Gateway, tls: s.TLS != nil, ports: func(host string) int { return onlyPort(r.Service(host)) }}
			routes := c.routes(x)
			if len(routes) > 0 && redirect {
				out.RequireTls = routev3.VirtualHost_ALL
			}
			out.Routes = append(out.Routes, routes...)
		}
	}
	out.Routes = catchAllLast(out.Routes)
	if len(out.Routes) == 0 && out.RequireTls == routev3.VirtualHost_NONE {
		return nil
	}
	return out
}

// catchAllLast moves routes that take every request behind all others, which
// they would hide where several rules share a host (Istio).
func catchAllLast(routes []*routev3.Route) []*routev3.Route {
	slices.SortStableFunc(routes, func(a, b *routev3.Route) int {
		switch aa, bb := takesAll(a.Match), takesAll(b.Match); {
		case aa == bb:
			return 0
		case aa:
			return 1
		}
		return -1
	})
	return routes
}
