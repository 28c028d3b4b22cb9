package model

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/control/model/pool"
	"github.com/tullemesh/tulle/internal/match"
)

// convertDestinationRule puts a DestinationRule into our words. ExportTo stays
// empty where the object names none, because the mesh default only decides
// whether the rule leaves its namespace.
func convertDestinationRule(o *apis.Object, spec *networking.DestinationRule, mesh *Mesh) *DestinationRule {
	at := func(path string) Origin { return Origin{Key: o.Key, Path: path} }
	d := &DestinationRule{
		Origin: at("spec"), Host: resolveHost(spec.Host, o.Key.Namespace, mesh.DomainSuffix), Created: o.Created,
		ExportTo: resolveExportTo(spec.ExportTo, nil, o.Key.Namespace),
	}
	if s := spec.WorkloadSelector; s != nil {
		d.Selector = maps.Clone(s.MatchLabels)
		if d.Selector == nil {
			d.Selector = map[string]string{}
		}
		// Rules for some workloads never leave their namespace (DestinationRule.workloadSelector).
		d.ExportTo = []string{o.Key.Namespace}
	}
	d.Policy, d.Ports = trafficPolicy(spec.TrafficPolicy, at, "spec.trafficPolicy")
	for i, s := range spec.Subsets {
		path := fmt.Sprintf("spec.subsets[%d]", i)
		sub := &Subset{Name: s.Name, Labels: s.Labels, Origin: at(path)}
		sub.Policy, sub.Ports = trafficPolicy(s.TrafficPolicy, at, path+".trafficPolicy")
		d.Subsets = append(d.Subsets, sub)
	}
	return d
}

func trafficPolicy(p *networking.TrafficPolicy, at func(string) Origin, path string) (*TrafficPolicy, map[int]*TrafficPolicy) {
	if p == nil {
		return nil, nil
	}
	out := &TrafficPolicy{Balancer: balancer(p.LoadBalancer), TLSMode: tlsMode(p.Tls), Pool: pool.From(p.ConnectionPool), ProxyHeader: proxyHeader(p.ProxyProtocol), Origin: at(path)}
	var ports map[int]*TrafficPolicy
	for i, l := range p.PortLevelSettings {
		if ports == nil {
			ports = map[int]*TrafficPolicy{}
		}
		n := int(l.GetPort().GetNumber())
		if ports[n] == nil { // the first of a port counts
			ports[n] = &TrafficPolicy{Balancer: balancer(l.LoadBalancer), TLSMode: tlsMode(l.Tls), Pool: pool.From(l.ConnectionPool), Origin: at(fmt.Sprintf("%s.portLevelSettings[%d]", path, i))}
		}
	}
	return out, ports
}

func balancer(lb *networking.LoadBalancerSettings) string {
	s, ok := lb.GetLbPolicy().(*networking.LoadBalancerSettings_Simple)
	if !ok {
		return ""
	}
	switch s.Simple {
	case networking.LoadBalancerSettings_ROUND_ROBIN:
		return "ROUND_ROBIN"
	case networking.LoadBalancerSettings_RANDOM:
		return "RANDOM"
	case networking.LoadBalancerSettings_PASSTHROUGH:
		return "PASSTHROUGH"
	case networking.LoadBalancerSettings_LEAST_REQUEST, networking.LoadBalancerSettings_LEAST_CONN: //nolint:staticcheck // the old name of LEAST_REQUEST
		return "LEAST_REQUEST"
	}
	return ""
}

func proxyHeader(p *networking.TrafficPolicy_ProxyProtocol) int {
	if p == nil {
		return 0
	}
	return int(p.Version) + 1
}

func tlsMode(t *networking.ClientTLSSettings) string {
	if t == nil {
		return ""
	}
	return t.Mode.String()
}

// destinationIndex finds the DestinationRule for a host as Istio's push context does.
type destinationIndex struct {
	// local: what clients of a namespace see of their own rules; exported: what
	// others may see of a namespace's; private: the root namespace's own.
	local, exported map[string]*destinationTable
	private         *destinationTable
	root            string
}

