package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// profiles writes, for Envoy and for us, where each row's time goes: perf's
// list of functions and strace's count of system calls, as text.
func (b *bench) profiles(all []*contender) error {
	for _, tool := range []string{"perf", "strace"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("profiles need %s: %w", tool, err)
		}
	}
	if b.scenario.fresh {
		return errors.New("memory has no profile")
	}
	if err := os.MkdirAll(b.profile, 0o755); err != nil {
		return err
	}
	for _, c := range all {
		if c.optional {
			continue
		}
		if err := c.start(b.dir); err != nil {
			return err
		}
		for _, r := range b.scenario.rows {
			if r.unit == allocations {
				continue
			}
			text, err := b.profileOf(c, r)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", c.name, r.name, err)
			}
			name := strings.Map(func(r rune) rune {
				if r == ' ' || r == ',' || r == '×' {
					return -1
				}
				return r
			}, fmt.Sprintf("%s-%s-%s.txt", b.scenario.name, r.name, c.name))
			path := filepath.Join(b.profile, name)
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				return err
			}
			fmt.Println(path)
		}
	}
	return nil
}

// profileOf runs the row's load twice: under perf, and under strace, whose
// figures of time mean nothing but whose counts do.
func (b *bench) profileOf(c *contender, r row) (string, error) {
	var out strings.Builder
	fmt.Fprintf(&out, "# %s, %s, %s\n\n", b.scenario.about, r.name, c.name)
	var pids []string
	for _, cmd := range c.running {
		pids = append(pids, strconv.Itoa(cmd.Process.Pid))
	}
	data := filepath.Join(b.dir, "perf.data")
	s, err := b.watched(c, r, exec.Command("perf", "record", "-q", "-e", "cpu-clock", "-F", "2000", "-o", data, "-p", strings.Join(pids, ",")))
	if err != nil {
		return "", err
	}
	fmt.Fprintf(&out, "%s: %s, %s a second (with perf beside it)\n\n", r.unit, number(s.Cost), number(s.Rate))
	report := exec.Command("perf", "report", "-i", data, "--stdio", "--no-children", "-g", "none", "--percent-limit", "0.4", "-s", "symbol")
	report.Stderr = nil
	text, err := report.Output()
	if err != nil {
		return "", fmt.Errorf("perf report: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "#") && strings.TrimSpace(line) != "" {
			out.WriteString(strings.TrimRight(line, " \n") + "\n")
		}
	}
	summary := filepath.Join(b.dir, "strace.txt")
	args := []string{"-c", "-f", "-o", summary}
	for _, pid := range pids {
		args = append(args, "-p", pid)
	}
	s, err = b.watched(c, r, exec.Command("strace", args...))
	if err != nil {
		return "", err
	}
	calls, err := os.ReadFile(summary)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(&out, "\nsystem calls in %.0f units and the warm-up (strace -c -f; its times mean little)\n\n%s", s.units, calls)
	return out.String(), nil
}

// watched runs the row's load while the tool looks on.
func (b *bench) watched(c *contender, r row, tool *exec.Cmd) (sample, error) {
	if err := tool.Start(); err != nil {
		return sample{}, err
	}
	s, err := r.probe(b, c)
	_ = tool.Process.Signal(os.Interrupt)
	_ = tool.Wait() // ended by our signal
	return s, err
}
