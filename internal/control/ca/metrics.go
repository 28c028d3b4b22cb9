package ca

import (
	"sync/atomic"
)

// Names of the authority's metrics, as Istio's istiod has them. Counters count
// since the process began; timestamps are Unix seconds.
const (
	MetricRequests        = "citadel_server_csr_count"
	MetricAuthentication  = "citadel_server_authentication_failure_count"
	MetricParsing         = "citadel_server_csr_parsing_err_count"
	MetricSigning         = "citadel_server_csr_sign_err_count"
	MetricIssued          = "citadel_server_success_cert_issuance_count"
	MetricRootExpiry      = "citadel_server_root_cert_expiry_timestamp"
	MetricRootExpirySecs  = "citadel_server_root_cert_expiry_seconds"
	MetricChainExpiry     = "citadel_server_cert_chain_expiry_timestamp"
	MetricChainExpirySecs = "citadel_server_cert_chain_expiry_seconds"
	// MetricLimited is ours: requests refused by Rates.
	MetricLimited = "tulle_ca_rate_limited_total"
)

type counters struct {
	requests, authentication, parsing, signing, issued, limited atomic.Uint64
}

// Metric is a metric's current value.
type Metric struct {
	Name    string
	Counter bool // else a gauge
	Value   float64
}

// Metrics returns the current values in a fixed order, for a registry to show.
func (s *Server) Metrics() []Metric {
	now := s.authority.options.Now()
	root, chain := s.authority.RootNotAfter(), s.authority.SignerNotAfter()
	return []Metric{
		{MetricRequests, true, float64(s.counters.requests.Load())},
		{MetricAuthentication, true, float64(s.counters.authentication.Load())},
		{MetricParsing, true, float64(s.counters.parsing.Load())},
		{MetricSigning, true, float64(s.counters.signing.Load())},
		{MetricIssued, true, float64(s.counters.issued.Load())},
		{MetricLimited, true, float64(s.counters.limited.Load())},
		{MetricRootExpiry, false, float64(root.Unix())},
		{MetricRootExpirySecs, false, root.Sub(now).Seconds()},
		{MetricChainExpiry, false, float64(chain.Unix())},
		{MetricChainExpirySecs, false, chain.Sub(now).Seconds()},
	}
}
