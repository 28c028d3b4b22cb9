package conn

import (
	"sync"
	"sync/atomic"
	"time"
)

// Clock gives a monotonic time in nanoseconds since it was made; reading it is
// cheaper than time.Now. The engine has one.
type Clock struct{ base time.Time }

// NewClock starts a clock at one, so that zero can mean "never".
func NewClock() Clock { return Clock{time.Now().Add(-1)} }

// Past is a deadline that has passed: who sets it wakes those who wait.
func Past() time.Time { return time.Unix(1, 0) }

// Now returns the nanoseconds since the clock was made.
func (c Clock) Now() int64 { return int64(time.Since(c.base)) }

// Time converts a clock value to wall-clock time.
func (c Clock) Time(now int64) time.Time { return c.base.Add(time.Duration(now)) }

// Slots is the number of deadlines that one Guard watches.
const Slots = 9

// Guard watches several deadlines with one lazily armed timer: setting and
// clearing a deadline is an atomic store, and the timer is touched only when
// no earlier one is armed. A connection that sets a 15 s deadline for each of
// its requests touches its timer once in 15 s.
//
// One owner sets and clears; onExpire runs on the timer's goroutine.
type Guard struct {
	clock    Clock
	onExpire func(slot int)
	slots    [Slots]atomic.Int64
	armed    atomic.Int64 // when the timer fires; 0: it is not armed

	// Guarded by mu.
	mu      sync.Mutex
	timer   *time.Timer
	stopped bool
}

// NewGuard returns a guard that calls onExpire with each slot that expires.
// onExpire must not block and must not call the guard.
func NewGuard(clock Clock, onExpire func(slot int)) *Guard {
	return &Guard{clock: clock, onExpire: onExpire}
}

// Set makes a slot expire at a time of the clock; it replaces what was set.
func (g *Guard) Set(slot int, at int64) {
	g.slots[slot].Store(at)
	if armed := g.armed.Load(); armed != 0 && armed <= at {
		return // the timer will look at all slots when it fires
	}
	g.mu.Lock()
	g.armLocked(at)
	g.mu.Unlock()
}

// armLocked makes the timer fire at a time at the latest.
func (g *Guard) armLocked(at int64) {
	if armed := g.armed.Load(); g.stopped || armed != 0 && armed <= at {
		return
	}
	g.armed.Store(at)
	d := time.Duration(at - g.clock.Now())
	if g.timer == nil {
		g.timer = time.AfterFunc(d, g.fire)
		return
	}
	g.timer.Reset(d)
}

// Clear unsets a slot and reports whether it had expired. When it has, its
// onExpire has returned.
func (g *Guard) Clear(slot int) (expired bool) {
	s := &g.slots[slot]
	if s.Load() == 0 || s.Swap(0) != expiredMark {
		return false // the first look is cheaper, and most slots are not set
	}
	g.mu.Lock() // onExpire runs under mu: it has returned when we have it
	defer g.mu.Unlock()
	return true
}

// Expired reports whether a slot has expired and then clears it; one that has
// not expired stays set.
func (g *Guard) Expired(slot int) bool {
	return g.slots[slot].Load() == expiredMark && g.Clear(slot)
}

// expiredMark is the value of a slot that expired and was not yet cleared.
const expiredMark = -1

func (g *Guard) fire() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped {
		return
	}
	// A Set from here on finds the timer not armed and waits for mu, or its
	// slot is seen by the loop below.
	g.armed.Store(0)
	now := g.clock.Now()
	next := int64(0)
	for i := range g.slots {
		at := g.slots[i].Load()
		if at <= 0 {
			continue
		}
		if at <= now {
			if g.slots[i].CompareAndSwap(at, expiredMark) {
				g.onExpire(i)
			} else if again := g.slots[i].Load(); again > 0 && (next == 0 || again < next) {
				next = again
			}
			continue
		}
		if next == 0 || at < next {
			next = at
		}
	}
	if next != 0 {
		g.armLocked(next)
	}
}

// Stop ends the guard; when it returns, onExpire does not run any more.
func (g *Guard) Stop() {
	g.mu.Lock()
	g.stopped = true
	if g.timer != nil {
		g.timer.Stop()
	}
	g.mu.Unlock()
}
