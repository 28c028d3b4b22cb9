package engine

import (
	"errors"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
	"github.com/tullemesh/tulle/internal/proxy/engine/http2"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

// retries is what an exchange knows of its repetitions. The engine repeats by
// itself what is safe (mayRepeat); a route's policy may ask for more
// (Envoy: RetryPolicy).
type retries struct {
	made      uint32 // by the policy
	exhausted bool   // the policy asked for one more than it allows
	overflow  bool   // the cluster allows no more retries at once
	held      bool   // of the cluster's concurrent retries, one is ours

	routeEnd, tryEnd int64 // times of the clock; 0: no bound
	complete         bool  // routeEnd counts from the complete request
}

// policy is what the route asks for, or nil.
func (x *exchange) policy() *router.Retry {
	if r := x.result.Route; r != nil && r.Forward != nil {
		return r.Forward.Retry
	}
	return nil
}

// replayBytesMax is how much of a complete request body is kept so that the
// request can be sent again.
const replayBytesMax = 64 << 10

// sent is how far a request came that may have to be sent again.
type sent struct {
	// wrote: a part of it went out. replayable: the whole of it is at hand.
	// response: a part of a response came.
	wrote, replayable, response bool
}

// repeats decides whether to try again after a failed attempt: when that is
// safe, or when the route's policy asks for it and the request is at hand.
func (x *exchange) repeats(f *failure.Failure, s sent) bool {
	if f.Kind == failure.Again {
		return true // takeRetry has decided
	}
	p := x.policy()
	asks := p != nil && asksAfter(p.On, f, s.wrote)
	if !(asks && s.wrote) && x.mayRepeat(f, s.wrote, s.replayable, s.response) {
		x.d.meters.Repeated.Inc()
		return true
	}
	return asks && x.takeRetry(p, s.replayable || !s.wrote)
}

// asksAfter reports whether conditions hold for an attempt that got no whole
// response head (Envoy: RetryStateImpl::wouldRetryFromReset).
func asksAfter(on router.RetryOn, f *failure.Failure, wrote bool) bool {
	const broken = router.OnReset | router.On5xx | router.OnGatewayError
	switch f.Kind {
	case failure.ConnectFailed, failure.ConnectTimeout:
		return on&(broken|router.OnConnectFailure|router.OnResetBeforeRequest) != 0
	case failure.Reset, failure.RemoteReset, failure.BadResponse, failure.TryTimeout:
		return on&broken != 0 || on&router.OnResetBeforeRequest != 0 && !wrote ||
			on&router.OnRefusedStream != 0 && errors.Is(f.Cause, http2.ErrNotProcessed)
	default:
		return false
	}
}

// wantsAnother decides whether the response whose head is in res is dropped and
// the request sent again.
func (x *exchange) wantsAnother(replayable bool) bool {
	p := x.policy()
	if p == nil {
		return false
	}
	_, limited := x.res.Get("x-envoy-ratelimited")
	status, _ := x.res.Get("grpc-status")
	return p.OnResponse(x.res.Status, string(status), limited) && x.takeRetry(p, replayable)
}

// takeRetry takes one of the retries that the policy and the cluster allow.
func (x *exchange) takeRetry(p *router.Retry, replayable bool) bool {
	switch {
	case !replayable:
		x.d.meters.Abandoned.Inc()
		return false
	case x.retries.made >= p.Retries:
		x.retries.exhausted = true
		return false
	case !x.retries.held && !x.cluster.BeginRetry():
		x.retries.overflow = true
		return false
	}
	x.retries.held = true
	x.retries.made++
	x.d.meters.Retried.Inc()
	return true
}

// endRetries gives back what the exchange holds.
func (x *exchange) endRetries() {
	if x.retries.held {
		x.retries.held = false
		x.cluster.EndRetry()
	}
}

// retryPause is how long to wait before the next attempt.
func (x *exchange) retryPause() time.Duration {
	p := x.policy()
	if p == nil || x.retries.made == 0 {
		return 0
	}
	return p.Pause(x.retries.made, rand.Uint64())
}

// countAttempt tells the upstream which attempt this is (Envoy:
// include_request_attempt_count); false: nobody wants to know.
func (x *exchange) countAttempt() bool {
	if !x.result.Host.AttemptCount {
		return false
	}
	var digits [10]byte
	x.req.Set("x-envoy-attempt-count", strconv.AppendUint(digits[:0], uint64(x.retries.made)+1, 10))
	return true
}

// countRetry is countAttempt where the route's policy asked for this one.
func (x *exchange) countRetry() bool { return x.retries.made > 0 && x.countAttempt() }

// responseBound is when the response must be complete; 0: never. The route's
// timeout covers all attempts and runs from the complete request, so complete
// says whether it is; the policy's bound is for this attempt, once the request
// is with the upstream (Envoy: RouteAction.timeout, RetryPolicy.per_try_timeout).
func (x *exchange) responseBound(now int64, complete, atUpstream bool) int64 {
	r := &x.retries
	if t := x.routeTimeout(); t > 0 && !r.complete {
		r.routeEnd, r.complete = now+int64(t), complete
	}
	r.tryEnd = 0
	if p := x.policy(); p != nil && p.PerTry > 0 && complete && atUpstream {
		r.tryEnd = now + int64(p.PerTry)
	}
	if r.tryEnd > 0 && (r.routeEnd == 0 || r.tryEnd < r.routeEnd) {
		return r.tryEnd
	}
	return r.routeEnd
}

// lateResponse is why a response that missed its bound failed.
func (x *exchange) lateResponse() *failure.Failure {
	r := &x.retries
	if r.tryEnd > 0 && (r.routeEnd == 0 || r.tryEnd < r.routeEnd) {
		return &failure.Failure{Kind: failure.TryTimeout}
	}
	return &failure.Failure{Kind: failure.RouteTimeout}
}

// flags are Envoy's response flags of the exchange, separated by commas.
func (x *exchange) flags() string {
	flag := ""
	if x.failure.Kind != failure.None {
		flag = x.failure.Answer().Flag
	}
	switch {
	case x.retries.exhausted:
		return join(flag, "URX")
	case x.retries.overflow && flag != "UO":
		return join(flag, "UO")
	}
	return flag
}

func join(flag, more string) string {
	if flag == "" {
		return more
	}
	return flag + "," + more
}
