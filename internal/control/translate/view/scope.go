package view

import (
	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/match"
)

// Scope is a SidecarScope, indexed: what proxies with this scope may call
// and which rules they follow. It is immutable.
type Scope struct {
	Egress   []Egress
	ByHost   map[string]*registry.Service
	Services []*registry.Service // each host once, oldest first
	// RegistryOnly says that hosts which nobody registered are not called.
	RegistryOnly bool
}

// Egress is one egress listener with its services, oldest first.
type Egress struct {
	model.EgressListener
	ByHost map[string]*registry.Service
	// Wildcards gives for each service host the rules whose host is the most
	// specific that matches it.
	Wildcards map[string]*model.Rules
}

// scopeOf returns the index of the View's scope.
func (m *Memory) scopeOf(v *View) *Scope {
	if x := v.index.Load(); x != nil {
		return x
	}
	tr := m.get(TableScope, "")
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
		n = &node{leaf: true, made: newScope(m.snap, v.scope)}
		tr.root.lead(key, n)
		tr.leaves++
	}
	x := n.made.(*Scope)
	v.index.Store(x)
	return x
}

func newScope(s *model.Snapshot, scope *model.SidecarScope) *Scope {
	x := &Scope{
		ByHost: make(map[string]*registry.Service, len(scope.Services)), Services: scope.Services, RegistryOnly: s.Mesh().RegistryOnly,
	}
	if scope.RegistryOnly != nil {
		x.RegistryOnly = *scope.RegistryOnly
	}
	for _, svc := range scope.Services {
		x.ByHost[svc.Hostname] = svc
	}
	for _, l := range scope.Egress {
		e := Egress{EgressListener: l, ByHost: make(map[string]*registry.Service, len(l.Services))}
		for _, svc := range l.Services {
			e.ByHost[svc.Hostname] = svc
		}
		e.Wildcards = mostSpecificRules(l.Rules, l.Services)
		x.Egress = append(x.Egress, e)
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

// EgressFor is the egress listener that serves a port: one declared for the
// port, else the one for all ports. nil: neither.
func (x *Scope) EgressFor(port int) *Egress {
	var rest *Egress
	for i := range x.Egress {
		e := &x.Egress[i]
		if e.Port == port && port != 0 {
			return e
		}
		if e.Port == 0 && rest == nil {
			rest = e
		}
	}
	return rest
}
