package conn

import (
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// guardModel is what a guard promises, slot by slot.
type guardModel struct {
	guard   *Guard
	stopped bool
	want    [Slots]int64        // when each expires; 0: it is not set
	got     [Slots]atomic.Int64 // when each did
}

func newGuardModel(clock Clock) *guardModel {
	m := &guardModel{}
	m.guard = NewGuard(clock, func(slot int) { m.got[slot].Store(clock.Now()) })
	return m
}

func (m *guardModel) set(slot int, at, now int64) {
	m.guard.Set(slot, at)
	if !m.stopped {
		m.want[slot] = max(at, now)
	}
}

// check compares when all that is due has fired.
func (m *guardModel) check(t *testing.T, now int64) {
	for slot := range m.want {
		want := m.want[slot]
		if want > now {
			want = 0
		}
		if got := m.got[slot].Load(); got != want {
			t.Errorf("slot %d expired at %d, want %d; it is %d", slot, got, want, now)
		}
	}
}

func (m *guardModel) clear(t *testing.T, slot int, now int64) {
	due := m.want[slot] != 0 && m.want[slot] <= now
	if expired := m.guard.Clear(slot); expired != due && !m.stopped {
		t.Errorf("Clear says %v of a slot that expires at %d; it is %d", expired, m.want[slot], now)
	}
	m.want[slot] = 0
	m.got[slot].Store(0)
}

func (m *guardModel) stop(now int64) {
	m.guard.Stop()
	m.stopped = true
	for slot := range m.want {
		if m.want[slot] > now {
			m.want[slot] = 0
		}
	}
}

// TestManyGuardsKeepTheirTimes: guards that share timers expire each slot at
// its nanosecond, whatever others set, clear and stop meanwhile.
func TestManyGuardsKeepTheirTimes(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			clock := NewClock()
			guards := make([]*guardModel, 1+random.IntN(100))
			for i := range guards {
				guards[i] = newGuardModel(clock)
			}
			spans := []time.Duration{time.Millisecond, time.Second, time.Minute, time.Hour}
			for range 1000 {
				now := clock.Now()
				i := random.IntN(len(guards))
				m, slot := guards[i], random.IntN(Slots)
				switch random.IntN(8) {
				case 0, 1, 2:
					span := spans[random.IntN(len(spans))]
					m.clear(t, slot, now)
					m.set(slot, now-int64(span)/10+random.Int64N(int64(span)), now)
				case 3, 4:
					m.clear(t, slot, now)
				case 5:
					m.stop(now)
					m.check(t, now)
					guards[i] = newGuardModel(clock)
				default:
					<-time.After(time.Duration(random.Int64N(int64(spans[random.IntN(len(spans))]))))
				}
				synctest.Wait()
				for _, m := range guards {
					m.check(t, clock.Now())
				}
				if t.Failed() {
					t.Fatalf("seed %d", seed)
				}
			}
			for _, m := range guards {
				m.stop(clock.Now())
			}
			for i := range clock.alarms.shards {
				if s := &clock.alarms.shards[i]; len(s.queue) != 0 || s.wakes != 0 {
					t.Errorf("seed %d: %d places and a timer at %d are left of stopped guards", seed, len(s.queue), s.wakes)
				}
			}
		})
	}
}

func TestAGuardMaySetSlotsWhenOneExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := NewClock()
		start := clock.Now()
		var expired [Slots]atomic.Int64
		var g *Guard
		g = NewGuard(clock, func(slot int) {
			expired[slot].Store(clock.Now())
			if slot == 3 {
				g.Set(1, clock.Now()+int64(time.Second)) // looked at before
				g.Set(5, clock.Now())                    // has passed
			}
		})
		defer g.Stop()
		g.Set(3, start+int64(time.Minute))
		<-time.After(time.Hour)
		for slot, want := range map[int]time.Duration{3: time.Minute, 1: time.Minute + time.Second, 5: time.Minute} {
			if got := time.Duration(expired[slot].Load() - start); got != want {
				t.Errorf("slot %d expired after %v, want %v", slot, got, want)
			}
		}
	})
}

// TestAnAlarmIsForTheEarliestOnly: a thousand idle connections wake nobody
// until the first of their deadlines.
func TestAnAlarmIsForTheEarliestOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := NewClock()
		var fired atomic.Int64
		for i := range 1000 {
			g := NewGuard(clock, func(int) { fired.Add(1) })
			defer g.Stop()
			g.Set(0, clock.Now()+int64(time.Hour)+int64(i))
			g.Set(1, clock.Now()+int64(time.Second)) // the head's; the timer is due for it once
			g.Clear(1)
		}
		<-time.After(2 * time.Second)
		for i := range clock.alarms.shards {
			s := &clock.alarms.shards[i]
			s.mu.Lock()
			if until := time.Duration(s.wakes - clock.Now()); until < 59*time.Minute {
				t.Errorf("a timer fires in %v, want in an hour", until)
			}
			s.mu.Unlock()
		}
		<-time.After(time.Hour)
		if n := fired.Load(); n != 1000 {
			t.Errorf("%d of 1000 expired", n)
		}
	})
}

func TestTheQueueOfABurstIsGivenBack(t *testing.T) {
	const burst = 16 * queueKept
	s := &alarmShard{clock: NewClock()}
	guards := make([]Guard, burst)
	for i := range guards {
		s.put(&guards[i], int64(time.Hour)+int64(i))
	}
	for i := range guards[1:] {
		s.drop(&guards[i])
	}
	if len(s.queue) != 1 || cap(s.queue) > 2*queueKept {
		t.Errorf("%d places for %d guards", cap(s.queue), len(s.queue))
	}
	s.drop(&guards[burst-1])
}

// TestStopWaitsForTheAlarm: who has stopped a guard may free what onExpire
// uses. The flags are not atomic, so that the race detector sees who comes late.
func TestStopWaitsForTheAlarm(t *testing.T) {
	const soon = 20 * time.Microsecond
	clock := NewClock()
	var after, atEnd [200]bool
	for i := range after {
		g := NewGuard(clock, func(int) { atEnd[i] = true })
		g.Set(0, clock.Now()+int64(soon))
		<-time.After(soon)
		g.Stop()
		after[i] = atEnd[i]
	}
	<-time.After(10 * soon)
	if after != atEnd {
		t.Error("a guard fired after its stop")
	}
}
