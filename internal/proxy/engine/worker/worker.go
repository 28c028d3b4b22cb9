// Package worker lends stacks to connections: a Task comes in with the goroutine
// that wants it done, and is done on a stack that others use after it. A Pool is
// shared by all connections and owns the stacks that are idle.
package worker

import (
	"iter"
	"sync"
)

// idleMax is how many workers wait for work in each shard of the pool.
const idleMax = 64

// shardsCount spreads connections over the pool's locks; a power of two.
const shardsCount = 8

// Task is what a connection has done on a worker's stack.
type Task interface{ Do() }

// worker is a stack for the work of connections: a coroutine, to which the
// connection's goroutine switches directly (some 100 ns there and back). A
// goroutine keeps the stack that its deepest call needed, and opening a
// connection or serving a request needs more than the 2 KiB that waiting for
// one does: so an idle connection costs half.
//
// The work may block; then the connection waits with it.
type worker struct {
	work   Task
	resume func() (struct{}, bool)
	end    func()
}

func (w *worker) run(yield func(struct{}) bool) {
	for {
		w.work.Do()
		w.work = nil
		if !yield(struct{}{}) {
			return
		}
	}
}

// Pool is the workers that wait for work, the last used last.
type Pool struct{ shards [shardsCount]shard }

type shard struct {
	mu     sync.Mutex
	idle   []*worker
	closed bool
	_      [24]byte // keeps the locks of two shards apart
}

// Do has work done and returns when it is. near spreads the callers.
func (p *Pool) Do(work Task, near uint64) {
	s := &p.shards[near%shardsCount]
	w := s.get()
	w.work = work
	w.resume()
	s.put(w)
}

func (s *shard) get() *worker {
	s.mu.Lock()
	n := len(s.idle)
	if n == 0 {
		s.mu.Unlock()
		w := &worker{}
		w.resume, w.end = iter.Pull(w.run)
		return w
	}
	w := s.idle[n-1]
	s.idle[n-1] = nil
	s.idle = s.idle[:n-1]
	s.mu.Unlock()
	return w
}

func (s *shard) put(w *worker) {
	s.mu.Lock()
	keep := !s.closed && len(s.idle) < idleMax
	if keep {
		s.idle = append(s.idle, w)
	}
	s.mu.Unlock()
	if !keep {
		w.end()
	}
}

// Close ends the workers that are idle; those at work end after it.
func (p *Pool) Close() {
	for i := range p.shards {
		s := &p.shards[i]
		s.mu.Lock()
		s.closed = true
		idle := s.idle
		s.idle = nil
		s.mu.Unlock()
		for _, w := range idle {
			w.end()
		}
	}
}
