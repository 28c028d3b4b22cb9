package main

import (
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The processors: the load has the first, the proxies the second.
const (
	loadCPU  = 0
	proxyCPU = 1

	// niceness of load and proxies, where the user may have it.
	niceness = -10
	// ticksPerSecond of /proc/stat; USER_HZ is 100 on every Linux that runs Go.
	ticksPerSecond = 100
)

// pin runs this process again on the load's processor only, all its threads:
// only what a process inherits holds for the threads that its runtime makes.
func pin() error {
	if runtime.NumCPU() == 1 { // of those that we may use: pinned, or there is no other
		debug.SetGCPercent(400)
		return nil
	}
	runtime.LockOSThread()
	var set unix.CPUSet
	set.Set(loadCPU)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("pin to processor %d: %w", loadCPU, err)
	}
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, niceness) // as far as we may
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return syscall.Exec(self, os.Args, os.Environ())
}

// onProxyCPU is the command pinned to the proxies' processor.
func onProxyCPU(command []string) []string {
	path, err := exec.LookPath("taskset")
	if err != nil || countProcessors() == 1 {
		return command
	}
	return append([]string{path, "-c", strconv.Itoa(proxyCPU)}, command...)
}

// busy is how long the proxies' processor was busy since boot, and how long
// the hypervisor gave it to somebody else.
func busy() time.Duration {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		rest, ok := strings.CutPrefix(line, fmt.Sprintf("cpu%d ", proxyCPU))
		if !ok {
			continue
		}
		var sum int64
		for i, field := range strings.Fields(rest) {
			if i == 3 || i == 4 || i > 7 { // idle, iowait; guest is within user
				continue
			}
			n, _ := strconv.ParseInt(field, 10, 64)
			sum += n
		}
		return time.Duration(sum) * time.Second / ticksPerSecond
	}
	return 0
}

// machine says where a record was made.
type machine struct {
	CPU        string
	Processors int
	Kernel     string
	LoadBefore string
}

func thisMachine() machine {
	m := machine{Processors: countProcessors()}
	if data, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(data)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				m.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	if data, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel, _, _ = strings.Cut(strings.TrimSpace(string(data)), "-")
	}
	if data, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.LoadBefore = strings.Join(strings.Fields(string(data))[:3], " ")
	}
	return m
}

// countProcessors counts all, not those that this process is pinned to.
func countProcessors() int {
	data, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.NumCPU()
	}
	return strings.Count(string(data), "processor\t:")
}

// version is the first line that a program says of itself, without its path,
// and of ours the commit that it was built from.
func version(program string, args ...string) string {
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		return "unknown"
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	line = strings.TrimSpace(strings.TrimPrefix(line, program))
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return line // not Go
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" || s.Key == "vcs.modified" && s.Value == "true" {
			line += ", " + s.Key + " " + s.Value
		}
	}
	return line + ", " + info.GoVersion
}
