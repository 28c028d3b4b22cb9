// Package xdsworld is a world of resources for tests of the xDS server and its
// clients: set and unset resources, then publish what changed. It implements
// xds.Generation, and is held to its contract by the server's own scenarios.
//
// A World is owned by one goroutine; the generations that it publishes are
// immutable. All proxies have one view, unless Views says otherwise.
package xdsworld

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"

	"github.com/tullemesh/tulle/internal/control/xds"
	"github.com/tullemesh/tulle/internal/wire"
)

// World collects changes and publishes them.
type World struct {
	// Views derives the view of a client; nil gives all the view "all".
	Views func(c *xds.Client) (xds.View, error)

	version   int
	resources map[string]map[string]*wire.Resource
	broken    map[string]bool
	dirty     map[string]map[string]struct{}
}

// New returns an empty world.
func New() *World {
	return &World{
		resources: map[string]map[string]*wire.Resource{},
		broken:    map[string]bool{},
		dirty:     map[string]map[string]struct{}{},
	}
}

// Set adds or replaces a resource.
func (w *World) Set(name string, m proto.Message) error {
	r, err := wire.NewResource(name, m)
	if err != nil {
		return err
	}
	w.Put(name, r)
	return nil
}

// Put is Set for a packed resource; name may differ from r.Name, as an alias.
func (w *World) Put(name string, r *wire.Resource) {
	typeURL := r.Body.GetTypeUrl()
	if w.resources[typeURL] == nil {
		w.resources[typeURL] = map[string]*wire.Resource{}
	}
	w.resources[typeURL][name] = r
	w.touch(typeURL, name)
}

// Unset removes a resource.
func (w *World) Unset(typeURL, name string) {
	delete(w.resources[typeURL], name)
	w.touch(typeURL, name)
}

// Break makes Build of a resource fail until it is mended.
func (w *World) Break(typeURL, name string, broken bool) {
	w.broken[typeURL+" "+name] = broken
	w.touch(typeURL, name)
}

func (w *World) touch(typeURL, name string) {
	if w.dirty[typeURL] == nil {
		w.dirty[typeURL] = map[string]struct{}{}
	}
	w.dirty[typeURL][name] = struct{}{}
}

// Publish publishes the world, with what changed since the last time.
func (w *World) Publish(s *xds.Server) {
	w.version++
	d := xds.Dirty{All: w.version == 1, Types: map[string]xds.NameSet{}}
	for typeURL, names := range w.dirty {
		d.Types[typeURL] = xds.NameSet{Names: names}
	}
	w.dirty = map[string]map[string]struct{}{}
	s.Publish(w.generation(), d)
}

// PublishAll publishes the world without saying what changed.
func (w *World) PublishAll(s *xds.Server) {
	w.version++
	w.dirty = map[string]map[string]struct{}{}
	s.Publish(w.generation(), xds.Dirty{All: true})
}

func (w *World) generation() *generation {
	g := &generation{
		version: strconv.Itoa(w.version), views: w.Views, broken: maps.Clone(w.broken),
		resources: map[string]map[string]*wire.Resource{}, names: map[string][]string{},
	}
	for typeURL, rs := range w.resources {
		g.resources[typeURL] = maps.Clone(rs)
		g.names[typeURL] = slices.Sorted(maps.Keys(rs))
	}
	return g
}

type generation struct {
	version   string
	views     func(c *xds.Client) (xds.View, error)
	resources map[string]map[string]*wire.Resource
	names     map[string][]string
	broken    map[string]bool
}

// View is a view by its key.
type View string

// Key implements xds.View.
func (v View) Key() string { return string(v) }

func (g *generation) Version() string { return g.version }

func (g *generation) View(c *xds.Client) (xds.View, error) {
	if g.views != nil {
		return g.views(c)
	}
	return View("all"), nil
}

func (g *generation) Resources(xds.View, string) []*wire.Resource { return nil }
func (g *generation) Names(_ xds.View, typeURL string) []string   { return g.names[typeURL] }

func (g *generation) Build(_ xds.View, typeURL, name string) (*wire.Resource, error) {
	if g.broken[typeURL+" "+name] {
		return nil, fmt.Errorf("resource %q is broken", name)
	}
	return g.resources[typeURL][name], nil
}
