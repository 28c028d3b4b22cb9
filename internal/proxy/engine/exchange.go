package engine

import (
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/proxy/engine/access"
	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
	"github.com/tullemesh/tulle/internal/proxy/engine/generation"
	"github.com/tullemesh/tulle/internal/proxy/engine/grpc"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/message"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
	"github.com/tullemesh/tulle/internal/proxy/engine/telemetry"
)

// exchange is one request and its response: explicit state, changed by steps
// that do no I/O and know no protocol version. A driver (serve_http1.go) reads
// and writes between the steps, in this order:
//
//	begin     the head of the request is in req
//	admit     sanitizes, routes and authorizes; says whether to answer or to forward
//	choose    picks an endpoint (again for each repetition)
//	toUpstream   turns req into what the upstream gets
//	toDownstream turns res into what the client gets
//	local     fills res with an answer of ours
//	finish    counts and logs
//
// It pins the chain, the route and the cluster of its request, not the Config.
type exchange struct {
	exchangeMemory
	exchangeState
}

// exchangeMemory is kept from one request to the next.
type exchangeMemory struct {
	// The messages. Their bytes belong to the driver's buffers.
	req, res message.Head
	scratch  []byte
	rec      *access.Record // for header templates and logs; made when first needed
}

// exchangeState is cleared for each request, in place.
type exchangeState struct {
	d       *exchangeConn
	manager *listener.HTTPManager
	facts   fact.Request

	// Set by admit.
	table    *router.Table
	result   router.Result
	weighted *router.Weighted
	upgrade  []byte // what the client asks to switch to, in lower case; empty: nothing
	cluster  *cluster.Cluster
	action   action
	body     []byte // of a local answer
	location []byte

	// Set by choose.
	upstream *cluster.Upstream
	from     net.Addr // ours, of the connection that the attempt got; nil: it got none
	attempts int
	tried    [triedMax]*cluster.Upstream
	retries  retries
	hints    int // informational responses of the upstream

	// Times of the clock; 0: not reached.
	start, sent, headAt, end int64

	failure   failure.Failure // Kind None: there is none
	bytesIn   int64           // body bytes from the client
	bytesOut  int64           // body bytes to the client
	wireIn    int64           // with heads
	wireOut   int64
	requestID []byte
	source    *telemetry.Peer // of the request
	// destination is who an endpoint's response said it is; nil: it did not.
	destination *telemetry.Peer
	clientTells bool   // the client is a sidecar that said who it is
	grpc        string // the response's grpc-status, of a closed set; empty: none
	counted     bool
	messages    messageCounts
	web         *grpc.Web // translates; nil: the client does not speak gRPC-Web
	callEnd     int64     // a gRPC call's deadline; 0: none
}

// action is what admit decided.
type action uint8

const (
	actForward action = iota
	actAnswer         // with a status and a body
)

// begin resets the exchange for a request whose head the driver will parse.
func (x *exchange) begin(d *exchangeConn, now int64) {
	if x.d != nil {
		x.reset()
	}
	x.d, x.manager, x.start = d, d.chain.Load().HTTP, now
}

// reset forgets the request and keeps the memory.
func (x *exchange) reset() {
	x.req.Reset()
	x.res.Reset()
	x.scratch = x.scratch[:0]
	x.exchangeState = exchangeState{}
}