// destinationTable holds the rules of one namespace, merged, by host.
type destinationTable struct {
	exact     map[string][]*DestinationRule
	wildcards []string // most specific first
	wild      map[string][]*DestinationRule
}

// buildDestinations merges and indexes rules. Merged rules that an earlier index made of the
// same parts are reused. list is sorted: with selectors first, then oldest first.
func buildDestinations(list []*DestinationRule, mesh *Mesh, old *mergedDestinations) (destinationIndex, *mergedDestinations) {
	memo := &mergedDestinations{old: old, made: map[destinationPair]*DestinationRule{}}
	x := destinationIndex{local: map[string]*destinationTable{}, exported: map[string]*destinationTable{}, private: newDestinationTable(), root: mesh.RootNamespace}
	for _, d := range list {
		ns := d.Origin.Key.Namespace
		if len(d.ExportTo) == 0 || slices.Contains(d.ExportTo, "*") || slices.Contains(d.ExportTo, ns) {
			tableOf(x.local, ns).add(d, memo)
		}
		own := len(d.ExportTo) == 0 && slices.Contains(mesh.DestinationRuleExportTo, ".") || len(d.ExportTo) == 1 && d.ExportTo[0] == ns
		switch {
		case !own:
			tableOf(x.exported, ns).add(d, memo)
		case ns == mesh.RootNamespace:
			x.private.add(d, memo)
		}
	}
	for _, tables := range []map[string]*destinationTable{x.local, x.exported, {"": x.private}} {
		for _, t := range tables {
			t.wildcards = slices.SortedFunc(maps.Keys(t.wild), match.CompareHosts)
		}
	}
	memo.old = nil
	return x, memo
}

func newDestinationTable() *destinationTable {
	return &destinationTable{exact: map[string][]*DestinationRule{}, wild: map[string][]*DestinationRule{}}
}

func tableOf(m map[string]*destinationTable, ns string) *destinationTable {
	if m[ns] == nil {
		m[ns] = newDestinationTable()
	}
	return m[ns]
}

// add merges a rule with those of the same host and an equal exportTo, as
// Istio does: subsets of new names are appended, a policy fills a gap.
func (t *destinationTable) add(d *DestinationRule, memo *mergedDestinations) {
	m := t.exact
	if match.Wildcard(d.Host) {
		m = t.wild
	}
	separate := true
	for i, have := range m[d.Host] {
		if mergeable(have, d) {
			m[d.Host][i] = memo.merge(have, d)
			separate = false
		}
	}
	if separate {
		m[d.Host] = append(m[d.Host], d)
	}
}

func mergeable(a, b *DestinationRule) bool {
	if !slices.Equal(a.ExportTo, b.ExportTo) {
		return false
	}
	return a.Selector == nil && b.Selector == nil || a.Selector != nil && b.Selector != nil && maps.Equal(a.Selector, b.Selector)
}

// mergedDestinations remembers merged rules by their parts, so that a merge of
// unchanged parts keeps its pointer.
type mergedDestinations struct {
	old  *mergedDestinations // while building
	made map[destinationPair]*DestinationRule
}

type destinationPair struct{ first, second *DestinationRule }

func (m *mergedDestinations) merge(a, b *DestinationRule) *DestinationRule {
	id := destinationPair{a, b}
	if d := m.made[id]; d != nil {
		return d
	}
	var d *DestinationRule
	if m.old != nil {
		d = m.old.made[id]
	}
	if d == nil {
		d = mergeDestination(a, b)
	}
	m.made[id] = d
	return d
}

