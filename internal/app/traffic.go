package app

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// trafficWindow is how long `status` watches the proxies' counters.
const trafficWindow = time.Second

// The metrics that traffic is read from ("Istio Standard Metrics").
const (
	requestsMetric = "istio_requests_total"
	durationMetric = "istio_request_duration_milliseconds_bucket"
)

// Traffic is the golden signals of a service over the last seconds.
type Traffic struct {
	// PerSecond is the rate of requests; Success the share without a 5xx or a
	// failure of the proxy, 0 to 1; 1 without requests.
	PerSecond float64 `json:"perSecond"`
	Success   float64 `json:"success"`
	// P50 and P95 are milliseconds; 0 without requests.
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	// Versions is the share of each version of the service, 0 to 1.
	Versions map[string]float64 `json:"versions,omitempty"`
}

// Cells are the signals as table cells: rate, success, p50, p95.
func (t *Traffic) Cells() (rps, success, p50, p95 string) {
	if t.PerSecond == 0 {
		return "0.0", "-", "-", "-"
	}
	ms := func(v float64) string { return fmt.Sprintf("%.3gms", v) }
	return fmt.Sprintf("%.1f", t.PerSecond), fmt.Sprintf("%.2f%%", 100*t.Success), ms(t.P50), ms(t.P95)
}

// Shares are the shares of the versions in per cent, when there are several.
func (t *Traffic) Shares() string {
	if len(t.Versions) < 2 {
		return "-"
	}
	var parts []string
	for _, v := range slices.Sorted(maps.Keys(t.Versions)) {
		parts = append(parts, fmt.Sprintf("%s %.0f%%", v, 100*t.Versions[v]))
	}
	return strings.Join(parts, " ")
}

// serviceKey is a service as metrics name it.
type serviceKey struct{ name, namespace string }

// signals are the counters of one service at one moment.
type signals struct {
	total, failed float64
	versions      map[string]float64
	buckets       map[float64]float64 // cumulative, by upper bound
}

// TrafficSample is the counters of all proxies of a mesh at one moment.
type TrafficSample struct {
	at time.Time
	// received is what the services' own proxies say, sent what their callers
	// say, which is all there is of a service without a proxy.
	received, sent map[serviceKey]*signals
}

// SampleTraffic reads the counters of a mesh's proxies. A proxy that doesn't
// answer, as during its restart, is left out.
func SampleTraffic(ctx context.Context, proxies []RunningProxy) *TrafficSample {
	s := &TrafficSample{at: time.Now(), received: map[serviceKey]*signals{}, sent: map[serviceKey]*signals{}}
	texts := make([]json.RawMessage, len(proxies))
	var all sync.WaitGroup
	for i, p := range proxies {
		all.Go(func() {
			if Fetch(ctx, p.Admin, "/stats/prometheus", &texts[i]) != nil {
				texts[i] = nil
			}
		})
	}
	all.Wait()
	for _, text := range texts {
		s.add(text)
	}
	return s
}

// add adds the counters of one proxy.
func (s *TrafficSample) add(text []byte) {
	for line := range bytes.Lines(text) {
		name, labels, value, ok := parseMetric(strings.TrimSpace(string(line)))
		if !ok || name != requestsMetric && name != durationMetric {
			continue
		}
		by := s.sent
		if labels["reporter"] == "destination" {
			by = s.received
		}
		key := serviceKey{labels["destination_service_name"], labels["destination_service_namespace"]}
		c := by[key]
		if c == nil {
			c = &signals{versions: map[string]float64{}, buckets: map[float64]float64{}}
			by[key] = c
		}
		if name == durationMetric {
			if le, err := strconv.ParseFloat(labels["le"], 64); err == nil {
				c.buckets[le] += value
			}
			continue
		}
		c.total += value
		c.versions[labels["destination_version"]] += value
		if strings.HasPrefix(labels["response_code"], "5") {
			c.failed += value
		}
	}
}

