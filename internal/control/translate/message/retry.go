package message

import (
	"slices"
	"strconv"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	previoushostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/match"
)

// defaultRetryPolicy is what Istio gives every route. Stock Envoy follows it;
// our proxy repeats only what is safe (DESIGN, Retries).
func defaultRetryPolicy() *routev3.RetryPolicy {
	return &routev3.RetryPolicy{
		RetryOn:    "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
		NumRetries: wrapperspb.UInt32(2),
		RetryHostPredicate: []*routev3.RetryPolicy_RetryHostPredicate{{
			Name:       "envoy.retry_host_predicates.previous_hosts",
			ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{TypedConfig: pack(&previoushostsv3.PreviousHostsPredicate{})},
		}},
		HostSelectionRetryMaxAttempts: 5,
	}
}

// retryPolicy is the policy of a route: Istio's default with what the rule says
// instead, or none for 0 attempts (Istio: HTTPRetry).
func (w *Writer) retryPolicy(r *model.Retries) *routev3.RetryPolicy {
	switch {
	case r == nil:
		return w.retry
	case r.Attempts <= 0:
		return nil
	}
	out := defaultRetryPolicy()
	out.NumRetries = wrapperspb.UInt32(uint32(r.Attempts))
	if r.On != "" {
		out.RetryOn, out.RetriableStatusCodes = retryOn(r.On)
	}
	if r.PerTryTimeout > 0 {
		out.PerTryTimeout = durationpb.New(r.PerTryTimeout)
	}
	if r.Backoff > 0 {
		out.RetryBackOff = &routev3.RetryPolicy_RetryBackOff{BaseInterval: durationpb.New(r.Backoff)}
	}
	if r.SameHosts {
		out.RetryHostPredicate = nil
	}
	return out
}

// retryOn tells the statuses of a list from its conditions. Statuses need the
// condition that looks at them.
func retryOn(list string) (conditions string, statuses []uint32) {
	const onStatuses = "retriable-status-codes"
	var words []string
	for word := range strings.SplitSeq(list, ",") {
		word = strings.TrimSpace(word)
		if n, err := strconv.Atoi(word); err == nil && match.KnownStatus(n) {
			statuses = append(statuses, uint32(n))
		} else if word != "" {
			words = append(words, word)
		}
	}
	if len(statuses) > 0 && !slices.Contains(words, onStatuses) {
		words = append(words, onStatuses)
	}
	return strings.Join(words, ","), statuses
}
