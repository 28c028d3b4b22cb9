// Package exchange is one request and its response as steps that are the same
// for every version of HTTP: what is known of the client's connection (Conn) and
// the request's head come in; a decision, the heads as the other side gets them,
// counts and log lines go out.
//
// A driver, of which there is one for each version that clients speak, owns an
// Exchange: it has the client's socket, the deadlines and the goroutines, and
// reads and writes between the steps. Of all steps only those wait that open a
// call, and WebHead, which reads one.
//
// Read exchange.go first, then conn.go.
package exchange

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

// Exchange is one request and its response: explicit state, changed by steps
// that do no I/O and know no protocol version. A driver reads and writes between
// the steps, in this order:
//
//	Begin        the head of the request is in Req from here on
//	Admit        sanitizes, routes and authorizes; says whether to answer or to forward
//	Choose       picks an endpoint (again for each repetition)
//	ToUpstream   turns Req into what the upstream gets
//	ToDownstream turns Res into what the client gets
//	Local        fills Res with an answer of ours
//	Finish       counts and logs
//
// It pins the chain, the route and the cluster of its request, not the Config.
type Exchange struct {
	memory
	state
}

// memory is kept from one request to the next.
type memory struct {
	// The messages. Their bytes belong to the driver's buffers.
	Req, Res message.Head
	scratch  []byte
	rec      *access.Record // for header templates and logs; made when first needed
}

// state is cleared for each request, in place.
type state struct {
	d       *Conn
	Manager *listener.HTTPManager // of the chain that the connection had at Begin
	facts   fact.Request

	// Set by Admit, but for Upgrade, which the driver reads.
	table    *router.Table
	Result   router.Result
	weighted *router.Weighted
	Upgrade  []byte // what the client asks to switch to, in lower case; empty: nothing
	Cluster  *cluster.Cluster
	Action   Action
	Body     []byte // of a local answer
	location []byte

	// Set by Choose, but for From, which is known when a call is open.
	Upstream *cluster.Upstream
	From     net.Addr // ours, of the connection that the attempt got; nil: it got none
	Attempts int
	tried    [triedMax]*cluster.Upstream
	retries  retries
	hints    int // informational responses of the upstream

	// Times of the clock: of the request's begin, of its sending, of the
	// response's head and of its end; 0: not reached.
	Start, Sent, HeadAt, End int64

	failure  failure.Failure // Kind None: there is none
	BytesIn  int64           // body bytes from the client
	BytesOut int64           // body bytes to the client
	WireIn   int64           // with heads, as on the wire
	WireOut  int64
	source   *telemetry.Peer // of the request
	// destination is who an endpoint's response said it is; nil: it did not.
	destination *telemetry.Peer
	clientTells bool   // the client is a sidecar that said who it is
	grpc        string // the response's grpc-status, of a closed set; empty: none
	Counted     bool   // or not to be: what is inside a tunnel is counted for itself
	messages    messageCounts
	Web         *grpc.Web // translates; nil: the client does not speak gRPC-Web
	CallEnd     int64     // a gRPC call's deadline; 0: none
}

// Action is what Admit decided.
type Action uint8

// The actions.
const (
	ActForward Action = iota
	ActAnswer         // with a status and a body
)

// Begin resets the exchange for a request whose head the driver will parse.
func (x *Exchange) Begin(d *Conn, now int64) {
	if x.d != nil {
		x.Reset()
	}
	x.d, x.Manager, x.Start = d, d.Chain.Load().HTTP, now
}

// Reset forgets the request and keeps the memory.
func (x *Exchange) Reset() {
	x.Req.Reset()
	x.Res.Reset()
	x.scratch = x.scratch[:0]
	x.state = state{}
}

// Admit decides by the generation in force what becomes of the request.
func (x *Exchange) Admit() Action {
	d := x.d
	if f := x.sanitize(); f != nil {
		return x.Fail(*f)
	}
	if x.location != nil {
		return x.answer(http.StatusTemporaryRedirect, nil)
	}
	x.beginCall()
	f := &x.facts // Remote is there
	f.Conn, f.Headers, f.Random = &d.Facts, &x.Req, rand.Uint64()
	f.Protocol, f.Method, f.Scheme, f.Authority, f.Path = x.Req.Protocol, x.Req.Method, x.Req.Scheme, x.Req.Authority, x.Req.Path
	if x.table = d.routes(x.Manager); x.table != nil {
		called := x.Req.Authority
		if d.Tunnel != nil {
			called = d.Tunnel
		}
		x.Result = x.table.MatchFor(called, &x.facts, nil)
	}
	r := x.Result.Route
	if r != nil && r.Forward != nil {
		x.weighted = r.Forward.Choose(x.facts.Random)
	}
	if v := generation.AdmitRequest(x.Manager, x.Result.Host, r, x.weighted, &x.facts, nil); !v.Allowed {
		return x.Fail(failure.Failure{Kind: failure.Denied, Detail: v.Policy})
	}
	x.beginWeb(r)
	if r != nil && r.Forward != nil && !x.Result.RequireTLS {
		return x.admitForward(r.Forward)
	}
	return x.admitOther()
}

