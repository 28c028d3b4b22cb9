package model

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/apis/problem"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/match"
)

// gatewayPath finds where a VirtualService names a gateway.
func gatewayPath(o *apis.Object, name string) string {
	if spec, ok := o.Spec.(*networking.VirtualService); ok {
		for i, g := range spec.Gateways {
			if resolveGateway(g, o.Key.Namespace) == name {
				return fmt.Sprintf("spec.gateways[%d]", i)
			}
		}
	}
	return "spec.gateways"
}

// meshConflicts finds VirtualServices that claim one host for sidecars. All of them are
// told, as Istio's analyzer does: the first by age applies.
func meshConflicts(s *Snapshot) []finding {
	type claim struct{ scope, host string }
	claims := map[claim][]*Rules{}
	var public []string
	for _, r := range s.rules.all {
		if !slices.Contains(r.Gateways, MeshGateway) {
			continue
		}
		scopes := r.ExportTo
		if slices.Contains(scopes, "*") {
			scopes = []string{"*"}
		}
		for _, scope := range scopes {
			for _, h := range r.Hosts {
				if scope == "*" && claims[claim{scope, h}] == nil {
					public = append(public, h)
				}
				claims[claim{scope, h}] = append(claims[claim{scope, h}], r)
			}
		}
	}
	reported := map[apis.Key]finding{}
	for c, list := range claims {
		if c.scope != "*" {
			for _, h := range public {
				if match.HostsOverlap(c.host, h) {
					list = append(slices.Clone(list), claims[claim{"*", h}]...)
				}
			}
		}
		if len(list) < 2 {
			continue
		}
		slices.SortStableFunc(list, func(a, b *Rules) int { return compareAge(a.Origin.Key, b.Origin.Key, a.Created.Compare(b.Created)) })
		for _, r := range list {
			f := hostConflict(r, c.host, list)
			if was, ok := reported[r.Origin.Key]; !ok || strings.Compare(f.message, was.message) < 0 {
				reported[r.Origin.Key] = f
			}
		}
	}
	return slices.SortedFunc(maps.Values(reported), func(a, b finding) int { return a.origin.Key.Compare(b.origin.Key) })
}

func hostConflict(r *Rules, host string, list []*Rules) finding {
	var others []string
	for _, o := range list {
		if o.Origin.Key != r.Origin.Key {
			others = append(others, o.Origin.Key.String())
		}
	}
	f := finding{Origin{Key: r.Origin.Key, Path: "spec.hosts"}, problem.CodeHostConflict, apis.LevelError,
		fmt.Sprintf("host %s is also claimed for sidecars by %s", host, strings.Join(slices.Compact(others), ", ")),
		"put all rules of a host into one VirtualService, or delegate", "the older object applies; this one is ignored by sidecars for the host"}
	for i, h := range r.Hosts {
		if match.HostsOverlap(h, host) {
			f.origin.Path = fmt.Sprintf("spec.hosts[%d]", i)
			break
		}
	}
	if list[0] == r {
		f.effect = "this object is the oldest, or the first by name, and applies; the others are ignored by sidecars for the host"
	}
	return f
}

// checkDestinationRules finds rules for unknown hosts, and subsets that a merge drops.
func checkDestinationRules(s *Snapshot) []finding {
	var out []finding
	for _, m := range s.parts.destinationRules {
		if m.err != nil {
			out = append(out, notConverted(m.object.Key, m.err))
			continue
		}
		d := m.value
		if match.Wildcard(d.Host) {
			continue
		}
		svc := s.services.choose(d.Host, d.Origin.Key.Namespace)
		if svc == nil {
			svc = s.serviceFor(d.Host, d.Origin.Key.Namespace)
		}
		if svc != nil {
			out = append(out, portsOfNobody(d, svc)...)
			continue
		}
		out = append(out, finding{Origin{Key: d.Origin.Key, Path: "spec.host"}, problem.CodeUnknownHost, apis.LevelWarning,
			fmt.Sprintf("no service has the host %q", d.Host), s.nearHost(d.Host, d.Origin.Key.Namespace), "the rule applies to nothing"})
	}
	for _, t := range s.dests.local {
		for _, lists := range []map[string][]*DestinationRule{t.exact, t.wild} {
			for _, list := range lists {
				for _, d := range list {
					out = append(append(out, subsetsTwice(d)...), policiesTwice(d)...)
				}
			}
		}
	}
	slices.SortFunc(out, compareFindings)
	return out
}

func subsetsTwice(d *DestinationRule) []finding {
	var out []finding
	seen := map[string]*DestinationRule{}
	for _, p := range d.parts() {
		for _, x := range p.Subsets {
			have := seen[x.Name]
			if have == nil {
				seen[x.Name] = p
			} else if have != p {
				out = append(out, finding{Origin{Key: x.Origin.Key, Path: x.Origin.Path + ".name"}, problem.CodeSubsetTwice, apis.LevelWarning,
					fmt.Sprintf("subset %q of host %s is already defined by %s", x.Name, d.Host, have.Origin.Key),
					"give the subset another name, or remove one of the two", "the older definition holds"})
			}
		}
	}
	return out
}

