package exchange

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

// Policy is what the route asks for, or nil.
func (x *Exchange) Policy() *router.Retry {
	if r := x.Result.Route; r != nil && r.Forward != nil {
		return r.Forward.Retry
	}
	return nil
}

// ReplayBytesMax is how much of a complete request body is kept so that the
// request can be sent again.
const ReplayBytesMax = 64 << 10

// Sent is how far a request came that may have to be sent again.
type Sent struct {
	Wrote      bool // a part of it went out
	Replayable bool // the whole of it is at hand
	Response   bool // a part of a response came
}

// Repeats decides whether to try again after a failed attempt: when that is
// safe, or when the route's policy asks for it and the request is at hand.
func (x *Exchange) Repeats(f *failure.Failure, s Sent) bool {
	if f.Kind == failure.Again {
		return true // takeRetry has decided
	}
	p := x.Policy()
	asks := p != nil && asksAfter(p.On, f, s.Wrote)
	if !(asks && s.Wrote) && x.mayRepeat(f, s.Wrote, s.Replayable, s.Response) {
		x.d.Meters.Repeated.Inc()
		return true
	}
	return asks && x.takeRetry(p, s.Replayable || !s.Wrote)
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

// WantsAnother decides whether the response whose head is in res is dropped and
// the request sent again.
func (x *Exchange) WantsAnother(replayable bool) bool {
	p := x.Policy()
	if p == nil {
		return false
	}
	_, limited := x.Res.Get("x-envoy-ratelimited")
	status, _ := x.Res.Get("grpc-status")
	return p.OnResponse(x.Res.Status, string(status), limited) && x.takeRetry(p, replayable)
}

// takeRetry takes one of the retries that the policy and the cluster allow.
func (x *Exchange) takeRetry(p *router.Retry, replayable bool) bool {
	switch {
	case !replayable:
		x.d.Meters.Abandoned.Inc()
		return false
	case x.retries.made >= p.Retries:
		x.retries.exhausted = true
		return false
	case !x.retries.held && !x.Cluster.BeginRetry():
		x.retries.overflow = true
		return false
	}
	x.retries.held = true
	x.retries.made++
	x.d.Meters.Retried.Inc()
	return true
}

// EndRetries gives back what the exchange holds.
func (x *Exchange) EndRetries() {
	if x.retries.held {
		x.retries.held = false
		x.Cluster.EndRetry()
	}
}

// RetryPause is how long to wait before the next attempt.
func (x *Exchange) RetryPause() time.Duration {
	p := x.Policy()
	if p == nil || x.retries.made == 0 {
		return 0
	}
	return p.Pause(x.retries.made, rand.Uint64())
}

// countAttempt tells the upstream which attempt this is (Envoy:
// include_request_attempt_count); false: nobody wants to know.
func (x *Exchange) countAttempt() bool {
	if !x.Result.Host.AttemptCount {
		return false
	}
	var digits [10]byte
	x.Req.Set("x-envoy-attempt-count", strconv.AppendUint(digits[:0], uint64(x.retries.made)+1, 10))
	return true
}

// CountRetry is countAttempt where the route's policy asked for this one.
func (x *Exchange) CountRetry() bool { return x.retries.made > 0 && x.countAttempt() }

// ResponseBound is when the response must be complete; 0: never. The route's
// timeout covers all attempts and runs from the complete request, so complete
// says whether it is; the policy's bound is for this attempt, once the request
// is with the upstream (Envoy: RouteAction.timeout, RetryPolicy.per_try_timeout).
func (x *Exchange) ResponseBound(now int64, complete, atUpstream bool) int64 {
	r := &x.retries
	if t := x.RouteTimeout(); t > 0 && !r.complete {
		r.routeEnd, r.complete = now+int64(t), complete
	}
	r.tryEnd = 0
	if p := x.Policy(); p != nil && p.PerTry > 0 && complete && atUpstream {
		r.tryEnd = now + int64(p.PerTry)
	}
	if r.tryEnd > 0 && (r.routeEnd == 0 || r.tryEnd < r.routeEnd) {
		return r.tryEnd
	}
	return r.routeEnd
}

// LateResponse is why a response that missed its bound failed.
func (x *Exchange) LateResponse() *failure.Failure {
	r := &x.retries
	if r.tryEnd > 0 && (r.routeEnd == 0 || r.tryEnd < r.routeEnd) {
		return &failure.Failure{Kind: failure.TryTimeout}
	}
	return &failure.Failure{Kind: failure.RouteTimeout}
}

// flags are Envoy's response flags of the exchange, separated by commas.
func (x *Exchange) flags() string {
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