// admitOther answers what is not forwarded.
func (x *Exchange) admitOther() Action {
	r := x.Result.Route
	switch {
	case x.Result.Host == nil:
		return x.Fail(failure.Failure{Kind: failure.NoRouteFound, Detail: string(generation.NoVirtualHost)})
	case x.Result.RequireTLS:
		x.location = router.AppendTLSLocation(nil, &x.facts)
		return x.answer(http.StatusMovedPermanently, nil)
	case r == nil:
		return x.Fail(failure.Failure{Kind: failure.NoRouteFound})
	case r.Redirect != nil:
		x.location = r.Redirect.AppendLocation(nil, &r.Match, &x.facts)
		return x.answer(r.Redirect.Status, nil)
	case r.Direct != nil:
		return x.answer(r.Direct.Status, r.Direct.Body)
	}
	return x.Fail(failure.Failure{Kind: failure.NoRouteFound, Detail: "the route is for servers, not for proxies"})
}

func (x *Exchange) admitForward(f *router.Forward) Action {
	name, ok := f.ClusterName(x.weighted, &x.facts)
	if ok {
		x.Cluster = x.d.Live.Get(name)
	}
	if x.Cluster == nil {
		act := x.Fail(failure.Failure{Kind: failure.NoClusterFound, Detail: name})
		if f.ClusterNotFound != 0 {
			x.Res.Status = f.ClusterNotFound
		}
		return act
	}
	return ActForward
}

// Fail makes the exchange end with an answer for a failure.
func (x *Exchange) Fail(f failure.Failure) Action {
	x.failure = f
	a := f.Answer()
	return x.answer(a.Status, []byte(a.Body))
}

// Malformed makes the exchange end that is no request: the codec has answered
// with RST_STREAM.
func (x *Exchange) Malformed(why string) {
	x.failure = failure.Failure{Kind: failure.BadStream, Detail: why}
	x.facts.Remote, x.source = x.d.Facts.Remote.Addr(), x.d.Peer
	x.Action, x.Res.Status = ActAnswer, 0
}

// NoteFailure records how the exchange ended; answered: the client had the
// response's head. One that left before that was told the status 0 (Envoy:
// RESPONSE_CODE).
func (x *Exchange) NoteFailure(f *failure.Failure, answered bool) {
	x.failure = *f
	if f.Gone() && !answered {
		x.Res.Reset()
	}
	if x.Upstream == nil {
		return
	}
	if f.Answer().Side == failure.Upstream {
		x.Upstream.Counts.RequestErrors.Add(1)
	}
	if f.Kind == failure.RouteTimeout || f.Kind == failure.TryTimeout {
		x.Upstream.Counts.RequestTimeouts.Add(1)
	}
}

// answer makes the exchange end with an answer of ours.
func (x *Exchange) answer(status int, body []byte) Action {
	x.Action = ActAnswer
	x.Res.Reset()
	x.Res.Status = status
	x.Body = body
	return ActAnswer
}

// Local fills the response with the answer that Fail or answer decided.
func (x *Exchange) Local() {
	h := &x.Res
	if len(x.location) > 0 {
		h.Set("location", x.location)
	}
	if x.failure.Kind == failure.Overflow {
		h.SetString("x-envoy-overloaded", "true")
	}
	switch {
	case x.Web != nil:
		x.localWeb()
		return
	case x.isGRPC():
		x.localGRPC()
		return
	}
	if BodyAllowed(h.Status) {
		var digits [20]byte
		h.Set("content-length", strconv.AppendInt(digits[:0], int64(len(x.Body)), 10))
		if len(x.Body) > 0 {
			h.SetString("content-type", "text/plain")
		}
	} else {
		x.Body = nil
	}
	x.responseHeaders()
}