func mergeDestination(a, b *DestinationRule) *DestinationRule {
	out := *a
	out.Parts = append(slices.Clone(a.parts()), b)
	out.Subsets = slices.Clone(a.Subsets)
	for _, s := range b.Subsets {
		if !slices.ContainsFunc(out.Subsets, func(h *Subset) bool { return h.Name == s.Name }) {
			out.Subsets = append(out.Subsets, s)
		}
	}
	if out.Policy == nil {
		out.Policy, out.Ports = b.Policy, b.Ports
	}
	return &out
}

func (d *DestinationRule) parts() []*DestinationRule {
	if d.Parts == nil {
		return []*DestinationRule{d}
	}
	return d.Parts
}

func (t *destinationTable) find(host string) []*DestinationRule {
	if t == nil {
		return nil
	}
	if list := t.exact[host]; list != nil {
		return list
	}
	for _, w := range t.wildcards {
		if match.HostWithin(host, w) {
			return t.wild[w]
		}
	}
	return nil
}

func (x *destinationIndex) lookup(s *Snapshot, host, clientNamespace string) []*DestinationRule {
	serviceNamespace := ""
	if svc := s.services.chooseVisible(host, clientNamespace); svc != nil {
		serviceNamespace = svc.Namespace
	}
	return x.candidates(host, clientNamespace, serviceNamespace)
}

// candidates follows Istio's order: the client's namespace, unless it is the
// root namespace, whose rules are meant for everybody; the service's; the root.
func (x *destinationIndex) candidates(host, clientNamespace, serviceNamespace string) []*DestinationRule {
	if clientNamespace != x.root {
		if list := x.local[clientNamespace].find(host); list != nil {
			return list
		}
	} else if list := x.private.find(host); list != nil {
		return list
	}
	for _, ns := range []string{serviceNamespace, x.root} {
		if ns == "" {
			continue
		}
		var visible []*DestinationRule
		for _, d := range x.exported[ns].find(host) {
			if len(d.ExportTo) == 0 || slices.Contains(d.ExportTo, "*") || slices.Contains(d.ExportTo, clientNamespace) {
				visible = append(visible, d)
			}
		}
		if len(visible) > 0 {
			return visible
		}
	}
	return nil
}

// effective prefers a rule whose selector takes the client, then one without a selector.
func effective(list []*DestinationRule, clientNamespace string, labels map[string]string) *DestinationRule {
	var all *DestinationRule
	for _, d := range list {
		switch {
		case d.Selector == nil:
			all = d
		case d.Origin.Key.Namespace == clientNamespace && selects(d.Selector, labels):
			return d
		}
	}
	return all
}

// selects reports whether labels hold everything that the selector names.
func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// sortDestinations is Istio's order of merging: rules for some workloads first, then by age.
func sortDestinations(list []*DestinationRule) {
	slices.SortFunc(list, func(a, b *DestinationRule) int {
		if (a.Selector != nil) != (b.Selector != nil) {
			if a.Selector != nil {
				return -1
			}
			return 1
		}
		return compareAge(a.Origin.Key, b.Origin.Key, a.Created.Compare(b.Created))
	})
}

// compareAge orders objects by creation, then name, then namespace, as Istio
// does: files often have no creation time at all.
func compareAge(a, b apis.Key, created int) int {
	return cmp.Or(created, strings.Compare(a.Name, b.Name), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Kind, b.Kind))
}

// timed reports whether any policy of the rule bounds the time of TCP connections.
func (d *DestinationRule) timed() bool {
	all := []*TrafficPolicy{d.Policy}
	ports := []map[int]*TrafficPolicy{d.Ports}
	for _, s := range d.Subsets {
		all, ports = append(all, s.Policy), append(ports, s.Ports)
	}
	for _, m := range ports {
		for _, p := range m {
			all = append(all, p)
		}
	}
	for _, p := range all {
		if p != nil && p.Pool.Timed() {
			return true
		}
	}
	return false
}

// Subset finds a subset by name; nil: there is none.
func (d *DestinationRule) Subset(name string) *Subset {
	for _, s := range d.Subsets {
		if s.Name == name {
			return s
		}
	}
	return nil
}
