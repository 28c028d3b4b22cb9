package conn

import (
	"container/heap"
	"sync"
	"sync/atomic"
	"time"
)

// alarms wake guards: all guards of a clock share a few timers of the runtime,
// each for the earliest of its queue. A timer of its own would cost each idle
// connection 150 bytes, a place in a queue costs 8.
type alarms struct {
	next   atomic.Uint32 // spreads the guards
	shards [alarmShards]alarmShard
}

// alarmShards spreads guards over locks; a power of two.
const alarmShards = 8

func (a *alarms) shard() *alarmShard { return &a.shards[a.next.Add(1)%alarmShards] }

// alarmShard is a queue of guards and its timer.
type alarmShard struct {
	clock Clock

	// Guarded by mu.
	mu    sync.Mutex
	queue guardQueue
	timer *time.Timer
	wakes int64 // when the timer fires; 0: it is not armed

	_ [8]byte // keeps the locks of two shards apart
}

// put has g fire at a time of the clock, whatever it was in the queue for.
func (s *alarmShard) put(g *Guard, at int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g.due = at
	if g.place == 0 {
		heap.Push(&s.queue, g)
	} else {
		heap.Fix(&s.queue, g.place-1)
	}
	s.armLocked()
}

// drop takes g out of the queue. The timer stays as it is, unless nobody waits.
func (s *alarmShard) drop(g *Guard) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g.place != 0 {
		heap.Remove(&s.queue, g.place-1)
	}
	if len(s.queue) == 0 && s.wakes != 0 {
		s.timer.Stop()
		s.wakes = 0
	}
}

// armLocked makes the timer fire for the earliest guard at the latest.
func (s *alarmShard) armLocked() {
	if len(s.queue) == 0 {
		return
	}
	at := s.queue[0].due
	if s.wakes != 0 && s.wakes <= at {
		return
	}
	s.wakes = at
	d := time.Duration(at - s.clock.Now())
	if s.timer == nil {
		s.timer = time.AfterFunc(d, s.ring)
		return
	}
	s.timer.Reset(d)
}

// ring fires the guards that are due, without the lock. Those that come back
// are due later, or wait for the next ring.
func (s *alarmShard) ring() {
	now := s.clock.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wakes = 0
	for len(s.queue) > 0 && s.queue[0].due <= now {
		g := heap.Pop(&s.queue).(*Guard)
		s.mu.Unlock()
		g.fire()
		s.mu.Lock()
	}
	s.armLocked()
}

// guardQueue is a heap (container/heap) by when guards are due. A guard knows
// its place, counted from one.
type guardQueue []*Guard

func (q guardQueue) Len() int           { return len(q) }
func (q guardQueue) Less(i, j int) bool { return q[i].due < q[j].due }

func (q guardQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i+1, j+1
}

// Push implements heap.Interface.
func (q *guardQueue) Push(g any) {
	*q = append(*q, g.(*Guard))
	(*q)[len(*q)-1].place = len(*q)
}

// Pop implements heap.Interface. It gives memory back that a burst of
// connections left.
func (q *guardQueue) Pop() any {
	old := *q
	n := len(old) - 1
	g := old[n]
	g.place = 0
	old[n] = nil
	*q = old[:n]
	if cap(old) > queueKept && n < cap(old)/4 {
		*q = append(make(guardQueue, 0, cap(old)/2), old[:n]...)
	}
	return g
}

// queueKept is how many places a queue keeps when they are not used.
const queueKept = 1024
