package xds

import (
	"time"

	"github.com/tullemesh/tulle/internal/observe"
)

// versionsMax bounds the proxies' versions that pilot_xds tells apart: they are
// claims of clients.
const versionsMax = 32

// metrics are Istio's, by its names (Istio, pilot/pkg/xds/monitoring.go), so
// that its dashboards show them. Types are short names from the table of kinds.
type metrics struct {
	connected   *observe.GaugeVec
	pushes      *observe.CounterVec
	pushTime    *observe.HistogramVec
	configSize  *observe.HistogramVec
	rejects     *observe.CounterVec
	rejectsOf   map[string]*observe.Gauge
	expired     *observe.CounterVec
	buildErrors *observe.Counter
	queue       *observe.Histogram
	convergence *observe.Histogram
}

func newMetrics(r *observe.Registry) *metrics {
	// Istio's bounds, finer below 10 ms.
	seconds := []float64{.0001, .001, .005, .01, .05, .1, .5, 1, 3, 5, 10, 20, 30}
	sizes := []float64{1000, 10_000, 100_000, 1_000_000, 4_000_000, 10_000_000, 40_000_000}
	m := &metrics{
		connected:   r.Gauge("pilot_xds", "Number of ADS streams connected to this control plane.", "version").Limit(versionsMax),
		pushes:      r.Counter("pilot_xds_pushes", "Discovery responses sent.", "type"),
		pushTime:    r.Histogram("pilot_xds_push_time", "Time in seconds to hand one response to the transport, flow control included.", seconds, "type"),
		configSize:  r.Histogram("pilot_xds_config_size_bytes", "Size of discovery responses in bytes.", sizes, "type"),
		rejects:     r.Counter("pilot_total_xds_rejects", "Discovery responses that a proxy refused.", "type"),
		rejectsOf:   map[string]*observe.Gauge{},
		expired:     r.Counter("pilot_xds_expired_nonce", "Requests that answer an outdated response.", "type"),
		buildErrors: r.Counter("pilot_total_xds_internal_errors", "Resources that could not be built and were not sent.").With(),
		queue:       r.Histogram("pilot_proxy_queue_time", "Time in seconds from publication to the start of a proxy's push.", seconds).With(),
		convergence: r.Histogram("pilot_proxy_convergence_time", "Time in seconds from publication until a proxy's responses are handed to the transport.", seconds).With(),
	}
	for _, short := range []string{"cds", "eds", "lds", "rds"} {
		m.rejectsOf[short] = r.Gauge("pilot_xds_"+short+"_reject", "Refused "+short+" responses so far.").With()
	}
	return m
}

func (m *metrics) pushed(short string, bytes int, took time.Duration) {
	m.pushes.With(short).Inc()
	m.configSize.With(short).Observe(float64(bytes))
	m.pushTime.With(short).Observe(took.Seconds())
}

func (m *metrics) rejected(short string) {
	m.rejects.With(short).Inc()
	if g := m.rejectsOf[short]; g != nil {
		g.Add(1)
	}
}
