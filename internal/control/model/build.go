package model

import (
	"reflect"
	"slices"
	"sort"

	networking "istio.io/api/networking/v1alpha3"
	security "istio.io/api/security/v1beta1"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/apis/problem"
	"github.com/tullemesh/tulle/internal/control/registry"
)

// MeshGateway is the reserved gateway name of all sidecars (VirtualService.gateways).
const MeshGateway = "mesh"

// made is what an object became. Its value is shared between Snapshots as long
// as the object's content is the same; object may be an older version with
// other positions.
type made[T any] struct {
	object *apis.Object
	value  T
	err    error
}

// parts are all converted objects by kind, each sorted by key.
type parts struct {
	virtualServices  []made[*virtualService]
	destinationRules []made[*DestinationRule]
	gateways         []made[*Gateway]
	sidecars         []made[*sidecar]
	peers            []made[*peerPolicy]
	denied           []made[*denial]
	secrets          []made[struct{}]
}

// Build makes a Snapshot of a Set and a mesh configuration. It is pure. prev
// may be nil; with it, what did not change is reused, and the result equals
// that of a full build. The problems are those that only the whole can show:
// dangling references and conflicts, sorted by place; the Set has its own.
func Build(set *registry.Set, mesh *Mesh, prev *Snapshot) (*Snapshot, []apis.Problem) {
	if prev != nil {
		if reflect.DeepEqual(prev.mesh, mesh) {
			mesh = prev.mesh
		} else {
			prev = nil // names and defaults may differ everywhere
		}
	}
	s := &Snapshot{version: set.Version, mesh: mesh, set: set}
	old := prev
	if old == nil {
		old = &Snapshot{set: &registry.Set{}}
	}
	s.parts = convert(set, mesh, &old.parts)
	known := prev != nil
	sameServices := known && slices.Equal(set.Services, old.set.Services)
	sameRules := known && sameParts(s.parts.virtualServices, old.parts.virtualServices)

	s.services = buildServices(set, mesh, &old.services, sameServices)
	s.loads = buildWorkloads(set.Workloads, &old.loads)
	if known && sameParts(s.parts.destinationRules, old.parts.destinationRules) {
		s.dests, s.merged = old.dests, old.merged
	} else {
		list := values(s.parts.destinationRules)
		sortDestinations(list)
		s.dests, s.merged = buildDestinations(list, mesh, old.merged)
	}
	if sameRules {
		s.rules, s.roots, s.delegation = old.rules, old.roots, old.delegation
	} else {
		var all []*Rules
		all, s.roots, s.delegation = mergeAll(s.parts.virtualServices, old.roots)
		s.rules = buildRules(all, &old.rules)
	}
	if known && sameParts(s.parts.gateways, old.parts.gateways) {
		s.gateways = old.gateways
	} else {
		s.gateways = buildGateways(values(s.parts.gateways))
	}
	if known && sameParts(s.parts.peers, old.parts.peers) && sameParts(s.parts.denied, old.parts.denied) {
		s.peers = old.peers
	} else {
		s.peers = buildPeers(values(s.parts.peers), values(s.parts.denied), mesh.RootNamespace, &old.peers)
	}
	s.namespaces = keep(old.namespaces, knownNamespaces(set))
	if sameServices && sameRules && sameParts(s.parts.sidecars, old.parts.sidecars) && slices.Equal(s.namespaces, old.namespaces) {
		s.scopes = old.scopes
	} else {
		s.scopes = buildScopes(values(s.parts.sidecars), s.namespaces, &s.services, &s.rules, mesh.RootNamespace, &old.scopes)
	}
	s.checks = check(s, prev)
	return s, s.problems()
}

// convert puts every object into our words, reusing what was made of equal ones.
func convert(set *registry.Set, mesh *Mesh, old *parts) parts {
	return parts{
		virtualServices: convertKind(ofKind(set.Objects, "VirtualService"), old.virtualServices, func(o *apis.Object) (*virtualService, error) {
			spec, ok := o.Spec.(*networking.VirtualService)
			if !ok {
				return nil, errSpec
			}
			return convertVirtualService(o, spec, mesh)
		}),
		destinationRules: convertKind(ofKind(set.Objects, "DestinationRule"), old.destinationRules, func(o *apis.Object) (*DestinationRule, error) {
			spec, ok := o.Spec.(*networking.DestinationRule)
			if !ok {
				return nil, errSpec
			}
			return convertDestinationRule(o, spec, mesh), nil
		}),
		gateways: convertKind(ofKind(set.Objects, "Gateway"), old.gateways, func(o *apis.Object) (*Gateway, error) {
			spec, ok := o.Spec.(*networking.Gateway)
			if !ok {
				return nil, errSpec
			}
			return convertGateway(o, spec), nil
		}),
		sidecars: convertKind(ofKind(set.Objects, "Sidecar"), old.sidecars, func(o *apis.Object) (*sidecar, error) {
			spec, ok := o.Spec.(*networking.Sidecar)
			if !ok {
				return nil, errSpec
			}
			return convertSidecar(o, spec), nil
		}),
		peers: convertKind(ofKind(set.Objects, "PeerAuthentication"), old.peers, func(o *apis.Object) (*peerPolicy, error) {
			spec, ok := o.Spec.(*security.PeerAuthentication)
			if !ok {
				return nil, errSpec
			}
			return convertPeerAuthentication(o, spec), nil
		}),
		denied:  convertKind(set.Denied, old.denied, func(o *apis.Object) (*denial, error) { return convertDenied(o), nil }),
		secrets: convertKind(ofKind(set.Objects, "Secret"), old.secrets, func(*apis.Object) (struct{}, error) { return struct{}{}, nil }),
	}
}

