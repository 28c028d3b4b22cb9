package xds

import "time"

// Metrics takes what the server measures. Labels come from closed sets: short
// type names (shortType) and Istio versions of proxies.
type Metrics interface {
	// Connected adds to the gauge of open streams: pilot_xds{version}.
	Connected(version string, delta int)
	// Pushed counts a response: pilot_xds_pushes{type},
	// pilot_xds_config_size_bytes{type}, pilot_xds_push_time{type}.
	Pushed(kind string, bytes int, took time.Duration)
	// Rejected counts a NACK: pilot_total_xds_rejects{type} and
	// pilot_xds_cds_reject and its siblings.
	Rejected(kind string)
	// ExpiredNonce counts a stale state-of-the-world request:
	// pilot_xds_expired_nonce{type}.
	ExpiredNonce(kind string)
	// BuildFailed counts a resource that could not be built and was not sent.
	BuildFailed(kind string)
	// Queued is the time from Publish to the start of the stream's pass:
	// pilot_proxy_queue_time.
	Queued(d time.Duration)
	// Converged is the time from Publish until all of it was handed to the
	// transport: pilot_proxy_convergence_time.
	Converged(d time.Duration)
}

type discard struct{}

func (discard) Connected(string, int)             {}
func (discard) Pushed(string, int, time.Duration) {}
func (discard) Rejected(string)                   {}
func (discard) ExpiredNonce(string)               {}
func (discard) BuildFailed(string)                {}
func (discard) Queued(time.Duration)              {}
func (discard) Converged(time.Duration)           {}
