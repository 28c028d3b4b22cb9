package date

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
)

func TestTheDateChangesWithTheSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c Cache
		clock := conn.NewClock()
		for _, wait := range []time.Duration{0, 999 * time.Millisecond, time.Millisecond, time.Minute, 300 * time.Millisecond} {
			<-time.After(wait)
			if got, want := c.Value(clock), time.Now().UTC().Format(http.TimeFormat); got != want {
				t.Errorf("after %v: got %s, want %s", wait, got, want)
			}
		}
		if n := testing.AllocsPerRun(100, func() { c.Value(clock) }); n > 0 {
			t.Errorf("%v allocations", n)
		}
	})
}
