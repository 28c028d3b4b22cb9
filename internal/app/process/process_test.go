package process_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tullemesh/tulle/internal/app/process"
	"github.com/tullemesh/tulle/internal/testkit/held"
)

// TestMain is also the reaper and the parent that a test kills: they are processes of their own.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "reap":
			if err := process.Reap(os.Stdin); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			return
		case "parent":
			parent(os.Args[2])
			return
		}
	}
	goleak.VerifyTestMain(m)
}

// parent supervises one process until it is killed, and prints when that serves.
func parent(mark string) {
	ctx := context.Background()
	reaper, err := process.StartReaper(ctx, mark, os.Args[0], "reap")
	if err != nil {
		panic(err)
	}
	p, err := process.New(process.Spec{
		Name: "app", Words: []string{"/bin/sh", "-c", "sleep 1000 & setsid sleep 1001 & trap '' TERM; sleep 1002"}, Env: os.Environ(), Mark: mark, Reaper: reaper,
		Changed: func(s process.State) {
			if s.Phase == process.Serving {
				fmt.Println("reaper", reaper.PID())
			}
		},
	})
	if err != nil {
		panic(err)
	}
	panic(p.Run(ctx))
}

// running is a process that Run runs, with a signal of its changes.
type running struct {
	*process.Process
	t       *testing.T
	changed chan struct{}
	stop    func() error
}

// start runs a process until the test ends or stop is called.
func start(t *testing.T, s process.Spec) *running {
	t.Helper()
	r := &running{t: t, changed: make(chan struct{}, 1)}
	if s.Env == nil {
		s.Env = os.Environ()
	}
	s.Changed = func(process.State) {
		select {
		case r.changed <- struct{}{}:
		default:
		}
	}
	p, err := process.New(s)
	if err != nil {
		t.Fatal(err)
	}
	r.Process = p
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	r.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() { _ = r.stop() })
	return r
}

// until waits for a state that ok accepts.
func (r *running) until(what string, ok func(process.State) bool) process.State {
	r.t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	again := time.NewTicker(5 * time.Millisecond) // a new last line is no change that anyone is told of
	defer again.Stop()
	for {
		if s := r.State(); ok(s) {
			return s
		}
		select {
		case <-r.changed:
		case <-again.C:
		case <-deadline.C:
			r.t.Fatalf("no state that is %s; the state is %+v", what, r.State())
		}
	}
}

func phase(want process.Phase) func(process.State) bool {
	return func(s process.State) bool { return s.Phase == want }
}

func sh(script string) []string { return []string{"/bin/sh", "-c", script} }

func TestProcessIsReadyWhenItsPortOpens(t *testing.T) {
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(held.Port(t, "127.0.0.1")))
	r := start(t, process.Spec{Name: "web", Words: sh("exec sleep 1000"), Ready: process.Ready{Address: address, Timeout: 30 * time.Millisecond}})
	r.until("late", phase(process.Unready))
	var lc net.ListenConfig
	again, err := lc.Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	s := r.until("serving", phase(process.Serving))
	if s.PID == 0 || s.Took <= 0 {
		t.Errorf("state %+v", s)
	}
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	if s := r.State(); s.Phase != process.Stopped || s.PID != 0 || s.Exit != "signal: terminated" {
		t.Errorf("after the stop: %+v", s)
	}
	if syscall.Kill(s.PID, 0) == nil {
		t.Errorf("process %d is still there", s.PID)
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	var lc net.ListenConfig
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func TestReadyPathMustAnswerWell(t *testing.T) {
	ln := listen(t)
	defer ln.Close()
	statuses := make(chan string, 3)
	statuses <- "503 Service Unavailable"
	statuses <- "404 Not Found"
	statuses <- "204 No Content"
	asked := make(chan string, 3)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			line, _ := bufio.NewReader(c).ReadString('\n')
			asked <- strings.TrimSpace(line)
			fmt.Fprintf(c, "HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n", <-statuses)
			_ = c.Close()
		}
	}()
	r := start(t, process.Spec{Name: "web", Words: sh("exec sleep 1000"), Ready: process.Ready{Address: ln.Addr().String(), Path: "/health?x=1"}})
	r.until("serving", phase(process.Serving))
	if len(asked) != 3 || <-asked != "GET /health?x=1 HTTP/1.1" {
		t.Errorf("%d probes, want 3 of GET /health?x=1", len(asked))
	}
}

func TestEndedProcessIsStartedAgainAndItsLastLineKept(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "logs", "app.log")
	var mu sync.Mutex
	var lines []string
	r := start(t, process.Spec{
		Name: "app", Dir: dir, Log: log, Words: sh(`echo "run $N"; echo no module named flask >&2; echo; exit 3`), Env: append(os.Environ(), "N=1"),
		Line: func(name, line string) {
			mu.Lock()
			lines = append(lines, name+"|"+line)
			mu.Unlock()
		},
	})
	s := r.until("restarted", func(s process.State) bool { return s.Restarts >= 1 && s.Phase == process.Failed })
	if s.Exit != "exit 3" || s.LastLine != "no module named flask" || s.PID != 0 {
		t.Errorf("state %+v", s)
	}
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(lines) < 6 || lines[0] != "app|run 1" || lines[1] != "app|no module named flask" || lines[2] != "app|" {
		t.Errorf("lines %q", lines)
	}
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(b), "\n")
	at, text, _ := strings.Cut(first, " ")
	if _, err := time.Parse(time.RFC3339, at); err != nil || text != "run 1" {
		t.Errorf("first line of the log is %q: %v", first, err)
	}
}

