package registry

import (
	"maps"
	"slices"
	"sync"

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
	MeshConfig *MeshConfig
}

// Store merges the inputs of all sources into Sets. It keeps the last good
// version of each object whose newer version is refused, until the object is
// deleted. It is safe for concurrent use.
type Store struct {
	opts    Options
	changed chan struct{} // size 1: a token says that Set will differ

	// Guarded by mu.
	mu      sync.Mutex
	inputs  map[string]Input
	pending bool
	merged  merged
	conv    *converter
	set     *Set
}

// NewStore makes an empty Store.
func NewStore(opts Options) *Store {
	opts = opts.withDefaults()
	return &Store{
		opts: opts, changed: make(chan struct{}, 1), inputs: map[string]Input{}, merged: newMerged(),
		conv: newConverter(opts), set: &Set{Namespaces: map[string]map[string]string{}},
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

// buildLocked makes the next Set: it chooses a version of each object, hands
// what changed to the converter, and puts the parts together.
func (s *Store) buildLocked() *Set {
	changes := s.merged.update(s.inputs)
	s.conv.apply(changes)
	set := &Set{Version: s.set.Version + 1, Namespaces: s.set.Namespaces, Objects: s.merged.objects, Denied: s.merged.deniedObjects}
	set.Services, set.Endpoints, set.Workloads = s.conv.publish()
	if slices.ContainsFunc(changes, func(c change) bool { return c.key.Kind == "Namespace" }) {
		set.Namespaces = map[string]map[string]string{}
		for _, o := range set.Objects {
			if ns, ok := o.Spec.(*corev1.Namespace); ok {
				set.Namespaces[ns.Name] = o.Labels
			}
		}
	}
	set.Problems = s.merged.problems()
	for _, source := range slices.Sorted(maps.Keys(s.inputs)) {
		in := s.inputs[source]
		if in.MeshConfig != nil && set.MeshConfig == nil {
			set.MeshConfig = in.MeshConfig
		}
		for _, p := range in.Problems {
			if p.Refuses() && s.merged.kept[p.Key] {
				p.Effect = "the last good version stays in force"
			}
			set.Problems = append(set.Problems, p)
		}
	}
	set.Problems = append(set.Problems, s.conflictsLocked()...)
	problem.Sort(set.Problems)
	return set
}

// conflictsLocked joins the converter's problems with the places of their objects.
func (s *Store) conflictsLocked() []apis.Problem {
	var out []apis.Problem
	for _, u := range s.conv.order {
		for _, c := range u.problems {
			out = append(out, apis.Problem{
				Code: problem.CodeHostTaken, Level: apis.LevelWarning, Key: c.key, Path: c.path, Position: s.merged.accepted[c.key].Position(c.path),
				Message: c.message, Hint: c.hint, Effect: c.effect,
			})
		}
	}
	return out
}
