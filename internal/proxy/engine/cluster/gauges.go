package cluster

import (
	"sync"

	"github.com/tullemesh/tulle/internal/observe"
)

// gauges are what clusters are now, in Envoy's names. They are set when somebody looks (Live.Observe).
type gauges struct {
	conns, requests, pending, members, healthy *observe.GaugeVec

	// Guarded by mu.
	mu    sync.Mutex
	shown map[string]bool // clusters that have series
}

func newGauges(r *observe.Registry) *gauges {
	if r == nil {
		r = observe.NewRegistry()
	}
	gauge := func(name, help string) *observe.GaugeVec {
		return r.Gauge("envoy_cluster_"+name, help, "cluster_name")
	}
	return &gauges{
		shown:    map[string]bool{},
		conns:    gauge("upstream_cx_active", "Open connections."),
		requests: gauge("upstream_rq_active", "Requests in flight."),
		pending:  gauge("upstream_rq_pending_active", "Requests that wait for a connection."),
		members:  gauge("membership_total", "Endpoints."),
		healthy:  gauge("membership_healthy", "Endpoints that are healthy."),
	}
}

func (g *gauges) set(name string, conns, requests, pending, members, healthy int64) {
	for _, v := range []struct {
		of *observe.GaugeVec
		n  int64
	}{{g.conns, conns}, {g.requests, requests}, {g.pending, pending}, {g.members, members}, {g.healthy, healthy}} {
		v.of.With(name).Set(float64(v.n))
	}
}

// Observe sets the gauges of all clusters that were ever connected to; those that are gone have none of anything.
func (l *Live) Observe() {
	g := l.gauges
	g.mu.Lock()
	defer g.mu.Unlock()
	all := l.All()
	for name := range g.shown {
		if all[name] == nil {
			g.set(name, 0, 0, 0, 0, 0)
			delete(g.shown, name)
		}
	}
	for name, c := range all {
		var conns, requests, made, healthy int64
		members := c.Members()
		for _, m := range members {
			if up := m.Host.Upstream(); up != nil {
				conns += up.Counts.ConnActive.Load()
				made += up.Counts.ConnTotal.Load() + up.Counts.ConnFail.Load()
			}
			requests += m.Host.Active.Load()
			if m.Health == Healthy {
				healthy++
			}
		}
		if made == 0 && !g.shown[name] {
			continue
		}
		g.shown[name] = true
		g.set(name, conns, requests, c.Waiting(), int64(len(members)), healthy)
	}
}
