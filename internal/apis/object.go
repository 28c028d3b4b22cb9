package apis

import (
	"time"

	"github.com/tullemesh/tulle/internal/apis/document"
	"github.com/tullemesh/tulle/internal/apis/problem"
)

// Position is a place in a file; see problem.Position.
type Position = problem.Position

// Key names an object; see problem.Key.
type Key = problem.Key

// Level says how bad a problem is; see problem.Level.
type Level = problem.Level

// Problem is one thing to tell the author of a configuration; see problem.Problem.
type Problem = problem.Problem

// The levels; see problem.Error and its neighbours.
const (
	LevelError       = problem.Error
	LevelUnsupported = problem.Unsupported
	LevelWarning     = problem.Warning
	LevelInfo        = problem.Info
)

// Object is one decoded object. It is immutable after Decode.
type Object struct {
	Key         Key
	Group       string // API group; empty for Kubernetes' core group
	Version     string // as written, such as v1beta1
	File        string
	Labels      map[string]string
	Annotations map[string]string
	Created     time.Time // metadata.creationTimestamp; zero when absent, as in most files
	// Spec points to the API's own type: *networking.VirtualService (istio.io/api/networking/v1alpha3), and for Kubernetes and
	// the Gateway API the whole object, such as *corev1.Service, except Secret, which is *apis.Secret. It may be partial when the object is refused.
	Spec any
	// Hash is of the content (kind, metadata that we read, spec): independent of comments, order of keys and position.
	Hash     uint64
	Problems []Problem // of this object, sorted by place

	root *document.Node
}

// Refused reports whether any problem refuses the object: level error or unsupported.
func (o *Object) Refused() bool {
	for _, p := range o.Problems {
		if p.Refuses() {
			return true
		}
	}
	return false
}

// Position is where the field at path stands, such as "spec.http[0].route[0].destination.host"; where it is not
// written, its nearest written ancestor.
func (o *Object) Position(path string) Position {
	return at(o.File, o.root, path)
}

// at resolves path below root to a position in file.
func at(file string, root *document.Node, path string) Position {
	place, ok := root.Find(path)
	if !ok {
		return Position{File: file}
	}
	return Position{File: file, Line: place.Line, Column: place.Column}
}
