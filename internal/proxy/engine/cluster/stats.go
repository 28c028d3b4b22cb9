package cluster

import (
	"github.com/tullemesh/tulle/internal/observe"
)

// stats are counters by cluster, in Envoy's names (Envoy: "Cluster statistics"). A series is made when there is something to count.
type stats struct {
	overflows                                 [overflows]*observe.CounterVec
	connects, connectFails, connectTimeouts   *observe.CounterVec
	idleEnds, agedEnds                        *observe.CounterVec
	dnsAsked, dnsFailed, dnsAnswered, dnsSame *observe.CounterVec
}

// overflow names a threshold that was reached.
type overflow uint8

const (
	pendingOverflow overflow = iota // requests that wait or are active
	connOverflow
	retryOverflow
	overflows
)

func newStats(r *observe.Registry) *stats {
	if r == nil {
		r = observe.NewRegistry()
	}
	counter := func(name, help string) *observe.CounterVec {
		return r.Counter("envoy_cluster_"+name, help, "cluster_name")
	}
	return &stats{
		overflows: [overflows]*observe.CounterVec{
			pendingOverflow: counter("upstream_rq_pending_overflow", "Requests that failed because too many waited or were active."),
			connOverflow:    counter("upstream_cx_overflow", "Connections that were not made at once because there were as many as may be."),
			retryOverflow:   counter("upstream_rq_retry_overflow", "Repetitions that were left out because there were as many as may be."),
		},
		connects:        counter("upstream_cx_total", "Connections made."),
		connectFails:    counter("upstream_cx_connect_fail", "Connections that could not be made."),
		connectTimeouts: counter("upstream_cx_connect_timeout", "Connections that were not made in time."),
		idleEnds:        counter("upstream_cx_idle_timeout", "Connections closed because they were idle for too long."),
		agedEnds:        counter("upstream_cx_max_duration_reached", "Connections closed because they were as old as may be."),
		dnsAsked:        counter("update_attempt", "Questions to DNS."),
		dnsAnswered:     counter("update_success", "Answers of DNS."),
		dnsFailed:       counter("update_failure", "Questions to DNS without an answer."),
		dnsSame:         counter("update_no_rebuild", "Answers of DNS that changed nothing."),
	}
}

func (s *stats) overflow(what overflow, cluster string) { s.overflows[what].With(cluster).Inc() }
