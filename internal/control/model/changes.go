package model

import (
	"slices"
	"strings"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/control/registry"
)

// Changes says what differs between two Snapshots. It is precise: an edit of
// an endpoint names only its service, one of a VirtualService only its hosts
// and gateways. Sets that hold nothing may be nil.
type Changes struct {
	// All: there was no earlier Snapshot, or the mesh configuration changed.
	All bool
	// Services that were added, removed or edited (not their endpoints).
	Services map[ServiceKey]struct{}
	// Endpoints: services whose endpoints changed.
	Endpoints map[ServiceKey]struct{}
	// RuleHosts: hosts of Rules for sidecars that were added, removed or
	// edited. GatewayRules: the gateways ("namespace/name") of such Rules.
	RuleHosts    map[string]struct{}
	GatewayRules map[string]struct{}
	// RuleEdits maps old to new Rules where all changed Rules stand in the same
	// place: same hosts, gateways, visibility and age. Nil otherwise.
	RuleEdits map[*Rules]*Rules
	// DestinationHosts: hosts, wildcards included, of changed DestinationRules.
	DestinationHosts map[string]struct{}
	// TimedDestinations says that one of them bounds, or bounded, the time of
	// TCP connections, which is in listeners.
	TimedDestinations bool
	// Gateways: changed Gateways, "namespace/name".
	Gateways map[string]struct{}
	// ScopeNamespaces: namespaces whose Sidecar resources changed; "*": all.
	ScopeNamespaces map[string]struct{}
	// PeerNamespaces: namespaces whose peer authentication changed, refused
	// security objects included; "*": all.
	PeerNamespaces map[string]struct{}
	// Workloads that were added, removed or edited, by object.
	Workloads map[apis.Key]struct{}
	// Secrets: changed Secret objects.
	Secrets map[apis.Key]struct{}
}

// Empty reports whether nothing differs.
func (c *Changes) Empty() bool {
	return !c.All && len(c.Services)+len(c.Endpoints)+len(c.RuleHosts)+len(c.GatewayRules)+len(c.DestinationHosts)+len(c.Gateways)+
		len(c.ScopeNamespaces)+len(c.PeerNamespaces)+len(c.Workloads)+len(c.Secrets) == 0
}

type set[K comparable] map[K]struct{}

func (s *set[K]) add(k K) {
	if *s == nil {
		*s = set[K]{}
	}
	(*s)[k] = struct{}{}
}

// diff compares two Snapshots, mostly by pointer.
func diff(prev, s *Snapshot) Changes {
	if prev == nil || prev.mesh != s.mesh {
		return Changes{All: true}
	}
	if prev == s {
		return Changes{}
	}
	var services, endpoints set[ServiceKey]
	var rules, gatewayRules, hosts, gateways, scopes, peers set[string]
	var workloads, secrets set[apis.Key]
	diffServices(prev, s, &services, &endpoints)
	walk(prev.set.Workloads, s.set.Workloads, compareWorkloads, func(a, b *registry.Workload) bool { return a == b }, func(w *registry.Workload) { workloads.add(w.Key) })
	timed := false
	edits := diffRules(prev, s, &rules, &gatewayRules)
	walkParts(prev.parts.destinationRules, s.parts.destinationRules, func(_ *apis.Object, d *DestinationRule) {
		hosts.add(d.Host)
		timed = timed || d.timed()
	})
	walkParts(prev.parts.gateways, s.parts.gateways, func(_ *apis.Object, g *Gateway) { gateways.add(g.Namespace + "/" + g.Name) })
	root := s.mesh.RootNamespace
	walkParts(prev.parts.sidecars, s.parts.sidecars, func(o *apis.Object, sc *sidecar) {
		scopes.add(reach(o.Key.Namespace, root, sc.selector == nil))
	})
	walkParts(prev.parts.peers, s.parts.peers, func(o *apis.Object, p *peerPolicy) {
		peers.add(reach(o.Key.Namespace, root, len(p.selector) == 0))
	})
	walkParts(prev.parts.denied, s.parts.denied, func(o *apis.Object, _ *denial) { peers.add(reach(o.Key.Namespace, root, true)) })
	walkParts(prev.parts.secrets, s.parts.secrets, func(o *apis.Object, _ struct{}) { secrets.add(o.Key) })
	return Changes{
		Services: services, Endpoints: endpoints, RuleHosts: rules, GatewayRules: gatewayRules, RuleEdits: edits, DestinationHosts: hosts, TimedDestinations: timed, Gateways: gateways,
		ScopeNamespaces: scopes, PeerNamespaces: peers, Workloads: workloads, Secrets: secrets,
	}
}