// ofKind is the part of a sorted list that has a kind.
func ofKind(list []*apis.Object, kind string) []*apis.Object {
	from := sort.Search(len(list), func(i int) bool { return list[i].Key.Kind >= kind })
	to := from + sort.Search(len(list)-from, func(i int) bool { return list[from+i].Key.Kind > kind })
	return list[from:to]
}

// convertKind converts objects, and takes from old what was made of an object
// with the same key and content. Both lists are sorted by key.
func convertKind[T any](objects []*apis.Object, old []made[T], f func(*apis.Object) (T, error)) []made[T] {
	if slices.EqualFunc(objects, old, func(o *apis.Object, m made[T]) bool { return o.Key == m.object.Key && o.Hash == m.object.Hash }) {
		return old
	}
	out := make([]made[T], 0, len(objects))
	for _, o := range objects {
		for len(old) > 0 && old[0].object.Key.Compare(o.Key) < 0 {
			old = old[1:]
		}
		if len(old) > 0 && old[0].object.Key == o.Key && old[0].object.Hash == o.Hash {
			out = append(out, made[T]{o, old[0].value, old[0].err})
			continue
		}
		v, err := f(o)
		out = append(out, made[T]{o, v, err})
	}
	return out
}

// sameParts reports whether two lists were made of equal objects.
func sameParts[T any](a, b []made[T]) bool {
	if len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) {
		return true
	}
	return slices.EqualFunc(a, b, func(x, y made[T]) bool { return x.object.Key == y.object.Key && x.object.Hash == y.object.Hash })
}

// values are the converted objects that could be converted.
func values[T any](list []made[T]) []T {
	out := make([]T, 0, len(list))
	for _, m := range list {
		if m.err == nil {
			out = append(out, m.value)
		}
	}
	return out
}

// mergedRoot remembers what a VirtualService with delegates was merged of.
type mergedRoot struct {
	parts    []*virtualService
	rules    *Rules
	findings []finding
}

// mergeAll gives the rules of every VirtualService that has hosts, with its
// delegates merged in. Those without hosts are delegates only.
func mergeAll(list []made[*virtualService], old map[apis.Key]*mergedRoot) ([]*Rules, map[apis.Key]*mergedRoot, []finding) {
	delegates := map[delegateRef]*virtualService{}
	for _, m := range list {
		if m.err == nil && len(m.value.rules.Hosts) == 0 {
			delegates[delegateRef{m.object.Key.Namespace, m.object.Key.Name}] = m.value
		}
	}
	out := make([]*Rules, 0, len(list))
	roots := map[apis.Key]*mergedRoot{}
	var findings []finding
	for _, m := range list {
		switch {
		case m.err != nil || len(m.value.rules.Hosts) == 0:
			continue
		case !m.value.roots:
			out = append(out, m.value.rules)
			continue
		}
		key := m.object.Key
		root := &mergedRoot{parts: []*virtualService{m.value}}
		for _, r := range m.value.rules.HTTP {
			if r.delegate != nil {
				root.parts = append(root.parts, delegates[*r.delegate])
			}
		}
		if was := old[key]; was != nil && slices.Equal(was.parts, root.parts) {
			root = was
		} else {
			root.rules = mergeDelegates(m.value, func(ref delegateRef) *virtualService { return delegates[ref] },
				func(f finding) { root.findings = append(root.findings, f) })
		}
		roots[key] = root
		out = append(out, root.rules)
		findings = append(findings, root.findings...)
	}
	return out, roots, findings
}

// problems joins findings with the places of their objects.
func (s *Snapshot) problems() []apis.Problem {
	var out []apis.Problem
	for _, list := range [][]finding{s.delegation, s.checks.all()} {
		for _, f := range list {
			out = append(out, apis.Problem{
				Code: f.code, Level: f.level, Key: f.origin.Key, Path: f.origin.Path, Position: s.Position(f.origin),
				Message: f.message, Hint: f.hint, Effect: f.effect,
			})
		}
	}
	problem.Sort(out)
	return out
}
