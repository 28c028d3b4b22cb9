package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// signalGroup sends a signal to a group; one that is gone is no error.
func signalGroup(group int, sig syscall.Signal) { _ = syscall.Kill(-group, sig) }

// killGroup kills what is left of a group whose leader has ended, and waits until it is gone.
func killGroup(group int) error {
	return untilGone(func() []int {
		if !groupLives(group) {
			return nil
		}
		signalGroup(group, syscall.SIGKILL)
		return []int{group}
	}, "process group")
}

// groupLives reports whether a group has a member that is not dead. In a container whose first process waits for nobody, dead members
// stay listed for ever; they hold nothing and do not count.
func groupLives(group int) bool {
	if errors.Is(syscall.Kill(-group, 0), syscall.ESRCH) {
		return false
	}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is well formed
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // gone meanwhile
		}
		// pid (name) state parent group ...; the name may hold spaces and brackets (proc(5)).
		fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
		if len(fields) > 2 && string(fields[2]) == strconv.Itoa(group) && fields[0][0] != 'Z' && fields[0][0] != 'X' {
			return true
		}
	}
	return len(stats) == 0 // without /proc the kernel's word counts
}

// killMarked kills descendants that have left the group but carry the mark, and waits until they are gone.
func (p *Process) killMarked() error {
	if p.spec.Mark == "" {
		return nil
	}
	return KillMarked(p.spec.Mark)
}

// KillMarked kills every process that carries a mark in its environment, except ourselves, and waits until they are gone. It is for
// the leftovers of a run that was killed, too. Where there is no /proc it finds nothing.
func KillMarked(mark string) error {
	return untilGone(func() []int {
		pids := Marked(mark)
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		return pids
	}, "process")
}

// untilGone kills again until nothing is left; new ones may be forked meanwhile.
func untilGone(kill func() []int, what string) error {
	timeout := time.NewTimer(goneTimeMax)
	defer timeout.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		left := kill()
		if len(left) == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-timeout.C:
			return fmt.Errorf("%s %d is still there %v after SIGKILL; is it stuck on a device or a network file system?", what, left[0], goneTimeMax)
		}
	}
}

// Marked lists the processes, except ourselves, whose environment carries the mark, or one below it ("mark/name"). Dead ones that nobody has waited for are left out:
// they hold nothing.
func Marked(mark string) []int {
	want := []byte(MarkVariable + "=" + mark)
	dirs, _ := filepath.Glob("/proc/[0-9]*") // the pattern is well formed
	var pids []int
	for _, d := range dirs {
		pid, err := strconv.Atoi(filepath.Base(d))
		if err != nil || pid == os.Getpid() {
			continue
		}
		env, err := os.ReadFile(d + "/environ")
		if err != nil {
			continue // gone, or of another user
		}
		for v := range bytes.SplitSeq(env, []byte{0}) {
			if rest, ok := bytes.CutPrefix(v, want); ok && (len(rest) == 0 || rest[0] == '/') {
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids
}
