package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// idsWanted is how many subordinate ids a user namespace needs: the proxy's, and nobody's for tests of strangers.
const idsWanted = 65_535

// StartRootless starts words, which are our own program again, as root of a new user namespace, where Detect says Direct. The words stage
// must call EnterRootless with the rest of their arguments. Inside, user 0 is the caller, and 1 to 65,535 are the caller's subordinate
// ids, so ProxyUID is a user of its own. The network stays the host's; only namespaces that are made inside are ours. The caller waits
// for the command, which gets SIGTERM when ctx ends, and ends itself.
func StartRootless(ctx context.Context, stage, words, env []string) (*exec.Cmd, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close()
	cmd := exec.CommandContext(ctx, stage[0], append(append([]string{}, stage[1:]...), words...)...)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = env, os.Stdin, os.Stdout, os.Stderr, []*os.File{r}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	err = cmd.Start()
	_ = r.Close()
	if err != nil {
		return nil, fmt.Errorf("start in a user namespace: %w", err)
	}
	err = errors.Join(
		mapIDs(ctx, "newuidmap", "/etc/subuid", cmd.Process.Pid, os.Getuid()),
		mapIDs(ctx, "newgidmap", "/etc/subgid", cmd.Process.Pid, os.Getgid()))
	if err == nil {
		_, err = w.Write([]byte{'\n'})
	}
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed; the first error counts
		return nil, err
	}
	return cmd, nil
}

// mapIDs maps 0 to own and 1 and up to the user's subordinate ids, by the set-user-ID tool that may (newuidmap(1)).
func mapIDs(ctx context.Context, tool, file string, pid, own int) error {
	start, count, err := subordinate(readTrimmed(file), os.Getuid(), readTrimmed("/etc/passwd"))
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	args := []int{pid, 0, own, 1, 1, start, min(count, idsWanted)}
	words := make([]string, len(args))
	for i, a := range args {
		words[i] = strconv.Itoa(a)
	}
	if out, err := exec.CommandContext(ctx, tool, words...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", tool, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// EnterRootless is the first life of the process that StartRootless starts: it waits until its ids are mapped, and becomes words with
// the environment env. It returns only when that fails.
func EnterRootless(words, env []string) error {
	if len(words) == 0 {
		return errors.New("nothing to run in the user namespace")
	}
	mapped := os.NewFile(3, "mapped")
	if _, err := io.ReadFull(mapped, make([]byte, 1)); err != nil {
		return fmt.Errorf("wait for the ids of the user namespace: %w", err)
	}
	_ = mapped.Close()
	path, err := exec.LookPath(words[0])
	if err != nil {
		return err
	}
	// The kernel's rights in the namespace were lost with the first exec, which had no ids; root gets them back with this one.
	return syscall.Exec(path, words, env)
}

// DieWithParent makes the kernel send SIGTERM to this process when the thread that started it ends. The program that StartRootless runs
// calls it first: an exec that gains rights has cleared what the parent asked for. A parent that is gone already is an error.
func DieWithParent() error {
	parent := os.Getppid()
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGTERM), 0, 0, 0); err != nil {
		return fmt.Errorf("ask for the parent's death signal: %w", err)
	}
	if os.Getppid() != parent || parent == 1 {
		return errors.New("the parent is gone")
	}
	return nil
}

// subordinate finds the range of ids that a user may map (subuid(5)): lines of user:start:count, the user by name or by number.
func subordinate(file string, uid int, passwd string) (start, count int, err error) {
	name := userName(passwd, uid)
	for line := range strings.Lines(file) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 3 || f[0] != name && f[0] != strconv.Itoa(uid) {
			continue
		}
		s, err1 := strconv.Atoi(f[1])
		c, err2 := strconv.Atoi(f[2])
		if err1 == nil && err2 == nil && s > 0 && c >= idsWanted {
			return s, c, nil
		}
	}
	return 0, 0, fmt.Errorf("user %s has no range of %d ids", name, idsWanted)
}

// userName is the name of a user (passwd(5)), or the number as text.
func userName(passwd string, uid int) string {
	for line := range strings.Lines(passwd) {
		if f := strings.Split(line, ":"); len(f) > 3 && f[2] == strconv.Itoa(uid) {
			return f[0]
		}
	}
	return strconv.Itoa(uid)
}
