package file

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/apis/problem"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/limit"
)

// reader reads all files, and remembers what it read.
type reader struct {
	opts     Options
	decoder  *apis.Decoder
	roots    []root
	keepText bool

	files      map[string]*entry // by path
	mesh       *entry            // of Options.MeshConfig
	seen       *found            // of the last walk
	unreadable int               // files that could not be read last time
	changed    bool              // since the owner last cleared it
}

// entry is what one file held.
type entry struct {
	info    fs.FileInfo
	readAt  time.Time
	text    []byte // nil unless texts are kept
	sum     [sha256.Size]byte
	objects []*apis.Object
	// held are objects of parts of the file that can't be read any more.
	held []*apis.Object
	// lost are objects that were there before and are not now, until settled.
	lost      []*apis.Object
	lostSince time.Time
	problems  []apis.Problem
	mesh      *registry.MeshConfig // of a ConfigMap, or of Options.MeshConfig
}

// racy is how young a file may be for its time to say nothing: two writes
// within a tick of the file system's clock leave the same time.
const racy = 50 * time.Millisecond

// read brings everything up to date and gives the whole input. With a zero now
// nothing settles: what is there counts. True: an object or a file is missing
// that may come back, or a file is too young to trust; read again after settle.
func (r *reader) read(now time.Time) (registry.Input, bool) {
	f := walk(r.roots)
	if r.seen == nil || !slices.EqualFunc(f.problems, r.seen.problems, func(a, b apis.Problem) bool { return a == b }) {
		r.changed = true
	}
	r.seen = f
	again := false
	r.unreadable = 0
	for path, info := range f.files {
		again = r.readFile(path, info, now) || again
	}
	for path, e := range r.files {
		if _, there := f.files[path]; there || f.hides(path) {
			continue
		}
		missing := slices.Concat(e.objects, e.held)
		e.objects, e.held, e.problems, e.mesh, e.info, e.sum = nil, nil, nil, nil, nil, [sha256.Size]byte{}
		if r.lose(e, missing, now) {
			again = true
		} else {
			delete(r.files, path)
			r.changed = true
		}
	}
	again = r.readMesh(now) || again
	return r.input(), again
}

// readFile reads one file if it changed.
func (r *reader) readFile(path string, info fs.FileInfo, now time.Time) (again bool) {
	e := r.files[path]
	if e == nil {
		e = &entry{}
		r.files[path] = e
	}
	young := !now.IsZero() && now.Sub(info.ModTime()) < racy
	if e.unchanged(info) {
		if len(e.lost) > 0 {
			return r.lose(e, nil, now) || young
		}
		return young
	}
	text, err := readAll(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return true // It went between walk and read; the next walk misses it.
		}
		r.unreadable++
		p := unreadable(path, err)
		if len(e.problems) != 1 || e.problems[0] != p {
			e.problems, e.info, r.changed = []apis.Problem{p}, nil, true
		}
		return false
	}
	e.info, e.readAt = info, now
	if r.keepText {
		e.text = text
	}
	sum := sha256.Sum256(text)
	if e.sum == sum && e.objects != nil && len(e.lost) == 0 {
		return young
	}
	result := r.decoder.Decode(path, text, apis.Options{DefaultNamespace: r.opts.DefaultNamespace})
	missing := missingFrom(slices.Concat(e.objects, e.held), result)
	e.held = nil
	if broken(result) {
		e.held, missing = missing, nil
	}
	e.sum, e.objects, e.problems = sum, result.Objects, result.Problems
	e.mesh, e.problems = meshOf(path, text, e.mesh, e.problems)
	r.changed = true
	return r.lose(e, missing, now) || young
}

// unchanged trusts size and time, unless the file was young when it was read.
func (e *entry) unchanged(info fs.FileInfo) bool {
	return e.info != nil && e.info.Size() == info.Size() && e.info.ModTime().Equal(info.ModTime()) && os.SameFile(e.info, info) &&
		e.readAt.Sub(info.ModTime()) >= racy
}

