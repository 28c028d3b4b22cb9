//go:build linux

package netns_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tullemesh/tulle/internal/app/process"
	"github.com/tullemesh/tulle/internal/testkit/meshrun"
)

func TestShopInNamespaces(t *testing.T) {
	s := openShop(t)
	t.Run("weights hold", s.weights)
	t.Run("programs call by name", s.byName)
	t.Run("captures mix", s.mixed)
	t.Run("plaintext from elsewhere is refused", s.strict)
	t.Run("there is no way out", s.noWayOut)
	t.Run("nobody has rights", s.noRights)
	t.Run("commands reach the proxies", s.commands)
}

func (s *shop) weights(t *testing.T) {
	const requests, callers = 1000, 8
	var mu sync.Mutex
	versions := map[string]int{}
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for range requests / callers {
				v := s.checkout(nil)
				mu.Lock()
				versions[v]++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	t.Logf("versions of payment: %v", versions)
	// 900 ± 4.2 standard deviations of a fair draw.
	if v1 := versions["v1"]; v1 < 860 || v1 > 940 || v1+versions["v2"] != requests {
		t.Errorf("90/10 is %v", versions)
	}
	for range 20 {
		if v := s.checkout(http.Header{"End-User": {"tester"}}); v != "v2" {
			t.Fatalf("a tester pays by %q", v)
		}
	}
}

func (s *shop) byName(t *testing.T) {
	const pay = "http://payment:8080/pay?cents=5"
	receipt := func(t *testing.T, got string) {
		t.Helper()
		if !strings.Contains(got, `"authorization":"A5"`) {
			t.Errorf("got %s", got)
		}
	}
	t.Run("Go", func(t *testing.T) { receipt(t, s.inside("catalog-v1", "get", pay)) })
	t.Run("curl", func(t *testing.T) {
		if _, err := os.Stat("/usr/bin/curl"); err != nil {
			t.Skip("there is no curl")
		}
		receipt(t, s.in("catalog-v1", "/usr/bin/curl", "-sS", "--max-time", "5", pay))
		receipt(t, s.in("catalog-v1", "/usr/bin/curl", "-sS", "--max-time", "5", strings.Replace(pay, "payment", "payment.default.svc.cluster.local", 1)))
	})
	t.Run("Python", func(t *testing.T) {
		if _, err := os.Stat(python); err != nil {
			t.Skipf("there is no %s", python)
		}
		receipt(t, s.inside("catalog-v1", "get", "http://script:8080/?url="+strings.Replace(pay, "?", "%3F", 1)))
		if got := s.inside("catalog-v1", "get", "http://script:8080/?url=http://script:8080/"); got != "200 script" {
			t.Errorf("a workload that calls itself: %s", got)
		}
	})
	t.Run("a server that speaks first", func(t *testing.T) {
		if got := s.inside("catalog-v1", "call", "ledger:9000"); !strings.HasPrefix(got, "LEDGER ") {
			t.Errorf("got %s", got)
		}
	})
	t.Run("itself by its service", func(t *testing.T) {
		if got := s.inside("web-v1", "get", "http://web:8080/"); !strings.HasPrefix(got, "200 ") || !strings.Contains(got, "tutu") {
			t.Errorf("got %s", got)
		}
	})
	t.Run("a name that is not there", func(t *testing.T) {
		if got := s.inside("catalog-v1", "get", "http://nobody:8080/"); !strings.Contains(got, "no such host") {
			t.Errorf("got %s", got)
		}
	})
}

func (s *shop) mixed(t *testing.T) {
	// The desk runs on the host, and calls catalog and recommendations, which are in namespaces.
	if got := s.inside("catalog-v1", "get", "http://desk:8080/"); !strings.HasPrefix(got, "200 ") || !strings.Contains(got, `"recommendations":["veil"`) {
		t.Errorf("a workload with capture proxy: %s", got)
	}
	if got := s.inside("catalog-v1", "get", "http://plain:8080/products"); !strings.HasPrefix(got, "200 ") {
		t.Errorf("a workload without a proxy: %s", got)
	}
	if host, err := os.Readlink("/proc/self/ns/net"); err != nil || !s.livesIn("desk-v1", host) || !s.livesIn("plain-v1", host) || s.livesIn("catalog-v1", host) {
		t.Errorf("who lives on the host: %v", err)
	}
}

// livesIn reports whether a process is in a network namespace.
func (s *shop) livesIn(name, namespace string) bool {
	where, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", s.PID(name)))
	return err == nil && where == namespace
}

func (s *shop) strict(t *testing.T) {
	// The gateway's namespace has no capture, so this is a plain connection to the application's port.
	call := func() string {
		return s.inside("istio-ingressgateway-proxy", "get", "http://"+s.address("catalog-v1")+":8080/products")
	}
	var published string
	text, err := os.ReadFile(filepath.Join(s.Dir, "tulle.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if _, rest, ok := strings.Cut(string(text), "publish: ['"); ok {
		published, _, _ = strings.Cut(rest, ":")
	}
	public := "http://127.0.0.1:" + published + "/products"
	if got := call(); !strings.Contains(got, "EOF") && !strings.Contains(got, "reset") {
		t.Errorf("under STRICT: %s", got)
	}
	if meshrun.OK(t.Context(), public) {
		t.Error("under STRICT the published port answers")
	}
	policy := filepath.Join("istio", "peer-authentication.yaml")
	strict, err := os.ReadFile(filepath.Join(s.Dir, policy))
	if err != nil {
		t.Fatal(err)
	}
	s.Write(t, policy, strings.Replace(string(strict), "STRICT", "PERMISSIVE", 1))
	s.Await(t, 10*time.Second, "PERMISSIVE lets plaintext in", func() bool { return strings.HasPrefix(call(), "200 ") })
	s.Await(t, 10*time.Second, "the published port answers", func() bool { return meshrun.OK(t.Context(), public) })
	s.Write(t, policy, string(strict))
	s.Await(t, 10*time.Second, "STRICT refuses plaintext again", func() bool { return !strings.HasPrefix(call(), "200 ") })
	if s.checkout(nil) == "" {
		t.Error("the shop does not sell any more")
	}
}

func (s *shop) noWayOut(t *testing.T) {
	began := time.Now()
	if got := s.inside("catalog-v1", "get", "http://203.0.113.9/"); !strings.HasPrefix(got, "503 ") || !strings.Contains(got, "network is unreachable") {
		t.Errorf("by HTTP: %s", got)
	}
	if got := s.inside("catalog-v1", "call", "203.0.113.9:443"); !strings.HasPrefix(got, "error:") {
		t.Errorf("by TCP: %s", got)
	}
	if got := s.inside("catalog-v1", "udp", "203.0.113.9:9"); !strings.HasPrefix(got, "error:") {
		t.Errorf("by UDP: %s", got)
	}
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("it took %v to be told", took)
	}
}

func (s *shop) noRights(t *testing.T) {
	seen := map[string]int{}
	for _, pid := range process.Marked(s.mark()) {
		environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil {
			continue // gone
		}
		_, rest, _ := strings.Cut(string(environ), process.MarkVariable+"="+s.mark()+"/")
		name, _, _ := strings.Cut(rest, "\x00")
		want, kind := app, "application"
		switch {
		case name == "control-plane" || name == "provider-v1" || name == "plain-v1" || name == "desk-v1":
			continue // they are not in a namespace
		case strings.HasSuffix(name, "-proxy"):
			want, kind = proxy, "proxy"
		}
		seen[kind]++
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue
		}
		for _, line := range []string{
			fmt.Sprintf("Uid:\t%d\t%d\t%d\t%d\n", want, want, want, want), "CapInh:\t0000000000000000\n", "CapPrm:\t0000000000000000\n", "CapEff:\t0000000000000000\n",
			"CapBnd:\t0000000000000000\n", "CapAmb:\t0000000000000000\n", "NoNewPrivs:\t1\n",
		} {
			if !strings.Contains(string(status), line) {
				t.Errorf("%s (%d) has no line %q in\n%s", name, pid, line, status)
			}
		}
	}
	if seen["proxy"] < 8 || seen["application"] < 6 {
		t.Errorf("too few processes were looked at: %v", seen)
	}
}

func (s *shop) commands(t *testing.T) {
	if out, code := s.Tulle(t.Context(), "proxy-config", "listeners", "catalog-v1"); code != 0 || !strings.Contains(out, "virtualOutbound") || !strings.Contains(out, "virtualInbound") {
		t.Errorf("proxy-config: exit %d\n%s", code, out)
	}
	if out, code := s.Tulle(t.Context(), "status"); code != 0 || !strings.Contains(out, "payment") {
		t.Errorf("status: exit %d\n%s", code, out)
	}
	if out, code := s.Tulle(t.Context(), "down"); code != 0 {
		t.Errorf("down: exit %d\n%s", code, out)
	}
	for _, name := range []string{"network.json", "run.json"} {
		if _, err := os.Stat(filepath.Join(s.Dir, ".tulle", name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", name, err)
		}
	}
}

func TestKilledMeshLeavesNothing(t *testing.T) {
	linksBefore, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	s := openShop(t)
	data, err := os.ReadFile(filepath.Join(s.Dir, ".tulle", "network.json"))
	if err != nil {
		t.Fatal(err)
	}
	var state struct{ Namespaces []uint64 }
	if err := json.Unmarshal(data, &state); err != nil || len(state.Namespaces) < 9 {
		t.Fatalf("namespaces %v, %v", state.Namespaces, err)
	}
	inside := func() (pids []string) {
		links, _ := filepath.Glob("/proc/[0-9]*/ns/net")
		for _, l := range links {
			where, err := os.Readlink(l)
			for _, n := range state.Namespaces {
				if err == nil && where == fmt.Sprintf("net:[%d]", n) {
					pids = append(pids, l)
				}
			}
		}
		return pids
	}
	folders := func() []string {
		all, _ := filepath.Glob(filepath.Join(os.TempDir(), "tulle-run-*", "catalog-v1", "node.json"))
		return all
	}
	runs := folders()
	if len(inside()) < 14 || len(runs) == 0 {
		t.Fatalf("a run cannot be seen on the machine: %d processes inside, folders %v: the test proves nothing", len(inside()), runs)
	}
	s.Abort(t)
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	gone := func() bool {
		return len(inside()) == 0 && len(process.Marked(s.mark())) == 0 && len(folders()) < len(runs)
	}
	for !gone() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("left are processes %v in the namespaces, marked %v, folders %v", inside(), process.Marked(s.mark()), folders())
		}
	}
	linksAfter, err := net.Interfaces()
	if err != nil || len(linksAfter) != len(linksBefore) {
		t.Errorf("links before %v, after %v, %v", linksBefore, linksAfter, err)
	}
}

