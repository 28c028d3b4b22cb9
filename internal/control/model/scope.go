package model

import (
	"maps"
	"reflect"
	"slices"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/control/registry"
)

// scopeIndex finds the egress scope of a workload.
type scopeIndex struct {
	scopeBuilder
	byNamespace map[string][]*sidecar // with selectors first, then by age
	root        *sidecar              // the root namespace's default, for namespaces without their own
	made        map[scopeID]*SidecarScope
}

// scopeID names a scope: a Sidecar (zero: none) as seen from a namespace.
type scopeID struct {
	sidecar apis.Key
	client  string
}

// buildScopes applies all Sidecars. Scopes equal to old ones are reused.
func buildScopes(list []*sidecar, namespaces []string, services *serviceIndex, rules *ruleIndex, rootNamespace string, old *scopeIndex) scopeIndex {
	slices.SortFunc(list, func(a, b *sidecar) int {
		if (a.selector != nil) != (b.selector != nil) {
			if a.selector != nil {
				return -1
			}
			return 1
		}
		return compareAge(a.origin.Key, b.origin.Key, a.created.Compare(b.created))
	})
	x := scopeIndex{scopeBuilder: scopeBuilder{*services, *rules}, byNamespace: map[string][]*sidecar{}, made: map[scopeID]*SidecarScope{}}
	x.services.ends = nil
	for _, sc := range list {
		ns := sc.origin.Key.Namespace
		x.byNamespace[ns] = append(x.byNamespace[ns], sc)
		if ns == rootNamespace && sc.selector == nil && x.root == nil {
			x.root = sc
		}
	}
	for ns, own := range x.byNamespace {
		for _, sc := range own {
			x.add(sc, ns, old)
		}
	}
	x.add(nil, "", old)
	for _, ns := range namespaces {
		own := x.byNamespace[ns]
		if len(own) == 0 || own[len(own)-1].selector != nil {
			x.add(x.root, ns, old)
		}
	}
	return x
}

// idOf names the scope of a client. Without a Sidecar all namespaces to which
// nothing is exported by name share one.
func (x *scopeIndex) idOf(sc *sidecar, client string) scopeID {
	switch {
	case sc != nil:
		return scopeID{sc.origin.Key, client}
	case x.services.special(client) || x.rules.special(MeshGateway, client):
		return scopeID{client: client}
	}
	return scopeID{}
}

func (x *scopeIndex) add(sc *sidecar, client string, old *scopeIndex) {
	id := x.idOf(sc, client)
	if x.made[id] != nil {
		return
	}
	fresh := x.scope(sc, client)
	fresh.Shared = id == scopeID{}
	if old != nil {
		if was := old.made[id]; was != nil && sameScope(was, fresh) {
			fresh = was
		}
	}
	x.made[id] = fresh
}

// lookup finds the Sidecar that applies: of the namespace the first that
// selects the workload, else the root namespace's default, else none.
func (x *scopeIndex) lookup(namespace string, labels map[string]string) *SidecarScope {
	sc := x.root
	for _, own := range x.byNamespace[namespace] {
		if own.selector == nil || selects(own.selector, labels) {
			sc = own
			break
		}
	}
	if s := x.made[x.idOf(sc, namespace)]; s != nil {
		return s
	}
	// A namespace that no object names: nothing to share.
	return x.scope(sc, namespace)
}

// knownNamespaces lists the namespaces in which clients may run, sorted.
func knownNamespaces(set *registry.Set) []string {
	out := slices.Collect(maps.Keys(set.Namespaces))
	last := ""
	for _, s := range set.Services { // sorted by namespace, like workloads
		if s.Namespace != last {
			last = s.Namespace
			out = append(out, last)
		}
	}
	for _, w := range set.Workloads {
		if w.Namespace != last {
			last = w.Namespace
			out = append(out, last)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func sameScope(a, b *SidecarScope) bool {
	if a.Origin != b.Origin || a.Default != b.Default || !reflect.DeepEqual(a.RegistryOnly, b.RegistryOnly) || !reflect.DeepEqual(a.Ingress, b.Ingress) || !reflect.DeepEqual(a.InboundPool, b.InboundPool) || len(a.Egress) != len(b.Egress) {
		return false
	}
	for i := range a.Egress {
		p, q := &a.Egress[i], &b.Egress[i]
		if p.Port != q.Port || p.PortName != q.PortName || p.Protocol != q.Protocol || p.Bind != q.Bind || p.CaptureNone != q.CaptureNone ||
			p.Origin != q.Origin || !slices.Equal(p.Rules, q.Rules) || !sameServices(p.Services, q.Services) {
			return false
		}
	}
	return sameServices(a.Services, b.Services)
}

// sameServices compares by value where a listener trimmed the ports: such
// copies are made anew with each build.
func sameServices(a, b []*registry.Service) bool {
	return slices.EqualFunc(a, b, func(x, y *registry.Service) bool { return x == y || x.ID() == y.ID() && reflect.DeepEqual(x, y) })
}
