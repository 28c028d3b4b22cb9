package engine

import (
	"iter"
	"sync"
)

// workersIdleMax is how many workers wait for work in each shard of the pool.
const workersIdleMax = 64

// workerShards spreads connections over the pool's locks; a power of two.
const workerShards = 8

// task is what a connection has done on a worker's stack.
type task interface{ do() }

// worker is a stack for the work of connections: a coroutine, to which the
// connection's goroutine switches directly (some 100 ns there and back). A
// goroutine keeps the stack that its deepest call needed, and opening a
// connection or serving a request needs more than the 2 KiB that waiting for
// one does: so an idle connection costs half.
//
// The work may block; then the connection waits with it.
type worker struct {
	work   task
	resume func() (struct{}, bool)
	end    func()
}

func (w *worker) run(yield func(struct{}) bool) {
	for {
		w.work.do()
		w.work = nil
		if !yield(struct{}{}) {
			return
		}
	}
}

// workers are those that wait for work, the last used last.
type workers struct{ shards [workerShards]workerShard }

type workerShard struct {
	mu     sync.Mutex
	idle   []*worker
	closed bool
	_      [24]byte // keeps the locks of two shards apart
}

// do has work done and returns when it is. near spreads the callers.
func (p *workers) do(work task, near uint64) {
	s := &p.shards[near%workerShards]
	w := s.get()
	w.work = work
	w.resume()
	s.put(w)
}

func (s *workerShard) get() *worker {
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

func (s *workerShard) put(w *worker) {
	s.mu.Lock()
	keep := !s.closed && len(s.idle) < workersIdleMax
	if keep {
		s.idle = append(s.idle, w)
	}
	s.mu.Unlock()
	if !keep {
		w.end()
	}
}

// close ends the workers that are idle; those at work end after it.
func (p *workers) close() {
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