// parseMetric reads a sample of Prometheus' text exposition format.
func parseMetric(line string) (name string, labels map[string]string, value float64, ok bool) {
	begin, end := strings.IndexByte(line, '{'), strings.LastIndexByte(line, '}')
	if strings.HasPrefix(line, "#") || begin <= 0 || end < begin {
		return "", nil, 0, false
	}
	labels = map[string]string{}
	for rest := line[begin+1 : end]; rest != ""; {
		label, quoted, found := strings.Cut(rest, "=")
		if !found {
			return "", nil, 0, false
		}
		prefix, err := strconv.QuotedPrefix(quoted)
		if err != nil {
			return "", nil, 0, false
		}
		if labels[label], err = strconv.Unquote(prefix); err != nil {
			return "", nil, 0, false
		}
		rest = strings.TrimPrefix(quoted[len(prefix):], ",")
	}
	value, err := strconv.ParseFloat(strings.TrimSpace(line[end+1:]), 64)
	return line[:begin], labels, value, err == nil
}

// Since is the traffic between an earlier sample and this one, by service name
// and namespace. A service whose proxies were not heard is not in it.
func (s *TrafficSample) Since(earlier *TrafficSample) func(name, namespace string) *Traffic {
	seconds := s.at.Sub(earlier.at).Seconds()
	return func(name, namespace string) *Traffic {
		key := serviceKey{name, namespace}
		now, before := s.received[key], earlier.received[key]
		if now == nil {
			now, before = s.sent[key], earlier.sent[key]
		}
		if now == nil || seconds <= 0 {
			return nil
		}
		return now.since(before, seconds)
	}
}

// since is what was counted after an earlier moment; nil: since the start. A
// proxy that has restarted counts from zero: what it lost counts as none.
func (c *signals) since(before *signals, seconds float64) *Traffic {
	if before == nil {
		before = &signals{}
	}
	grown := func(now, then float64) float64 { return max(0, now-then) }
	total := grown(c.total, before.total)
	t := &Traffic{PerSecond: total / seconds, Success: 1, Versions: map[string]float64{}}
	if total == 0 {
		return t
	}
	t.Success = 1 - min(1, grown(c.failed, before.failed)/total)
	for v, n := range c.versions {
		if share := grown(n, before.versions[v]) / total; share > 0 {
			t.Versions[v] = share
		}
	}
	buckets := map[float64]float64{}
	for le, n := range c.buckets {
		buckets[le] = grown(n, before.buckets[le])
	}
	t.P50, t.P95 = quantile(buckets, 0.50), quantile(buckets, 0.95)
	return t
}

// quantile reads a quantile off cumulative buckets, by linear interpolation
// within one (as Prometheus' histogram_quantile).
func quantile(cumulative map[float64]float64, q float64) float64 {
	bounds := slices.SortedFunc(maps.Keys(cumulative), cmp.Compare[float64])
	if len(bounds) == 0 || cumulative[bounds[len(bounds)-1]] == 0 {
		return 0
	}
	rank := q * cumulative[bounds[len(bounds)-1]]
	lower, below := 0.0, 0.0
	for _, le := range bounds {
		n := cumulative[le]
		if n >= rank {
			if math.IsInf(le, 1) || n == below {
				return lower
			}
			return lower + (le-lower)*(rank-below)/(n-below)
		}
		lower, below = le, n
	}
	return lower
}

// Fill writes the traffic of a mesh's services into a status.
func (s *MeshStatus) Fill(traffic func(name, namespace string) *Traffic) {
	for i := range s.Services {
		s.Services[i].Traffic = traffic(s.Services[i].Name, s.Services[i].Namespace)
	}
}

// WatchTraffic watches a running mesh for a second and fills in what it saw.
func (s *MeshStatus) WatchTraffic(ctx context.Context, r *Running) {
	before := SampleTraffic(ctx, r.Proxies)
	wait := time.NewTimer(trafficWindow)
	defer wait.Stop()
	select {
	case <-ctx.Done():
		return
	case <-wait.C:
	}
	s.Fill(SampleTraffic(ctx, r.Proxies).Since(before))
}
