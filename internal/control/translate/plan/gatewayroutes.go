package plan

import (
	"cmp"
	"maps"
	"slices"
	"strconv"

	"github.com/tullemesh/tulle/internal/control/translate/view"
)

// planGatewayRoutes plans a gateway's route configuration: a virtual host for
// each host that a server and some rules share. Several rules for one host are
// put together, in Istio's order of rules.
func planGatewayRoutes(r *view.Reader, name string) *Routes {
	rc := GatewayOf(r).Routes[name]
	if rc == nil {
		return nil
	}
	plan := &Routes{Name: name}
	ports := make(map[string]int) // of each host: that of the first server with it
	add := func(h string, s *GatewayServer) {
		if _, dup := ports[h]; !dup {
			ports[h] = s.Port
		}
	}
	for _, s := range rc.Servers {
		for _, x := range r.Snapshot().GatewayRules(s.Gateway, r.Namespace()) {
			if len(x.HTTP) == 0 {
				continue
			}
			for _, h := range Intersect(s.Hosts, x) {
				add(h, s)
			}
		}
		if s.TLS != nil && s.TLS.HTTPSRedirect {
			for _, h := range s.SNI {
				add(h, s)
			}
		}
	}
	for _, h := range slices.Sorted(maps.Keys(ports)) {
		plan.Hosts = append(plan.Hosts, &Host{Name: h + ":" + strconv.Itoa(ports[h]), Domains: []string{h}, Port: ports[h], ListenPort: ports[h]})
	}
	if len(plan.Hosts) == 0 {
		// No route at all: every request is answered 404.
		plan.Hosts = []*Host{{Name: "blackhole:" + strconv.Itoa(rc.Servers[0].Port), Domains: []string{"*"}, CatchAll: true}}
	}
	slices.SortStableFunc(plan.Hosts, func(a, b *Host) int { return cmp.Compare(a.Name, b.Name) })
	plan.unique()
	return plan.indexed(r.Memory())
}
