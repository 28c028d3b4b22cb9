package compile

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

// Istio's default retry policy. It stands on nearly every route of istiod, and
// nobody asked for it; the engine repeats only what is safe instead (DESIGN,
// Retries). Any other policy is one that somebody wrote, and is followed.
const (
	defaultRetryOn = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"
	defaultRetries = 2
)

// Envoy's defaults of RetryPolicy.
const (
	retryCount      = 1                     // num_retries
	retryBackOff    = 25 * time.Millisecond // retry_back_off.base_interval
	retryBackOffMax = 10                    // retry_back_off.max_interval, times the base
)

// retry converts a policy; nil: the engine repeats only what is safe.
func (v *conv) retry(m *routev3.RetryPolicy, path string) *router.Retry {
	if m == nil || m.GetRetryOn() == "" {
		return nil
	}
	r := &router.Retry{
		Retries: retryCount, AvoidTried: len(m.GetRetryHostPredicate()) > 0,
		PerTry:  v.duration(m.GetPerTryTimeout(), 0, join(path, "per_try_timeout")),
		BackOff: retryBackOff,
	}
	if n := m.GetNumRetries(); n != nil {
		r.Retries = n.GetValue()
	}
	if m.GetRetryOn() == defaultRetryOn && r.Retries == defaultRetries && r.PerTry == 0 && len(m.GetRetriableStatusCodes()) == 0 {
		return nil
	}
	if r.Retries == 0 {
		return nil
	}
	for word := range strings.SplitSeq(m.GetRetryOn(), ",") {
		on, ok := router.RetryOnNamed(strings.TrimSpace(word))
		if !ok {
			v.report.refuse(join(path, "retry_on"), fmt.Sprintf("%q is no condition that the engine knows", word))
		}
		r.On |= on
	}
	for i, status := range m.GetRetriableStatusCodes() {
		if http.StatusText(int(status)) == "" && (status < 100 || status > 599) {
			v.report.invalid(fmt.Sprintf("%s[%d]", join(path, "retriable_status_codes"), i), fmt.Sprintf("%d is no status", status))
		}
		r.Statuses = append(r.Statuses, int(status))
	}
	if b := m.GetRetryBackOff(); b != nil {
		r.BackOff = v.duration(b.GetBaseInterval(), retryBackOff, join(path, "retry_back_off.base_interval"))
		r.BackOffMax = v.duration(b.GetMaxInterval(), 0, join(path, "retry_back_off.max_interval"))
	}
	if r.BackOffMax == 0 {
		r.BackOffMax = retryBackOffMax * r.BackOff
	}
	return r
}
