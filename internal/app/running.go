package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tullemesh/tulle/internal/identity/keyfile"
)

// Running describes a mesh that runs on this machine, for the commands that
// ask it. It stands in a file that `up` and `demo` write and remove.
type Running struct {
	Project    string         `json:"project"`
	PID        int            `json:"pid"`
	Monitoring string         `json:"monitoring"`
	Gateways   []string       `json:"gateways"`
	Proxies    []RunningProxy `json:"proxies"`
}

// RunningProxy is one proxy of a running mesh.
type RunningProxy struct {
	Name  string `json:"name"` // "reviews-v1.default"
	Admin string `json:"admin"`
}

// runFile is the file's name below a project's .tulle folder or the state
// folder.
const runFile = "run.json"

// projectState is the folder of a project's run state.
const projectState = ".tulle"

// FindRun finds the mesh that belongs to the current folder or one above it,
// else the one that the state folder names; nil when none runs. A file whose
// process is gone counts as none.
func FindRun(state string) (*Running, error) {
	dir, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	for {
		run, err := readRun(filepath.Join(dir, projectState, runFile))
		if run != nil || err != nil {
			return run, err
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return readRun(filepath.Join(state, runFile))
		}
		dir = parent
	}
}

func readRun(path string) (*Running, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var r Running
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if !alive(r.PID) {
		return nil, nil
	}
	return &r, nil
}

// alive reports whether a process exists.
func alive(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}

// write stores the file atomically; remove undoes it.
func (r *Running) write(dir string) (remove func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, runFile)
	if err := keyfile.Replace(path, data); err != nil {
		return nil, err
	}
	return func() { _ = os.Remove(path) }, nil
}

// FetchStatus asks a control plane, by its monitoring address.
func FetchStatus(ctx context.Context, monitoring string) (*MeshStatus, error) {
	var s MeshStatus
	if err := Fetch(ctx, monitoring, "/tulle/v1/status", &s); err != nil {
		return nil, err
	}
	return &s, nil
}

// FetchObjects lists the objects that a control plane has accepted.
func FetchObjects(ctx context.Context, monitoring string) ([]ObjectStatus, error) {
	var s []ObjectStatus
	if err := Fetch(ctx, monitoring, "/tulle/v1/objects", &s); err != nil {
		return nil, err
	}
	return s, nil
}

// Down ends a running mesh and waits until its process is gone, or ctx ends.
func Down(ctx context.Context, r *Running) error {
	if err := syscall.Kill(r.PID, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("end the mesh (process %d): %w", r.PID, err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for alive(r.PID) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("the mesh (process %d) does not end: %w", r.PID, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}
