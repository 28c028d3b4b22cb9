package conn

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/tullemesh/tulle/internal/limit"
)

// TestTurnsEndAtTheirLimit: nothing but giving way takes time here.
func TestTurnsEndAtTheirLimit(t *testing.T) {
	const most = limit.RequestsPerTurn
	for n, want := range map[int]int{1: 0, most - 1: 0, most: 0, most + 1: 1, 2 * most: 1, 2*most + 1: 2} {
		synctest.Test(t, func(t *testing.T) {
			var turn Turn
			began := time.Now()
			for range n {
				turn.Begin()
			}
			if got := int(time.Since(began) / TurnPause); got != want {
				t.Errorf("%d requests: gave way %d times, want %d", n, got, want)
			}
			turn.Waited()
			began = time.Now()
			for range most {
				turn.Begin()
			}
			if took := time.Since(began); took > 0 {
				t.Errorf("%d requests, a wait and %d more: gave way for %v", n, most, took)
			}
		})
	}
}