func TestMeshThatCannotHaveNamespacesSaysWhy(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can play a user without rights")
	}
	tulle := copyTo(t, filepath.Dir(program(t)), "tulle")
	cmd := exec.CommandContext(t.Context(), tulle, "up", exportShop(t), "--gateway-port", "-1")
	cmd.Env, cmd.Dir = []string{"PATH=/nowhere", "HOME=/nowhere"}, "/" // without newuidmap no user namespace has a user for proxies
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: app, Gid: app}}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("%v", err)
	}
	for _, part := range []string{"netns capture is not available", "or use capture: proxy"} {
		if !strings.Contains(string(out), part) {
			t.Errorf("it says %s, without %q", out, part)
		}
	}
}

func TestOrdinaryUserRunsAMeshInAUserNamespace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a user subordinate ids for a test")
	}
	if _, err := exec.LookPath("newuidmap"); err != nil {
		t.Skip("newuidmap is not installed")
	}
	ids := filepath.Join(t.TempDir(), "ids")
	tulle := copyTo(t, filepath.Dir(program(t)), "tulle")
	home := filepath.Join(filepath.Dir(tulle), "home")
	if err := errors.Join(os.Mkdir(home, 0o700), os.WriteFile(ids, fmt.Appendf(nil, "%d:200000:65536\n", rootlessUser), 0o644), os.Chown(home, rootlessUser, rootlessUser)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), tulle, "demo", "--transparent", "--for", "15s") // its figures come each five seconds
	cmd.Env, cmd.Dir = []string{"PATH=/usr/bin:/bin", "HOME=" + home}, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: rootlessUser, Gid: rootlessUser}}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	var exit *exec.ExitError
	if err := withFiles(map[string]string{"/etc/subuid": ids, "/etc/subgid": ids}, cmd.Run); err != nil && !errors.As(err, &exit) {
		t.Skipf("mounts of its own: %v", err)
	}
	if strings.Contains(out.String(), "netns capture is not available") {
		t.Skip(out.String())
	}
	if exit != nil || !strings.Contains(out.String(), "first 200") || !strings.Contains(out.String(), "success 100.00%") {
		t.Errorf("%v, printed\n%s", exit, out.String())
	}
}

// withFiles runs fn on a thread with mounts of its own, in which files are covered by others.
func withFiles(cover map[string]string, fn func() error) error {
	return alone(func() error {
		if err := errors.Join(unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")); err != nil {
			return err
		}
		for over, from := range cover {
			if err := unix.Mount(from, over, "", unix.MS_BIND, ""); err != nil {
				return err
			}
		}
		return fn()
	})
}