// policiesTwice finds the policies that a merge drops: those of all parts but the first that has one.
func policiesTwice(d *DestinationRule) []finding {
	var out []finding
	var holds *DestinationRule
	for _, p := range d.parts() {
		switch {
		case p.Policy == nil:
		case holds == nil:
			holds = p
		default:
			out = append(out, finding{p.Policy.Origin, problem.CodePolicyTwice, apis.LevelWarning,
				fmt.Sprintf("host %s already has a traffic policy, of %s", d.Host, holds.Origin.Key),
				"write both into one object", "it is ignored as a whole: the older policy holds"})
		}
	}
	return out
}

// portsOfNobody finds settings of ports that the service lacks.
func portsOfNobody(d *DestinationRule, svc *registry.Service) []finding {
	var out []finding
	levels := []map[int]*TrafficPolicy{d.Ports}
	for _, x := range d.Subsets {
		levels = append(levels, x.Ports)
	}
	for _, ports := range levels {
		for number, p := range ports {
			if !slices.ContainsFunc(svc.Ports, func(p registry.Port) bool { return p.Number == number }) {
				out = append(out, finding{Origin{Key: d.Origin.Key, Path: p.Origin.Path + ".port.number"}, problem.CodeNotFound, apis.LevelWarning,
					fmt.Sprintf("service %s has no port %d", svc.Hostname, number), "write a port of the service, not of its workloads", "the settings apply to nothing"})
			}
		}
	}
	return out
}

func compareFindings(a, b finding) int {
	if n := a.origin.Key.Compare(b.origin.Key); n != 0 {
		return n
	}
	if n := strings.Compare(a.origin.Path, b.origin.Path); n != 0 {
		return n
	}
	return strings.Compare(a.message, b.message)
}

// checkSidecars finds Sidecars that another hides.
func checkSidecars(s *Snapshot) []finding {
	var out []finding
	for _, m := range s.parts.sidecars {
		if m.err != nil {
			out = append(out, notConverted(m.object.Key, m.err))
		}
	}
	for _, ns := range slices.Sorted(maps.Keys(s.scopes.byNamespace)) {
		var defaults []*sidecar
		for _, sc := range s.scopes.byNamespace[ns] {
			if sc.selector == nil {
				defaults = append(defaults, sc)
			}
		}
		for i, sc := range defaults {
			if len(defaults) < 2 {
				break
			}
			effect := "it applies; the others of the namespace are ignored"
			if i > 0 {
				effect = "it is ignored; " + defaults[0].origin.Key.String() + " applies"
			}
			out = append(out, finding{sc.origin, problem.CodeSidecarDefaults, apis.LevelError, fmt.Sprintf("namespace %s has %d Sidecars without a workloadSelector", ns, len(defaults)),
				"keep one, or add a workloadSelector", effect})
		}
	}
	return out
}

// sidecarOverlaps finds workloads that several selectors take.
func sidecarOverlaps(s *Snapshot) []finding {
	told := map[apis.Key]finding{}
	for _, w := range s.set.Workloads {
		var takers []*sidecar
		for _, sc := range s.scopes.byNamespace[w.Namespace] {
			if sc.selector != nil && selects(sc.selector, w.Labels) {
				takers = append(takers, sc)
			}
		}
		for i, sc := range takers {
			if _, done := told[sc.origin.Key]; done || len(takers) < 2 {
				continue
			}
			effect := "it applies to the workload; the others do not"
			if i > 0 {
				effect = "it does not apply to the workload; " + takers[0].origin.Key.String() + " does"
			}
			told[sc.origin.Key] = finding{Origin{Key: sc.origin.Key, Path: "spec.workloadSelector"}, problem.CodeSidecarSelectors, apis.LevelError,
				fmt.Sprintf("workload %s is selected by %d Sidecars", w.Name, len(takers)), "make the selectors disjoint", effect}
		}
	}
	return slices.SortedFunc(maps.Values(told), compareFindings)
}

// checkPeers finds PeerAuthentications that another hides.
func checkPeers(s *Snapshot) []finding {
	var out []finding
	for _, m := range s.parts.peers {
		if m.err != nil {
			out = append(out, notConverted(m.object.Key, m.err))
		}
	}
	for _, ns := range slices.Sorted(maps.Keys(s.peers.policies)) {
		var winner *peerPolicy
		for _, p := range s.peers.policies[ns] {
			switch {
			case len(p.selector) > 0:
				if ns == s.mesh.RootNamespace {
					out = append(out, finding{Origin{Key: p.origin.Key, Path: "spec.selector"}, problem.CodePeerHidden, apis.LevelWarning,
						"a selector in the root namespace selects nothing", "move the object to the namespace of the workloads", "it applies to no workload"})
				}
			case winner == nil:
				winner = p
			default:
				out = append(out, finding{Origin{Key: p.origin.Key, Path: "spec"}, problem.CodePeerHidden, apis.LevelWarning,
					fmt.Sprintf("namespace %s already has %s without a selector", ns, winner.origin.Key), "keep one of the two", "it is ignored: the oldest applies"})
			}
		}
	}
	return out
}
