package registry

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	meshconfig "istio.io/api/mesh/v1alpha1"
	corev1 "k8s.io/api/core/v1"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/apis/problem"
)

// Input is everything that one source knows at one moment. Objects and
// Problems are not changed once they are put.
type Input struct {
	Source   string // unique name of the source
	Objects  []*apis.Object
	Problems []apis.Problem // all of them, of the objects too
	// MeshConfig is the mesh configuration, if the source has one.
	MeshConfig *meshconfig.MeshConfig
}

// Store merges the inputs of all sources into Sets. It keeps the last good
// version of each object whose newer version is refused, until the object is
// deleted. It is safe for concurrent use.
type Store struct {
	opts    Options
	changed chan struct{} // size 1: a token says that Set will differ

	// Guarded by mu.
	mu       sync.Mutex
	inputs   map[string]Input
	pending  bool
	accepted map[apis.Key]*apis.Object
	denied   map[apis.Key]*apis.Object
	conv     *converter
	set      *Set
}

// NewStore makes an empty Store.
func NewStore(opts Options) *Store {
	opts = opts.withDefaults()
	return &Store{
		opts: opts, changed: make(chan struct{}, 1), inputs: map[string]Input{}, accepted: map[apis.Key]*apis.Object{},
		denied: map[apis.Key]*apis.Object{}, conv: newConverter(opts), set: &Set{Namespaces: map[string]map[string]string{}},
	}
}

// Put replaces what the input's source has put before.
func (s *Store) Put(in Input) {
	s.mu.Lock()
	s.inputs[in.Source] = in
	s.pending = true
	s.mu.Unlock()
	s.signal()
}

// Remove forgets a source.
func (s *Store) Remove(source string) {
	s.mu.Lock()
	delete(s.inputs, source)
	s.pending = true
	s.mu.Unlock()
	s.signal()
}

func (s *Store) signal() {
	select {
	case s.changed <- struct{}{}:
	default: // A token is there already; Set will see both changes.
	}
}

// Changed gives a token after one or several Puts: call Set then. It is for one
// reader, who gets the latest state and not the history.
func (s *Store) Changed() <-chan struct{} { return s.changed }

// Set is the merged state of now. It is the same pointer as before when nothing
// was put since.
func (s *Store) Set() *Set {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pending {
		s.set = s.buildLocked()
		s.pending = false
	}
	return s.set
}

// offer is one version of an object, from one source.
type offer struct {
	source string
	object *apis.Object // nil: its text could not be read
}

// buildLocked makes the next Set: it chooses a version of each object, hands
// what changed to the converter, and puts the parts together.
func (s *Store) buildLocked() *Set {
	chosen := map[apis.Key]*apis.Object{}
	denied := map[apis.Key]*apis.Object{}
	kept := map[apis.Key]bool{}
	var problems []apis.Problem
	for key, offers := range s.offersLocked() {
		object := choose(offers)
		switch old := s.accepted[key]; {
		case object != nil:
			chosen[key] = object
		case old != nil:
			chosen[key] = old
			kept[key] = true
		case guards(key.Kind):
			denied[key] = refused(key, offers)
		}
		problems = append(problems, repeated(key, offers, chosen[key])...)
	}
	changes := differences(s.accepted, chosen)
	s.accepted, s.denied = chosen, denied
	return s.assembleLocked(changes, kept, problems)
}

// offersLocked collects all versions of all objects. A problem that names an object
// which no source could decode stands for a version that can't be read.
func (s *Store) offersLocked() map[apis.Key][]offer {
	out := make(map[apis.Key][]offer, len(s.accepted))
	for _, source := range slices.Sorted(maps.Keys(s.inputs)) {
		for _, o := range s.inputs[source].Objects {
			out[o.Key] = append(out[o.Key], offer{source, o})
		}
	}
	for source, in := range s.inputs {
		for _, p := range in.Problems {
			if _, known := out[p.Key]; !known && p.Key.Name != "" && p.Refuses() {
				out[p.Key] = []offer{{source: source}}
			}
		}
	}
	return out
}

// choose takes the first acceptable version: a bad object never hides a good
// one. Nil: all are refused.
func choose(offers []offer) *apis.Object {
	if len(offers) > 1 {
		slices.SortStableFunc(offers, compareOffers)
	}
	for _, o := range offers {
		if o.object != nil && !o.object.Refused() {
			return o.object
		}
	}
	return nil
}

