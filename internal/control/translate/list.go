package translate

import (
	"hash/maphash"
	"slices"
	"sync"

	"github.com/tullemesh/tulle/internal/wire"
)

// List is Names with the resource of each, for proxies that take a whole type.
// A resource is nil where proxies with these names differ in it, where it does
// not exist, and where it can't be built: that one has to be asked for by Build.
// Both slices are shared by all proxies with the same content: do not write.
func (t *Translator) List(v *View, typeURL string) (names []string, resources []*wire.Resource) {
	names = t.Names(v, typeURL)
	resources, _ = remember(t, nil, v, tableList, typeURL, func(r *reader) ([]*wire.Resource, error) {
		return t.list(r, typeURL), nil
	})
	return names, resources
}

func (t *Translator) list(r *reader, typeURL string) []*wire.Resource {
	names := r.names(typeURL)
	switch typeURL {
	case wire.ClusterType, wire.EndpointType:
		// Of these two follow what hosts mean and which destination rules are
		// in effect, which else were questions of every single resource.
		r.ask(askClient, "")
		r.scope()
	case wire.VirtualHostType:
		for _, rc := range r.names(wire.RouteType) {
			t.routePlanOf(r, r.v, rc)
		}
	}
	out := make([]*wire.Resource, len(names))
	for i, name := range names {
		at := len(r.path)
		res, err := t.build(r, r.v, typeURL, name)
		if r.forgetNarrow(at) || err != nil {
			continue
		}
		out[i] = res
	}
	return out
}

// forgetNarrow takes back what was asked since at, and reports true, if the
// answers are those of few workloads.
func (r *reader) forgetNarrow(at int) bool {
	if !slices.ContainsFunc(r.path[at:], func(s step) bool { return s.ask.kind.narrow() }) {
		return false
	}
	for _, s := range r.path[at:] {
		delete(r.seen, s.ask)
	}
	r.path = r.path[:at]
	return true
}

// internedMax bounds the lists that are found again.
const internedMax = 4096

// interner makes equal lists one, so that they are held once and compared by
// address.
type interner struct {
	seed maphash.Seed

	mu sync.Mutex
	// Guarded by mu. What was not found again since the generation before is
	// in prev, and goes with the next one.
	now, prev map[uint64][]string
}

// newInterner keeps the newest lists of an earlier one, which may be nil.
func newInterner(earlier *interner) *interner {
	x := &interner{seed: maphash.MakeSeed(), now: make(map[uint64][]string)}
	if earlier != nil {
		earlier.mu.Lock()
		defer earlier.mu.Unlock()
		x.seed, x.prev = earlier.seed, earlier.now
	}
	return x
}

func (x *interner) intern(list []string) []string {
	if len(list) == 0 {
		return nil
	}
	var h maphash.Hash
	h.SetSeed(x.seed)
	for _, s := range list {
		_, _ = h.WriteString(s) // never fails
		_ = h.WriteByte(0)
	}
	key := h.Sum64()
	x.mu.Lock()
	defer x.mu.Unlock()
	have, ok := x.now[key]
	if !ok {
		have, ok = x.prev[key]
	}
	if !ok || !slices.Equal(have, list) {
		have = slices.Clip(list)
	}
	if len(x.now) >= internedMax {
		clear(x.now)
	}
	x.now[key] = have
	return have
}
