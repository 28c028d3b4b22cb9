package worker

import (
	"runtime"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type taskFunc func()

func (f taskFunc) Do() { f() }

func TestWorkersAreReusedAndEnd(t *testing.T) {
	var p Pool
	done := 0
	for range 3 {
		p.Do(taskFunc(func() { done++ }), 1)
	}
	s := &p.shards[1]
	if done != 3 || len(s.idle) != 1 || s.idle[0].work != nil {
		t.Errorf("%d done, %d workers", done, len(s.idle))
	}
	p.Close()
	p.Do(taskFunc(func() { done++ }), 1) // a late connection is served, and its worker ends
	if done != 4 || len(s.idle) != 0 {
		t.Errorf("%d done, %d workers after the close", done, len(s.idle))
	}
}

func TestAWorkerWaitsWithItsWork(t *testing.T) {
	var p Pool
	defer p.Close()
	const all = idleMax + 8
	release := make(chan struct{})
	var begun, ended sync.WaitGroup
	begun.Add(all)
	for range all {
		ended.Go(func() {
			p.Do(taskFunc(func() { begun.Done(); <-release }), 0)
		})
	}
	begun.Wait() // all at once: none waits for another
	close(release)
	ended.Wait()
	if n := len(p.shards[0].idle); n != idleMax {
		t.Errorf("%d workers are kept, want %d", n, idleMax)
	}
}

// A panic of the work is the connection's, as it would be without a worker.
func TestWorkThatPanicsPanicsItsConnection(t *testing.T) {
	var p Pool
	defer p.Close()
	defer func() {
		if got := recover(); got != "work" {
			t.Errorf("recovered %v", got)
		}
		p.Do(taskFunc(runtime.Gosched), 0)
	}()
	p.Do(taskFunc(func() { panic("work") }), 0)
}
