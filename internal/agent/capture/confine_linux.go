package capture

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Confine takes from the calling thread, and so from every process that it starts from now on, all ways back to rights: programs with
// set-user-ID bits gain nothing any more, and no capability can be had again, by root neither (capabilities(7), "Capability bounding
// set"). Who could have CAP_NET_ADMIN could remove the rules of capture. It is for threads that end afterwards, as Enter's do.
func Confine() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	for c := uintptr(0); ; c++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) && c > unix.CAP_CHOWN {
			return nil // past the last capability that this kernel knows
		}
		if err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
}
