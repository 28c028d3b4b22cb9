// Package translate turns a Snapshot into xDS resources. In come a Snapshot, a
// View (what one proxy's configuration depends on) and the type and name of a
// resource; out comes a wire.Resource, serialized once and shared by all
// proxies whose Views give the same answers. Any one resource can be built
// alone; lists are iterations over Names.
//
// What is emitted has Istio's shapes and names, so that stock Envoy, istioctl
// and Kiali read it. Left out, because stock Envoy lacks them and our proxy
// does their work natively: Istio's own filters (metadata exchange, stats,
// alpn) and, as there is no tracing yet, the tracing settings. The ALPN
// "istio-peer-exchange" is not offered, since nobody behind it would answer.
//
// It is done in four steps, each a package that knows only those before it:
// view says what a proxy is and remembers what was built for whom, plan decides
// what there is, message writes it, and this package keeps it from Snapshot to
// Snapshot. All four are pure; state is a memory of what was built: a Translator
// belongs to one Snapshot and inherits the memory of its predecessor for what
// Dirty does not name. It is safe for concurrent use.
//
// Read this file first, then list.go, dirty.go and dirtyroutes.go.
package translate

import (
	"slices"

	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/translate/message"
	"github.com/tullemesh/tulle/internal/control/translate/plan"
	"github.com/tullemesh/tulle/internal/control/translate/view"
	"github.com/tullemesh/tulle/internal/wire"
)

// Translator builds the resources of one Snapshot.
type Translator struct {
	snap   *model.Snapshot
	mem    *view.Memory
	writer *message.Writer
	// What differs from the Snapshot before; nil: everything.
	before *model.Snapshot
	dirty  *dirt
}

// New makes the Translator of a Snapshot. prev, which may be nil, is that of an
// earlier Snapshot: what Dirty does not name is taken over from it.
func New(s *model.Snapshot, prev *Translator) *Translator {
	t := &Translator{snap: s, writer: message.New(s)}
	t.mem = view.NewMemory(s, answers{t})
	if prev == nil {
		return t
	}
	t.before = prev.snap
	if t.dirty = findDirt(t, prev); t.dirty != nil {
		t.mem.Inherit(prev.mem, &t.dirty.forgotten)
		t.dirty.editPlans()
		t.dirty.prev = nil // the predecessor may go
	}
	return t
}

// Snapshot is what the Translator translates.
func (t *Translator) Snapshot() *model.Snapshot { return t.snap }

// View is view.New on the Translator's Snapshot. last is the View of the same
// node and peer before, or nil: it is renewed when nothing that it was derived
// from has changed.
func (t *Translator) View(node *wire.Node, peer string, last *view.View) (*view.View, error) {
	if last != nil {
		var changes *model.Changes
		if t.dirty != nil {
			changes = &t.dirty.changes
		}
		if v := last.Renew(t.snap, t.before, changes); v != nil {
			return v, nil
		}
	}
	return view.New(t.snap, node, peer)
}

// Names lists the resources of a type that a proxy with this View gets by a
// wildcard subscription, sorted. Virtual hosts are listed as
// "route configuration/virtual host". The slice is shared: do not write.
func (t *Translator) Names(v *view.View, typeURL string) []string {
	names, _ := view.Remember(t.mem, nil, v, view.TableNames, typeURL, func(r *view.Reader) ([]string, error) {
		out := plan.Names(r, typeURL)
		if !slices.IsSorted(out) { // streams look names up by halves
			out = slices.Sorted(slices.Values(out))
		}
		return t.mem.Intern(out), nil
	})
	return names
}

// answers are what the memory asks of what is built above it.
type answers struct{ *Translator }

// Host is the plan of a virtual host resource; nil: there is none.
func (t answers) Host(v *view.View, name string) any { return t.plannedHost(v, name) }

// Build returns one resource as the proxy with this View gets it; nil without
// an error when it does not exist. The result is shared: do not write.
func (t *Translator) Build(v *view.View, typeURL, name string) (*wire.Resource, error) {
	return t.build(nil, v, typeURL, name)
}

// build is Build on behalf of outer, another resource that contains this one:
// what is asked of the View counts as asked by outer too.
func (t *Translator) build(outer *view.Reader, v *view.View, typeURL, name string) (*wire.Resource, error) {
	if typeURL == wire.VirtualHostType {
		name = t.virtualHostNameFor(outer, v, name)
		if name == "" {
			return nil, nil
		}
	}
	return view.Remember(t.mem, outer, v, view.TableOf(typeURL), name, func(r *view.Reader) (*wire.Resource, error) {
		return t.buildNew(r, typeURL, name)
	})
}

func (t *Translator) buildNew(r *view.Reader, typeURL, name string) (*wire.Resource, error) {
	switch typeURL {
	case wire.RouteType:
		return t.routeConfiguration(r, name)
	case wire.NameTableType:
		return t.writer.NameTable(r), nil
	}
	m := t.writer.Resource(r, typeURL, name)
	if m == nil {
		return nil, nil
	}
	return wire.NewResource(name, m)
}
