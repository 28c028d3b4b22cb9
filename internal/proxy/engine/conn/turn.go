package conn

import (
	"time"

	"github.com/tullemesh/tulle/internal/limit"
)

// TurnPause is how long a connection gives way at least.
const TurnPause = 100 * time.Microsecond

// GiveWay lets others have their turn. It waits for a timer: a goroutine that is
// merely rescheduled, or has always work, keeps Go's scheduler from looking at
// the network for up to 10 ms.
func GiveWay() { <-time.After(TurnPause) }

// Turn counts the requests of a connection that are served one after the other
// without a wait for the network. It has one user at a time.
type Turn struct{ begun int }

// Begin begins one more request, and gives way before when
// limit.RequestsPerTurn have begun.
func (t *Turn) Begin() {
	if t.begun == limit.RequestsPerTurn {
		GiveWay()
		t.begun = 0
	}
	t.begun++
}

// Waited says that the connection did wait: a new turn begins.
func (t *Turn) Waited() { t.begun = 0 }
