//go:build linux

// Package netns_test runs real processes in real network namespaces: what the rules redirect, who may be reached, and that nothing stays.
//
// The tests need root with CAP_NET_ADMIN and CAP_SYS_ADMIN, or skip with the reason. They use only namespaces that they make; read
// capture_test.go first.
package netns_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/tullemesh/tulle/internal/agent/capture"
	"github.com/tullemesh/tulle/internal/agent/dns"
	"github.com/tullemesh/tulle/internal/app/process"
	"github.com/tullemesh/tulle/internal/cli"
	"github.com/tullemesh/tulle/internal/cli/call"
)

// TestMain is also the program inside of the namespaces: a process of its own, with its own user. Under the name tulle it is tulle.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "tulle" {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		code := cli.Run(ctx, os.Args[1:], call.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
		stop()
		os.Exit(code)
	}
	if len(os.Args) > 1 && os.Args[1] == "inside" {
		if err := inside(os.Args[2:]); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// inside is what runs in a namespace:
//
//	call ADDRESS [SOURCE]   connect by TCP, print the first line that comes
//	serve ADDRESS           accept for ever; tell each connection where it came from and was meant for (SO_ORIGINAL_DST)
//	lookup NAME             print the addresses that the system's resolver finds
//	udp ADDRESS             send one packet, print the answer
//	get URL                 request by HTTP, print status and body in one line
//	rootless, stage, world  the three lives of a run without root; see rootless_test.go
func inside(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	switch args[0] {
	case "rootless":
		return rootless(ctx)
	case "stage":
		return capture.EnterRootless(args[1:], []string{"PATH=/usr/bin:/bin"})
	case "world":
		return small(ctx)
	case "call", "udp":
		d := net.Dialer{}
		if len(args) > 2 {
			d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(args[2])}
		}
		network := map[string]string{"call": "tcp", "udp": "udp"}[args[0]]
		c, err := d.DialContext(ctx, network, args[1])
		if err != nil {
			return err
		}
		deadline, _ := ctx.Deadline()
		if err := c.SetDeadline(deadline); err != nil {
			return err
		}
		if args[0] == "udp" {
			if _, err := io.WriteString(c, "hello\n"); err != nil {
				return err
			}
		}
		line, err := bufio.NewReader(c).ReadString('\n')
		fmt.Print(line)
		return err
	case "get":
		return get(ctx, args[1])
	case "lookup":
		addresses, err := (&net.Resolver{PreferGo: true}).LookupHost(ctx, args[1])
		fmt.Println(strings.Join(addresses, " "))
		return err
	case "serve":
		ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", args[1])
		if err != nil {
			return err
		}
		fmt.Println("serving")
		for {
			c, err := ln.Accept()
			if err != nil {
				return err
			}
			fmt.Fprintf(c, "%s from %s for %s as %d\n", args[1], c.RemoteAddr().(*net.TCPAddr).IP, originalDestination(c), os.Getuid())
			_ = c.Close()
		}
	}
	return fmt.Errorf("unknown verb %q", args)
}

// originalDestination asks the kernel where a redirected connection was meant to go.
func originalDestination(c net.Conn) string {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err.Error()
	}
	var to string
	err = raw.Control(func(fd uintptr) {
		// The option fills a sockaddr_in, which has the size of the IPv6 request's first field.
		m, err := unix.GetsockoptIPv6Mreq(int(fd), unix.IPPROTO_IP, unix.SO_ORIGINAL_DST)
		if err != nil {
			to = "itself" // a namespace without rules tracks no connections
			return
		}
		to = fmt.Sprintf("%d.%d.%d.%d:%d", m.Multiaddr[4], m.Multiaddr[5], m.Multiaddr[6], m.Multiaddr[7], int(m.Multiaddr[2])<<8+int(m.Multiaddr[3]))
	})
	if err != nil {
		return err.Error()
	}
	if to == c.LocalAddr().String() {
		return "itself"
	}
	return to
}

