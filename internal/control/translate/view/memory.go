package view

import (
	"maps"
	"sync"

	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/wire"
)

// treeLeavesMax bounds the variants of one thing that are remembered. The most
// varied thing is the inbound listener, one variant for each workload; a full
// tree is forgotten as a whole and grows again.
const treeLeavesMax = 8192

// Table is a kind of remembered thing: a resource type, or one of ours below.
type Table uint8

// tableNamesMax bounds the names that one table remembers. Clients choose names
// (hosts of on-demand routes): what comes beyond is built each time, and any
// change makes the whole type dirty.
const tableNamesMax = 200_000

// The tables.
const (
	TableNames    Table = iota // names, by type URL
	TableList                  // lists of resources, by type URL
	TableScope                 // Scope, one
	TableRoutes                // plans of routes, by route configuration
	TableListen                // plans of outbound listeners, one
	TableGateway               // plans of gateways, one
	TableClusters              // names of outbound clusters, one
	tableCluster               // resources from here on, by name
	tableEndpoint
	tableListener
	tableRoute
	TableHost // virtual hosts, by resource name
	tableSecret
	tableNameTable
	tableUnknown // of types that are not served
	tables
)

// Forgotten are the names that a Memory does not take over from its
// predecessor, by Table.
type Forgotten [tables]map[string]struct{}

// All in a set of names stands for every name.
const All = "*"

// TableOf is the table of a resource type.
func TableOf(typeURL string) Table {
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
		return TableHost
	case wire.SecretType:
		return tableSecret
	case wire.NameTableType:
		return tableNameTable
	}
	return tableUnknown
}

// Memory is everything that was built of a Snapshot, by table and name. The lock order of
// trees follows containment: lists before names, listeners and route
// configurations, those before virtual hosts before plans before scopes; a
// build holds its tree's lock, so that a thing is built once however many
// streams ask for it at the same time.
type Memory struct {
	// Fixed at creation.
	snap           *model.Snapshot
	builder        Builder
	selectsClients bool // destination rules look at clients' labels

	mu    sync.RWMutex
	trees [tables]map[string]*tree // guarded by mu
	full  [tables]bool             // guarded by mu; had more names than fit

	lists *interner // of Names; locks itself
}

// NewMemory makes the Memory of a Snapshot, which remembers nothing yet.
func NewMemory(s *model.Snapshot, b Builder) *Memory {
	return &Memory{snap: s, builder: b, selectsClients: s.SelectsClients(), lists: newInterner(nil)}
}

// Intern returns the list that is held for all that equal it. It is shared.
func (m *Memory) Intern(list []string) []string { return m.lists.intern(list) }

// tree holds the variants of one thing as a decision tree: an inner node is a
// question that the build asked of the View, an edge its answer, a leaf what
// was built. Equal answers lead to the same leaf because a build is a function
// of the answers that it got: so the key of a variant is exactly what was read.
type tree struct {
	mu     sync.Mutex
	root   *node // guarded by mu
	leaves int   // guarded by mu

	// shared are the things that Shared has made one, guarded by sharedMu, which
	// is taken last: plans are made while the trees of plans are locked.
	sharedMu sync.Mutex
	shared   []any
}

// treeSharedMax bounds the plans of one virtual host that are told apart:
// callers of its namespace, others, and those that a Sidecar makes differ.
const treeSharedMax = 256

// Shared returns the thing that is held under a name and that equals v, which
// is held from now on if there is none: so equal things of many Views are one.
func Shared[T interface{ Equal(T) bool }](m *Memory, tb Table, name string, v T) T {
	tr := m.get(tb, name)
	tr.sharedMu.Lock()
	defer tr.sharedMu.Unlock()
	for _, held := range tr.shared {
		if have, ok := held.(T); ok && have.Equal(v) {
			return have
		}
	}
	if len(tr.shared) >= treeSharedMax {
		tr.shared = nil
	}
	tr.shared = append(tr.shared, v)
	return v
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
func (m *Memory) get(tb Table, name string) *tree {
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

// Overflown lists the tables that forgot names.
func (m *Memory) Overflown() []Table {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out []Table
	for tb, full := range m.full {
		if full {
			out = append(out, Table(tb))
		}
	}
	return out
}

// Known lists what a table remembers, in no order.
func (m *Memory) Known(tb Table) []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := make([]string, 0, len(m.trees[tb]))
	for name := range m.trees[tb] {
		out = append(out, name)
	}
	return out
}

// KnownToRole lists what a table, whose builds ask for the role first,
// remembers for proxies of a role.
func (m *Memory) KnownToRole(tb Table, role Role) []string {
	q := question{kind: askRole}
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out []string
	for name, tr := range m.trees[tb] {
		tr.mu.Lock()
		if tr.root != nil && tr.root.ask == q && tr.root.next(role) != nil {
			out = append(out, name)
		}
		tr.mu.Unlock()
	}
	return out
}

// Inherit takes over the trees of an earlier memory that are not dirty. Trees
// are shared: what the earlier Memory still adds is valid here as well.
func (m *Memory) Inherit(prev *Memory, dirty *Forgotten) {
	m.lists = prev.lists
	if _, all := dirty[TableNames][All]; all {
		m.lists = newInterner(prev.lists)
	}
	prev.mu.RLock()
	defer prev.mu.RUnlock()
	for tb, trees := range prev.trees {
		stale := dirty[tb]
		if _, all := stale[All]; all {
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

// Edit puts other things in the place of those of a table. All trees are
// copied, because the predecessor still adds to its own.
func (m *Memory) Edit(tb Table, edit func(made any) any) {
	for name, tr := range m.trees[tb] {
		m.trees[tb][name] = tr.edited(edit)
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
