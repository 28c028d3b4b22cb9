package ca

import (
	"github.com/tullemesh/tulle/internal/observe"
)

// Names of the authority's metrics, as Istio's istiod has them except for the
// last. Timestamps are Unix seconds. Istio's gauges of the seconds that remain
// are left out: they are the timestamps minus the time of the query.
const (
	MetricRequests       = "citadel_server_csr_count"
	MetricAuthentication = "citadel_server_authentication_failure_count"
	MetricParsing        = "citadel_server_csr_parsing_err_count"
	MetricSigning        = "citadel_server_csr_sign_err_count"
	MetricIssued         = "citadel_server_success_cert_issuance_count"
	MetricRootExpiry     = "citadel_server_root_cert_expiry_timestamp"
	MetricChainExpiry    = "citadel_server_cert_chain_expiry_timestamp"
	MetricLimited        = "tulle_ca_rate_limited_total"
)

// metrics counts what a Server does.
type metrics struct {
	requests, authentication, parsing, issued, limited *observe.Counter
	signing                                            *observe.CounterVec // error: "ttl" or "signer"
}

func newMetrics(r *observe.Registry, a *Authority) metrics {
	r.Gauge(MetricRootExpiry, "The end of the first root certificate, in Unix seconds.").With().Set(float64(a.roots[0].NotAfter.Unix()))
	r.Gauge(MetricChainExpiry, "The end of the signing certificate, in Unix seconds.").With().Set(float64(a.signer.NotAfter.Unix()))
	return metrics{
		requests:       r.Counter(MetricRequests, "Certificate requests received.").With(),
		authentication: r.Counter(MetricAuthentication, "Certificate requests whose caller was refused.").With(),
		parsing:        r.Counter(MetricParsing, "Certificate requests that were malformed.").With(),
		signing:        r.Counter(MetricSigning, "Certificate requests that could not be signed, by reason.", "error"),
		issued:         r.Counter(MetricIssued, "Certificates issued.").With(),
		limited:        r.Counter(MetricLimited, "Certificate requests refused by a rate limit.").With(),
	}
}
