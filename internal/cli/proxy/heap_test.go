package proxy

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPercentForALiveHeap(t *testing.T) {
	for _, c := range []struct {
		situation string
		live      uint64
		want      int
	}{
		{"nothing measured", 0, 400},
		{"a small configuration", 3 << 20, 400},
		{"a usual one", 4 << 20, 300},
		{"rounded so that the floor is not passed", 5 << 20, 200},
		{"a half of the floor", 8 << 20, 100},
		{"more than a half", 9 << 20, 100},
		{"ten thousand connections", 200 << 20, 100},
	} {
		t.Run(c.situation, func(t *testing.T) {
			got := percentFor(c.live)
			if got != c.want {
				t.Errorf("%d bytes live: %d %%, want %d", c.live, got, c.want)
			}
			if goal := c.live + c.live*uint64(got)/100; got > percentDefault && goal > heapFloor {
				t.Errorf("%d bytes live: the next collection at %d, above the floor", c.live, goal)
			}
		})
	}
}

// percent is the present GOGC.
func percent() int {
	now := debug.SetGCPercent(percentDefault)
	debug.SetGCPercent(now)
	return now
}

func TestFloorHoldsAndGivesWayToABigHeap(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(percentDefault))
	release := holdFloor(t.Context())
	if got := percent(); got != percentMax {
		t.Errorf("at start %d %%, want %d", got, percentMax)
	}
	func() {
		big := make([]byte, 4*heapFloor)
		if got := collectUntil(t, func(got int) bool { return got == percentDefault }); got != percentDefault {
			t.Errorf("with %d bytes live: %d %%, want %d", len(big), got, percentDefault)
		}
		runtime.KeepAlive(big)
	}()
	if got := collectUntil(t, func(got int) bool { return got > percentDefault }); got <= percentDefault {
		t.Errorf("after the big heap is gone: %d %%", got)
	}
	release()
	if got := percent(); got != percentDefault {
		t.Errorf("after release: %d %%, want %d", got, percentDefault)
	}
}

// collectUntil collects until the percentage is as wanted, for it follows a
// collection only when that is swept, and returns the last one.
func collectUntil(t *testing.T, wanted func(percent int) bool) int {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); ; {
		runtime.GC()
		if got := percent(); wanted(got) || time.Now().After(deadline) {
			return got
		}
		<-tick.C
	}
}

func TestFloorLeavesASetPercentageAlone(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(30))
	release := holdFloor(t.Context())
	if got := percent(); got != 30 {
		t.Errorf("%d %%, want the 30 that were set", got)
	}
	release()
	if got := percent(); got != 30 {
		t.Errorf("after release %d %%, want the 30 that were set", got)
	}
}
