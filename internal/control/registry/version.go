package registry

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/apis/problem"
)

// offer is one version of an object, from one source.
type offer struct {
	source string
	object *apis.Object
}

// merged is the choice among all versions of all objects. It is brought up to
// date at the price of what changed. Owned by its Store.
type merged struct {
	applied map[string]Input // the inputs that the rest is made of
	offers  map[apis.Key][]offer
	unread  map[apis.Key]bool // objects whose text is there and can't be decoded

	accepted map[apis.Key]*apis.Object // last good versions
	denied   map[apis.Key]*apis.Object
	kept     map[apis.Key]bool // accepted is older than what is written
	repeated map[apis.Key][]apis.Problem

	objects, deniedObjects []*apis.Object // of accepted and denied, sorted by key
}

func newMerged() merged {
	return merged{
		applied: map[string]Input{}, offers: map[apis.Key][]offer{}, unread: map[apis.Key]bool{}, accepted: map[apis.Key]*apis.Object{},
		denied: map[apis.Key]*apis.Object{}, kept: map[apis.Key]bool{}, repeated: map[apis.Key][]apis.Problem{},
	}
}

// update takes the inputs in and lists what changed in content, by key.
func (m *merged) update(inputs map[string]Input) []change {
	affected := map[apis.Key]bool{}
	for source, old := range m.applied {
		if _, there := inputs[source]; !there {
			m.exchange(source, old.Objects, nil, affected)
			delete(m.applied, source)
		}
	}
	for source, in := range inputs {
		m.exchange(source, m.applied[source].Objects, in.Objects, affected)
		m.applied[source] = in
	}
	m.updateUnread(inputs, affected)
	var changes []change
	var replaced, deniedReplaced []apis.Key
	for _, key := range slices.SortedFunc(maps.Keys(affected), apis.Key.Compare) {
		old, oldDenied := m.accepted[key], m.denied[key]
		m.decide(key)
		next := m.accepted[key]
		if old != next {
			replaced = append(replaced, key)
			if old == nil || next == nil || old.Hash != next.Hash {
				changes = append(changes, change{key, old, next})
			}
		}
		if oldDenied != m.denied[key] {
			deniedReplaced = append(deniedReplaced, key)
		}
	}
	m.objects = exchanged(m.objects, replaced, m.accepted)
	m.deniedObjects = exchanged(m.deniedObjects, deniedReplaced, m.denied)
	return changes
}

// exchange replaces the offers of one source. What stands at the beginning and
// at the end of both lists is skipped: most changes are of one file.
func (m *merged) exchange(source string, old, next []*apis.Object, affected map[apis.Key]bool) {
	for len(old) > 0 && len(next) > 0 && old[0] == next[0] {
		old, next = old[1:], next[1:]
	}
	for len(old) > 0 && len(next) > 0 && old[len(old)-1] == next[len(next)-1] {
		old, next = old[:len(old)-1], next[:len(next)-1]
	}
	for _, o := range old {
		list := m.offers[o.Key]
		list = slices.DeleteFunc(slices.Clone(list), func(x offer) bool { return x.source == source && x.object == o })
		if len(list) == 0 {
			delete(m.offers, o.Key)
		} else {
			m.offers[o.Key] = list
		}
		affected[o.Key] = true
	}
	for _, o := range next {
		m.offers[o.Key] = append(slices.Clone(m.offers[o.Key]), offer{source, o})
		affected[o.Key] = true
	}
}

// updateUnread finds problems that name an object which no source could decode:
// they stand for a version that can't be read.
func (m *merged) updateUnread(inputs map[string]Input, affected map[apis.Key]bool) {
	unread := map[apis.Key]bool{}
	for _, in := range inputs {
		for _, p := range in.Problems {
			if p.Key.Name != "" && p.Refuses() && m.offers[p.Key] == nil {
				unread[p.Key] = true
			}
		}
	}
	for key := range unread {
		affected[key] = affected[key] || !m.unread[key]
	}
	for key := range m.unread {
		affected[key] = affected[key] || !unread[key]
	}
	m.unread = unread
}

// decide chooses the version of one object: the first acceptable one, because a
// bad object never hides a good one; else the last good one; else none, and an
// object that guards denies.
func (m *merged) decide(key apis.Key) {
	offers := m.offers[key]
	if len(offers) > 1 {
		slices.SortStableFunc(offers, compareOffers)
	}
	old := m.accepted[key]
	delete(m.accepted, key)
	delete(m.denied, key)
	delete(m.kept, key)
	delete(m.repeated, key)
	i := slices.IndexFunc(offers, func(o offer) bool { return !o.object.Refused() })
	switch {
	case i >= 0:
		m.accepted[key] = offers[i].object
		if len(offers) > 1 {
			m.repeated[key] = repeated(key, offers, offers[i].object)
		}
	case len(offers) == 0 && !m.unread[key]:
	case old != nil:
		m.accepted[key], m.kept[key] = old, true
	case apis.Guards(key.Kind) && len(offers) > 0:
		m.denied[key] = offers[0].object
	case apis.Guards(key.Kind):
		// Not even its text could be read: without a Spec it selects its whole namespace.
		m.denied[key] = &apis.Object{Key: key}
	}
}

// compareOffers orders versions of one object so that the choice depends on
// nothing but what is written: oldest first, then source, file and place.
func compareOffers(a, b offer) int {
	p, q := a.object.Position(""), b.object.Position("")
	return cmp.Or(a.object.Created.Compare(b.object.Created), strings.Compare(a.source, b.source), strings.Compare(p.File, q.File),
		cmp.Compare(p.Line, q.Line), cmp.Compare(a.object.Hash, b.object.Hash))
}

// repeated are the problems of versions that another version hides.
func repeated(key apis.Key, offers []offer, winner *apis.Object) []apis.Problem {
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

// problems are those of the choice itself.
func (m *merged) problems() []apis.Problem {
	var out []apis.Problem
	for _, list := range m.repeated {
		out = append(out, list...)
	}
	return out
}

// exchanged is a new sorted list with the objects of some keys replaced by what
// a map holds now; keys are sorted. Without keys it is the old list.
func exchanged(old []*apis.Object, keys []apis.Key, now map[apis.Key]*apis.Object) []*apis.Object {
	if len(keys) == 0 {
		return old
	}
	out := make([]*apis.Object, 0, len(old)+len(keys))
	for _, key := range keys {
		n := sort.Search(len(old), func(i int) bool { return old[i].Key.Compare(key) >= 0 })
		out = append(out, old[:n]...)
		if old = old[n:]; len(old) > 0 && old[0].Key == key {
			old = old[1:]
		}
		if o := now[key]; o != nil {
			out = append(out, o)
		}
	}
	return append(out, old...)
}
