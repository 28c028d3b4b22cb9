package translate

import (
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/tullemesh/tulle/internal/wire"
)

// treeLeavesMax bounds the variants of one thing that are remembered. The most
// varied thing is the inbound listener, one variant for each workload; a full
// tree is forgotten as a whole and grows again.
const treeLeavesMax = 8192

// table is a kind of remembered thing: a resource type, or one of ours below.
type table uint8

// tableNamesMax bounds the names that one table remembers. Clients choose names
// (hosts of on-demand routes): what comes beyond is built each time, and any
// change makes the whole type dirty.
const tableNamesMax = 200_000

// The tables.
const (
	tableNames    table = iota // Names, by type URL
	tableList                  // List, by type URL
	tableScope                 // scopeIndex, one
	tableRoutes                // routePlan, by route configuration
	tableListen                // listenerPlans, one
	tableGateway               // gatewayPlan, one
	tableClusters              // names of outbound clusters, one
	tableCluster               // resources from here on, by name
	tableEndpoint
	tableListener
	tableRoute
	tableHost
	tableSecret
	tableNameTable
	tableUnknown // of types that are not served
	tables
)

// tableOf is the table of a resource type.
func tableOf(typeURL string) table {
	switch typeURL {
	case wire.ClusterType:
		return tableCluster
	case wire.EndpointType:
		return tableEndpoint
	case wire.ListenerType:
		return tableListener
	case wire.RouteType:
		return tableRoute
	case wire.VirtualHostType:
		return tableHost
	case wire.SecretType:
		return tableSecret
	case wire.NameTableType:
		return tableNameTable
	}
	return tableUnknown
}

// memory is everything that was built, by table and name. The lock order of
// trees follows containment: lists before names, listeners and route
// configurations, those before virtual hosts before plans before scopes; a
// build holds its tree's lock, so that a thing is built once however many
// streams ask for it at the same time.
type memory struct {
	mu    sync.RWMutex
	trees [tables]map[string]*tree // guarded by mu
	full  [tables]bool             // guarded by mu; had more names than fit

	lists *interner // of Names; locks itself
}

// allNames in a set of dirty names stands for every name.
const allNames = "*"

func newMemory() *memory { return &memory{lists: newInterner(nil)} }

// tree holds the variants of one thing as a decision tree: an inner node is a
// question that the build asked of the View, an edge its answer, a leaf what
// was built. Equal answers lead to the same leaf because a build is a function
// of the answers that it got: so the key of a variant is exactly what was read.
type tree struct {
	mu     sync.Mutex
	root   *node // guarded by mu
	leaves int   // guarded by mu

	// hosts are the plans that a virtual host has had, guarded by planMu, which
	// is taken last: plans are made while the trees of plans are locked.
	planMu sync.Mutex
	hosts  []*hostPlan
}

// treeHostsMax bounds the plans of one virtual host that are told apart:
// callers of its namespace, others, and those that a Sidecar makes differ.
const treeHostsMax = 256

// variant returns the plan that the tree has and that equals h, which is kept
// if there is none: so equal virtual hosts of many Views are one.
func (tr *tree) variant(h *hostPlan) *hostPlan {
	tr.planMu.Lock()
	defer tr.planMu.Unlock()
	for _, have := range tr.hosts {
		if have.equal(h) {
			return have
		}
	}
	if len(tr.hosts) >= treeHostsMax {
		tr.hosts = nil
	}
	tr.hosts = append(tr.hosts, h)
	return h
}

type node struct {
	ask  question
	few  []edge        // by answer, up to edgesFew
	many map[any]*node // by answer, beyond
	leaf bool
	made any
	err  error
}

type edge struct {
	answer any
	to     *node
}

// edgesFew is how many answers are looked through before they are hashed.
const edgesFew = 4

func (n *node) next(answer any) *node {
	if n.many != nil {
		return n.many[answer]
	}
	for i := range n.few {
		if n.few[i].answer == answer {
			return n.few[i].to
		}
	}
	return nil
}

func (n *node) lead(answer any, to *node) {
	if n.many == nil && len(n.few) < edgesFew {
		n.few = append(n.few, edge{answer, to})
		return
	}
	if n.many == nil {
		n.many = make(map[any]*node, 2*edgesFew)
		for _, e := range n.few {
			n.many[e.answer] = e.to
		}
		n.few = nil
	}
	n.many[answer] = to
}