// admit decides by the generation in force what becomes of the request.
func (x *exchange) admit() action {
	d := x.d
	if f := x.sanitize(); f != nil {
		return x.fail(*f)
	}
	if x.location != nil {
		return x.answer(http.StatusTemporaryRedirect, nil)
	}
	x.beginCall()
	f := &x.facts // Remote is there
	f.Conn, f.Headers, f.Random = &d.facts, &x.req, rand.Uint64()
	f.Protocol, f.Method, f.Scheme, f.Authority, f.Path = x.req.Protocol, x.req.Method, x.req.Scheme, x.req.Authority, x.req.Path
	if x.table = d.routes(x.manager); x.table != nil {
		called := x.req.Authority
		if d.tunnel != nil {
			called = d.tunnel
		}
		x.result = x.table.MatchFor(called, &x.facts, nil)
	}
	r := x.result.Route
	if r != nil && r.Forward != nil {
		x.weighted = r.Forward.Choose(x.facts.Random)
	}
	if v := generation.AdmitRequest(x.manager, x.result.Host, r, x.weighted, &x.facts, nil); !v.Allowed {
		return x.fail(failure.Failure{Kind: failure.Denied, Detail: v.Policy})
	}
	x.beginWeb(r)
	if r != nil && r.Forward != nil && !x.result.RequireTLS {
		return x.admitForward(r.Forward)
	}
	return x.admitOther()
}

// admitOther answers what is not forwarded.
func (x *exchange) admitOther() action {
	r := x.result.Route
	switch {
	case x.result.Host == nil:
		return x.fail(failure.Failure{Kind: failure.NoRouteFound, Detail: string(generation.NoVirtualHost)})
	case x.result.RequireTLS:
		x.location = router.AppendTLSLocation(nil, &x.facts)
		return x.answer(http.StatusMovedPermanently, nil)
	case r == nil:
		return x.fail(failure.Failure{Kind: failure.NoRouteFound})
	case r.Redirect != nil:
		x.location = r.Redirect.AppendLocation(nil, &r.Match, &x.facts)
		return x.answer(r.Redirect.Status, nil)
	case r.Direct != nil:
		return x.answer(r.Direct.Status, r.Direct.Body)
	}
	return x.fail(failure.Failure{Kind: failure.NoRouteFound, Detail: "the route is for servers, not for proxies"})
}

func (x *exchange) admitForward(f *router.Forward) action {
	name, ok := f.ClusterName(x.weighted, &x.facts)
	if ok {
		x.cluster = x.d.live.Get(name)
	}
	if x.cluster == nil {
		act := x.fail(failure.Failure{Kind: failure.NoClusterFound, Detail: name})
		if f.ClusterNotFound != 0 {
			x.res.Status = f.ClusterNotFound
		}
		return act
	}
	return actForward
}

// fail makes the exchange end with an answer for a failure.
func (x *exchange) fail(f failure.Failure) action {
	x.failure = f
	a := f.Answer()
	return x.answer(a.Status, []byte(a.Body))
}

// malformed makes the exchange end that is no request: the codec has answered
// with RST_STREAM.
func (x *exchange) malformed(why string) {
	x.failure = failure.Failure{Kind: failure.BadStream, Detail: why}
	x.facts.Remote, x.source = x.d.facts.Remote.Addr(), x.d.peer
	x.action, x.res.Status = actAnswer, 0
}

// noteFailure records how the exchange ended; answered: the client had the
// response's head. One that left before that was told the status 0 (Envoy:
// RESPONSE_CODE).
func (x *exchange) noteFailure(f *failure.Failure, answered bool) {
	x.failure = *f
	if f.Kind == failure.ClientLeft && !answered {
		x.res.Reset()
	}
	if x.upstream == nil {
		return
	}
	x.upstream.Counts.RequestErrors.Add(1)
	if f.Kind == failure.RouteTimeout || f.Kind == failure.TryTimeout {
		x.upstream.Counts.RequestTimeouts.Add(1)
	}
}

// answer makes the exchange end with an answer of ours.
func (x *exchange) answer(status int, body []byte) action {
	x.action = actAnswer
	x.res.Reset()
	x.res.Status = status
	x.body = body
	return actAnswer
}

