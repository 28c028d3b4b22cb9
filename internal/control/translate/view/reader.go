package view

import (
	"slices"
	"strings"

	"github.com/tullemesh/tulle/internal/control/model"
)

// Reader is how a build asks a View. It writes down what was asked.
type Reader struct {
	m    *Memory
	v    *View
	path []step
	seen map[question]struct{}
	// plans are the route configurations whose plans were read: the questions
	// behind them decide the virtual hosts, too.
	plans []string
}

// Memory is where what is built is remembered.
func (r *Reader) Memory() *Memory { return r.m }

// View is whose answers the Reader gives, for builds within this one.
func (r *Reader) View() *View { return r.v }

// Snapshot is what the View was derived from.
func (r *Reader) Snapshot() *model.Snapshot { return r.m.snap }

// Planned says that the plan of a route configuration was read.
func (r *Reader) Planned(name string) {
	if !slices.Contains(r.plans, name) {
		r.plans = append(r.plans, name)
	}
}

// step is a question with the answer that was given.
type step struct {
	ask    question
	answer any
}

func (r *Reader) ask(k kind, arg string) any {
	q := question{kind: k, arg: arg}
	a := r.m.answer(r.v, q)
	r.note(q, a)
	return a
}

func (r *Reader) note(q question, a any) {
	if _, dup := r.seen[q]; dup {
		return
	}
	if q.kind == askDestination {
		// So does the kind of client for destination rules.
		if _, known := r.seen[question{kind: askClient}]; known {
			return
		}
	}
	if q.kind == askHost && len(r.plans) > 0 {
		if rc, _, _ := strings.Cut(q.arg, "/"); slices.Contains(r.plans, rc) {
			return
		}
	}
	if q.kind == askService {
		// The scope decides which service a host means: once it was asked,
		// this question has no second answer.
		if _, known := r.seen[question{kind: askScope}]; known {
			return
		}
	}
	if r.seen == nil {
		r.seen = make(map[question]struct{}, 8)
	}
	r.seen[q] = struct{}{}
	r.path = append(r.path, step{q, a})
}

// Mark stands for all that was asked until now.
func (r *Reader) Mark() int { return len(r.path) }

// ForgetNarrow takes back what was asked since a mark, and reports true, if the
// answers are those of few workloads.
func (r *Reader) ForgetNarrow(mark int) bool {
	if !slices.ContainsFunc(r.path[mark:], func(s step) bool { return s.ask.kind.narrow() }) {
		return false
	}
	for _, s := range r.path[mark:] {
		delete(r.seen, s.ask)
	}
	r.path = r.path[:mark]
	return true
}

// Within is Remember for a thing that the build of r needs.
func Within[T any](r *Reader, tb Table, name string, build func(*Reader) (T, error)) (T, error) {
	return Remember(r.m, r, r.v, tb, name, build)
}

// Remember returns a thing as the View sees it, built if it is not remembered.
// outer, which may be nil, is the build that needs the thing: it inherits the
// questions.
func Remember[T any](m *Memory, outer *Reader, v *View, tb Table, name string, build func(*Reader) (T, error)) (T, error) {
	tr := m.get(tb, name)
	tr.mu.Lock()
	defer tr.mu.Unlock()
	n := tr.root
	for n != nil && !n.leaf {
		a := m.answer(v, n.ask)
		if outer != nil {
			outer.note(n.ask, a)
		}
		n = n.next(a)
	}
	if n == nil {
		r := &Reader{m: m, v: v}
		made, err := build(r)
		n = tr.insert(r.path, made, err)
		if outer != nil {
			for _, s := range r.path {
				outer.note(s.ask, s.answer)
			}
		}
	}
	made, _ := n.made.(T)
	return made, n.err
}
