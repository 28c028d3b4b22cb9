package translate

import (
	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/wire"
)

// editPlans puts new rules in the place of old ones in every plan of routes
// that was inherited. All trees are copied, because the predecessor still adds
// plans with the old rules to its own.
func (m *memory) editPlans(edits map[*model.Rules]*model.Rules) {
	for name, tr := range m.trees[tableRoutes] {
		m.trees[tableRoutes][name] = tr.edited(func(made any) any {
			if p, ok := made.(*routePlan); ok && p != nil {
				return p.edited(m, edits)
			}
			return made
		})
	}
}

// edited copies a tree with other leaves.
func (tr *tree) edited(edit func(any) any) *tree {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return &tree{root: tr.root.edited(edit), leaves: tr.leaves}
}

func (n *node) edited(edit func(any) any) *node {
	if n == nil {
		return nil
	}
	out := &node{ask: n.ask, leaf: n.leaf, err: n.err}
	if n.leaf {
		out.made = edit(n.made)
		return out
	}
	for _, e := range n.few {
		out.few = append(out.few, edge{e.answer, e.to.edited(edit)})
	}
	if n.many != nil {
		out.many = make(map[any]*node, len(n.many))
		for answer, to := range n.many {
			out.many[answer] = to.edited(edit)
		}
	}
	return out
}

// edited is the plan with other rules; the same plan where it has none of them.
func (p *routePlan) edited(m *memory, edits map[*model.Rules]*model.Rules) *routePlan {
	var out *routePlan
	for i, h := range p.hosts {
		now, ok := edits[h.rules]
		if !ok || h.rules == nil {
			continue
		}
		if out == nil {
			out = &routePlan{name: p.name, hosts: append([]*hostPlan(nil), p.hosts...), sorted: p.sorted, keepPorts: p.keepPorts}
		}
		next := *h
		next.rules = now
		out.hosts[i] = m.get(tableHost, wire.VirtualHostResourceName(p.name, h.name)).variant(&next)
	}
	if out == nil {
		return p
	}
	return out
}
