package translate

import (
	"fmt"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/apis/problem"
	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/control/translate/plan"
	"github.com/tullemesh/tulle/internal/control/translate/view"
	"github.com/tullemesh/tulle/internal/wire"
)

// LostServers tells which servers of Gateways gateways leave out, because an older one has their port otherwise or one of their names. What
// the plan of a gateway says is told, of each kind of workload that Gateways select.
func (t *Translator) LostServers() []apis.Problem {
	mem := view.NewMemory(t.snap, answers{t})
	planned, told := map[string]bool{}, map[string]bool{}
	var out []apis.Problem
	for _, w := range t.snap.Workloads() {
		selected := t.selected(w)
		if selected == "" || planned[selected] {
			continue
		}
		planned[selected] = true
		v, err := view.New(t.snap, &wire.Node{Type: wire.Router, Namespace: w.Namespace, IPs: w.Addresses, Metadata: wire.NodeMetadata{Labels: w.Labels}}, "")
		if err != nil {
			continue // no such proxy can ask either
		}
		lost, _ := view.Remember(mem, nil, v, view.TableNames, "", func(r *view.Reader) ([]plan.Lost, error) { return plan.GatewayOf(r).Lost, nil })
		for _, l := range lost {
			p := t.lostServer(l)
			if id := p.Key.String() + p.Path + p.Message; !told[id] {
				told[id] = true
				out = append(out, p)
			}
		}
	}
	return out
}

// selected names the Gateways that a workload's labels are selected by.
func (t *Translator) selected(w *registry.Workload) string {
	names := ""
	for _, g := range t.snap.Gateways(w.Labels, nil) {
		names += g.Namespace + "/" + g.Name + " "
	}
	return names
}

func (t *Translator) lostServer(l plan.Lost) apis.Problem {
	at, holder := l.Server.Origin, l.Holder.Origin
	p := apis.Problem{
		Code: problem.CodeGatewayConflict, Level: apis.LevelError, Key: at.Key, Path: at.Path + ".port",
		Message: fmt.Sprintf("port %d is already of protocol %s, by %s %s", l.Server.Port, l.Holder.Protocol, holder.Key, holder.Path),
		Hint:    "choose another port", Effect: "the whole server is left out by gateways that both select",
	}
	if l.Host != "" {
		p.Path = at.Path + ".hosts"
		p.Message = fmt.Sprintf("host %s of port %d is already served by %s %s", l.Host, l.Server.Port, holder.Key, holder.Path)
		p.Hint = "serve each host of a port in one place"
	}
	p.Position = t.snap.Position(model.Origin{Key: at.Key, Path: p.Path})
	return p
}
