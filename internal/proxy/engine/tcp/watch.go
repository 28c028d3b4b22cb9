package tcp

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
)

// watch counts a relay's bytes and ends it when it is idle or too old, by one
// timer.
type watch struct {
	// Fixed at creation.
	client, upstream conn.Stream
	o                Options
	begun            time.Time

	sent, received  atomic.Int64
	last            atomic.Int64 // when bytes moved, since begun
	ended           atomic.Int32 // directions that ended in order
	reporting       atomic.Bool  // the timer will look for bytes to tell
	wasIdle, wasOld atomic.Bool

	// Guarded by mu.
	mu           sync.Mutex
	timer        *time.Timer
	due          time.Duration // when the timer fires, since begun
	toldSent     int64
	toldReceived int64
	stopped      bool
}

func (w *watch) now() time.Duration { return time.Since(w.begun) }

// count adds what moved in a direction.
func (w *watch) count(moved *atomic.Int64, n int64) {
	if n == 0 {
		return
	}
	moved.Add(n)
	now := w.now()
	w.last.Store(int64(now))
	if w.o.Moved != nil && !w.reporting.Load() && w.reporting.CompareAndSwap(false, true) {
		w.mu.Lock()
		w.armLocked(now + ReportEvery)
		w.mu.Unlock()
	}
}

func (w *watch) start() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.o.Idle > 0 {
		w.armLocked(w.o.Idle)
	}
	if w.o.MaxDuration > 0 {
		w.armLocked(w.o.MaxDuration)
	}
}

// armLocked makes the timer fire at a time at the latest.
func (w *watch) armLocked(at time.Duration) {
	switch {
	case w.stopped || w.due != 0 && w.due <= at:
		return
	case w.timer == nil:
		w.timer = time.AfterFunc(at-w.now(), w.look)
	default:
		w.timer.Reset(at - w.now())
	}
	w.due = at
}

// look runs on the timer's goroutine.
func (w *watch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return
	}
	w.due = 0
	now := w.now()
	if w.reporting.Swap(false) { // set again with the next bytes
		w.tellLocked()
	}
	if most := w.o.MaxDuration; most > 0 {
		if now >= most {
			w.wasOld.Store(true)
			w.end()
			return
		}
		w.armLocked(most)
	}
	if w.o.Idle > 0 {
		at := time.Duration(w.last.Load()) + w.o.Idle
		if now >= at {
			w.wasIdle.Store(true)
			w.end()
			return
		}
		w.armLocked(at)
	}
}

// tellLocked tells what moved since the last time.
func (w *watch) tellLocked() {
	sent, received := w.sent.Load(), w.received.Load()
	s, r := sent-w.toldSent, received-w.toldReceived
	w.toldSent, w.toldReceived = sent, received
	if s+r > 0 {
		w.o.Moved(s, r)
	}
}

// end wakes both directions.
func (w *watch) end() {
	past := time.Unix(1, 0)
	_ = w.client.Socket().SetDeadline(past) // a closed socket is awake already
	_ = w.upstream.Socket().SetDeadline(past)
}

// stop ends the timer and tells the rest; it may be called twice.
func (w *watch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
	}
	if w.o.Moved != nil && !w.stopped {
		w.tellLocked()
	}
	w.stopped = true
}
