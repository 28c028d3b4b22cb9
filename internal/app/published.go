package app

import (
	"strconv"
	"time"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/control/translate"
	"github.com/tullemesh/tulle/internal/control/translate/view"
	"github.com/tullemesh/tulle/internal/control/xds"
	"github.com/tullemesh/tulle/internal/wire"
)

// published is one state of the mesh: the Set it was read from, the
// Snapshot built from it and the Translator over that. It is immutable and
// implements xds.Generation.
type published struct {
	version    string
	built      time.Time
	set        *registry.Set
	snapshot   *model.Snapshot
	problems   []apis.Problem
	translator *translate.Translator
}

// publish builds the next generation and what differs from prev, which
// may be nil.
func publish(set *registry.Set, mesh *model.Mesh, prev *published) (*published, xds.Dirty) {
	var before *model.Snapshot
	var earlier *translate.Translator
	if prev != nil {
		before, earlier = prev.snapshot, prev.translator
	}
	snapshot, found := model.Build(set, mesh, before)
	g := &published{
		version:    strconv.FormatUint(set.Version, 10),
		built:      time.Now(),
		set:        set,
		snapshot:   snapshot,
		problems:   append(append([]apis.Problem{}, set.Problems...), found...),
		translator: translate.New(snapshot, earlier),
	}
	g.problems = append(g.problems, g.translator.LostServers()...)
	if prev == nil {
		return g, xds.Dirty{All: true}
	}
	all, names := g.translator.Dirty(before)
	dirty := xds.Dirty{All: all, Types: make(map[string]xds.NameSet, len(names))}
	for typeURL, set := range names {
		_, whole := set["*"]
		dirty.Types[typeURL] = xds.NameSet{All: whole, Names: set}
	}
	return g, dirty
}

// Version implements xds.Generation.
func (g *published) Version() string { return g.version }

// View implements xds.Generation.
func (g *published) View(c *xds.Client) (xds.View, error) {
	last, _ := c.Last.(*view.View)
	v, err := g.translator.View(c.Node, c.Peer, last)
	if err != nil {
		return nil, err
	}
	return v, nil
}

// Names implements xds.Generation.
func (g *published) Names(v xds.View, typeURL string) []string {
	view, ok := v.(*view.View)
	if !ok {
		return nil
	}
	return g.translator.Names(view, typeURL)
}

// Resources implements xds.Generation.
func (g *published) Resources(v xds.View, typeURL string) []*wire.Resource {
	view, ok := v.(*view.View)
	if !ok {
		return nil
	}
	_, resources := g.translator.List(view, typeURL)
	return resources
}

// Build implements xds.Generation.
func (g *published) Build(v xds.View, typeURL, name string) (*wire.Resource, error) {
	view, ok := v.(*view.View)
	if !ok {
		return nil, nil
	}
	return g.translator.Build(view, typeURL, name)
}
