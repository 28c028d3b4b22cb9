package access

import (
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/observe"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
)

func TestLinesThatWaitHaveALimit(t *testing.T) {
	for _, n := range []int{limit.AccessLogBytesMax - 1, limit.AccessLogBytesMax, limit.AccessLogBytesMax + 1} {
		synctest.Test(t, func(t *testing.T) {
			w := &slowWriter{release: make(chan struct{})}
			registry := observe.NewRegistry()
			logs := NewLogs(func(string) (io.WriteCloser, error) { return w, nil }, registry)
			long := &listener.AccessLog{Path: "p", Format: strings.Repeat("x", n)}
			short := &listener.AccessLog{Path: "p", Format: "y"}
			if err := logs.Prepare([]*listener.AccessLog{long, short}); err != nil {
				t.Fatal(err)
			}
			logs.Get(long).Write(record()) // waits: no time passes
			logs.Get(short).Write(record())
			close(w.release)
			logs.Close()
			want := 0.0
			if n >= limit.AccessLogBytesMax {
				want = 1
			}
			if got := registry.Sum("tulle_access_log_lines_dropped_total"); got != want {
				t.Errorf("after %d bytes %v lines are dropped, want %v", n, got, want)
			}
			if got := strings.HasSuffix(w.b.String(), "y"); got != (want == 0) || w.b.Len() < n {
				t.Errorf("after %d bytes the last line is written: %t, %d bytes in all", n, got, w.b.Len())
			}
		})
	}
}
