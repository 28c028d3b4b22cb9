// Package process runs the processes of a project: applications and proxies.
//
// In comes a Spec: words, environment, user, where the log goes, how readiness shows; out goes a process that is restarted with growing
// pauses, whose State says what a person wants to know, and of which nothing is left when Run returns. A Process owns its process group;
// Run's goroutine owns all changes of the state. Three nets catch what a process leaves behind: the group is killed when its leader has
// ended; descendants that left the group are found by a mark in their environment (Spec.Mark); and if this program itself is
// killed, the kernel kills the leaders (PDEATHSIG, Linux) and the reaper, a small process of its own, the rest (see reap.go).
// Read this file first, then life.go.
package process

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// Tunables of supervision.
const (
	// pauseMin and pauseMax bound the pause before a restart; it doubles with each one, and starts anew after a life of pauseReset.
	pauseMin   = 250 * time.Millisecond
	pauseMax   = 30 * time.Second
	pauseReset = 20 * time.Second
	// stopTimeDefault is how long a group may take to end after SIGTERM.
	stopTimeDefault = 10 * time.Second
	// goneTimeMax bounds the wait for a group after SIGKILL, and for processes that change their programs; only one stuck in the kernel takes longer.
	goneTimeMax = 5 * time.Second
	// environReadsMax is how often the environment of a process is read that shows less than it has.
	environReadsMax = 10
	// outputTimeMax is how long output of a dead group is still read.
	outputTimeMax = time.Second
)

// MarkVariable is the environment variable that carries Spec.Mark.
const MarkVariable = "TULLE_TREE"

// Spec says what to run. It is not changed after New.
type Spec struct {
	// Name names the process on screens and in its log.
	Name string
	// Words are the program and its arguments; a program without a slash is looked up in the PATH of Env. Env is the whole environment.
	Words, Env []string
	// Dir is the working directory; empty: ours.
	Dir string
	// Log is the path of the log file; empty: none. It is kept to LogBytesMax, with one older file beside it (.1).
	Log string
	// Line, when set, gets every line of output. It must not block for long: the process waits meanwhile.
	Line func(name, line string)
	// User is whom to run as; nil: as ourselves.
	User *User
	// Enter, when set, runs its argument on a thread inside another namespace and returns when that has returned.
	Enter func(life func() error) error
	// Files are handed to the process as descriptors 3 and up.
	Files []*os.File
	// Ready says how to see that it serves.
	Ready Ready
	// Restart says when a process that has ended is started again.
	Restart Restart
	// StopTime is how long it may take to end after SIGTERM; 0 means 10 s.
	StopTime time.Duration
	// Mark is put into the environment as MarkVariable; descendants that carry it are killed at the end. Empty: no mark.
	Mark string
	// Reaper, when set, is told of every process group.
	Reaper *Reaper
	// Changed, when set, is called after every change of the state, from Run's goroutine.
	Changed func(State)
}

// Ready says how to see that a process serves.
type Ready struct {
	// Address is the TCP address to connect to; empty: the process is ready when it has started.
	Address string
	// Path is requested by HTTP and must answer below 400; empty: the connection is enough.
	Path string
	// Dial connects from where Address is meant; nil: from here.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Timeout is when a process that is not ready is called Unready; 0 means 30 s. It goes on and may become ready later.
	Timeout time.Duration
}

// Restart says when a process that has ended is started again.
type Restart uint8

// Always is for what serves; OnFailure lets an exit code of 0 be the end; Never lets any exit be it.
const (
	Always Restart = iota
	OnFailure
	Never
)

// Phase is where a process is in its life.
type Phase string

// The phases. Failed: it has ended, and a pause or nothing follows. Unready: it runs, but does not serve in time.
const (
	Waiting  Phase = "waiting"
	Starting Phase = "starting"
	Serving  Phase = "ready"
	Unready  Phase = "unready"
	Failed   Phase = "failed"
	Stopping Phase = "stopping"
	Stopped  Phase = "stopped"
)