// Inform turns an informational response into what the client gets; false: it
// gets none, for HTTP/1.0 has none, and a 100 that is ours to give ends here. No
// content follows, so a length would mislead (RFC 9110 §8.6).
func (x *Exchange) Inform() (bool, *failure.Failure) {
	if x.hints++; x.hints > limit.InformationalMax {
		return false, &failure.Failure{Kind: failure.BadResponse, Detail: "too many informational responses"}
	}
	if x.Res.Status == http.StatusContinue && !x.Manager.Proxy100Continue || x.Req.Protocol == fact.HTTP10 {
		return false, nil
	}
	x.Res.Remove("content-length")
	telemetry.DropMetadata(&x.Res)
	return true, nil
}

// PassExpect lets the upstream answer the client's expectation, if the manager
// says so: its answer then decides whether the client sends its body
// (RFC 9110 §10.1.1). false: it is ours to answer.
func (x *Exchange) PassExpect() bool {
	if x.Manager.Proxy100Continue {
		x.Req.SetString("expect", "100-continue")
	}
	return x.Manager.Proxy100Continue
}

// BodyAllowed reports whether a response with this status may have a body
// (RFC 9110 §6.4.1).
func BodyAllowed(status int) bool { return status >= 200 && status != 204 && status != 304 }

// Choose picks the endpoint for the next attempt.
func (x *Exchange) Choose() *failure.Failure {
	random := x.facts.Random
	if x.Attempts > 0 {
		random = rand.Uint64()
	}
	x.Attempts++
	to := x.d.Facts.Local
	if x.Cluster.Spec().Kind == cluster.OriginalDst {
		var f *failure.Failure
		if to, f = x.d.Meant(x.facts.Authority); f != nil {
			return f
		}
	}
	u, err := x.Cluster.Pick(random, to, x.avoided()...)
	if err != nil {
		return failure.OfConnect(err)
	}
	x.tried[(x.Attempts-1)%triedMax] = u
	x.Upstream, x.From = u, nil
	return nil
}

// triedMax endpoints are remembered, the last ones.
const triedMax = 4

// avoided are the endpoints of earlier attempts, which the next one spares
// (Envoy: previous_hosts). A policy may ask for the contrary.
func (x *Exchange) avoided() []*cluster.Upstream {
	if p := x.Policy(); p != nil && !p.AvoidTried {
		return nil
	}
	return x.tried[:min(x.Attempts-1, triedMax)]
}

// RouteTimeout is how long the response may take; 0: no bound.
func (x *Exchange) RouteTimeout() time.Duration {
	if r := x.Result.Route; r != nil && r.Forward != nil {
		return r.Forward.Timeout
	}
	return 0
}

// IdleTimeout is how long nothing may move; 0: no bound.
func (x *Exchange) IdleTimeout() time.Duration {
	if r := x.Result.Route; r != nil && r.Forward != nil && r.Forward.IdleTimeout != 0 {
		return max(r.Forward.IdleTimeout, 0)
	}
	return x.Manager.StreamIdleTimeout
}

// StreamMax is how long the stream may live; 0: no bound.
func (x *Exchange) StreamMax() time.Duration {
	if r := x.Result.Route; r != nil && r.Forward != nil && r.Forward.MaxStreamDuration != 0 {
		return max(r.Forward.MaxStreamDuration, 0)
	}
	return x.Manager.MaxStreamDuration
}

// Idempotent reports whether the method may be repeated when we can't know
// whether it was carried out (RFC 9110 §9.2.2).
func (x *Exchange) Idempotent() bool {
	switch string(x.Req.Method) {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}

// AttemptsMax bounds how often a request is tried: safe repetition only
// (DESIGN, Retries).
const AttemptsMax = 3

// mayRepeat reports whether a failed attempt may be repeated: nothing was
// written, or the method is idempotent and the whole request is at hand. In
// both cases no byte of a response was seen.
func (x *Exchange) mayRepeat(f *failure.Failure, wrote, replayable, sawResponse bool) bool {
	if x.Attempts >= AttemptsMax || sawResponse {
		return false
	}
	switch f.Kind {
	case failure.ConnectFailed, failure.Reset, failure.RemoteReset:
		return !wrote || replayable && x.Idempotent()
	default:
		return false
	}
}

// Finish ends the exchange: counts and logs.
func (x *Exchange) Finish(now int64) {
	x.End = now
	x.countRequest()
	x.logRequest()
}