// get returns the tree of a thing, made if there is none.
func (m *memory) get(tb table, name string) *tree {
	m.mu.RLock()
	tr := m.trees[tb][name]
	m.mu.RUnlock()
	if tr != nil {
		return tr
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.trees[tb] == nil {
		m.trees[tb] = make(map[string]*tree)
	}
	if tr = m.trees[tb][name]; tr == nil {
		tr = &tree{}
		if len(m.trees[tb]) >= tableNamesMax {
			m.full[tb] = true
			return tr
		}
		m.trees[tb][name] = tr
	}
	return tr
}

// overflown lists the tables that forgot names.
func (m *memory) overflown() []table {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out []table
	for tb, full := range m.full {
		if full {
			out = append(out, table(tb))
		}
	}
	return out
}

// names lists what a table remembers, in no order.
func (m *memory) names(tb table) []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := make([]string, 0, len(m.trees[tb]))
	for name := range m.trees[tb] {
		out = append(out, name)
	}
	return out
}

// namesWith lists what a table remembers for Views that gave this answer to
// the first question.
func (m *memory) namesWith(tb table, q question, answer any) []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out []string
	for name, tr := range m.trees[tb] {
		tr.mu.Lock()
		if tr.root != nil && tr.root.ask == q && tr.root.next(answer) != nil {
			out = append(out, name)
		}
		tr.mu.Unlock()
	}
	return out
}

// inherit takes over the trees of an earlier memory that are not dirty. Trees
// are shared: what the earlier Translator still adds is valid here as well.
func (m *memory) inherit(prev *memory, dirty *[tables]map[string]struct{}) {
	m.lists = prev.lists
	if _, all := dirty[tableNames][allNames]; all {
		m.lists = newInterner(prev.lists)
	}
	prev.mu.RLock()
	defer prev.mu.RUnlock()
	for tb, trees := range prev.trees {
		stale := dirty[tb]
		if _, all := stale[allNames]; all {
			continue
		}
		if len(stale) == 0 {
			m.trees[tb] = maps.Clone(trees)
			continue
		}
		kept := make(map[string]*tree, len(trees))
		for name, tr := range trees {
			if _, drop := stale[name]; !drop {
				kept[name] = tr
			}
		}
		m.trees[tb] = kept
	}
}

// reader is how a build asks a View. It writes down what was asked.
type reader struct {
	t    *Translator
	v    *View
	path []step
	seen map[question]struct{}
	// plans are the route configurations whose plans were read: the questions
	// behind them decide the virtual hosts, too.
	plans []string
}

func (r *reader) planned(name string) {
	if !slices.Contains(r.plans, name) {
		r.plans = append(r.plans, name)
	}
}

// step is a question with the answer that was given.
type step struct {
	ask    question
	answer any
}

func (r *reader) ask(k kind, arg string) any {
	q := question{kind: k, arg: arg}
	a := r.t.answer(r.v, q)
	r.note(q, a)
	return a
}

func (r *reader) note(q question, a any) {
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

// remember returns a thing as the View sees it, built if it is not remembered.
// outer, which may be nil, is the build that needs the thing: it inherits the
// questions.
func remember[T any](t *Translator, outer *reader, v *View, tb table, name string, build func(*reader) (T, error)) (T, error) {
	tr := t.mem.get(tb, name)
	tr.mu.Lock()
	defer tr.mu.Unlock()
	n := tr.root
	for n != nil && !n.leaf {
		a := t.answer(v, n.ask)
		if outer != nil {
			outer.note(n.ask, a)
		}
		n = n.next(a)
	}
	if n == nil {
		r := &reader{t: t, v: v}
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

func (tr *tree) insert(path []step, made any, err error) *node {
	if tr.leaves >= treeLeavesMax {
		tr.root, tr.leaves = nil, 0
	}
	tr.leaves++
	var parent *node
	var answer any
	put := func(n *node) {
		if parent == nil {
			tr.root = n
			return
		}
		parent.lead(answer, n)
	}
	at := tr.root
	for _, s := range path {
		if at == nil {
			at = &node{ask: s.ask}
			put(at)
		}
		parent, answer = at, s.answer
		at = parent.next(answer)
	}
	leaf := &node{leaf: true, made: made, err: err}
	put(leaf)
	return leaf
}
