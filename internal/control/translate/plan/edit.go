package plan

import (
	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/translate/view"
	"github.com/tullemesh/tulle/internal/wire"
)

// Edited is the plan with other rules; the same plan where it has none of them.
func (p *Routes) Edited(m *view.Memory, edits map[*model.Rules]*model.Rules) *Routes {
	var out *Routes
	for i, h := range p.Hosts {
		now, ok := edits[h.Rules]
		if !ok || h.Rules == nil {
			continue
		}
		if out == nil {
			out = &Routes{Name: p.Name, Hosts: append([]*Host(nil), p.Hosts...), sorted: p.sorted, KeepPorts: p.KeepPorts}
		}
		next := *h
		next.Rules = now
		out.Hosts[i] = view.Shared(m, view.TableHost, wire.VirtualHostResourceName(p.Name, h.Name), &next)
	}
	if out == nil {
		return p
	}
	return out
}
