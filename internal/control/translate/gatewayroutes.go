package translate

import (
	"cmp"
	"slices"
	"strconv"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
)

// planGatewayRoutes plans a gateway's route configuration: a virtual host for
// each host that a server and some rules share. Several rules for one host are
// put together, in Istio's order of rules.
func (t *Translator) planGatewayRoutes(r *reader, name string) *routePlan {
	rc := t.gatewayPlanOf(r, r.v).routes[name]
	if rc == nil {
		return nil
	}
	plan := &routePlan{name: name}
	ports := make(map[string]int) // of each host: that of the first server with it
	add := func(h string, s *gatewayServer) {
		if _, dup := ports[h]; !dup {
			ports[h] = s.Port
		}
	}
	for _, s := range rc.servers {
		for _, x := range t.snap.GatewayRules(s.gateway, r.namespace()) {
			if len(x.HTTP) == 0 {
				continue
			}
			for _, h := range intersect(s.Hosts, x) {
				add(h, s)
			}
		}
		if s.TLS != nil && s.TLS.HTTPSRedirect {
			for _, h := range s.sni {
				add(h, s)
			}
		}
	}
	for _, h := range sortedKeys(ports) {
		plan.hosts = append(plan.hosts, &hostPlan{name: h + ":" + strconv.Itoa(ports[h]), domains: []string{h}, port: ports[h], listenPort: ports[h]})
	}
	if len(plan.hosts) == 0 {
		// No route at all: every request is answered 404.
		plan.hosts = []*hostPlan{{name: "blackhole:" + strconv.Itoa(rc.servers[0].Port), domains: []string{"*"}, catchAll: true}}
	}
	slices.SortStableFunc(plan.hosts, func(a, b *hostPlan) int { return cmp.Compare(a.name, b.name) })
	plan.unique()
	return plan.indexed(t.mem)
}

// gatewayVirtualHost builds one virtual host of a gateway.
func (t *Translator) gatewayVirtualHost(r *reader, rcName string, h *hostPlan) *routev3.VirtualHost {
	out := &routev3.VirtualHost{Name: h.name, Domains: h.domains}
	if h.catchAll {
		return out
	}
	out.IncludeRequestAttemptCount = true
	rc := t.gatewayPlanOf(r, r.v).routes[rcName]
	host := h.domains[0]
	for _, s := range rc.servers {
		redirect := s.TLS != nil && s.TLS.HTTPSRedirect
		if redirect && slices.Contains(s.sni, host) {
			out.RequireTls = routev3.VirtualHost_ALL
		}
		for _, x := range t.snap.GatewayRules(s.gateway, r.namespace()) {
			if !slices.Contains(intersect(s.Hosts, x), host) {
				continue
			}
			c := &routeContext{r: r, port: s.Port, gateway: s.gateway, tls: s.TLS != nil, ports: func(host string) int { return onlyPort(r.service(host)) }}
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
