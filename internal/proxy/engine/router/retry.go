package router

import (
	"slices"
	"time"
)

// Retry says when a request is sent again beyond what is safe by itself
// (Envoy: RetryPolicy). All counts and times are for one request.
type Retry struct {
	On RetryOn
	// Statuses of OnStatuses.
	Statuses []int
	// Retries beside the first attempt.
	Retries uint32
	// PerTry bounds an attempt; 0: only the route's bounds hold.
	PerTry time.Duration
	// The pause before the n-th retry is random, below BackOff·(2^n−1) and
	// below BackOffMax (Envoy: fully jittered exponential back-off).
	BackOff, BackOffMax time.Duration
	// AvoidTried prefers endpoints that were not tried (Envoy:
	// previous_hosts).
	AvoidTried bool
}

// RetryOn is a set of conditions, by Envoy's names (x-envoy-retry-on,
// x-envoy-retry-grpc-on).
type RetryOn uint32

// The conditions. Of an attempt that got no response, OnConnectFailure asks
// whether there was a connection, OnReset and OnResetBeforeRequest whether it
// broke off, On5xx and OnGatewayError count it as what would be answered.
const (
	On5xx RetryOn = 1 << iota
	OnGatewayError
	OnReset
	OnResetBeforeRequest
	OnConnectFailure
	OnRateLimited
	OnRetriable4xx
	OnRefusedStream
	OnStatuses
	OnCancelled
	OnDeadlineExceeded
	OnInternal
	OnResourceExhausted
	OnUnavailable
	// OnNever stands for conditions that can't come up here: retriable-headers
	// without headers, and those of HTTP/3.
	OnNever
)

// RetryOnNamed is the condition of Envoy's name; false: there is none.
func RetryOnNamed(name string) (RetryOn, bool) {
	on, ok := map[string]RetryOn{
		"5xx": On5xx, "gateway-error": OnGatewayError, "reset": OnReset, "reset-before-request": OnResetBeforeRequest,
		"connect-failure": OnConnectFailure, "envoy-ratelimited": OnRateLimited, "retriable-4xx": OnRetriable4xx,
		"refused-stream": OnRefusedStream, "retriable-status-codes": OnStatuses, "retriable-headers": OnNever, "http3-post-connect-failure": OnNever,
		"cancelled": OnCancelled, "deadline-exceeded": OnDeadlineExceeded, "internal": OnInternal,
		"resource-exhausted": OnResourceExhausted, "unavailable": OnUnavailable,
	}[name]
	return on, ok
}

// OnResponse reports whether a response with this status asks for a retry.
// grpcStatus is that of a response that is only a head, else empty; limited
// says that x-envoy-ratelimited is set, which only OnRateLimited overrides.
func (r *Retry) OnResponse(status int, grpcStatus string, limited bool) bool {
	if limited {
		return r.On&OnRateLimited != 0
	}
	return r.On&On5xx != 0 && status >= 500 && status < 600 ||
		r.On&OnGatewayError != 0 && status >= 502 && status <= 504 ||
		r.On&OnRetriable4xx != 0 && status == 409 ||
		r.On&OnStatuses != 0 && slices.Contains(r.Statuses, status) ||
		r.On&grpcConditions(grpcStatus) != 0
}

// grpcConditions are the conditions that a grpc-status meets (gRPC status
// codes, as x-envoy-retry-grpc-on names them).
func grpcConditions(status string) RetryOn {
	switch status {
	case "1":
		return OnCancelled
	case "4":
		return OnDeadlineExceeded
	case "8":
		return OnResourceExhausted
	case "13":
		return OnInternal
	case "14":
		return OnUnavailable
	}
	return 0
}

// Pause is how long to wait before the n-th retry, n from 1.
func (r *Retry) Pause(n uint32, random uint64) time.Duration {
	bound := r.BackOffMax
	if n < 32 {
		if most := r.BackOff * (1<<n - 1); most > 0 && most < bound {
			bound = most
		}
	}
	if bound <= 0 {
		return 0
	}
	return time.Duration(random % uint64(bound))
}
