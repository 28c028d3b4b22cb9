// Package file reads configuration from files and folders, and watches them.
//
// In come paths; out go registry.Inputs: every *.yaml, *.yml and *.json below
// them, decoded, with hidden folders and tulle.yaml left out. Load reads once,
// for explain and analyze; Source watches, for serve and up. The package owns
// what it last read of each file, so that a file which can't be read, or which an
// editor is just writing, keeps its last good content. Read this file first,
// then tree.go (what is read) and reader.go (what becomes of it).
package file

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/control/registry"
)

// Options are the choices of Load and New.
type Options struct {
	Name             string // of the source; "" means files
	DefaultNamespace string // of objects that name none; "" means default
	MeshConfig       string // path of a mesh configuration; "": a ConfigMap named istio, if there is one
	Log              *slog.Logger
}

// quiet and quietMax bound how long a change waits for others: the first event
// waits until none came for quiet, and never longer than quietMax.
const (
	quiet    = 2 * time.Millisecond
	quietMax = 20 * time.Millisecond
	// settle is how long an object must be missing before it counts as deleted.
	// Editors truncate, rename and write again within it.
	settle = 50 * time.Millisecond
	// pollInterval is the pace of looking where the system can't watch.
	pollInterval = 2 * time.Second
)

// Load reads everything once. The error is of a path that does not exist;
// everything else is a problem of the Input. The second result is the text of
// each file, for messages.
func Load(paths []string, opts Options) (registry.Input, map[string][]byte, error) {
	r, err := newReader(paths, opts)
	if err != nil {
		return registry.Input{}, nil, err
	}
	r.keepText = true
	in, _ := r.read(time.Time{})
	return in, r.texts(), nil
}

// Source watches files.
type Source struct {
	store *registry.Store
	log   *slog.Logger

	// Owned by Run.
	reader  *reader
	watcher *fsnotify.Watcher // nil: looking every pollInterval
	watched map[string]bool   // folders
}

// New makes a Source of files and folders, all of which must exist.
func New(paths []string, store *registry.Store, opts Options) (*Source, error) {
	r, err := newReader(paths, opts)
	if err != nil {
		return nil, err
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Source{store: store, log: opts.Log, reader: r, watched: map[string]bool{}}, nil
}

// Run reads, puts, and then watches until ctx ends.
func (s *Source) Run(ctx context.Context) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		s.log.WarnContext(ctx, "files can't be watched; they are read again from time to time", slog.Any("error", err), slog.Duration("interval", pollInterval))
	} else {
		s.watcher = w
		defer func() { _ = w.Close() }()
	}
	pending := s.refresh(ctx, time.Now())
	for {
		wait := pollInterval
		if s.watcher != nil {
			wait = -1
		}
		if pending {
			wait = settle
		}
		if !s.wait(ctx, wait) {
			return nil
		}
		pending = s.refresh(ctx, time.Now())
	}
}

// refresh watches new folders, reads what changed and puts it. True: something
// must be looked at again after settle.
func (s *Source) refresh(ctx context.Context, now time.Time) bool {
	// Watching comes before reading: what is written in between is read twice, and never missed.
	s.watch(ctx, s.reader.folders())
	in, again := s.reader.read(now)
	s.watch(ctx, s.reader.folders())
	if s.reader.changed {
		s.reader.changed = false
		s.store.Put(in)
		s.log.DebugContext(ctx, "files read", slog.Int("files", len(s.reader.files)), slog.Int("objects", len(in.Objects)),
			slog.Int("problems", len(in.Problems)))
	}
	return again
}

// watch brings the watched folders up to date.
func (s *Source) watch(ctx context.Context, folders []string) {
	if s.watcher == nil {
		return
	}
	for _, dir := range folders {
		if s.watched[dir] {
			continue
		}
		if err := s.watcher.Add(dir); err != nil {
			if !errors.Is(err, os.ErrNotExist) {
				s.log.WarnContext(ctx, "a folder can't be watched; changes in it are seen late", slog.String("folder", dir), slog.Any("error", err))
			}
			continue
		}
		s.watched[dir] = true
	}
	for dir := range s.watched {
		if !slices.Contains(folders, dir) {
			// The folder may be gone, and its watch with it.
			_ = s.watcher.Remove(dir)
			delete(s.watched, dir)
		}
	}
}

// wait returns true when there is a reason to look again: an event and the
// quiet after it, or the time (negative: none). False: ctx ended.
func (s *Source) wait(ctx context.Context, limit time.Duration) bool {
	var timeout <-chan time.Time
	if limit >= 0 {
		t := time.NewTimer(limit)
		defer t.Stop()
		timeout = t.C
	}
	var events <-chan fsnotify.Event
	var failures <-chan error
	if s.watcher != nil {
		events, failures = s.watcher.Events, s.watcher.Errors
	}
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timeout:
			return true
		case err := <-failures:
			// An overflow loses events: look at everything.
			s.log.WarnContext(ctx, "watching files", slog.Any("error", err))
			return true
		case e := <-events:
			if s.concerns(e) {
				return s.calm(ctx, events)
			}
		}
	}
}

// concerns leaves out events that can't change what is read.
func (s *Source) concerns(e fsnotify.Event) bool {
	if e.Op == fsnotify.Chmod && s.reader.unreadable == 0 {
		return false
	}
	if e.Has(fsnotify.Remove) || e.Has(fsnotify.Rename) {
		delete(s.watched, e.Name) // a folder's watch went with it
	}
	return s.reader.mayRead(e.Name)
}

// calm waits until events pause.
func (s *Source) calm(ctx context.Context, events <-chan fsnotify.Event) bool {
	last := time.NewTimer(quietMax)
	defer last.Stop()
	for {
		pause := time.NewTimer(quiet)
		select {
		case <-ctx.Done():
			pause.Stop()
			return false
		case <-last.C:
			pause.Stop()
			return true
		case <-pause.C:
			return true
		case e := <-events:
			s.concerns(e)
			pause.Stop()
		}
	}
}

// newReader checks that the paths exist.
func newReader(paths []string, opts Options) (*reader, error) {
	if opts.Name == "" {
		opts.Name = "files"
	}
	r := &reader{opts: opts, decoder: apis.NewDecoder(), files: map[string]*entry{}}
	for _, p := range paths {
		info, err := os.Stat(p)
		if err != nil {
			return nil, fmt.Errorf("read configuration: %w", err)
		}
		r.roots = append(r.roots, root{path: filepath.Clean(p), folder: info.IsDir()})
	}
	if opts.MeshConfig != "" {
		if _, err := os.Stat(opts.MeshConfig); err != nil {
			return nil, fmt.Errorf("read mesh configuration: %w", err)
		}
	}
	return r, nil
}

// mayRead reports whether a path that an event names could be a file or folder of ours.
func (r *reader) mayRead(path string) bool {
	name := filepath.Base(path)
	if path == r.opts.MeshConfig || r.files[path] != nil || slices.ContainsFunc(r.roots, func(x root) bool { return x.path == path }) {
		return true
	}
	if readable(name) {
		return true
	}
	// A folder has any name; Kubernetes swaps "..data" under mounted files.
	return !strings.HasPrefix(name, ".") && filepath.Ext(name) == "" || strings.HasPrefix(name, "..")
}
