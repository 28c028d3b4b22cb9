package conn

import (
	"sync"
	"sync/atomic"
	"time"
)

// Clock gives a monotonic time in nanoseconds since it was made; reading it is
// cheaper than time.Now. The engine has one. Guards are made on a clock, which
// wakes them.
type Clock struct{ *clockwork }

type clockwork struct {
	base   time.Time
	alarms alarms
}

// NewClock starts a clock at two, so that zero can mean "never", and guards have
// a time before all others.
func NewClock() Clock {
	c := Clock{&clockwork{base: time.Now().Add(-earliest)}}
	for i := range c.alarms.shards {
		c.alarms.shards[i].clock = c
	}
	return c
}

// Past is a deadline that has passed: who sets it wakes those who wait.
func Past() time.Time { return time.Unix(1, 0) }

// Now returns the nanoseconds since the clock was made.
func (c Clock) Now() int64 { return int64(time.Since(c.base)) }

// Time converts a clock value to wall-clock time.
func (c Clock) Time(now int64) time.Time { return c.base.Add(time.Duration(now)) }

// Slots is the number of deadlines that one Guard watches.
const Slots = 9

// Guard watches several deadlines with one alarm: setting and clearing a
// deadline is an atomic store, and the alarm is touched only when none is set
// that comes earlier. A connection that sets a 15 s deadline for each of its
// requests touches its alarm once in 15 s.
//
// One owner sets and clears; onExpire runs on a goroutine of the clock's.
type Guard struct {
	shard    *alarmShard
	onExpire func(slot int)
	slots    [Slots]atomic.Int64
	armed    atomic.Int64 // when the alarm fires; 0: it is not armed

	mu sync.Mutex // held while the guard fires, and to arm it

	// Guarded by shard.mu.
	due   int64 // where place is not 0
	place int
}

// looking is a value of armed before all deadlines: the guard looks at all
// slots, or has been stopped. Setting a slot is then but a store.
const looking = 1

const earliest = looking + 1

// NewGuard returns a guard that calls onExpire with each slot that expires.
// onExpire must not block, as other guards wait for it; it may set slots of the
// guard, but not clear them.
func NewGuard(clock Clock, onExpire func(slot int)) *Guard {
	return &Guard{shard: clock.alarms.shard(), onExpire: onExpire}
}

// Set makes a slot expire at a time of the clock; it replaces what was set.
func (g *Guard) Set(slot int, at int64) {
	at = max(at, earliest) // which has passed
	g.slots[slot].Store(at)
	if armed := g.armed.Load(); armed != 0 && armed <= at {
		return // all slots will be looked at when the alarm fires
	}
	g.mu.Lock()
	g.armLocked(at)
	g.mu.Unlock()
}

// armLocked makes the alarm fire at a time at the latest.
func (g *Guard) armLocked(at int64) {
	if armed := g.armed.Load(); armed != 0 && armed <= at {
		return
	}
	g.armed.Store(at)
	g.shard.put(g, at)
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

// fire runs on a goroutine of the clock's.
func (g *Guard) fire() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.armed.Load() == looking {
		return // stopped
	}
	g.armed.Store(looking)
	now := g.shard.clock.Now()
	for i := range g.slots {
		if at := g.slots[i].Load(); at > 0 && at <= now && g.slots[i].CompareAndSwap(at, expiredMark) {
			g.onExpire(i)
		}
	}
	// A Set from here on finds the alarm not armed and waits for mu; what was set
	// before is seen below.
	g.armed.Store(0)
	next := int64(0)
	for i := range g.slots {
		if at := g.slots[i].Load(); at > 0 && (next == 0 || at < next) {
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
	g.armed.Store(looking)
	g.mu.Unlock()
	g.shard.drop(g)
}
