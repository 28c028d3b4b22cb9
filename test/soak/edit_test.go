//go:build soak

package soak_test

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/testkit/meshrun"
)

// The edits: every 200 ms, each fourth invalid; a valid one is live everywhere
// within liveMax at the 99th percentile. A run of less than a minute tells of
// starvation only: its percentile is its slowest edit, and one stall of the
// machine makes that.
const (
	editEvery    = 200 * time.Millisecond
	invalidEvery = 4
	liveMax      = 100 * time.Millisecond
	liveMaxBrief = 5 * time.Second
)

// edits notes when each generation was written and when answers showed it.
type edits struct {
	mu      sync.Mutex
	written map[int]time.Time // valid generations
	newest  int               // of the valid ones
	// seen is the first answer with that generation or a later one, by the header that shows it; stale the begin of the last request
	// that an older one answered, while that generation was the newest.
	seen, stale map[string]map[int]time.Time
	failed      error
}

func newEdits() *edits {
	e := &edits{written: map[int]time.Time{}, seen: map[string]map[int]time.Time{}, stale: map[string]map[int]time.Time{}}
	for _, h := range []string{"X-Gate", "X-Back"} {
		e.seen[h], e.stale[h] = map[int]time.Time{}, map[int]time.Time{}
	}
	return e
}

// answer notes what an answer shows.
func (e *edits) answer(a meshrun.Answer) {
	if a.Err != nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, h := range []string{"X-Gate", "X-Back"} {
		shown, err := strconv.Atoi(a.Header.Get(h))
		if err != nil {
			continue // a request that doesn't go there
		}
		if _, valid := e.written[shown]; !valid && shown != 0 {
			e.failed = errStale
		}
		for g, at := range e.written {
			if shown >= g {
				if first, ok := e.seen[h][g]; !ok || a.Ended.Before(first) {
					e.seen[h][g] = a.Ended
				}
			} else if a.Began.After(at) && a.Began.After(e.stale[h][g]) {
				e.stale[h][g] = a.Began
			}
		}
	}
}

// wrote notes a valid edit. It comes before the writing, so that no answer can
// show what is not known here.
func (e *edits) wrote(generation int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for g := range e.written {
		if g < e.newest-20 { // long settled: keep answers cheap to note
			delete(e.written, g)
		}
	}
	e.written[generation], e.newest = time.Now(), generation
}

func TestEditsUnderLoadLoseNothing(t *testing.T) {
	m := up(t)
	length := duration(t, time.Minute)
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	e := newEdits()
	began := map[int]time.Time{}
	var editing sync.WaitGroup
	editing.Go(func() {
		tick := time.NewTicker(editEvery)
		defer tick.Stop()
		for generation := 1; ; generation++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			text := routes(generation)
			if generation%invalidEvery == 0 {
				text = strings.ReplaceAll(text, "destination:", "destinatoin:") // refused: unknown field
			} else {
				began[generation] = time.Now()
				e.wrote(generation)
			}
			m.Write(t, "routes.yaml", text)
		}
	})
	counts := meshrun.Load{Address: m.Gateway, Connections: connections, Rate: rate, Request: mix, Seen: e.answer}.Run(ctx)
	editing.Wait()
	lossless(t, counts)
	enough(t, counts, length)
	if e.failed != nil {
		t.Error(e.failed)
	}
	most := liveMax
	if length < time.Minute {
		most = liveMaxBrief
	}
	e.judge(t, began, most)
}

// judge asks that all valid edits came to be live in time, most. The newest may have
// been written as the load ended.
func (e *edits) judge(t *testing.T, began map[int]time.Time, most time.Duration) {
	t.Helper()
	last := 0
	for g := range began {
		last = max(last, g)
	}
	var first, settled []time.Duration
	for g, at := range began {
		if g == last {
			continue
		}
		everywhere, stale := time.Time{}, at
		for _, h := range []string{"X-Gate", "X-Back"} {
			seen, ok := e.seen[h][g]
			if !ok {
				t.Errorf("%s never showed edit %d", h, g)
				continue
			}
			if seen.After(everywhere) {
				everywhere = seen
			}
			if e.stale[h][g].After(stale) {
				stale = e.stale[h][g]
			}
		}
		first, settled = append(first, everywhere.Sub(at)), append(settled, stale.Sub(at))
	}
	slices.Sort(first)
	slices.Sort(settled)
	n := len(first)
	if n < 10 {
		t.Fatalf("only %d edits", n)
	}
	t.Logf("%d valid edits; first answer that shows it at every proxy: p50 %v, p99 %v, max %v; last request answered by an older one: p50 %v, p99 %v, max %v",
		n, first[n/2], first[n*99/100], first[n-1], settled[n/2], settled[n*99/100], settled[n-1])
	if p99 := max(first[n*99/100], settled[n*99/100]); p99 > most {
		t.Errorf("an edit is live everywhere after %v at p99, want %v", p99, most)
	}
}
