package process

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// lineBytesMax bounds one line of output; longer ones are cut into several.
const lineBytesMax = 16 << 10

// ending says how one life was over.
type ending struct {
	// err is nil after exit code 0.
	err error
	// asked: Restart was called.
	asked bool
	// cleanup is what could not be removed.
	cleanup error
}

// live lives one life: start, become ready, end, and nothing left.
func (p *Process) live(ctx context.Context) ending {
	cmd, output, err := p.prepare()
	if err != nil {
		p.set(func(s *State) { s.Exit = err.Error() })
		return ending{err: err}
	}
	started, exited := make(chan error, 1), make(chan error, 1)
	go p.thread(cmd, started, exited)
	err = <-started
	output.started()
	if err != nil {
		err = fmt.Errorf("start: %w", err)
		p.set(func(s *State) { s.Exit = err.Error() })
		return ending{err: err, cleanup: output.finish(0)}
	}
	group := cmd.Process.Pid
	p.spec.Reaper.watch(group)
	p.set(func(s *State) { s.PID = group })
	end := p.follow(ctx, group, exited)
	end.cleanup = errors.Join(killGroup(group), p.killMarked(), output.finish(outputTimeMax))
	p.spec.Reaper.forget(group)
	return end
}

// thread starts the command and waits for it on a thread of its own: the kernel's parent death signal is for the death of the thread
// that forked, and a namespace is a thread's.
func (p *Process) thread(cmd *exec.Cmd, started, exited chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	begun := false
	life := func() error {
		begun = true
		err := cmd.Start()
		started <- err
		if err == nil {
			exited <- cmd.Wait()
		}
		return nil
	}
	enter := p.spec.Enter
	if enter == nil {
		enter = func(life func() error) error { return life() }
	}
	if err := enter(life); !begun {
		started <- fmt.Errorf("enter namespace: %w", err)
	}
}

// follow waits for readiness and for the end of the process, and ends it when ctx ends or a restart is asked for.
func (p *Process) follow(ctx context.Context, group int, exited <-chan error) ending {
	began := time.Now()
	probing, stopProbing := context.WithCancel(ctx)
	defer stopProbing()
	ready := make(chan struct{})
	var probe sync.WaitGroup
	defer probe.Wait()
	defer stopProbing()
	probe.Go(func() {
		if p.spec.Ready.wait(probing) == nil {
			close(ready)
		}
	})
	late := time.NewTimer(p.spec.Ready.Timeout)
	defer late.Stop()
	for {
		select {
		case <-ready:
			ready = nil
			late.Stop()
			p.set(func(s *State) { s.Phase, s.Took = Serving, time.Since(began) })
		case <-late.C:
			p.set(func(s *State) { s.Phase = Unready })
		case err := <-exited:
			return p.ended(err)
		case <-p.restart:
			p.end(group, exited)
			return ending{asked: true}
		case <-ctx.Done():
			return ending{err: p.end(group, exited)}
		}
	}
}

// end asks the group to end and kills it when it does not.
func (p *Process) end(group int, exited <-chan error) error {
	p.set(func(s *State) { s.Phase = Stopping })
	signalGroup(group, syscall.SIGTERM)
	timer := time.NewTimer(p.spec.StopTime)
	defer timer.Stop()
	select {
	case err := <-exited:
		return p.ended(err).err
	case <-timer.C:
	}
	signalGroup(group, syscall.SIGKILL)
	return p.ended(<-exited).err
}

// ended keeps how the life ended.
func (p *Process) ended(err error) ending {
	how := "exit 0"
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		how = exit.ProcessState.String()
		if code := exit.ExitCode(); code >= 0 {
			how = "exit " + strconv.Itoa(code)
		}
		err = fmt.Errorf("%s ended with %s", p.spec.Name, how)
	} else if err != nil {
		how = err.Error()
	}
	p.set(func(s *State) { s.Exit = how })
	return ending{err: err}
}

// prepare builds the command and the pipe of its output.
func (p *Process) prepare() (*exec.Cmd, *output, error) {
	env := p.spec.Env
	path, err := lookPath(p.spec.Words[0], p.spec.Dir, env)
	if err != nil {
		return nil, nil, err
	}
	cmd := &exec.Cmd{Path: path, Args: p.spec.Words, Dir: p.spec.Dir, ExtraFiles: p.spec.Files, SysProcAttr: attributes(p.spec.User)}
	if p.spec.Mark != "" {
		env = append(slices.Clip(env), MarkVariable+"="+p.spec.Mark)
	}
	cmd.Env = p.spec.User.environ(env)
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	cmd.Stdout, cmd.Stderr = w, w
	o := &output{r: r, w: w, done: make(chan struct{})}
	go o.read(p.line)
	return cmd, o, nil
}

// lookPath finds a program as the process itself would: in its PATH, or from its directory.
func lookPath(program, dir string, env []string) (string, error) {
	if strings.ContainsRune(program, '/') {
		return program, nil // the kernel resolves it in the process's directory
	}
	search := ""
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			search = v
		}
	}
	for _, d := range strings.Split(search, string(os.PathListSeparator)) {
		if !strings.HasPrefix(d, "/") {
			continue // a relative entry means another folder in every directory
		}
		full := d + "/" + program
		if info, err := os.Stat(full); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			return full, nil
		}
	}
	return "", fmt.Errorf("no program %q in PATH; is it installed? PATH is %q, folder %q", program, search, dir)
}

// line takes one line of output.
func (p *Process) line(line string) {
	p.log.line(line)
	if strings.TrimSpace(line) != "" {
		p.mu.Lock()
		p.state.LastLine = line
		p.mu.Unlock()
	}
	if p.spec.Line != nil {
		p.spec.Line(p.spec.Name, line)
	}
}

// output is the pipe that a process writes to.
type output struct {
	r, w *os.File
	done chan struct{}
}

// read passes lines on until every writer has closed the pipe or finish closes it.
func (o *output) read(line func(string)) {
	defer close(o.done)
	b := bufio.NewReaderSize(o.r, lineBytesMax)
	for {
		text, err := b.ReadSlice('\n')
		if len(text) > 0 {
			line(strings.TrimRight(string(text), "\r\n"))
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return // EOF, or closed by finish: a pipe has no other end
		}
	}
}

// started closes our end for writing: from now on only the process has it.
func (o *output) started() { _ = o.w.Close() }

// finish reads what is left, at most for d, and ends the reader.
func (o *output) finish(d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-o.done:
	case <-timer.C:
	}
	err := o.r.Close()
	<-o.done
	if errors.Is(err, io.ErrClosedPipe) {
		return nil
	}
	return err
}
