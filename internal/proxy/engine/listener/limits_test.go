package listener

import (
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/limit"
)

func TestALineWithoutAnEndIsWaitedForUpToItsLimit(t *testing.T) {
	for n, want := range map[int]Sniffed{limit.SniffLineBytesMax - 1: NeedMore, limit.SniffLineBytesMax: NeedMore, limit.SniffLineBytesMax + 1: No} {
		if _, got := InspectHTTP([]byte("GET /" + strings.Repeat("a", n-len("GET /")))); got != want {
			t.Errorf("%d bytes: %v, want %v", n, got, want)
		}
	}
}
