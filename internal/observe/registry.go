// Package observe is how the program reports on itself: metrics and logs.
//
// In come increments and log records; out go the Prometheus text exposition,
// snapshots for tests and status pages, and slog lines with secrets removed
// and repeats held back. A Registry owns its families and series; a series is
// resolved once (Vec.With) and then costs one atomic addition, no lock and no
// allocation, each time it is used. Label values that a peer can influence
// stay bounded: beyond SeriesMax of a metric, new label sets fall into one
// overflow series and are counted.
//
// Costs of a counter: shards cache lines; of a histogram: shards times its
// buckets. Read registry.go first, then prometheus.go and log.go.
package observe

import (
	"fmt"
	"slices"
	"strings"
	"sync"
)

// SeriesMax bounds the label sets of one metric unless its vector is given
// another bound. A sidecar of a mesh with 1,000 services stays below.
const SeriesMax = 4096

// overflowValue is every label's value in the series that takes what exceeds
// the bound.
const overflowValue = "overflow"

// OverflowName is the counter of label sets that were refused, by metric.
const OverflowName = "tulle_metrics_overflow_total"

// Kind is the type of a metric.
type Kind uint8

// The kinds of metric.
const (
	KindCounter Kind = iota
	KindGauge
	KindHistogram
)

// Registry holds metric families. The zero value is not usable.
type Registry struct {
	overflow *CounterVec

	// Guarded by mu.
	mu       sync.Mutex
	families map[string]*family
}

// NewRegistry returns a registry with only the overflow counter in it.
func NewRegistry() *Registry {
	r := &Registry{families: map[string]*family{}}
	r.overflow = r.Counter(OverflowName, "Label sets beyond a metric's bound, which count in its overflow series.", "metric")
	return r
}

// family is a metric with all its series.
type family struct {
	// Fixed at creation.
	name, help string
	kind       Kind
	labels     []string
	bounds     []float64
	registry   *Registry

	// Guarded by mu.
	mu        sync.RWMutex
	seriesMax int
	series    map[string]*series
	overflow  *series
}

type series struct {
	values    []string
	counter   *Counter
	gauge     *Gauge
	histogram *Histogram
}

// declare returns the family of that name. Declaring it twice is allowed when
// both agree; a disagreement is a mistake of ours and panics at start.
func (r *Registry) declare(kind Kind, name, help string, bounds []float64, labels []string) *family {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f, ok := r.families[name]; ok {
		if f.kind != kind || !slices.Equal(f.labels, labels) || !slices.Equal(f.bounds, bounds) {
			panic(fmt.Sprintf("metric %s is declared twice, differently", name))
		}
		return f
	}
	f := &family{
		name: name, help: help, kind: kind, labels: slices.Clone(labels), bounds: slices.Clone(bounds),
		registry: r, seriesMax: SeriesMax, series: map[string]*series{},
	}
	r.families[name] = f
	return f
}

// with returns the series of these label values, creating it if there is room.
func (f *family) with(values []string) *series {
	if len(values) != len(f.labels) {
		panic(fmt.Sprintf("metric %s has %d labels, not %d", f.name, len(f.labels), len(values)))
	}
	key := strings.Join(values, "\xff")
	f.mu.RLock()
	s, ok := f.series[key]
	f.mu.RUnlock()
	if ok {
		return s
	}
	s, refused := f.create(key, values)
	if refused {
		f.registry.overflow.With(f.name).Inc()
	}
	return s
}

func (f *family) create(key string, values []string) (s *series, refused bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s, ok := f.series[key]; ok {
		return s, false
	}
	if len(f.series) < f.seriesMax {
		s = f.newSeries(slices.Clone(values))
		f.series[key] = s
		return s, false
	}
	if f.overflow == nil {
		same := make([]string, len(f.labels))
		for i := range same {
			same[i] = overflowValue
		}
		f.overflow = f.newSeries(same)
	}
	return f.overflow, true
}

func (f *family) newSeries(values []string) *series {
	s := &series{values: values}
	switch f.kind {
	case KindCounter:
		s.counter = newCounter()
	case KindGauge:
		s.gauge = &Gauge{}
	case KindHistogram:
		s.histogram = newHistogram(f.bounds)
	}
	return s
}

// all returns the series in the order of their label values.
func (f *family) all() []*series {
	f.mu.RLock()
	out := make([]*series, 0, len(f.series)+1)
	for _, s := range f.series {
		out = append(out, s)
	}
	if f.overflow != nil {
		out = append(out, f.overflow)
	}
	f.mu.RUnlock()
	slices.SortFunc(out, func(a, b *series) int { return slices.Compare(a.values, b.values) })
	return out
}

// sorted returns the families by name.
func (r *Registry) sorted() []*family {
	r.mu.Lock()
	out := make([]*family, 0, len(r.families))
	for _, f := range r.families {
		out = append(out, f)
	}
	r.mu.Unlock()
	slices.SortFunc(out, func(a, b *family) int { return strings.Compare(a.name, b.name) })
	return out
}

// CounterVec is a counter's label sets.
type CounterVec struct{ f *family }

// Counter declares a counter; by convention its name ends in "_total".
func (r *Registry) Counter(name, help string, labels ...string) *CounterVec {
	return &CounterVec{r.declare(KindCounter, name, help, nil, labels)}
}

// Limit bounds the label sets (default SeriesMax) and returns the vector.
func (v *CounterVec) Limit(seriesMax int) *CounterVec { v.f.limit(seriesMax); return v }

// With returns the counter of these label values, in the declared order.
func (v *CounterVec) With(values ...string) *Counter { return v.f.with(values).counter }

// GaugeVec is a gauge's label sets.
type GaugeVec struct{ f *family }

// Gauge declares a gauge.
func (r *Registry) Gauge(name, help string, labels ...string) *GaugeVec {
	return &GaugeVec{r.declare(KindGauge, name, help, nil, labels)}
}

// Limit bounds the label sets (default SeriesMax) and returns the vector.
func (v *GaugeVec) Limit(seriesMax int) *GaugeVec { v.f.limit(seriesMax); return v }

// With returns the gauge of these label values, in the declared order.
func (v *GaugeVec) With(values ...string) *Gauge { return v.f.with(values).gauge }

// HistogramVec is a histogram's label sets.
type HistogramVec struct{ f *family }

// Histogram declares a histogram with these upper bounds in ascending order;
// the last bucket, +Inf, is implied.
func (r *Registry) Histogram(name, help string, bounds []float64, labels ...string) *HistogramVec {
	if !slices.IsSorted(bounds) {
		panic(fmt.Sprintf("metric %s: bucket bounds are not ascending", name))
	}
	return &HistogramVec{r.declare(KindHistogram, name, help, bounds, labels)}
}

// Limit bounds the label sets (default SeriesMax) and returns the vector.
func (v *HistogramVec) Limit(seriesMax int) *HistogramVec { v.f.limit(seriesMax); return v }

// With returns the histogram of these label values, in the declared order.
func (v *HistogramVec) With(values ...string) *Histogram { return v.f.with(values).histogram }

func (f *family) limit(seriesMax int) {
	f.mu.Lock()
	f.seriesMax = seriesMax
	f.mu.Unlock()
}
