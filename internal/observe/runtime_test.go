package observe

import (
	"runtime"
	"strconv"
	"strings"
	"testing"
)

// figure reads one unlabelled metric of an exposition.
func figure(t *testing.T, text, name string) float64 {
	t.Helper()
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("no %s in\n%s", name, text)
	return 0
}

func TestRuntimeMetricsFollowTheRuntime(t *testing.T) {
	write := func() string {
		var out strings.Builder
		if err := WriteRuntime(&out); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	before := write()
	kept := make([][]byte, 10000)
	for i := range kept {
		kept[i] = make([]byte, 100)
	}
	stop := make(chan struct{})
	defer close(stop)
	for range 100 { // more than of earlier tests end meanwhile
		go func() { <-stop }()
	}
	after := write()
	runtime.KeepAlive(kept)
	grew := func(name string, least float64) {
		if got := figure(t, after, name) - figure(t, before, name); got < least {
			t.Errorf("%s grew by %v, want %v at least", name, got, least)
		}
	}
	grew("go_memstats_mallocs_total", 9000) // the runtime counts per span, when it is full
	grew("go_memstats_alloc_bytes_total", 9e5)
	grew("go_goroutines", 50)
	runtime.GC()
	collected := write()
	if figure(t, collected, "go_gc_duration_seconds_count") <= figure(t, before, "go_gc_duration_seconds_count") || figure(t, collected, "go_gc_duration_seconds_sum") <= 0 {
		t.Errorf("no collection counted:\n%s", collected)
	}
	if n := strings.Count(collected, "go_gc_duration_seconds{quantile="); n != 5 {
		t.Errorf("%d quantiles", n)
	}
	if figure(t, collected, "go_memstats_heap_alloc_bytes") <= 0 {
		t.Error("no heap")
	}
}