// lose keeps objects that went missing until they have been missing for settle.
// True: they still count.
func (r *reader) lose(e *entry, missing []*apis.Object, now time.Time) bool {
	if now.IsZero() {
		return false
	}
	back := map[apis.Key]bool{}
	for _, o := range e.objects {
		back[o.Key] = true
	}
	if len(missing) > 0 && len(e.lost) == 0 {
		e.lostSince = now
	}
	for _, o := range missing {
		back[o.Key] = false
	}
	kept := slices.DeleteFunc(slices.Concat(e.lost, missing), func(o *apis.Object) bool { return back[o.Key] })
	if len(kept) == 0 {
		e.lost = nil
		return false
	}
	if now.Sub(e.lostSince) >= settle {
		e.lost = nil
		r.changed = true
		return false
	}
	e.lost = kept
	return true
}

// broken reports whether a part of the file can't be read, and it is not known
// what stands in it: then what it held counts as unchanged.
func broken(result apis.Result) bool {
	return slices.ContainsFunc(result.Problems, func(p apis.Problem) bool { return p.Key.Name == "" && p.Refuses() })
}

// missingFrom lists old objects that a new reading lacks.
func missingFrom(old []*apis.Object, result apis.Result) []*apis.Object {
	there := map[apis.Key]bool{}
	for _, o := range result.Objects {
		there[o.Key] = true
	}
	for _, p := range result.Problems {
		there[p.Key] = true // of a document that is there, and can't be decoded
	}
	var out []*apis.Object
	for _, o := range old {
		if !there[o.Key] {
			out = append(out, o)
		}
	}
	return out
}

// readMesh reads the file of Options.MeshConfig.
func (r *reader) readMesh(now time.Time) (again bool) {
	path := r.opts.MeshConfig
	if path == "" {
		return false
	}
	if r.mesh == nil {
		r.mesh = &entry{}
	}
	e := r.mesh
	info, err := os.Stat(path)
	if err == nil && e.unchanged(info) {
		return false
	}
	var text []byte
	if err == nil {
		text, err = readAll(path)
	}
	if err != nil {
		// Editors replace files: what was read stays, and the loss is told.
		p := unreadable(path, err)
		if len(e.problems) != 1 || e.problems[0] != p {
			e.problems, e.info, r.changed = []apis.Problem{p}, nil, true
		}
		return !now.IsZero()
	}
	e.info, e.readAt = info, now
	if r.keepText {
		e.text = text
	}
	if sum := sha256.Sum256(text); e.sum != sum || e.mesh == nil {
		e.sum = sum
		e.mesh, e.problems = keepGood(e.mesh, path, text)
		r.changed = true
	}
	return !now.IsZero() && now.Sub(info.ModTime()) < racy
}

// input puts the whole together, in an order that depends on nothing but names.
func (r *reader) input() registry.Input {
	in := registry.Input{Source: r.opts.Name, Problems: slices.Clone(r.seen.problems)}
	for _, path := range slices.Sorted(maps.Keys(r.files)) {
		e := r.files[path]
		in.Objects = slices.Concat(in.Objects, e.objects, e.held, e.lost)
		in.Problems = append(in.Problems, e.problems...)
		if e.mesh != nil && in.MeshConfig == nil {
			in.MeshConfig = e.mesh
		}
	}
	if r.mesh != nil {
		in.Problems = append(in.Problems, r.mesh.problems...)
		if r.mesh.mesh != nil {
			in.MeshConfig = r.mesh.mesh
		}
	}
	problem.Sort(in.Problems)
	return in
}

func (r *reader) texts() map[string][]byte {
	out := make(map[string][]byte, len(r.files))
	for path, e := range r.files {
		out[path] = e.text
	}
	if r.mesh != nil {
		out[r.opts.MeshConfig] = r.mesh.text
	}
	return out
}

// folders are those to watch: before the first walk, the roots'.
func (r *reader) folders() []string {
	var out []string
	if r.seen != nil {
		out = slices.Clone(r.seen.folders)
	} else {
		for _, x := range r.roots {
			if x.folder {
				out = append(out, x.path)
			} else {
				out = append(out, filepath.Dir(x.path))
			}
		}
	}
	if r.opts.MeshConfig != "" {
		out = append(out, filepath.Dir(r.opts.MeshConfig))
	}
	return out
}

// readAll reads a file, one byte beyond what Decode accepts, so that Decode can say so.
func readAll(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var b bytes.Buffer
	_, err = b.ReadFrom(io.LimitReader(f, limit.FileBytesMax+1))
	return b.Bytes(), err
}
