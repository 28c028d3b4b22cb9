package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
	dirs, _ := filepath.Glob("/proc/[0-9]*") // the pattern is well formed
	var pids, between []int
	look := func(pid int) (again bool) {
		env, ok := environ(pid)
		if carries(env, mark) {
			pids = append(pids, pid)
		}
		return !ok
	}
	for _, d := range dirs {
		pid, err := strconv.Atoi(filepath.Base(d))
		if err == nil && pid != os.Getpid() && look(pid) {
			between = append(between, pid)
		}
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(goneTimeMax); len(between) > 0 && time.Now().Before(end); <-tick.C {
		between = slices.DeleteFunc(between, func(pid int) bool { return !look(pid) })
	}
	return pids
}

// environ is the environment that a process was started with: none when it is gone or of another user. ok is false while it changes its program
// (execve(2)): then it shows none, and has one in a moment.
func environ(pid int) (env []byte, ok bool) {
	read := func(name string) []byte {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
		return text
	}
	for range environReadsMax { // a file that was opened before the change ends where it was read to: its environment is gone
		env = read("environ")
		// pid (name) state ...; from the state on the 48th and 49th are where the environment begins and ends (proc_pid_stat(5)).
		stat := read("stat")
		fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		if len(fields) < 49 {
			return nil, true // gone
		}
		// The 26th is where the program's code begins. The kernel sets it last: before, an environment shows as none or as empty.
		if string(fields[23]) == "0" {
			_, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
			return nil, err != nil // the kernel's own threads and the dead have no program
		}
		begin, _ := strconv.ParseUint(string(fields[47]), 10, 64)
		end, _ := strconv.ParseUint(string(fields[48]), 10, 64)
		if uint64(len(env)) == end-begin {
			break
		}
	}
	return env, true
}

// carries reports whether an environment has the mark, or one below it.
func carries(env []byte, mark string) bool {
	want := []byte(MarkVariable + "=" + mark)
	for v := range bytes.SplitSeq(env, []byte{0}) {
		if rest, ok := bytes.CutPrefix(v, want); ok && (len(rest) == 0 || rest[0] == '/') {
			return true
		}
	}
	return false
}
