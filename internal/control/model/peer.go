package model

import (
	"maps"
	"slices"
	"time"

	extensions "istio.io/api/extensions/v1alpha1"
	security "istio.io/api/security/v1beta1"
	typev1beta1 "istio.io/api/type/v1beta1"

	"github.com/tullemesh/tulle/internal/apis"
)

// peerPolicy is one PeerAuthentication. Unset modes inherit.
type peerPolicy struct {
	origin   Origin
	created  time.Time
	selector map[string]string // empty: the namespace, or the mesh in the root namespace
	mode     security.PeerAuthentication_MutualTLS_Mode
	ports    map[int]security.PeerAuthentication_MutualTLS_Mode
}

func convertPeerAuthentication(o *apis.Object, spec *security.PeerAuthentication) *peerPolicy {
	p := &peerPolicy{origin: Origin{Key: o.Key, Path: "spec"}, created: o.Created, selector: spec.GetSelector().GetMatchLabels(), mode: spec.GetMtls().GetMode()}
	if p.mode != security.PeerAuthentication_MutualTLS_UNSET {
		p.origin.Path = "spec.mtls.mode"
	}
	if len(spec.PortLevelMtls) > 0 {
		p.ports = make(map[int]security.PeerAuthentication_MutualTLS_Mode, len(spec.PortLevelMtls))
		for port, m := range spec.PortLevelMtls {
			p.ports[int(port)] = m.GetMode()
		}
	}
	return p
}

// denial is a refused security object: what it selects must deny.
type denial struct {
	origin   Origin
	selector map[string]string
}

// convertDenied reads what a refused object selects, as far as it could be
// decoded. One that selects by other means than labels (targetRefs), or not
// readably, selects its namespace: in doubt deny.
func convertDenied(o *apis.Object) *denial {
	d := &denial{origin: Origin{Key: o.Key}}
	var selector *typev1beta1.WorkloadSelector
	switch spec := o.Spec.(type) {
	case *security.PeerAuthentication:
		selector = spec.GetSelector()
	case *security.AuthorizationPolicy:
		selector = spec.GetSelector()
	case *security.RequestAuthentication:
		selector = spec.GetSelector()
	case *extensions.WasmPlugin:
		selector = spec.GetSelector()
	case *extensions.TrafficExtension:
		selector = spec.GetSelector()
	}
	d.selector = selector.GetMatchLabels()
	return d
}

// peerIndex resolves peer authentication; policies are oldest first.
type peerIndex struct {
	root     string
	policies map[string][]*peerPolicy
	denied   map[string][]*denial
	// effective answers are shared: one value for each distinct combination.
	defaults map[string]*PeerAuth // of namespaces without regard to selectors; "" for any other
}

func buildPeers(policies []*peerPolicy, denied []*denial, root string, old *peerIndex) peerIndex {
	slices.SortFunc(policies, func(a, b *peerPolicy) int {
		return compareAge(a.origin.Key, b.origin.Key, a.created.Compare(b.created))
	})
	x := peerIndex{root: root, policies: map[string][]*peerPolicy{}, denied: map[string][]*denial{}, defaults: map[string]*PeerAuth{}}
	for _, p := range policies {
		x.policies[p.origin.Key.Namespace] = append(x.policies[p.origin.Key.Namespace], p)
	}
	for _, d := range denied {
		x.denied[d.origin.Key.Namespace] = append(x.denied[d.origin.Key.Namespace], d)
	}
	names := append(slices.Collect(maps.Keys(x.policies)), slices.Collect(maps.Keys(x.denied))...)
	for _, ns := range append(names, "") {
		fresh := x.resolve(ns, nil)
		if old != nil && old.defaults[ns].equal(fresh) {
			fresh = old.defaults[ns]
		}
		x.defaults[ns] = fresh
	}
	return x
}

// lookup gives a shared value where no selector matters.
func (x *peerIndex) lookup(namespace string, labels map[string]string) *PeerAuth {
	if !x.selective(namespace, labels) {
		if p := x.defaults[namespace]; p != nil {
			return p
		}
		return x.defaults[""]
	}
	return x.resolve(namespace, labels)
}

func (x *peerIndex) selective(namespace string, labels map[string]string) bool {
	for _, p := range x.policies[namespace] {
		if namespace != x.root && len(p.selector) > 0 && selects(p.selector, labels) {
			return true
		}
	}
	for _, ns := range []string{namespace, x.root} {
		for _, d := range x.denied[ns] {
			if len(d.selector) > 0 && selects(d.selector, labels) {
				return true
			}
		}
	}
	return false
}

// resolve applies Istio's precedence: mesh, then namespace, then workload; of
// several in one scope the oldest. Ports come from the workload's policy alone.
func (x *peerIndex) resolve(namespace string, labels map[string]string) *PeerAuth {
	out := &PeerAuth{Mode: MTLSPermissive}
	if p := first(x.policies[x.root], func(p *peerPolicy) bool { return len(p.selector) == 0 }); p != nil {
		out.inherit(p)
	}
	if namespace != x.root {
		if p := first(x.policies[namespace], func(p *peerPolicy) bool { return len(p.selector) == 0 }); p != nil {
			out.inherit(p)
		}
	}
	if namespace != x.root { // Istio ignores selectors there
		if p := first(x.policies[namespace], func(p *peerPolicy) bool { return len(p.selector) > 0 && selects(p.selector, labels) }); p != nil {
			out.inherit(p)
			out.inheritPorts(p)
		}
	}
	for _, ns := range []string{namespace, x.root} {
		for _, d := range x.denied[ns] {
			// In the root namespace a selector reaches the whole mesh for
			// authorization, and only that namespace for peer authentication;
			// in doubt it denies.
			if !out.Deny && selects(d.selector, labels) {
				out.Deny, out.DenyOrigin = true, d.origin
			}
		}
	}
	return out
}

func first(list []*peerPolicy, take func(*peerPolicy) bool) *peerPolicy {
	if i := slices.IndexFunc(list, take); i >= 0 {
		return list[i]
	}
	return nil
}

func (p *PeerAuth) inherit(from *peerPolicy) {
	if m, ok := modeOf(from.mode); ok {
		p.Mode, p.Origin = m, from.origin
	}
}

func (p *PeerAuth) inheritPorts(from *peerPolicy) {
	if len(from.ports) == 0 {
		return
	}
	p.Ports = make(map[int]MTLSMode, len(from.ports))
	for port, mode := range from.ports {
		p.Ports[port] = p.Mode
		if m, ok := modeOf(mode); ok {
			p.Ports[port] = m
		}
	}
}

func modeOf(m security.PeerAuthentication_MutualTLS_Mode) (MTLSMode, bool) {
	switch m {
	case security.PeerAuthentication_MutualTLS_STRICT:
		return MTLSStrict, true
	case security.PeerAuthentication_MutualTLS_PERMISSIVE:
		return MTLSPermissive, true
	case security.PeerAuthentication_MutualTLS_DISABLE:
		return MTLSDisable, true
	}
	return MTLSPermissive, false
}

func (p *PeerAuth) equal(o *PeerAuth) bool {
	return p != nil && o != nil && p.Mode == o.Mode && p.Origin == o.Origin && maps.Equal(p.Ports, o.Ports) && p.Deny == o.Deny && p.DenyOrigin == o.DenyOrigin
}