func TestTheNextLifeIsCountedWhenItBegins(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	before := 0
	p, err := process.New(process.Spec{Name: "job", Words: sh("exit 1"), Env: os.Environ(), Changed: func(s process.State) {
		if s.Restarts != before && s.Phase != process.Starting {
			t.Errorf("life %d is told of as %s first", s.Restarts, s.Phase)
		}
		if before = s.Restarts; before == 1 {
			stop()
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Run(ctx); err != nil {
		t.Error(err)
	}
	if before != 1 {
		t.Errorf("it began %d times again, want once", before)
	}
}

func TestRestartRules(t *testing.T) {
	for _, c := range []struct {
		name    string
		rule    process.Restart
		script  string
		phase   process.Phase
		wantErr bool
	}{
		{"never, after success", process.Never, "exit 0", process.Stopped, false},
		{"never, after failure", process.Never, "exit 1", process.Failed, true},
		{"on failure, after success", process.OnFailure, "exit 0", process.Stopped, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := process.New(process.Spec{Name: "job", Words: sh(c.script), Env: os.Environ(), Restart: c.rule})
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Run(t.Context()); (err != nil) != c.wantErr {
				t.Errorf("Run returned %v", err)
			}
			if s := p.State(); s.Phase != c.phase || s.Restarts != 0 {
				t.Errorf("state %+v, want %s", s, c.phase)
			}
		})
	}
	r := start(t, process.Spec{Name: "job", Words: sh("exit 1"), Restart: process.OnFailure})
	r.until("restarted", func(s process.State) bool { return s.Restarts == 1 })
}

func TestRestartOnDemandIsAtOnce(t *testing.T) {
	r := start(t, process.Spec{Name: "app", Words: sh("exec sleep 1000")})
	first := r.until("serving", phase(process.Serving)).PID
	r.Restart()
	second := r.until("serving again", func(s process.State) bool { return s.Phase == process.Serving && s.Restarts == 1 })
	if second.PID == first || syscall.Kill(first, 0) == nil {
		t.Errorf("process %d, after %d; the first is there: %v", second.PID, first, syscall.Kill(first, 0) == nil)
	}
}

func TestProgramThatIsNotThereSaysSo(t *testing.T) {
	for name, words := range map[string][]string{"name": {"no-such-program"}, "path": {"./no/such/program"}} {
		p, err := process.New(process.Spec{Name: "app", Words: words, Env: []string{"PATH=:relative:/usr/bin:/bin"}, Dir: t.TempDir(), Restart: process.Never})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Run(t.Context()); err == nil || !strings.Contains(p.State().Exit, words[0]) {
			t.Errorf("%s: Run returned %v, state says %q", name, err, p.State().Exit)
		}
	}
	if _, err := process.New(process.Spec{Name: "app"}); err == nil {
		t.Error("a process without words was made")
	}
}

func TestStopKillsTheGroupAndWhatLeftIt(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("finding processes by their mark needs /proc")
	}
	mark := "test-" + strconv.Itoa(os.Getpid()) + "-" + t.Name()
	r := start(t, process.Spec{
		Name: "app", Mark: mark, StopTime: 50 * time.Millisecond,
		Words: sh(`trap "" TERM; (trap "" TERM; sleep 1000) & setsid sleep 1001 & echo up; while :; do sleep 1000; done`),
	})
	r.until("up", func(s process.State) bool { return s.LastLine == "up" })
	if left := process.Marked(mark); len(left) < 3 {
		t.Fatalf("only %d processes carry the mark, the test proves nothing", len(left))
	}
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	if left := process.Marked(mark); len(left) != 0 {
		t.Errorf("processes %v are left", left)
	}
	if s := r.State(); s.Exit != "signal: killed" {
		t.Errorf("state %+v, want killed", s)
	}
}

func TestGroupOfACrashedLeaderIsKilledBeforeTheNextLife(t *testing.T) {
	r := start(t, process.Spec{Name: "app", Words: sh(`sleep 1000 & echo $!; exit 1`)})
	first := r.until("ended", func(s process.State) bool { return s.Phase == process.Failed && s.LastLine != "" })
	pid, err := strconv.Atoi(first.LastLine)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && strings.Contains(string(b), "1000") {
		t.Errorf("child %d outlived its leader", pid)
	}
}

func TestNothingSurvivesAKilledParent(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("finding processes by their mark needs /proc")
	}
	mark := "test-" + strconv.Itoa(os.Getpid()) + "-" + t.Name()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "parent", mark)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var reaper int
	if _, err := fmt.Fscanf(out, "reaper %d\n", &reaper); err != nil {
		t.Fatal(err)
	}
	wait := time.NewTicker(5 * time.Millisecond)
	defer wait.Stop()
	deadline := time.Now().Add(10 * time.Second)
	for len(process.Marked(mark)) < 4 { // sh and three times sleep
		if time.Now().After(deadline) {
			t.Fatalf("%d processes run, want 4", len(process.Marked(mark)))
		}
		<-wait.C
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	deadline = time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) && (len(process.Marked(mark)) > 0 || lives(reaper)) {
		<-wait.C
	}
	if left := process.Marked(mark); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
	if lives(reaper) {
		t.Errorf("the reaper %d is left", reaper)
	}
}

