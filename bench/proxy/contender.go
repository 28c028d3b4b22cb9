package main

import (
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
// between them, whose CPU and memory count together.
type contender struct {
	name     string
	listen   netip.AddrPort
	admin    []netip.AddrPort // none for what is not Envoy's kind
	commands [][]string
	environ  []string
	optional bool // left out when it does not start
	running  []*exec.Cmd
	logs     []string // paths
}

// Names of the contenders; the first is what the others are compared with.
const (
	envoyName   = "envoy"
	tulleName   = "tulle"
	nginxName   = "nginx"
	haproxyName = "haproxy"
)

const startPatience = 30 * time.Second

func (c *contender) start(dir string) error {
	for i, command := range c.commands {
		args := onProxyCPU(command)
		path := filepath.Join(dir, fmt.Sprintf("%s-%d.log", c.name, i))
		log, err := os.Create(path)
		if err != nil {
			return err
		}
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Stdout, cmd.Stderr = log, log
		cmd.Env = append(cmd.Environ(), c.environ...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		err = cmd.Start()
		_ = log.Close() // the child has it
		if err != nil {
			return err
		}
		c.running = append(c.running, cmd)
		c.logs = append(c.logs, path)
	}
	for deadline := time.Now().Add(startPatience); ; {
		conn, err := net.DialTimeout("tcp", c.listen.String(), time.Second)
		if err == nil {
			// Where nobody listens yet, the kernel may choose the very port for our
			// end and connect us to ourselves.
			ourselves := conn.LocalAddr().String() == c.listen.String()
			if err := conn.Close(); !ourselves {
				return err
			}
		}
		if time.Now().After(deadline) || c.dead() {
			return fmt.Errorf("%s does not listen at %s: %w\n%s", c.name, c.listen, err, c.logged())
		}
		<-time.After(20 * time.Millisecond)
	}
}

// dead says whether a process has ended already.
func (c *contender) dead() bool {
	for _, cmd := range c.running {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
		if err != nil {
			return true
		}
		if _, state, ok := strings.Cut(string(data), ") "); ok && strings.HasPrefix(state, "Z") {
			return true
		}
	}
	return false
}

func (c *contender) logged() string {
	var all strings.Builder
	for _, path := range c.logs {
		data, _ := os.ReadFile(path)
		all.Write(data)
	}
	return all.String()
}

func (c *contender) stop() {
	for _, cmd := range c.running {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	c.running, c.logs = nil, nil
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

// memory is the processes' resident set and the part of it that is anonymous,
// in bytes.
func (c *contender) memory() (resident, anonymous int) {
	for _, cmd := range c.running {
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
		for line := range strings.Lines(string(data)) {
			name, rest, _ := strings.Cut(line, ":")
			kib, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			switch name {
			case "VmRSS":
				resident += kib << 10
			case "RssAnon":
				anonymous += kib << 10
			}
		}
	}
	return resident, anonymous
}

// contenders writes every proxy's configuration and returns the proxies.
func (b *bench) contenders() ([]*contender, error) {
	var all []*contender
	if b.envoy != "" {
		c, err := b.contender(envoyName, func(config string) []string {
			return []string{b.envoy, "-c", config, "--concurrency", "1", "--use-dynamic-base-id", "-l", "error"}
		})
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	if b.tulle != "" {
		c, err := b.contender(tulleName, func(config string) []string {
			if filepath.Base(b.tulle) == "tulle" {
				return []string{b.tulle, "proxy", "-c", config}
			}
			return []string{b.tulle, "-c", config}
		})
		if err != nil {
			return nil, err
		}
		c.environ = []string{"GOMAXPROCS=1"}
		if b.scenario.gcTrace {
			c.environ = append(c.environ, "GODEBUG=gctrace=1")
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, errors.New("no contender: give -tulle or -envoy")
	}
	for _, name := range b.scenario.peers {
		program := map[string]string{nginxName: b.nginx, haproxyName: b.haproxy}[name]
		if program == "" {
			continue
		}
		c, err := b.peer(name, program)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

// contender is a proxy that reads Envoy's bootstraps.
func (b *bench) contender(name string, command func(config string) []string) (*contender, error) {
	c := &contender{name: name}
	ports, err := freePorts(1 + b.scenario.shape.sidecars)
	if err != nil {
		return nil, err
	}
	c.listen, c.admin = ports[0], ports[1:]
	configs, err := b.scenario.shape.bootstraps(c.listen, c.admin, b.loop.Backends(), b.authority)
	if err != nil {
		return nil, err
	}
	for i, config := range configs {
		text, err := encode(config)
		if err != nil {
			return nil, err
		}
		path := filepath.Join(b.dir, fmt.Sprintf("%s-%d.json", name, i))
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return nil, err
		}
		c.commands = append(c.commands, command(path))
	}
	return c, nil
}

// peer is nginx or haproxy set up for the same work.
func (b *bench) peer(name, program string) (*contender, error) {
	c := &contender{name: name, optional: true}
	ports, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	c.listen = ports[0]
	s, to := b.scenario.shape, b.loop.Backends()[0]
	add := func(listen, to netip.AddrPort, down, up bool) error {
		n := len(c.commands)
		text, args := s.nginxConfig(b.dir, n, listen, to, down, up, b.authority), []string{program, "-c"}
		if name == haproxyName {
			text, args = s.haproxyConfig(listen, to, down, up, b.authority), []string{program, "-db", "-f"}
		}
		path := filepath.Join(b.dir, fmt.Sprintf("%s-%d.conf", name, n))
		c.commands = append(c.commands, append(args, path))
		return os.WriteFile(path, []byte(text), 0o600)
	}
	if s.sidecars == 2 {
		return c, errors.Join(add(ports[1], to, true, false), add(c.listen, ports[1], false, true))
	}
	return c, add(c.listen, to, s.tls, false)
}

// freePort asks the kernel for a port that is free now.
func freePort() (netip.AddrPort, error) {
	ports, err := freePorts(1)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return ports[0], nil
}

// freePorts are free together, and nobody else is given them: until the program
// ends, a socket that does not listen is bound to each. Who asks for one by its
// number, with SO_REUSEADDR as servers do, gets it all the same.
func freePorts(n int) ([]netip.AddrPort, error) {
	var all []netip.AddrPort
	for range n {
		at, err := hold()
		if err != nil {
			return nil, err
		}
		all = append(all, at)
	}
	return all, nil
}

func hold() (netip.AddrPort, error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return netip.AddrPort{}, os.NewSyscallError("socket", err)
	}
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return netip.AddrPort{}, os.NewSyscallError("setsockopt", err)
	}
	loopback := [4]byte{127, 0, 0, 1}
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: loopback}); err != nil {
		return netip.AddrPort{}, os.NewSyscallError("bind", err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, os.NewSyscallError("getsockname", err)
	}
	return netip.AddrPortFrom(netip.AddrFrom4(loopback), uint16(name.(*syscall.SockaddrInet4).Port)), nil
}
