package app

import (
	"context"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/apis/problem"
	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/control/source/file"
)

// load reads files once and builds their generation. The second result is the
// text of each file.
func load(files []string, meshConfig string) (*published, map[string][]byte, error) {
	in, texts, err := file.Load(files, file.Options{MeshConfig: meshConfig})
	if err != nil {
		return nil, nil, err
	}
	store := registry.NewStore(registry.Options{})
	store.Put(in)
	planned, err := projects(files, texts)
	if err != nil {
		return nil, nil, err
	}
	store.Put(planned)
	set := store.Set()
	g, _ := publish(set, model.MeshFrom(set.MeshConfig), nil)
	return g, texts, nil
}

// Findings are the problems of a set of files.
type Findings struct {
	Objects  int               `json:"-"`
	Problems []apis.Problem    `json:"problems"`
	Sources  map[string][]byte `json:"-"`
}

// Count counts the problems of a level.
func (f *Findings) Count(l apis.Level) int {
	n := 0
	for _, p := range f.Problems {
		if p.Level == l {
			n++
		}
	}
	return n
}

// Errors counts what is invalid.
func (f *Findings) Errors() int { return f.Count(apis.LevelError) }

// Analyze reads files as the control plane would and returns every problem,
// sorted by place.
func Analyze(_ context.Context, files []string, meshConfig string) (*Findings, error) {
	g, texts, err := load(files, meshConfig)
	if err != nil {
		return nil, err
	}
	f := &Findings{Objects: len(g.set.Objects), Problems: g.problems, Sources: texts}
	if f.Problems == nil {
		f.Problems = []apis.Problem{}
	}
	problem.Sort(f.Problems)
	return f, nil
}
