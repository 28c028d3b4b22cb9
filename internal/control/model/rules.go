package model

import (
	"slices"

	"github.com/tullemesh/tulle/internal/apis"
)

// ruleIndex finds rules by gateway and by who may see them.
type ruleIndex struct {
	all       []*Rules // oldest first
	byGateway map[string]*gatewayRules
}

// gatewayRules are the rules bound to one gateway.
type gatewayRules struct {
	public []*Rules
	// special lists are for namespaces that rules are exported to by name,
	// public ones included.
	special map[string][]*Rules
}

// buildRules indexes merged rules. Lists equal to old ones are reused.
func buildRules(all []*Rules, old *ruleIndex) ruleIndex {
	all = sortRules(all, old)
	x := ruleIndex{all: all, byGateway: map[string]*gatewayRules{}}
	type place struct{ gateway, namespace string }
	private, exported := map[place][]*Rules{}, map[place][]*Rules{}
	for _, r := range all {
		for _, g := range r.Gateways {
			gr := x.byGateway[g]
			if gr == nil {
				gr = &gatewayRules{special: map[string][]*Rules{}}
				x.byGateway[g] = gr
			}
			if slices.Contains(r.ExportTo, "*") {
				gr.public = append(gr.public, r)
				continue
			}
			if slices.Contains(r.ExportTo, "~") {
				continue
			}
			for _, ns := range r.ExportTo {
				at := place{g, ns}
				if ns == r.Origin.Key.Namespace {
					private[at] = append(private[at], r)
				} else {
					exported[at] = append(exported[at], r)
				}
				gr.special[ns] = nil
			}
		}
	}
	for g, gr := range x.byGateway {
		for ns := range gr.special {
			at := place{g, ns}
			gr.special[ns] = slices.Concat(private[at], exported[at], gr.public)
		}
		if old == nil || old.byGateway[g] == nil {
			continue
		}
		was := old.byGateway[g]
		gr.public = keep(was.public, gr.public)
		for ns := range gr.special {
			gr.special[ns] = keep(was.special[ns], gr.special[ns])
		}
	}
	return x
}

// sortRules orders by age. When the same objects were sorted before, with the
// same ages, their order is taken over.
func sortRules(all []*Rules, old *ruleIndex) []*Rules {
	if old != nil && len(old.all) == len(all) {
		byKey := make(map[apis.Key]*Rules, len(all))
		for _, r := range all {
			byKey[r.Origin.Key] = r
		}
		sorted := make([]*Rules, 0, len(all))
		for _, was := range old.all {
			if r := byKey[was.Origin.Key]; r != nil && r.Created.Equal(was.Created) {
				sorted = append(sorted, r)
			}
		}
		if len(sorted) == len(all) {
			return sorted
		}
	}
	slices.SortFunc(all, func(a, b *Rules) int { return compareAge(a.Origin.Key, b.Origin.Key, a.Created.Compare(b.Created)) })
	return all
}

// keep gives old when it is equal, so that lists keep their identity.
func keep[T comparable](old, fresh []T) []T {
	if slices.Equal(old, fresh) {
		return old
	}
	return fresh
}

func (x *ruleIndex) bound(gateway, ns string) []*Rules {
	gr := x.byGateway[gateway]
	if gr == nil {
		return nil
	}
	if list, ok := gr.special[ns]; ok {
		return list
	}
	return gr.public
}

// special reports whether rules of a gateway are exported to a namespace by name.
func (x *ruleIndex) special(gateway, ns string) bool {
	gr := x.byGateway[gateway]
	if gr == nil {
		return false
	}
	_, ok := gr.special[ns]
	return ok
}
