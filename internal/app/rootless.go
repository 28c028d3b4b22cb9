package app

import (
	"context"
	"errors"
	"os/exec"
	"runtime"

	"github.com/tullemesh/tulle/internal/agent/capture"
)

// RunRootless runs words, a command line of our own program, as root of a new
// user namespace, and returns its exit code. The words stage before it make
// the program call EnterRootless. When ctx ends the command is asked to end.
func RunRootless(ctx context.Context, stage, words, env []string) (code int, err error) {
	runtime.LockOSThread() // the kernel tells the command of this thread's death
	defer runtime.UnlockOSThread()
	cmd, err := capture.StartRootless(ctx, stage, words, env)
	if err != nil {
		return 0, err
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() >= 0 {
		return exit.ExitCode(), nil
	}
	if errors.Is(err, context.Canceled) && cmd.ProcessState.Success() {
		err = nil
	}
	return 0, err
}

// EnterRootless is the first life of what RunRootless starts.
func EnterRootless(words, env []string) error { return capture.EnterRootless(words, env) }

// DieWithParent ends this process when the one that called RunRootless ends.
func DieWithParent() error { return capture.DieWithParent() }