func TestAProcessThatChangesItsProgramIsFound(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("finding processes by their mark needs /proc")
	}
	mark := "test-" + strconv.Itoa(os.Getpid()) + "-" + t.Name()
	script := filepath.Join(t.TempDir(), "again.sh")
	if err := os.WriteFile(script, []byte("i=0; while [ $i -lt 200 ]; do i=$((i+1)); done; exec /bin/sh "+script+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, process.Spec{Name: "app", Mark: mark, Words: []string{"/bin/sh", script}})
	pid := p.until("serving", phase(process.Serving)).PID
	for look := range 100 {
		if got := process.Marked(mark); len(got) != 1 || got[0] != pid {
			t.Fatalf("look %d: processes %v carry the mark, want %d", look, got, pid)
		}
	}
}

// lives reports whether a process is there and not dead.
func lives(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(b), ") Z ")
}

func TestReaperThatIsClosedHasNothingToDo(t *testing.T) {
	reaper, err := process.StartReaper(t.Context(), "test-none", os.Args[0], "reap")
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, process.Spec{Name: "app", Words: sh("exec sleep 1000"), Reaper: reaper})
	r.until("serving", phase(process.Serving))
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	if err := reaper.Close(); err != nil {
		t.Error(err)
	}
	mad := exec.CommandContext(t.Context(), os.Args[0], "reap") // not here: a reaper ignores the signals of its process
	mad.Stdin = strings.NewReader("watch 1\n")
	if out, err := mad.CombinedOutput(); err == nil || !strings.Contains(string(out), "watch 1") {
		t.Errorf("a reaper that shall kill every process: %v, %s", err, out)
	}
}

func TestAllEndsTogether(t *testing.T) {
	bad, err := process.New(process.Spec{Name: "bad", Words: sh("exit 7"), Env: os.Environ(), Restart: process.Never})
	if err != nil {
		t.Fatal(err)
	}
	good, err := process.New(process.Spec{Name: "good", Words: sh("exec sleep 1000"), Env: os.Environ()})
	if err != nil {
		t.Fatal(err)
	}
	if err := process.All(t.Context(), good, bad); err == nil || !strings.Contains(err.Error(), "bad ended with exit 7") {
		t.Errorf("All returned %v", err)
	}
	if s := good.State(); s.Phase != process.Stopped {
		t.Errorf("the other is %s", s.Phase)
	}
}

func TestEnterFailureIsAnExit(t *testing.T) {
	p, err := process.New(process.Spec{Name: "app", Words: sh("exit 0"), Env: os.Environ(), Restart: process.Never, Enter: func(func() error) error {
		return errors.New("no such namespace")
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Run(t.Context()); err == nil || p.State().Exit != "start: enter namespace: no such namespace" {
		t.Errorf("Run returned %v, state %+v", err, p.State())
	}
}

func TestProcessRunsAsItsUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	u, err := process.Invoker(0, "", "", true)
	if err != nil || u == nil || u.UID != process.NobodyID {
		t.Fatalf("invoker of root in a namespace is %+v, %v", u, err)
	}
	var mu sync.Mutex
	var got string
	p, err := process.New(process.Spec{
		Name: "app", Words: sh(`echo $(id -u) $(id -g) $(id -G) $USER $HOME $SUDO_USER`), Env: append(os.Environ(), "SUDO_USER=me"), User: u, Restart: process.Never,
		Line: func(_, line string) {
			mu.Lock()
			defer mu.Unlock()
			got += line
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got != "65534 65534 65534 nobody /" {
		t.Errorf("the process is %q", got)
	}
}

func TestReaperRemovesTheFoldersOfItsParent(t *testing.T) {
	run := filepath.Join(t.TempDir(), "run")
	if err := os.MkdirAll(filepath.Join(run, "web"), 0o700); err != nil {
		t.Fatal(err)
	}
	reaper, err := process.StartReaper(t.Context(), "test-none", os.Args[0], "reap")
	if err != nil {
		t.Fatal(err)
	}
	reaper.Remove(run)
	if err := reaper.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(run); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder is left: %v", err)
	}
	for _, dir := range []string{"/", "/etc", "relative"} {
		mad := exec.CommandContext(t.Context(), os.Args[0], "reap")
		mad.Stdin = strings.NewReader("remove " + dir + "\n")
		if out, err := mad.CombinedOutput(); err == nil || !strings.Contains(string(out), "told to remove") {
			t.Errorf("remove %s: %v, %s", dir, err, out)
		}
	}
}
