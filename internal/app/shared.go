package app

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/tullemesh/tulle/internal/agent/capture"
	"github.com/tullemesh/tulle/internal/app/process"
	"github.com/tullemesh/tulle/internal/app/project"
)

// makeRun makes the folder of this run. Where other users take part (proxies in
// namespaces, applications of whoever called sudo) it is one that they can
// enter, with a folder for each of them, and our program if they cannot reach
// it where it is.
func (m *Mesh) makeRun() (err error) {
	user, err := m.invoker(slices.ContainsFunc(m.Project.Workloads(), isCaptured))
	if err != nil {
		return err
	}
	for _, app := range m.apps {
		u, err := m.invoker(isCaptured(app.Workload))
		if err != nil {
			return err
		}
		if err := checkFolder(app, u); err != nil {
			return err
		}
	}
	m.sockets, m.program = m.run, m.options.Executable
	if m.isolation == nil && user == nil {
		return os.MkdirAll(m.run, 0o700)
	}
	if m.run, err = os.MkdirTemp("", "tulle-run-"); err != nil {
		return err
	}
	m.shared, m.sockets = true, m.path("apps")
	if err := os.Chmod(m.run, 0o711); err != nil {
		return err
	}
	if err := os.Mkdir(m.sockets, 0o700); err != nil {
		return err
	}
	if user != nil {
		if err := os.Chown(m.sockets, int(user.UID), int(user.GID)); err != nil {
			return err
		}
	}
	for _, u := range []*process.User{user, m.proxyUser()} {
		if u != nil && !mayEnter(u, m.options.Executable) {
			m.program = m.path("tulle")
			return copyProgram(m.options.Executable, m.program)
		}
	}
	return nil
}

// proxyUser is whom proxies run as; nil: as ourselves.
func (m *Mesh) proxyUser() *process.User {
	if m.isolation == nil {
		return nil
	}
	return &process.User{UID: capture.ProxyUID, GID: capture.ProxyUID}
}

// checkFolder refuses a folder that an application's user may not enter,
// before anything starts.
func checkFolder(p project.Process, u *process.User) error {
	if u == nil || mayEnter(u, p.Dir) {
		return nil
	}
	return fmt.Errorf("workload %s: user %s, whom applications run as, may not enter %s\n  call tulle with sudo from your own account, or let others enter the folder and those above it (chmod o+x)", p.Workload.Name, u.Name, p.Dir)
}

// mayEnter reports whether a user may enter a folder, or run a program, and
// enter all folders above it.
func mayEnter(u *process.User, dir string) bool {
	for {
		info, err := os.Stat(dir)
		if err != nil {
			return true // what is not there is told by whoever needs it
		}
		mode := info.Mode().Perm()
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			switch {
			case st.Uid == u.UID:
				mode >>= 6
			case st.Gid == u.GID || slices.Contains(u.Groups, st.Gid):
				mode >>= 3
			}
		}
		if mode&1 == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
		dir = filepath.Dir(dir)
	}
}

// copyProgram copies our program to where every user may run it.
func copyProgram(from, to string) (err error) {
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(w, r); err != nil {
		_ = w.Close()
		return fmt.Errorf("copy %s to where other users may run it: %w", from, err)
	}
	if err := w.Chmod(0o755); err != nil { // whatever the umask
		_ = w.Close()
		return err
	}
	return w.Close()
}

// give hands a file or folder of ours to the user that proxies run as.
func (m *Mesh) give(paths ...string) error {
	if m.isolation == nil {
		return nil
	}
	for _, p := range paths {
		if err := os.Chown(p, capture.ProxyUID, capture.ProxyUID); err != nil {
			return err
		}
	}
	return nil
}