// local fills the response with the answer that fail or answer decided.
func (x *exchange) local() {
	h := &x.res
	if len(x.location) > 0 {
		h.Set("location", x.location)
	}
	if x.failure.Kind == failure.Overflow {
		h.SetString("x-envoy-overloaded", "true")
	}
	switch {
	case x.web != nil:
		x.localWeb()
		return
	case x.isGRPC():
		x.localGRPC()
		return
	}
	if bodyAllowed(h.Status) {
		var digits [20]byte
		h.Set("content-length", strconv.AppendInt(digits[:0], int64(len(x.body)), 10))
		if len(x.body) > 0 {
			h.SetString("content-type", "text/plain")
		}
	} else {
		x.body = nil
	}
	x.responseHeaders()
}

// hinted counts an informational response.
func (x *exchange) hinted() *failure.Failure {
	if x.hints++; x.hints > limit.InformationalMax {
		return &failure.Failure{Kind: failure.BadResponse, Detail: "too many informational responses"}
	}
	return nil
}

// bodyAllowed reports whether a response with this status may have a body
// (RFC 9110 §6.4.1).
func bodyAllowed(status int) bool { return status >= 200 && status != 204 && status != 304 }

// choose picks the endpoint for the next attempt.
func (x *exchange) choose() *failure.Failure {
	random := x.facts.Random
	if x.attempts > 0 {
		random = rand.Uint64()
	}
	x.attempts++
	to := x.d.facts.Local
	if x.cluster.Spec().Kind == cluster.OriginalDst {
		var f *failure.Failure
		if to, f = x.d.meant(x.facts.Authority); f != nil {
			return f
		}
	}
	u, err := x.cluster.Pick(random, to, x.avoided()...)
	if err != nil {
		return failure.OfConnect(err)
	}
	x.tried[(x.attempts-1)%triedMax] = u
	x.upstream, x.from = u, nil
	return nil
}

// triedMax endpoints are remembered, the last ones.
const triedMax = 4

// avoided are the endpoints of earlier attempts, which the next one spares
// (Envoy: previous_hosts). A policy may ask for the contrary.
func (x *exchange) avoided() []*cluster.Upstream {
	if p := x.policy(); p != nil && !p.AvoidTried {
		return nil
	}
	return x.tried[:min(x.attempts-1, triedMax)]
}

// routeTimeout is how long the response may take; 0: no bound.
func (x *exchange) routeTimeout() time.Duration {
	if r := x.result.Route; r != nil && r.Forward != nil {
		return r.Forward.Timeout
	}
	return 0
}

// idleTimeout is how long nothing may move; 0: no bound.
func (x *exchange) idleTimeout() time.Duration {
	if r := x.result.Route; r != nil && r.Forward != nil && r.Forward.IdleTimeout > 0 {
		return r.Forward.IdleTimeout
	}
	return x.manager.StreamIdleTimeout
}

// streamMax is how long the stream may live; 0: no bound.
func (x *exchange) streamMax() time.Duration {
	if r := x.result.Route; r != nil && r.Forward != nil && r.Forward.MaxStreamDuration > 0 {
		return r.Forward.MaxStreamDuration
	}
	return x.manager.MaxStreamDuration
}

// idempotent reports whether the method may be repeated when we can't know
// whether it was carried out (RFC 9110 §9.2.2).
func (x *exchange) idempotent() bool {
	switch string(x.req.Method) {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}

// attemptsMax bounds how often a request is tried: safe repetition only
// (DESIGN, Retries).
const attemptsMax = 3

// mayRepeat reports whether a failed attempt may be repeated: nothing was
// written, or the method is idempotent and the whole request is at hand. In
// both cases no byte of a response was seen.
func (x *exchange) mayRepeat(f *failure.Failure, wrote, replayable, sawResponse bool) bool {
	if x.attempts >= attemptsMax || sawResponse {
		return false
	}
	switch f.Kind {
	case failure.ConnectFailed, failure.Reset, failure.RemoteReset:
		return !wrote || replayable && x.idempotent()
	default:
		return false
	}
}

// finish ends the exchange: counts and logs.
func (x *exchange) finish(now int64) {
	x.end = now
	x.countRequest()
	x.logRequest()
}
