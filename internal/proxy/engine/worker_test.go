package engine

import (
	"runtime"
	"sync"
	"testing"
)

type taskFunc func()

func (f taskFunc) do() { f() }

func TestWorkersAreReusedAndEnd(t *testing.T) {
	var p workers
	done := 0
	for range 3 {
		p.do(taskFunc(func() { done++ }), 1)
	}
	s := &p.shards[1]
	if done != 3 || len(s.idle) != 1 || s.idle[0].work != nil {
		t.Errorf("%d done, %d workers", done, len(s.idle))
	}
	p.close()
	p.do(taskFunc(func() { done++ }), 1) // a late connection is served, and its worker ends
	if done != 4 || len(s.idle) != 0 {
		t.Errorf("%d done, %d workers after the close", done, len(s.idle))
	}
}

func TestAWorkerWaitsWithItsWork(t *testing.T) {
	var p workers
	defer p.close()
	const all = workersIdleMax + 8
	release := make(chan struct{})
	var begun, ended sync.WaitGroup
	begun.Add(all)
	for range all {
		ended.Go(func() {
			p.do(taskFunc(func() { begun.Done(); <-release }), 0)
		})
	}
	begun.Wait() // all at once: none waits for another
	close(release)
	ended.Wait()
	if n := len(p.shards[0].idle); n != workersIdleMax {
		t.Errorf("%d workers are kept, want %d", n, workersIdleMax)
	}
}

// A panic of the work is the connection's, as it would be without a worker.
func TestWorkThatPanicsPanicsItsConnection(t *testing.T) {
	var p workers
	defer p.close()
	defer func() {
		if got := recover(); got != "work" {
			t.Errorf("recovered %v", got)
		}
		p.do(taskFunc(runtime.Gosched), 0)
	}()
	p.do(taskFunc(func() { panic("work") }), 0)
}