// world is a network with what the test started in it.
type world struct {
	t *testing.T
	*capture.Network
	run string // a copy of this program that every user may run
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if a := capture.Detect(); a.Mode != capture.Direct {
		t.Skipf("%s; %s", a.Reason, a.Remedy)
	}
	n, err := capture.Open(t.Context(), capture.Options{State: filepath.Join(t.TempDir(), "network.json")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return &world{t: t, Network: n, run: program(t)}
}

// program copies this test to where the users nobody and proxy may run it.
func program(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tulle-netns") //nolint:usetesting // other users cannot enter t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return copyTo(t, dir, "inside")
}

// copyTo copies this test into a folder, under a name.
func copyTo(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func (w *world) add(name string, captured bool) *capture.Namespace {
	w.t.Helper()
	ns, err := w.Add(name, captured)
	if err != nil {
		w.t.Fatal(err)
	}
	return ns
}

// as runs the program inside a namespace as a user and returns what it prints.
func (w *world) as(ns *capture.Namespace, uid uint32, args ...string) string {
	w.t.Helper()
	cmd := w.command(uid, args...)
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := ns.Enter(cmd.Run); err != nil && out.Len() == 0 {
		w.t.Fatalf("%s in %s: %v", args, ns.Name(), err)
	}
	return strings.TrimSpace(out.String())
}

func (w *world) command(uid uint32, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(w.t.Context(), w.run, append([]string{"inside"}, args...)...)
	cmd.Env, cmd.Dir = []string{"PATH=/usr/bin:/bin"}, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	return cmd
}

// serve starts a server inside a namespace, which ends with the namespace.
func (w *world) serve(ns *capture.Namespace, uid uint32, address string) {
	w.t.Helper()
	started, ended := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(ended)
		_ = ns.Enter(func() error {
			cmd := w.command(uid, "serve", address)
			out, err := cmd.StdoutPipe()
			if err == nil {
				err = cmd.Start()
			}
			if err != nil {
				started <- err
				return err
			}
			line, err := bufio.NewReader(out).ReadString('\n')
			if err != nil || line != "serving\n" {
				err = fmt.Errorf("it says %q: %w", line, err)
			}
			started <- err
			return cmd.Wait()
		})
	}()
	if err := <-started; err != nil {
		w.t.Fatalf("serve %s in %s: %v", address, ns.Name(), err)
	}
	w.t.Cleanup(func() {
		_ = ns.Close()
		<-ended
	})
}

const (
	app   = process.NobodyID
	proxy = capture.ProxyUID
)

func TestTrafficOfAWorkloadReachesItsProxyAndNothingElse(t *testing.T) {
	w := newWorld(t)
	a, b := w.add("a", true), w.add("b", true)
	for _, ns := range []*capture.Namespace{a, b} {
		w.serve(ns, proxy, "0.0.0.0:15001")
		w.serve(ns, proxy, "0.0.0.0:15006")
		w.serve(ns, app, "0.0.0.0:80") // a low port, without being root
		w.serve(ns, proxy, "0.0.0.0:15021")
	}
	to := func(ns *capture.Namespace, port string) string { return ns.Addr().String() + ":" + port }
	for _, c := range []struct {
		name string
		uid  uint32
		args []string
		want string
	}{
		{"application to a workload", app, []string{"call", to(b, "80")}, "0.0.0.0:15001 from A for B:80 as 1337"},
		{"application to an address that no one has", app, []string{"call", "203.0.113.9:443"}, "0.0.0.0:15001 from A for 203.0.113.9:443 as 1337"},
		{"application to itself by its address", app, []string{"call", to(a, "80")}, "0.0.0.0:80 from A for itself as 65534"},
		{"application to itself by loopback", app, []string{"call", "127.0.0.1:80"}, "0.0.0.0:80 from 127.0.0.1 for itself as 65534"},
		{"proxy to a workload comes in at its proxy", proxy, []string{"call", to(b, "80")}, "0.0.0.0:15006 from A for B:80 as 1337"},
		{"proxy to a port that is not captured", proxy, []string{"call", to(b, "15021")}, "0.0.0.0:15021 from A for itself as 1337"},
		{"proxy to its own workload by loopback", proxy, []string{"call", "127.0.0.1:80"}, "0.0.0.0:80 from 127.0.0.1 for itself as 65534"},
		{"proxy to its own service comes in again", proxy, []string{"call", to(a, "80")}, "0.0.0.0:15006 from A for A:80 as 1337"},
		{"inbound passthrough to its own workload does not", proxy, []string{"call", to(a, "80"), "127.0.0.6"}, "0.0.0.0:80 from 127.0.0.6 for itself as 65534"},
		{"root is no proxy", 0, []string{"call", to(b, "80")}, "0.0.0.0:15001 from A for B:80 as 1337"},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := strings.NewReplacer("A", a.Addr().String(), "B", b.Addr().String()).Replace(c.want)
			if got := w.as(a, c.uid, c.args...); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
	t.Run("UDP that no proxy sees is refused", func(t *testing.T) {
		if got := w.as(a, app, "udp", to(b, "9999")); !strings.HasPrefix(got, "error:") || strings.Contains(got, "timeout") {
			t.Errorf("got %s", got)
		}
	})
	t.Run("a bare namespace is not captured", func(t *testing.T) {
		bare := w.add("bare", false)
		w.serve(bare, app, "0.0.0.0:80")
		if got, want := w.as(bare, app, "call", to(bare, "80")), "0.0.0.0:80 from "+bare.Addr().String()+" for itself as 65534"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if got, want := w.as(a, proxy, "call", to(bare, "80")), "0.0.0.0:80 from "+a.Addr().String()+" for itself as 65534"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

func TestControlPlaneIsReachedOnTheBridge(t *testing.T) {
	w := newWorld(t)
	a := w.add("a", true)
	ln, err := w.Listen(t.Context(), 15012)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var served sync.WaitGroup
	defer served.Wait()
	defer ln.Close()
	served.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(c, "control plane for %s\n", c.RemoteAddr().(*net.TCPAddr).IP)
			_ = c.Close()
		}
	})
	address := netip.AddrPortFrom(w.Gateway(), 15012).String()
	if got, want := w.as(a, proxy, "call", address), "control plane for "+a.Addr().String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := w.as(a, app, "call", address); strings.HasPrefix(got, "control plane") {
		t.Error("an application reached the control plane past its proxy")
	}
	w.serve(a, app, "0.0.0.0:7000")
	for name, dial := range map[string]func(context.Context, netip.AddrPort) (net.Conn, error){"bridge": w.Dial, "namespace": a.Dial} {
		to := netip.AddrPortFrom(a.Addr(), 7000)
		c, err := dial(t.Context(), to)
		if name == "bridge" { // comes in as any other: at the proxy, and there is none
			if err == nil {
				_ = c.Close()
				t.Error("from the bridge: the application is reached past its proxy")
			}
			continue
		}
		if err != nil {
			t.Errorf("from the %s: %v", name, err)
			continue
		}
		line, _ := bufio.NewReader(c).ReadString('\n')
		_ = c.Close()
		if !strings.HasPrefix(line, "0.0.0.0:7000 from") {
			t.Errorf("from the %s: %q", name, line)
		}
	}
}

// machine lists what a run could leave on the host: its own namespaces, links, and processes.
func machine(t *testing.T) []string {
	t.Helper()
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, l := range links {
		all = append(all, "link "+l.Name)
	}
	spaces := map[string]bool{}
	tasks, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	for _, p := range tasks {
		if where, err := os.Readlink(p); err == nil {
			spaces[where] = true
		}
	}
	for s := range spaces {
		all = append(all, s)
	}
	for _, name := range []string{"/proc/net/route", "/proc/net/fib_trie"} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(b))
	}
	slices.Sort(all)
	return all
}

func TestNothingStays(t *testing.T) {
	before := machine(t)
	w := newWorld(t)
	a, b := w.add("a", true), w.add("b", false)
	w.serve(a, app, "0.0.0.0:80")
	during := machine(t)
	if slices.Equal(before, during) {
		t.Error("a run cannot be seen on the machine: the test proves nothing")
	}
	for _, s := range during {
		if strings.HasPrefix(s, "link ") && !slices.Contains(before, s) || strings.Contains(s, "10.77.") {
			t.Errorf("the run shows on the host: %s", s)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if after := machine(t); !slices.Equal(before, after) {
		t.Errorf("before %q\nafter  %q", before, after)
	}
	if err := a.Enter(func() error { return nil }); err == nil {
		t.Error("a closed namespace was entered")
	}
	if _, err := b.Dial(t.Context(), netip.MustParseAddrPort("127.0.0.1:1")); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("dial in a closed namespace: %v", err)
	}
	if _, err := w.Add("c", true); err == nil {
		t.Error("a closed network got a namespace")
	}
}

// gone reports whether nobody answers at port 80 of a namespace. A process that
// was just killed answers until the kernel has closed its sockets: patient waits
// for that.
func (w *world) gone(ns *capture.Namespace, patient bool) bool {
	deadline := time.NewTimer(5 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := ns.Dial(w.t.Context(), netip.MustParseAddrPort("127.0.0.1:80"))
		if err != nil {
			return true
		}
		_ = conn.Close()
		if !patient {
			return false
		}
		select {
		case <-deadline.C:
			return false
		case <-tick.C:
		}
	}
}

func TestLeftoversOfAKilledRunAreRemovedByTheNext(t *testing.T) {
	w := newWorld(t)
	state := filepath.Join(t.TempDir(), "state.json")
	first, err := capture.Open(t.Context(), capture.Options{State: state})
	if err != nil {
		t.Fatal(err)
	}
	ns, err := first.Add("a", true)
	if err != nil {
		t.Fatal(err)
	}
	w.serve(ns, app, "0.0.0.0:80")
	b, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	// As after a kill: another owner, who is gone. The processes are still inside.
	gone := bytes.Replace(b, fmt.Appendf(nil, `"pid":%d`, os.Getpid()), []byte(`"pid":4194999`), 1)
	if bytes.Equal(gone, b) {
		t.Fatalf("no owner in %s", b)
	}
	alive := bytes.Replace(b, fmt.Appendf(nil, `"pid":%d`, os.Getpid()), []byte(`"pid":1`), 1)
	start, err := os.ReadFile("/proc/1/stat")
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(start[bytes.LastIndexByte(start, ')')+1:]))
	at := bytes.Index(alive, []byte(`"start":"`)) + len(`"start":"`)
	end := at + bytes.IndexByte(alive[at:], '"')
	alive = slices.Concat(alive[:at], []byte(fields[19]), alive[end:])
	if err := os.WriteFile(state, alive, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := capture.Open(t.Context(), capture.Options{State: state}); !errors.Is(err, capture.ErrInUse) {
		t.Errorf("over a run that is alive: %v", err)
	}
	foreign := bytes.Replace(gone, []byte(`"run":"`), []byte(`"run":"0`), 1) // a number that is another program's namespace by now
	for _, c := range []struct {
		name   string
		state  []byte
		killed bool
	}{{"another program's namespace", foreign, false}, {"a killed run's", gone, true}} {
		if err := os.WriteFile(state, c.state, 0o600); err != nil {
			t.Fatal(err)
		}
		next, err := capture.Open(t.Context(), capture.Options{State: state})
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if err := next.Close(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if killed := w.gone(ns, c.killed); killed != c.killed {
			t.Errorf("%s: process killed %v, want %v", c.name, killed, c.killed)
		}
		if _, err := os.Stat(state); err == nil {
			t.Errorf("%s: the state file is still there", c.name)
		}
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(state, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := capture.Open(t.Context(), capture.Options{State: state}); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("over a damaged state: %v", err)
	}
}

func TestSupervisedProcessLivesInItsNamespace(t *testing.T) {
	w := newWorld(t)
	a := w.add("a", true)
	user, err := process.Invoker(0, "", "", true)
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan process.State, 8)
	p, err := process.New(process.Spec{
		Name: "a", Words: []string{w.run, "inside", "serve", "0.0.0.0:80"}, Env: []string{"PATH=/bin"}, Dir: "/", User: user, Enter: a.Enter,
		Ready: process.Ready{Address: "127.0.0.1:80", Dial: func(ctx context.Context, _, address string) (net.Conn, error) {
			to, err := netip.ParseAddrPort(address)
			if err != nil {
				return nil, err
			}
			return a.Dial(ctx, to)
		}},
		Changed: func(s process.State) {
			if s.Phase == process.Serving {
				ready <- s
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	select {
	case s := <-ready:
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.PID)); err != nil || !strings.Contains(string(b), "Uid:\t65534\t65534\t65534\t65534") || !strings.Contains(string(b), "CapEff:\t0000000000000000") {
			t.Errorf("%v, status of the process:\n%s", err, b)
		}
	case <-time.After(10 * time.Second):
		t.Errorf("not ready: %+v", p.State())
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestApplicationFindsAServiceByNameAndReachesItsProxy(t *testing.T) {
	w := newWorld(t)
	a := w.add("a", true)
	w.serve(a, proxy, "0.0.0.0:15001")
	packets, ln, err := listenNames(t, a)
	if err != nil {
		t.Fatal(err)
	}
	table, err := dns.NewTable(map[string]dns.Entry{
		"reviews.default.svc.cluster.local": {IPs: []netip.Addr{netip.MustParseAddr("240.240.0.1")}, Registry: dns.RegistryKubernetes, ShortName: "reviews", Namespace: "default"},
		"provider.bank.example":             {IPs: []netip.Addr{netip.MustParseAddr("240.240.0.2")}},
	}, dns.Client{Namespace: "default", Domain: "cluster.local", Search: []string{"default.svc.cluster.local", "svc.cluster.local", "cluster.local"}})
	if err != nil {
		t.Fatal(err)
	}
	names := dns.New(dns.Options{Own: []string{"cluster.local"}})
	names.SetTable(table)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- names.Run(ctx, packets, ln) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	resolv := filepath.Join(filepath.Dir(w.run), "resolv.conf")
	pod := dns.Resolv{Servers: []netip.AddrPort{netip.AddrPortFrom(w.Gateway(), 53)}, Search: []string{"default.svc.cluster.local", "svc.cluster.local", "cluster.local"}}
	if err := os.WriteFile(resolv, []byte(pod.Text()), 0o644); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		t.Fatal(err)
	}
	named := func(cmd *exec.Cmd) string {
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		_ = a.EnterNamed(resolv, cmd.Run)
		return strings.TrimSpace(out.String())
	}
	for _, c := range []struct{ name, want string }{
		{"reviews", "240.240.0.1"}, {"reviews.default", "240.240.0.1"}, {"reviews.default.svc.cluster.local", "240.240.0.1"}, {"provider.bank.example", "240.240.0.2"},
	} {
		if got := named(w.command(app, "lookup", c.name)); got != c.want {
			t.Errorf("lookup %s: got %q, want %q", c.name, got, c.want)
		}
	}
	want := "0.0.0.0:15001 from " + a.Addr().String() + " for 240.240.0.1:9080 as 1337"
	if got := named(w.command(app, "call", "reviews:9080")); got != want {
		t.Errorf("call by name: got %q, want %q", got, want)
	}
	if got := named(w.command(app, "lookup", "nobody.example.com")); !strings.HasPrefix(got, "error:") && !strings.Contains(got, "error:") {
		t.Errorf("lookup of a name outside: %q", got)
	}
	if curl, err := exec.LookPath("curl"); err == nil { // the C library's resolver, not ours
		cmd := w.command(app)
		cmd.Path, cmd.Args = curl, []string{"curl", "-sS", "--http0.9", "--max-time", "5", "http://reviews.default:9080/"}
		if got := named(cmd); !strings.Contains(got, "for 240.240.0.1:9080 as 1337") {
			t.Errorf("curl by name: %q", got)
		}
	}
	if after, err := os.ReadFile("/etc/resolv.conf"); err != nil || !bytes.Equal(before, after) {
		t.Errorf("resolv.conf of the host has changed: %q, %v", after, err)
	}
}

// listenNames opens the sockets of a DNS proxy inside a namespace.
func listenNames(t *testing.T, ns *capture.Namespace) (packets net.PacketConn, ln net.Listener, err error) {
	t.Helper()
	err = ns.Enter(func() error {
		packets, ln, err = dns.ListenBoth(t.Context(), netip.AddrPortFrom(netip.IPv4Unspecified(), capture.DNSPort))
		return err
	})
	return packets, ln, err
}

func TestHostAndNamespaceMeetByRelay(t *testing.T) {
	w := newWorld(t)
	gateway, client := w.add("gateway", true), w.add("client", true)
	w.serve(gateway, proxy, "0.0.0.0:8080")
	ctx, cancel := context.WithCancel(t.Context())
	var relays sync.WaitGroup
	defer relays.Wait()
	defer cancel()
	relay := func(ln net.Listener, dial func(context.Context) (net.Conn, error)) {
		relays.Go(func() {
			if err := capture.Relay(ctx, ln, dial); err != nil {
				t.Error(err)
			}
		})
	}
	var lc net.ListenConfig
	front, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	relay(front, func(ctx context.Context) (net.Conn, error) {
		return gateway.Dial(ctx, netip.MustParseAddrPort("127.0.0.1:8080"))
	})
	provider, err := lc.Listen(t.Context(), "tcp", "127.0.0.2:0") // outside of the mesh
	if err != nil {
		t.Fatal(err)
	}
	defer provider.Close()
	relays.Go(func() {
		c, err := provider.Accept()
		if err == nil {
			_, _ = io.WriteString(c, "provider\n")
			_ = c.Close()
		}
	})
	door, err := w.Listen(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	relay(door, func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", provider.Addr().String())
	})
	var d net.Dialer
	c, err := d.DialContext(t.Context(), "tcp", front.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || line != "0.0.0.0:8080 from 127.0.0.1 for itself as 1337\n" {
		t.Errorf("host to gateway: %q, %v", line, err)
	}
	if got := w.as(client, proxy, "call", door.Addr().String()); got != "provider" {
		t.Errorf("namespace to the host's loopback: %q", got)
	}
}
