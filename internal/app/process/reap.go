package process

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// reapGraceTime is how long groups may take to end after SIGTERM when their parent was killed.
const reapGraceTime = 2 * time.Second

// Reaper is a small process that outlives us: when we are killed it ends the process groups that we have told it of and everything
// that carries our mark. A nil Reaper does nothing.
type Reaper struct {
	cmd *exec.Cmd

	// Guarded by mu.
	mu sync.Mutex
	w  io.WriteCloser
}

// StartReaper starts the process by the given words, which must call Reap with its standard input and the mark. The reaper lives in a
// session of its own, so that a signal of the terminal ends us and not it.
func StartReaper(ctx context.Context, mark string, words ...string) (*Reaper, error) {
	cmd := exec.CommandContext(context.WithoutCancel(ctx), words[0], words[1:]...)
	cmd.Env = []string{} // it must not carry the mark
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	w, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start reaper: %w", err)
	}
	if _, err := fmt.Fprintf(w, "mark %s\n", mark); err != nil {
		return nil, errors.Join(fmt.Errorf("tell reaper its mark: %w", err), cmd.Process.Kill(), cmd.Wait())
	}
	return &Reaper{cmd: cmd, w: w}, nil
}

// Remove makes the reaper remove a folder, and what is in it, when we have ended, however that was.
func (r *Reaper) Remove(dir string) {
	if !strings.Contains(dir, "\n") { // it would be two orders
		r.tellText("remove", dir)
	}
}

// PID is the reaper's process; 0 without one.
func (r *Reaper) PID() int {
	if r == nil {
		return 0
	}
	return r.cmd.Process.Pid
}

func (r *Reaper) watch(group int)  { r.tell("watch", group) }
func (r *Reaper) forget(group int) { r.tell("forget", group) }

func (r *Reaper) tell(verb string, group int) { r.tellText(verb, strconv.Itoa(group)) }

// tellText writes one line. A reaper that is gone was killed by someone; supervision goes on without this net.
func (r *Reaper) tellText(verb, value string) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	_, _ = fmt.Fprintf(r.w, "%s %s\n", verb, value)
}

// Close ends the reaper. Call it when every process has ended; what it still watches, it kills.
func (r *Reaper) Close() error {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	err := r.w.Close()
	r.mu.Unlock()
	return errors.Join(err, r.cmd.Wait())
}

// Reap is the reaper's whole life: it reads what to watch until the pipe ends, because the parent closed it or died, and then
// ends what is left. Polite signals are ignored: they are meant for the parent, whose end is the reaper's, too.
func Reap(r io.Reader) error {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	groups, mark, folders := map[int]bool{}, "", []string(nil)
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		verb, value, _ := strings.Cut(lines.Text(), " ")
		group, err := strconv.Atoi(value)
		switch {
		case verb == "mark":
			mark = value
		case verb == "remove":
			if !filepath.IsAbs(value) || filepath.Dir(filepath.Clean(value)) == "/" {
				return fmt.Errorf("reaper was told to remove %q", value)
			}
			folders = append(folders, value)
		case err != nil || group <= 1: // 0 and 1 mean our own group and everyone
			return fmt.Errorf("reaper was told %q", lines.Text())
		case verb == "watch":
			groups[group] = true
		case verb == "forget":
			delete(groups, group)
		}
	}
	var errs error
	for group := range groups {
		signalGroup(group, syscall.SIGTERM)
	}
	deadline := time.Now().Add(reapGraceTime)
	for _, group := range slices.Sorted(maps.Keys(groups)) {
		awaitGroup(group, deadline)
		errs = errors.Join(errs, killGroup(group))
	}
	if mark != "" {
		errs = errors.Join(errs, KillMarked(mark))
	}
	for _, dir := range folders {
		errs = errors.Join(errs, os.RemoveAll(dir))
	}
	return errors.Join(errs, ignoreClosed(lines.Err()))
}

// awaitGroup waits until a group is gone, at most until the deadline.
func awaitGroup(group int, deadline time.Time) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for time.Now().Before(deadline) && groupLives(group) {
		<-tick.C
	}
}

func ignoreClosed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
