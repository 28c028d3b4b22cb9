package capture

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// onThread runs fn on a thread of its own, which ends with it: a thread that has changed its namespace can in general not go back (in a
// user namespace the host's network is not ours to enter), and must run nothing else. It returns when fn has returned.
func onThread(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			result <- fn()
			return // locked: the runtime ends the thread
		}
		// The main thread cannot end, and /proc/self shows its namespaces. It is held here, so the next goroutine gets another one.
		defer runtime.UnlockOSThread()
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread()
			result <- fn()
		}()
		<-done
	}()
	return <-result
}

// enter moves the thread into the network namespace of an open descriptor.
func enter(ns *os.File) error {
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	return nil
}

// newNetwork moves the thread into a new network namespace and returns a descriptor of it, with its number.
func newNetwork() (*os.File, uint64, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, 0, fmt.Errorf("make network namespace: %w", err)
	}
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, 0, fmt.Errorf("open network namespace: %w", err)
	}
	inode, err := inodeOf(f.Name())
	if err != nil {
		return nil, 0, err
	}
	return f, inode, nil
}

// inodeOf is the number of the namespace at a path under /proc; while someone holds the namespace no other one has it.
func inodeOf(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, fmt.Errorf("look at namespace: %w", err)
	}
	return st.Ino, nil
}
