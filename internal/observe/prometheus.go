package observe

import (
	"bufio"
	"io"
	"math"
	"strconv"
	"strings"
)

// WritePrometheus writes all metrics in Prometheus' text exposition format,
// version 0.0.4. Families without series are left out.
func (r *Registry) WritePrometheus(w io.Writer) error {
	b := bufio.NewWriterSize(w, 32<<10)
	for _, f := range r.sorted() {
		all := f.all()
		if len(all) == 0 {
			continue
		}
		b.WriteString("# HELP " + f.name + " " + escapeHelp(f.help) + "\n")
		b.WriteString("# TYPE " + f.name + " " + f.kind.String() + "\n")
		for _, s := range all {
			f.write(b, s)
		}
	}
	return b.Flush()
}

// String returns the kind as the text exposition spells it.
func (k Kind) String() string {
	switch k {
	case KindCounter:
		return "counter"
	case KindGauge:
		return "gauge"
	default:
		return "histogram"
	}
}

func (f *family) write(b *bufio.Writer, s *series) {
	switch f.kind {
	case KindCounter:
		f.line(b, "", s.values, "", strconv.FormatUint(s.counter.Value(), 10))
	case KindGauge:
		f.line(b, "", s.values, "", formatFloat(s.gauge.Value()))
	case KindHistogram:
		counts, sum, n := s.histogram.Snapshot()
		var cumulative uint64
		for i, c := range counts {
			cumulative += c
			le := math.Inf(1)
			if i < len(f.bounds) {
				le = f.bounds[i]
			}
			f.line(b, "_bucket", s.values, formatFloat(le), strconv.FormatUint(cumulative, 10))
		}
		f.line(b, "_sum", s.values, "", formatFloat(sum))
		f.line(b, "_count", s.values, "", strconv.FormatUint(n, 10))
	}
}

func (f *family) line(b *bufio.Writer, suffix string, values []string, le, value string) {
	b.WriteString(f.name)
	b.WriteString(suffix)
	if len(values) > 0 || le != "" {
		separator := byte('{')
		for i, v := range values {
			b.WriteByte(separator)
			separator = ','
			b.WriteString(f.labels[i])
			b.WriteString(`="`)
			b.WriteString(escapeValue(v))
			b.WriteByte('"')
		}
		if le != "" {
			b.WriteByte(separator)
			b.WriteString(`le="` + le + `"`)
		}
		b.WriteByte('}')
	}
	b.WriteByte(' ')
	b.WriteString(value)
	b.WriteByte('\n')
}

func formatFloat(v float64) string {
	switch {
	case math.IsInf(v, 1):
		return "+Inf"
	case math.IsInf(v, -1):
		return "-Inf"
	case math.IsNaN(v):
		return "NaN"
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}

func escapeHelp(s string) string {
	return strings.NewReplacer(`\`, `\\`, "\n", `\n`).Replace(s)
}

func escapeValue(s string) string {
	if !strings.ContainsAny(s, "\\\"\n") {
		return s
	}
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s)
}

// Sample is one series at one moment.
type Sample struct {
	Name   string
	Labels []Label
	// Value of a counter or gauge; of a histogram the sum of observations.
	Value float64
	// Count and Buckets (cumulative, by upper bound) of a histogram.
	Count   uint64
	Buckets []Bucket
}

// Label is a label's name and value.
type Label struct{ Name, Value string }

// Bucket is a histogram's cumulative count up to a bound.
type Bucket struct {
	Bound float64
	Count uint64
}

// Label returns a label's value, or "".
func (s *Sample) Label(name string) string {
	for _, l := range s.Labels {
		if l.Name == name {
			return l.Value
		}
	}
	return ""
}

// Snapshot returns the series of one metric, or of all when name is empty, in
// the order of the text exposition.
func (r *Registry) Snapshot(name string) []Sample {
	var out []Sample
	for _, f := range r.sorted() {
		if name != "" && f.name != name {
			continue
		}
		for _, s := range f.all() {
			out = append(out, f.sample(s))
		}
	}
	return out
}

func (f *family) sample(s *series) Sample {
	sample := Sample{Name: f.name, Labels: make([]Label, len(f.labels))}
	for i, name := range f.labels {
		sample.Labels[i] = Label{name, s.values[i]}
	}
	switch f.kind {
	case KindCounter:
		sample.Value = float64(s.counter.Value())
	case KindGauge:
		sample.Value = s.gauge.Value()
	case KindHistogram:
		var counts []uint64
		counts, sample.Value, sample.Count = s.histogram.Snapshot()
		var cumulative uint64
		for i, c := range counts {
			cumulative += c
			bound := math.Inf(1)
			if i < len(f.bounds) {
				bound = f.bounds[i]
			}
			sample.Buckets = append(sample.Buckets, Bucket{bound, cumulative})
		}
	}
	return sample
}

// Sum adds up the values (a histogram's counts) of the series of a metric that
// have all the given labels.
func (r *Registry) Sum(name string, labels ...Label) float64 {
	var sum float64
next:
	for _, s := range r.Snapshot(name) {
		for _, l := range labels {
			if s.Label(l.Name) != l.Value {
				continue next
			}
		}
		if s.Buckets != nil {
			sum += float64(s.Count)
		} else {
			sum += s.Value
		}
	}
	return sum
}