// State is what a screen shows of a process.
type State struct {
	Name  string
	Phase Phase
	// PID is 0 when nothing runs.
	PID int
	// Since is when the phase began; Took how long the newest life took to become ready.
	Since time.Time
	Took  time.Duration
	// Restarts counts lives after the first.
	Restarts int
	// Exit says how the newest life that is over ended ("exit 1", "signal: killed"), or why none could begin.
	Exit string
	// LastLine is the newest line of output that is not blank.
	LastLine string
}

// Process is one supervised process. Make it with New; Run it once.
type Process struct {
	spec    Spec
	log     *logFile
	restart chan struct{}

	// Guarded by mu; changed by Run's goroutine, and LastLine by the readers of output.
	mu    sync.Mutex
	state State
}

// New returns a process that has not started.
func New(s Spec) (*Process, error) {
	if len(s.Words) == 0 {
		return nil, errors.New("process has no words to run")
	}
	if s.StopTime == 0 {
		s.StopTime = stopTimeDefault
	}
	if s.Ready.Timeout == 0 {
		s.Ready.Timeout = 30 * time.Second
	}
	p := &Process{spec: s, restart: make(chan struct{}, 1), state: State{Name: s.Name, Phase: Waiting, Since: time.Now()}}
	if s.Log != "" {
		l, err := openLog(s.Log, LogBytesMax)
		if err != nil {
			return nil, err
		}
		p.log = l
	}
	return p, nil
}

// State returns what is known now.
func (p *Process) State() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// Restart ends the current life, or the pause before the next one, and begins a new life at once.
func (p *Process) Restart() {
	select {
	case p.restart <- struct{}{}:
	default: // one is asked for already
	}
}

// set changes the state and tells who listens.
func (p *Process) set(change func(*State)) {
	p.mu.Lock()
	before := p.state.Phase
	change(&p.state)
	if p.state.Phase != before {
		p.state.Since = time.Now()
	}
	now := p.state
	p.mu.Unlock()
	if p.spec.Changed != nil {
		p.spec.Changed(now)
	}
}

// Run lives life after life until ctx ends or the restart rule says that it was the last. It returns when nothing of the process is
// left; the error says what could not be removed, or how a process ended that shall not be restarted.
func (p *Process) Run(ctx context.Context) error {
	pause := pauseMin
	var cleanup error
	for life := 0; ; life++ {
		began := time.Now()
		p.set(func(s *State) { s.Phase, s.Took, s.Restarts = Starting, 0, life }) // at once: a life that begins has not failed yet
		end := p.live(ctx)
		cleanup = end.cleanup
		if time.Since(began) >= pauseReset {
			pause = pauseMin
		}
		if ctx.Err() != nil || cleanup != nil || p.spec.Restart == Never || p.spec.Restart == OnFailure && end.err == nil {
			var err error
			if ctx.Err() == nil {
				err = end.err
			}
			p.set(func(s *State) {
				s.PID, s.Phase = 0, Stopped
				if err != nil {
					s.Phase = Failed
				}
			})
			return errors.Join(err, cleanup, p.log.close())
		}
		p.set(func(s *State) { s.PID, s.Phase = 0, Failed })
		if !end.asked {
			timer := time.NewTimer(pause)
			select {
			case <-ctx.Done():
			case <-p.restart:
			case <-timer.C:
			}
			timer.Stop()
			pause = min(pause*2, pauseMax)
		}
		if ctx.Err() != nil {
			p.set(func(s *State) { s.Phase = Stopped })
			return p.log.close()
		}
	}
}

// All runs processes and returns when all have ended. The first that returns an error ends the others.
func All(ctx context.Context, processes ...*Process) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, len(processes))
	for _, p := range processes {
		go func() { done <- p.Run(ctx) }()
	}
	var errs error
	for range processes {
		if err := <-done; err != nil {
			errs = errors.Join(errs, err)
			cancel()
		}
	}
	return errs
}
