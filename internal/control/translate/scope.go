package translate

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/match"
)

// scopeIndex is a SidecarScope, indexed: what proxies with this scope may call
// and which rules they follow. It is immutable.
type scopeIndex struct {
	egress       []egressScope
	byHost       map[string]*registry.Service
	services     []*registry.Service // each host once, oldest first
	registryOnly bool
}

// egressScope is one egress listener with its services, oldest first.
type egressScope struct {
	model.EgressListener
	byHost map[string]*registry.Service
	// wildcards gives for each service host the rules whose host is the most
	// specific that matches it.
	wildcards map[string]*model.Rules
}

// scopeOf returns the index of the View's scope.
func (t *Translator) scopeOf(v *View) *scopeIndex {
	if x := v.index.Load(); x != nil {
		return x
	}
	tr := t.mem.get(tableScope, "")
	tr.mu.Lock()
	defer tr.mu.Unlock()
	key := v.scopeKey()
	if tr.root == nil {
		tr.root = &node{}
	}
	n := tr.root.next(key)
	if n == nil {
		if tr.leaves >= treeLeavesMax {
			tr.root, tr.leaves = &node{}, 0
		}
		n = &node{leaf: true, made: newScopeIndex(t.snap, v.scope)}
		tr.root.lead(key, n)
		tr.leaves++
	}
	x := n.made.(*scopeIndex)
	v.index.Store(x)
	return x
}

func newScopeIndex(s *model.Snapshot, scope *model.SidecarScope) *scopeIndex {
	x := &scopeIndex{
		byHost: make(map[string]*registry.Service, len(scope.Services)), services: scope.Services, registryOnly: s.Mesh().RegistryOnly,
	}
	if scope.RegistryOnly != nil {
		x.registryOnly = *scope.RegistryOnly
	}
	for _, svc := range scope.Services {
		x.byHost[svc.Hostname] = svc
	}
	for _, l := range scope.Egress {
		e := egressScope{EgressListener: l, byHost: make(map[string]*registry.Service, len(l.Services))}
		for _, svc := range l.Services {
			e.byHost[svc.Hostname] = svc
		}
		e.wildcards = mostSpecificRules(l.Rules, l.Services)
		x.egress = append(x.egress, e)
	}
	return x
}

// mostSpecificRules finds for each service the rules with the most specific
// host that matches it: an exact one, else the longest wildcard. Of equal
// hosts the first rules win (Istio, "Virtual Service", hosts).
func mostSpecificRules(rules []*model.Rules, services []*registry.Service) map[string]*model.Rules {
	exact := make(map[string]*model.Rules)
	wild := make(map[string]*model.Rules)
	for _, r := range rules {
		for _, h := range r.Hosts {
			into := exact
			if match.Wildcard(h) {
				into = wild
			}
			if _, dup := into[h]; !dup {
				into[h] = r
			}
		}
	}
	if len(wild) == 0 {
		return nil
	}
	out := make(map[string]*model.Rules)
	for _, svc := range services {
		if r := exact[svc.Hostname]; r != nil {
			out[svc.Hostname] = r
			continue
		}
		best := ""
		for h := range wild {
			if match.HostWithin(svc.Hostname, h) && len(h) > len(best) {
				best = h
			}
		}
		if best != "" {
			out[svc.Hostname] = wild[best]
		}
	}
	return out
}

// egressFor is the egress listener that serves a port: one declared for the
// port, else the one for all ports. nil: neither.
func (x *scopeIndex) egressFor(port int) *egressScope {
	var rest *egressScope
	for i := range x.egress {
		e := &x.egress[i]
		if e.Port == port && port != 0 {
			return e
		}
		if e.Port == 0 && rest == nil {
			rest = e
		}
	}
	return rest
}

// portOf returns the port of a service with this number.
func portOf(svc *registry.Service, number int) (registry.Port, bool) {
	for _, p := range svc.Ports {
		if p.Number == number {
			return p, true
		}
	}
	return registry.Port{}, false
}

// httpOrSniffed reports whether requests on a port can be routed by HTTP rules.
func httpOrSniffed(p registry.Protocol) bool { return p.IsHTTP() || p == registry.Unsupported }

// vips are the addresses under which a proxy calls a service: those it
// declares and, when the proxy answers the app's DNS, the allocated one.
func vips(svc *registry.Service, f families, dnsCapture bool) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(svc.Addresses)+1)
	for _, p := range svc.Addresses {
		if p.Addr().Is4() && f.v4 || p.Addr().Is6() && f.v6 {
			out = append(out, p)
		}
	}
	if a := svc.AutoAddress; len(svc.Addresses) == 0 && a.IsValid() && dnsCapture {
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return out
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