func reach(namespace, root string, whole bool) string {
	if whole && namespace == root {
		return "*"
	}
	return namespace
}

// walk visits what differs between two sorted lists: both versions of what was edited.
func walk[T any](a, b []T, compare func(x, y T) int, same func(x, y T) bool, visit func(T)) {
	for len(a) > 0 || len(b) > 0 {
		n := 0
		switch {
		case len(a) == 0:
			n = 1
		case len(b) == 0:
			n = -1
		default:
			n = compare(a[0], b[0])
		}
		switch {
		case n < 0:
			visit(a[0])
			a = a[1:]
		case n > 0:
			visit(b[0])
			b = b[1:]
		default:
			if !same(a[0], b[0]) {
				visit(a[0])
				visit(b[0])
			}
			a, b = a[1:], b[1:]
		}
	}
}

func walkParts[T any](a, b []made[T], visit func(*apis.Object, T)) {
	walk(a, b, func(x, y made[T]) int { return x.object.Key.Compare(y.object.Key) },
		func(x, y made[T]) bool { return x.object.Hash == y.object.Hash },
		func(m made[T]) {
			if m.err == nil {
				visit(m.object, m.value)
			}
		})
}

func compareWorkloads(a, b *registry.Workload) int {
	if n := strings.Compare(a.Namespace, b.Namespace); n != 0 {
		return n
	}
	if n := strings.Compare(a.Name, b.Name); n != 0 {
		return n
	}
	return a.Key.Compare(b.Key)
}

func diffServices(prev, s *Snapshot, services, endpoints *set[ServiceKey]) {
	if slices.Equal(prev.set.Services, s.set.Services) {
		for i, svc := range s.set.Services {
			if !slices.Equal(prev.services.ends[i], s.services.ends[i]) {
				endpoints.add(svc.ID())
			}
		}
		return
	}
	walk(prev.set.Services, s.set.Services, func(a, b *registry.Service) int {
		if n := strings.Compare(a.Namespace, b.Namespace); n != 0 {
			return n
		}
		return strings.Compare(a.Hostname, b.Hostname)
	}, func(a, b *registry.Service) bool {
		if !slices.Equal(prev.services.all(a.ID()), s.services.all(b.ID())) {
			endpoints.add(a.ID())
		}
		return a == b
	}, func(x *registry.Service) {
		services.add(x.ID())
		if (len(prev.services.all(x.ID())) > 0) != (len(s.services.all(x.ID())) > 0) {
			endpoints.add(x.ID())
		}
	})
}

// diffRules compares merged rules by pointer: a changed delegate changes its
// roots. It returns the edits if all changed rules keep their place.
func diffRules(prev, s *Snapshot, hosts, gateways *set[string]) map[*Rules]*Rules {
	age := func(a, b *Rules) int { return compareAge(a.Origin.Key, b.Origin.Key, a.Created.Compare(b.Created)) }
	var edits map[*Rules]*Rules
	changed := 0
	walk(prev.rules.all, s.rules.all, age, func(a, b *Rules) bool {
		if a != b && samePlace(a, b) {
			if edits == nil {
				edits = map[*Rules]*Rules{}
			}
			edits[a] = b
		}
		return a == b
	}, func(r *Rules) {
		changed++
		for _, g := range r.Gateways {
			if g != MeshGateway {
				gateways.add(g)
				continue
			}
			for _, h := range r.Hosts {
				hosts.add(h)
			}
		}
	})
	if changed != 2*len(edits) { // both versions of each are visited
		return nil
	}
	return edits
}

func samePlace(a, b *Rules) bool {
	return slices.Equal(a.Hosts, b.Hosts) && slices.Equal(a.Gateways, b.Gateways) && slices.Equal(a.ExportTo, b.ExportTo)
}
