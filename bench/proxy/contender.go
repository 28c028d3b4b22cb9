package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// contender is one proxy under test: one process, or two with mutual TLS
// between them, whose CPU counts together.
type contender struct {
	name     string
	listen   netip.AddrPort
	commands [][]string
	environ  []string
	running  []*exec.Cmd
	logs     []*bytes.Buffer
}

func (c *contender) start() error {
	for _, command := range c.commands {
		args := command
		if path, err := exec.LookPath("taskset"); err == nil {
			args = append([]string{path, "-c", "1"}, command...)
		}
		cmd := exec.Command(args[0], args[1:]...)
		log := &bytes.Buffer{}
		cmd.Stdout, cmd.Stderr = log, log
		cmd.Env = append(os.Environ(), c.environ...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			return err
		}
		c.running = append(c.running, cmd)
		c.logs = append(c.logs, log)
	}
	for deadline := time.Now().Add(15 * time.Second); ; {
		conn, err := net.DialTimeout("tcp", c.listen.String(), time.Second)
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not listen at %s: %w\n%s", c.name, c.listen, err, c.logs[0])
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (c *contender) stop() {
	for _, cmd := range c.running {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

// cpu is the processes' user and system time so far, in nanoseconds of the
// scheduler's own account.
func (c *contender) cpu() time.Duration {
	var sum time.Duration
	for _, cmd := range c.running {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", cmd.Process.Pid))
		for _, t := range tasks {
			data, err := os.ReadFile(t)
			if err != nil {
				continue // the thread ended
			}
			first, _, _ := strings.Cut(string(data), " ")
			n, _ := strconv.ParseInt(first, 10, 64)
			sum += time.Duration(n)
		}
	}
	return sum
}

func (c *contender) memory() string {
	var parts []string
	for _, cmd := range c.running {
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
		for line := range strings.Lines(string(data)) {
			if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
				parts = append(parts, strings.TrimSpace(rest))
			}
		}
	}
	return strings.Join(parts, " + ")
}

// contenders writes every proxy's configuration and returns the proxies and
// the address at which their backend will listen.
func contenders(s settings) ([]*contender, netip.AddrPort, error) {
	backend, err := freePort()
	if err != nil {
		return nil, backend, err
	}
	authority, err := newAuthority(s.dir)
	if err != nil {
		return nil, backend, err
	}
	var all []*contender
	add := func(name string, environ []string, command func(config string) []string) error {
		c := &contender{name: name, environ: environ}
		configs, listen, err := bootstraps(s, name, backend, authority)
		if err != nil {
			return err
		}
		c.listen = listen
		for _, config := range configs {
			c.commands = append(c.commands, command(config))
		}
		all = append(all, c)
		return nil
	}
	if s.envoy != "" {
		id := 0
		if err := add("envoy", nil, func(config string) []string {
			id++
			return []string{s.envoy, "-c", config, "--concurrency", "1", "--base-id", strconv.Itoa(4000 + id), "-l", "error"}
		}); err != nil {
			return nil, backend, err
		}
	}
	if s.tulle != "" {
		if err := add("tulle", []string{"GOMAXPROCS=1"}, func(config string) []string {
			return []string{s.tulle, "proxy", "-c", config}
		}); err != nil {
			return nil, backend, err
		}
	}
	if s.nginx != "" && s.scenario == "h1" {
		c := &contender{name: "nginx"}
		if c.listen, err = freePort(); err != nil {
			return nil, backend, err
		}
		config, err := write(s.dir, "nginx.conf", nginxConfig(s.dir, c.listen, backend))
		if err != nil {
			return nil, backend, err
		}
		c.commands = [][]string{{s.nginx, "-c", config}}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, backend, errors.New("no contender: give -tulle or -envoy")
	}
	return all, backend, nil
}

// freePort asks the kernel for a port that is free now.
func freePort() (netip.AddrPort, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort(), nil
}
