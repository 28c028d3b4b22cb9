package capture

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// EnterNamed is Enter for an application: it also gives the thread mounts of its own, in which /etc/resolv.conf is the file at path
// resolv, and the sockets by which a C library asks the host's resolver (systemd-resolved, nscd) are covered, because their answers are
// the host's. So names are asked by DNS, and DNS is captured. The file must be readable by the application's user and stay while it lives.
func (s *Namespace) EnterNamed(resolv string, fn func() error) error {
	return s.Enter(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("make mounts of its own: %w", err)
		}
		// Mounts of the host still come in; ours do not get out.
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
			return fmt.Errorf("separate mounts: %w", err)
		}
		for _, m := range []struct{ from, over string }{
			{resolv, "/etc/resolv.conf"},
			{"/dev/null", "/run/systemd/resolve/io.systemd.Resolve"},
			{"/dev/null", "/run/nscd/socket"},
		} {
			if _, err := os.Stat(m.over); errors.Is(err, fs.ErrNotExist) {
				continue // without resolv.conf the C library asks 127.0.0.1, which is captured, too
			}
			if err := unix.Mount(m.from, m.over, "", unix.MS_BIND, ""); err != nil {
				return fmt.Errorf("put %s over %s: %w", m.from, m.over, err)
			}
		}
		return fn()
	})
}