// compareOffers orders versions of one object so that the choice depends on
// nothing but what is written: oldest first, then source, file and place.
func compareOffers(a, b offer) int {
	if a.object == nil || b.object == nil {
		return 0 // such an offer is alone
	}
	p, q := a.object.Position(""), b.object.Position("")
	return cmp.Or(a.object.Created.Compare(b.object.Created), strings.Compare(a.source, b.source), strings.Compare(p.File, q.File),
		cmp.Compare(p.Line, q.Line), cmp.Compare(a.object.Hash, b.object.Hash))
}

// repeated are the problems of versions that another version hides.
func repeated(key apis.Key, offers []offer, winner *apis.Object) []apis.Problem {
	if len(offers) < 2 || winner == nil {
		return nil
	}
	var out []apis.Problem
	for _, o := range offers {
		if o.object == winner || o.object.Refused() {
			continue
		}
		out = append(out, apis.Problem{
			Code: problem.CodeDefinedTwice, Level: apis.LevelWarning, Key: key, Path: "metadata.name", Position: o.object.Position("metadata.name"),
			Length: len(key.Name), Message: fmt.Sprintf("the object is also defined at %s", winner.Position("metadata.name")),
			Hint: "remove one of the two, or rename it", Effect: "this definition is not used; the other one is",
		})
	}
	return out
}

// guards reports whether a refused object of this kind must deny what it
// selects: without it the workloads would be less protected than asked for.
func guards(kind string) bool {
	switch kind {
	case "PeerAuthentication", "RequestAuthentication", "AuthorizationPolicy":
		return true
	}
	return false
}

// refused is the object that denies. Where not even its text could be read, it
// has no Spec, and selects its whole namespace.
func refused(key apis.Key, offers []offer) *apis.Object {
	for _, o := range offers {
		if o.object != nil {
			return o.object
		}
	}
	return &apis.Object{Key: key}
}

// differences lists the objects whose content differs, by key.
func differences(old, next map[apis.Key]*apis.Object) []change {
	var out []change
	for key, n := range next {
		if o := old[key]; o == nil || o != n && o.Hash != n.Hash {
			out = append(out, change{key, o, n})
		}
	}
	for key, o := range old {
		if next[key] == nil {
			out = append(out, change{key, o, nil})
		}
	}
	slices.SortFunc(out, func(a, b change) int { return a.key.Compare(b.key) })
	return out
}

// assembleLocked puts the next Set together.
func (s *Store) assembleLocked(changes []change, kept map[apis.Key]bool, problems []apis.Problem) *Set {
	s.conv.apply(changes)
	set := &Set{Version: s.set.Version + 1, Namespaces: s.set.Namespaces}
	set.Services, set.Endpoints, set.Workloads = s.conv.publish()
	set.Objects = sortedObjects(s.accepted)
	set.Denied = sortedObjects(s.denied)
	if slices.ContainsFunc(changes, func(c change) bool { return c.key.Kind == "Namespace" }) {
		set.Namespaces = map[string]map[string]string{}
		for _, o := range set.Objects {
			if ns, ok := o.Spec.(*corev1.Namespace); ok {
				set.Namespaces[ns.Name] = o.Labels
			}
		}
	}
	for _, source := range slices.Sorted(maps.Keys(s.inputs)) {
		in := s.inputs[source]
		if in.MeshConfig != nil && set.MeshConfig == nil {
			set.MeshConfig = in.MeshConfig
		}
		for _, p := range in.Problems {
			if kept[p.Key] && p.Refuses() {
				p.Effect = "the last good version stays in force"
			}
			problems = append(problems, p)
		}
	}
	set.Problems = append(problems, s.conflictsLocked()...)
	problem.Sort(set.Problems)
	return set
}

// conflictsLocked joins the converter's problems with the places of their objects.
func (s *Store) conflictsLocked() []apis.Problem {
	var out []apis.Problem
	for _, u := range s.conv.order {
		for _, c := range u.problems {
			out = append(out, apis.Problem{
				Code: problem.CodeHostTaken, Level: apis.LevelWarning, Key: c.key, Path: c.path, Position: s.accepted[c.key].Position(c.path),
				Message: c.message, Hint: c.hint, Effect: c.effect,
			})
		}
	}
	return out
}

func sortedObjects(m map[apis.Key]*apis.Object) []*apis.Object {
	out := make([]*apis.Object, 0, len(m))
	for _, o := range m {
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b *apis.Object) int { return a.Key.Compare(b.Key) })
	return out
}
