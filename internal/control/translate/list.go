package translate

import (
	"github.com/tullemesh/tulle/internal/control/translate/plan"
	"github.com/tullemesh/tulle/internal/control/translate/view"
	"github.com/tullemesh/tulle/internal/wire"
)

// List is Names with the resource of each, for proxies that take a whole type.
// A resource is nil where proxies with these names differ in it, where it does
// not exist, and where it can't be built: that one has to be asked for by Build.
// Both slices are shared by all proxies with the same content: do not write.
func (t *Translator) List(v *view.View, typeURL string) (names []string, resources []*wire.Resource) {
	names = t.Names(v, typeURL)
	resources, _ = view.Remember(t.mem, nil, v, view.TableList, typeURL, func(r *view.Reader) ([]*wire.Resource, error) {
		return t.list(r, typeURL), nil
	})
	return names, resources
}

func (t *Translator) list(r *view.Reader, typeURL string) []*wire.Resource {
	names := r.Names(typeURL)
	switch typeURL {
	case wire.ClusterType, wire.EndpointType:
		// Of these two follow what hosts mean and which destination rules are
		// in effect, which else were questions of every single resource.
		r.AskClient()
		r.Scope()
	case wire.VirtualHostType:
		for _, rc := range r.Names(wire.RouteType) {
			plan.RoutesOf(t.mem, r, r.View(), rc)
		}
	}
	out := make([]*wire.Resource, len(names))
	for i, name := range names {
		at := r.Mark()
		res, err := t.build(r, r.View(), typeURL, name)
		if r.ForgetNarrow(at) || err != nil {
			continue
		}
		out[i] = res
	}
	return out
}
