package downstream

import (
	"sync"
	"sync/atomic"
	"time"
)

// watchAfter is how long a response may take before somebody watches whether
// the client is still there. Most requests are faster and cost no watcher.
const watchAfter = 100 * time.Millisecond

// watchEvery is how often the connections are looked over while clients wait.
const watchEvery = 50 * time.Millisecond

// watchShare bounds the time spent on that to one part in so many.
const watchShare = 100

// Values of Conn.waitsSince that are no time.
const (
	watchBegins = -1 // its watcher is being started
	watchNever  = -2 // none may be: the side goroutine is being joined
)

// watches finds the connections whose clients have waited for long. One timer
// serves all of them, and only while anybody waits: a timer for each request
// would cost more than the rest of it.
type watches struct {
	armed atomic.Bool

	// Guarded by mu.
	mu    sync.Mutex
	timer *time.Timer
}

// WatchLeave lets the client be watched once it has waited for watchAfter from
// now, until endWatch. Who asks twice is watched from the first time.
func (d *Conn) WatchLeave(now int64) {
	if d.waitsSince.CompareAndSwap(0, now) {
		d.Shared.armWatches(watchEvery)
	}
}

// endWatch: the client does not wait any more. When it returns, no watcher is
// being started; one that runs is StopSide's to stop. then is 0 or watchNever.
func (d *Conn) endWatch(then int64) {
	if d.waitsSince.Load() == then || d.waitsSince.Swap(then) != watchBegins {
		return
	}
	w := &d.Shared.watches
	w.mu.Lock() // watchers are started under mu
	defer w.mu.Unlock()
}

func (s *Shared) armWatches(after time.Duration) {
	w := &s.watches
	if w.armed.Load() || !w.armed.CompareAndSwap(false, true) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer == nil {
		w.timer = time.AfterFunc(after, s.lookOver)
		return
	}
	w.timer.Reset(after)
}

// lookOver starts the watchers of clients that have waited for long.
func (s *Shared) lookOver() {
	w := &s.watches
	// Who begins to wait from here on arms the timer, or is seen below.
	w.armed.Store(false)
	began := s.Clock.Now()
	if s.startWatchers(began) {
		took := time.Duration(s.Clock.Now() - began)
		s.armWatches(max(watchEvery, watchShare*took))
	}
}

// startWatchers reports whether anybody waits who is not watched yet.
func (s *Shared) startWatchers(now int64) (waiting bool) {
	w := &s.watches
	w.mu.Lock()
	defer w.mu.Unlock()
	s.Conns.Each(func(d *Conn) {
		since := d.waitsSince.Load()
		switch {
		case since <= 0:
		case now-since < int64(watchAfter):
			waiting = true
		case d.waitsSince.CompareAndSwap(since, watchBegins):
			d.StartSide(d.Watch)
			d.waitsSince.CompareAndSwap(watchBegins, 0)
		default:
			waiting = true // another wait began
		}
	})
	return waiting
}
