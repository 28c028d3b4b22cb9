package observe

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestExpositionIsSortedEscapedAndCumulative(t *testing.T) {
	r := NewRegistry()
	c := r.Counter("b_total", "Things.\nWith a line.", "path", "code")
	c.With(`a"\`+"\n", "200").Add(3)
	c.With("a", "500").Inc()
	r.Gauge("a_now", "Level.").With().Set(-1.5)
	h := r.Histogram("c_ms", "Time.", []float64{1, 5}, "x")
	for _, v := range []float64{0.5, 1, 3, 9} {
		h.With("y").Observe(v)
	}
	var out bytes.Buffer
	if err := r.WritePrometheus(&out); err != nil {
		t.Fatal(err)
	}
	want := `# HELP a_now Level.
# TYPE a_now gauge
a_now -1.5
# HELP b_total Things.\nWith a line.
# TYPE b_total counter
b_total{path="a",code="500"} 1
b_total{path="a\"\\\n",code="200"} 3
# HELP c_ms Time.
# TYPE c_ms histogram
c_ms_bucket{x="y",le="1"} 2
c_ms_bucket{x="y",le="5"} 3
c_ms_bucket{x="y",le="+Inf"} 4
c_ms_sum{x="y"} 13.5
c_ms_count{x="y"} 4
`
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Error(d)
	}
}

func TestSeriesBeyondTheBoundFallIntoTheOverflowSeries(t *testing.T) {
	r := NewRegistry()
	v := r.Counter("x_total", "X.", "k").Limit(2)
	for i := range 5 {
		v.With(fmt.Sprint(i)).Inc()
	}
	v.With("0").Inc()
	for _, c := range []struct {
		label string
		want  float64
	}{{"0", 2}, {"1", 1}, {"overflow", 3}} {
		if got := r.Sum("x_total", Label{"k", c.label}); got != c.want {
			t.Errorf("k=%s: %v, want %v", c.label, got, c.want)
		}
	}
	if got := r.Sum(OverflowName, Label{"metric", "x_total"}); got != 3 {
		t.Errorf("refused label sets: %v, want 3", got)
	}
}

func TestConcurrentAdditionsAreAllCounted(t *testing.T) {
	r := NewRegistry()
	v, h, g := r.Counter("n_total", "N.", "k"), r.Histogram("h", "H.", []float64{10}), r.Gauge("g", "G.")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			c, h, g := v.With("a"), h.With(), g.With()
			for range 1000 {
				c.Inc()
				h.Observe(2)
				g.Add(1)
			}
		})
	}
	wg.Wait()
	if got := r.Sum("n_total"); got != 8000 {
		t.Errorf("counter: %v, want 8000", got)
	}
	if got := r.Sum("h"); got != 8000 {
		t.Errorf("histogram count: %v, want 8000", got)
	}
	if got := r.Sum("g"); got != 8000 {
		t.Errorf("gauge: %v, want 8000", got)
	}
	if s := r.Snapshot("h"); len(s) != 1 || s[0].Value != 16000 {
		t.Errorf("histogram: %+v, want the sum 16000", s)
	}
}

func TestDeclaringTwiceGivesTheSameSeriesAndDisagreementPanics(t *testing.T) {
	r := NewRegistry()
	r.Counter("a_total", "A.", "k").With("x").Inc()
	r.Counter("a_total", "A.", "k").With("x").Inc()
	if got := r.Sum("a_total"); got != 2 {
		t.Errorf("got %v, want 2", got)
	}
	defer func() {
		if recover() == nil {
			t.Error("another label name was accepted")
		}
	}()
	r.Counter("a_total", "A.", "other")
}

func TestUsingASeriesDoesNotAllocate(t *testing.T) {
	r := NewRegistry()
	c, g := r.Counter("a_total", "A.", "k").With("x"), r.Gauge("g", "G.").With()
	h := r.Histogram("h", "H.", []float64{1, 2, 3}).With()
	if n := testing.AllocsPerRun(100, func() { c.Inc(); g.Add(1); h.Observe(2.5) }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func TestRepeatedMessagesAreHeldBackAndCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := NewLogger(&out, LogOptions{})
		for range repeatsMax + 7 {
			log.Warn("endpoint refused", slog.String("address", "127.0.0.1:1"))
		}
		log.Warn("another")
		if got := strings.Count(out.String(), "endpoint refused"); got != repeatsMax {
			t.Errorf("%d lines passed, want %d", got, repeatsMax)
		}
		if !strings.Contains(out.String(), "another") {
			t.Error("another message was held back too")
		}
		<-time.After(repeatWindow) // virtual time
		out.Reset()
		log.With(slog.Int("k", 1)).Warn("endpoint refused")
		if !strings.Contains(out.String(), "repeats_left_out=7") {
			t.Errorf("the new window does not tell of 7 lines left out: %s", out.String())
		}
	})
}

func TestLogHidesSecretsByKeyAndKeepsLevels(t *testing.T) {
	var out bytes.Buffer
	level := &slog.LevelVar{}
	log := NewLogger(&out, LogOptions{Format: JSON, Level: level})
	log.Debug("not shown")
	level.Set(slog.LevelDebug)
	log.WithGroup("request").Debug("shown", slog.String("Authorization", "Bearer abc"), slog.String("path", "/"))
	if got := out.String(); strings.Contains(got, "abc") || strings.Contains(got, "not shown") || !strings.Contains(got, `"path":"/"`) {
		t.Errorf("got %s", got)
	}
}

func BenchmarkCounter(b *testing.B) {
	c := newCounter()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			c.Inc()
		}
	})
}
