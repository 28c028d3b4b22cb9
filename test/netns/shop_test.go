//go:build linux

package netns_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tullemesh/tulle/internal/agent/capture"
	"github.com/tullemesh/tulle/internal/app/process"
	"github.com/tullemesh/tulle/internal/demo"
	"github.com/tullemesh/tulle/internal/testkit/held"
	"github.com/tullemesh/tulle/internal/testkit/meshrun"
)

// get is what the program inside does with a URL.
func get(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Println(resp.StatusCode, strings.Join(strings.Fields(string(body)), " "))
	return err
}

// more are workloads beside the shop's: another program than ours, one that stays on the host with a proxy, one that has none.
const more = `
  script: {port: 8080, run: 'exec %s script.py'}
  desk: {port: 8080, capture: proxy, ready: /healthz, run: '"$TULLE" __demo web'}
  plain: {port: 8080, capture: none, ready: /healthz, run: '"$TULLE" __demo catalog'}
`

// script is an application that knows nothing of a mesh: it answers what the URL in its query answers.
const script = `
import http.server, os, urllib.parse, urllib.request
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        body = urllib.request.urlopen(query["url"][0], timeout=5).read() if "url" in query else b"script"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
`

// python is the interpreter that every user may run.
const python = "/usr/bin/python3"

// shop is a running mesh whose workloads are in namespaces, and the program inside.
type shop struct {
	*meshrun.Mesh
	t   *testing.T
	run string // the program inside
}

// exportShop writes the shop's project, with capture netns and the workloads of more, to where other users may enter.
func exportShop(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tulle-netns-shop-") //nolint:usetesting // other users cannot enter t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if _, err := demo.Export(dir); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "tulle.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	added := fmt.Sprintf(more, python)
	if _, err := os.Stat(python); err != nil {
		added = strings.Join(strings.Split(added, "\n")[2:], "\n") // the test of it is skipped
	}
	port := held.Port(t, "127.0.0.1")
	changed := strings.NewReplacer("\ngateway:", added+"gateway:", "capture: proxy\n", "capture: netns\n",
		"  catalog:         {port: 8080,", fmt.Sprintf("  catalog:         {port: 8080, publish: ['%d:8080'],", port)).Replace(string(text))
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(path, []byte(changed), 0o644), os.WriteFile(filepath.Join(dir, "script.py"), []byte(script), 0o644)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// openShop runs the shop in namespaces.
func openShop(t *testing.T) *shop {
	t.Helper()
	if a := capture.Detect(); a.Mode != capture.Direct {
		t.Skipf("%s; %s", a.Reason, a.Remedy)
	}
	// Nobody else may enter the program's folder, as in a home.
	tulle := copyTo(t, t.TempDir(), "tulle")
	s := &shop{t: t, run: program(t), Mesh: meshrun.Up(t, tulle, exportShop(t))}
	s.Await(t, 20*time.Second, "the shop sells", func() bool { return s.checkout(nil) != "" })
	return s
}

// checkout buys at the gateway and returns the version of payment that took the money; empty when the shop fails.
func (s *shop) checkout(header http.Header) string {
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, "http://"+s.Gateway+"/checkout", nil)
	if err != nil {
		return ""
	}
	req.Header = header.Clone()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return ""
	}
	return demo.ReceiptVersion(body)
}

// address is a workload's address in its namespace.
func (s *shop) address(workload string) string {
	s.t.Helper()
	for _, p := range s.pidsOf(workload + "-proxy") {
		words, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p))
		if err != nil {
			continue
		}
		for w := range strings.SplitSeq(string(words), "\x00") {
			if parts := strings.Split(w, "~"); len(parts) == 4 {
				return parts[1]
			}
		}
	}
	s.t.Fatalf("%s has no proxy with a node id", workload)
	return ""
}

func (s *shop) mark() string { return "mesh-" + strconv.Itoa(s.Running.PID) }

func (s *shop) pidsOf(name string) []int { return process.Marked(s.mark() + "/" + name) }

// in runs a command in the namespaces of a process of the mesh, as an application's user, and returns what it prints.
func (s *shop) in(name string, words ...string) string {
	s.t.Helper()
	pid := s.PID(name)
	if pid == 0 {
		s.t.Fatalf("%s does not run", name)
	}
	cmd := exec.CommandContext(s.t.Context(), words[0], words[1:]...)
	cmd.Env, cmd.Dir = []string{"PATH=/usr/bin:/bin"}, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: app, Gid: app}}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	var exit *exec.ExitError
	if err := within(pid, cmd.Run); err != nil && !errors.As(err, &exit) {
		s.t.Fatalf("%s in %s: %v", words, name, err)
	}
	return strings.TrimSpace(out.String())
}

// within runs fn in the network and the mounts of a process.
func within(pid int, fn func() error) error {
	return alone(func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
		for _, ns := range []struct {
			name string
			kind int
		}{{"net", unix.CLONE_NEWNET}, {"mnt", unix.CLONE_NEWNS}} {
			f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, ns.name))
			if err != nil {
				return err
			}
			err = unix.Setns(int(f.Fd()), ns.kind)
			if err := errors.Join(err, f.Close()); err != nil {
				return err
			}
		}
		return fn()
	})
}

// alone runs fn on a thread that ends with it. The main thread is not taken: it cannot end, and would stay in what fn has entered.
func alone(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread()
			done <- alone(fn)
			return
		}
		done <- fn()
	}()
	return <-done
}

// inside runs the program inside.
func (s *shop) inside(name string, args ...string) string {
	s.t.Helper()
	return s.in(name, append([]string{s.run, "inside"}, args...)...)
}
