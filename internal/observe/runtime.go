package observe

import (
	"bufio"
	"io"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"time"
)

// runtimeMetric is one figure of Go's runtime under the name that Prometheus'
// own Go client gives it, so that existing dashboards find it.
type runtimeMetric struct {
	name, help string
	kind       Kind
	sources    []string // of runtime/metrics; their sum counts
}

func runtimeMetrics() []runtimeMetric {
	return []runtimeMetric{
		{"go_goroutines", "Goroutines that exist.", KindGauge, []string{"/sched/goroutines:goroutines"}},
		{"go_memstats_alloc_bytes_total", "Bytes allocated on the heap since the start.", KindCounter, []string{"/gc/heap/allocs:bytes"}},
		{"go_memstats_heap_alloc_bytes", "Bytes of objects on the heap, the dead that are not collected yet included.", KindGauge, []string{"/memory/classes/heap/objects:bytes"}},
		{"go_memstats_mallocs_total", "Objects allocated on the heap since the start.", KindCounter, []string{"/gc/heap/allocs:objects", "/gc/heap/tiny/allocs:objects"}},
	}
}

// WriteRuntime writes what Go's runtime knows of memory and of the pauses of
// garbage collection, in Prometheus' text format. It reads everything when it
// is called: nothing is paid for between two scrapes.
func WriteRuntime(w io.Writer) error {
	b := bufio.NewWriter(w)
	writePauses(b)
	for _, m := range runtimeMetrics() {
		samples := make([]metrics.Sample, len(m.sources))
		for i, s := range m.sources {
			samples[i].Name = s
		}
		metrics.Read(samples)
		var sum uint64
		for _, s := range samples {
			if s.Value.Kind() == metrics.KindUint64 {
				sum += s.Value.Uint64()
			}
		}
		b.WriteString("# HELP " + m.name + " " + m.help + "\n# TYPE " + m.name + " " + m.kind.String() + "\n" + m.name + " " + strconv.FormatUint(sum, 10) + "\n")
	}
	return b.Flush()
}

// writePauses writes the summary of the pauses that the runtime remembers, the
// last 256.
func writePauses(b *bufio.Writer) {
	const name = "go_gc_duration_seconds"
	stats := debug.GCStats{PauseQuantiles: make([]time.Duration, 5)}
	debug.ReadGCStats(&stats)
	b.WriteString("# HELP " + name + " How long collections stopped the world.\n# TYPE " + name + " summary\n")
	for i, q := range stats.PauseQuantiles {
		b.WriteString(name + `{quantile="` + formatFloat(float64(i)/4) + `"} ` + formatFloat(q.Seconds()) + "\n")
	}
	b.WriteString(name + "_sum " + formatFloat(stats.PauseTotal.Seconds()) + "\n" + name + "_count " + strconv.FormatInt(stats.NumGC, 10) + "\n")
}
