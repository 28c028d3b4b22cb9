package file

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/apis/problem"
	"github.com/tullemesh/tulle/internal/limit"
)

// root is a path that the user gave. A file is read whatever its name.
type root struct {
	path   string
	folder bool
}

// found is what a walk over all roots sees.
type found struct {
	files    map[string]fs.FileInfo // by the path that messages show
	folders  []string
	problems []apis.Problem
	closed   []string // files and folders that can't be read
	bytes    int64
	full     bool // a limit was met; said once
}

// readable reports whether a file of a folder is configuration, by its name.
func readable(name string) bool {
	if strings.HasPrefix(name, ".") || name == "tulle.yaml" || name == "tulle.yml" {
		return false
	}
	switch strings.ToLower(filepath.Ext(name)) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// walk looks at everything below the roots.
func walk(roots []root) *found {
	f := &found{files: map[string]fs.FileInfo{}}
	for _, r := range roots {
		if !r.folder {
			f.folders = append(f.folders, filepath.Dir(r.path))
			if info, err := os.Stat(r.path); err == nil {
				f.add(r.path, info)
			} else if !errors.Is(err, fs.ErrNotExist) {
				f.unreadable(r.path, err)
			}
			continue
		}
		real, err := filepath.EvalSymlinks(r.path)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				f.unreadable(r.path, err)
			}
			continue
		}
		f.folder(r.path, real, real, nil)
	}
	slices.Sort(f.folders)
	f.folders = slices.Compact(f.folders)
	return f
}

// folder reads one folder, shown as path and really at real, within the tree
// at top. above are the real folders that it stands in, to end circles.
func (f *found) folder(path, real, top string, above []string) {
	if slices.Contains(above, real) {
		f.link(path, "leads back to a folder that it stands in")
		return
	}
	if len(f.folders) >= limit.SourceFoldersMax {
		f.limit(path, fmt.Sprintf("more than %d folders", limit.SourceFoldersMax))
		return
	}
	entries, err := os.ReadDir(real)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			f.unreadable(path, err)
		}
		return
	}
	f.folders = append(f.folders, path)
	above = append(slices.Clone(above), real)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		f.entry(filepath.Join(path, e.Name()), filepath.Join(real, e.Name()), top, above, e)
	}
}

func (f *found) entry(path, real, top string, above []string, e fs.DirEntry) {
	if e.Type()&fs.ModeSymlink != 0 {
		target, err := filepath.EvalSymlinks(real)
		if err != nil {
			if readable(e.Name()) {
				f.link(path, "leads nowhere")
			}
			return
		}
		if rel, err := filepath.Rel(top, target); err != nil || rel == ".." || strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
			if info, err := os.Stat(target); err == nil && (info.IsDir() || readable(e.Name())) {
				f.link(path, "leads out of the folder that is read")
			}
			return
		}
		real = target
	}
	info, err := os.Stat(real)
	switch {
	case err != nil:
		if !errors.Is(err, fs.ErrNotExist) && readable(e.Name()) {
			f.unreadable(path, err)
		}
	case info.IsDir():
		f.folder(path, real, top, above)
	case info.Mode().IsRegular() && readable(e.Name()):
		f.add(path, info)
	}
}

func (f *found) add(path string, info fs.FileInfo) {
	if _, twice := f.files[path]; twice {
		return
	}
	switch {
	case len(f.files) >= limit.SourceFilesMax:
		f.limit(path, fmt.Sprintf("more than %d files", limit.SourceFilesMax))
	case f.bytes+info.Size() > limit.SourceBytesMax:
		f.limit(path, fmt.Sprintf("more than %d MiB in all files", limit.SourceBytesMax>>20))
	default:
		f.files[path] = info
		f.bytes += info.Size()
	}
}

func (f *found) limit(path, what string) {
	if f.full {
		return
	}
	f.full = true
	f.problems = append(f.problems, apis.Problem{
		Code: problem.CodeLimit, Level: apis.LevelError, Position: apis.Position{File: path}, Message: what,
		Hint: "give a folder that holds configuration only", Effect: "this file and those after it are not read",
	})
}

func (f *found) link(path, what string) {
	f.problems = append(f.problems, apis.Problem{
		Code: problem.CodeLink, Level: apis.LevelWarning, Position: apis.Position{File: path}, Message: "the symbolic link " + what,
		Hint: "copy the file, or give its folder as a path of its own", Effect: "it is not followed",
	})
}

func (f *found) unreadable(path string, err error) {
	f.problems = append(f.problems, unreadable(path, err))
	f.closed = append(f.closed, path)
}

// hides reports whether a path may be there and can't be seen.
func (f *found) hides(path string) bool {
	return slices.ContainsFunc(f.closed, func(c string) bool { return path == c || strings.HasPrefix(path, c+string(filepath.Separator)) })
}

func unreadable(path string, err error) apis.Problem {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return apis.Problem{
		Code: problem.CodeUnreadable, Level: apis.LevelError, Position: apis.Position{File: path}, Message: "it can't be read: " + err.Error(),
		Hint: "check its owner and permissions", Effect: "what was read of it before stays in force",
	}
}
