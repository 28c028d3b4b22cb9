package engine

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/tullemesh/tulle/internal/proxy/engine/call"
	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
	"github.com/tullemesh/tulle/internal/proxy/engine/http2"
	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// replayBytesMax is how much of a complete request body is kept so that the
// request can be sent again.
const replayBytesMax = 64 << 10

// http2Exchange is an exchange whose client speaks HTTP/2. It begins on the
// goroutine that reads the client's connection and needs no other as long as
// nothing waits: serve_http2_relay.go. What must wait has a goroutine: it dials,
// speaks HTTP/1.1, pauses, tries again; one that receives the response, and a
// second one that sends the request's body when that was not there at once.
type http2Exchange struct {
	exchange

	// Fixed while the exchange lasts.
	h  *http2Conn
	st *http2.Stream

	side sync.WaitGroup // the goroutine that sends the body
	due  [dueCount]atomic.Int64

	first       []byte      // body bytes that go out with the head
	replayable  bool        // they are the whole request
	kept        []byte      // all body bytes so far, while they are few
	keptEnd     atomic.Bool // they are all, and none is added any more
	tooMany     bool        // they were not few
	sentAll     atomic.Bool // the client sent all of it
	received    atomic.Bool // and a goroutine that sends it has read it
	held        *call.HTTP1 // whose buffer res may be in
	wrote       bool        // some of the request went out
	sawResponse bool
	switched    atomic.Bool // another protocol than HTTP follows, both ways
	websocket   call.WebSocketKey
	connects    bool  // the request is CONNECT, which asks for a tunnel
	entered     bool  // the cluster counts it
	callEnd     int64 // a gRPC call's deadline; 0: none

	place int // guarded by h.deadlines.mu

	// Guarded by mu: what deadlines and a client that leaves may interrupt. A
	// relay has all of the exchange under mu.
	mu       sync.Mutex
	stage    stage
	relay    relay
	call     call.Call
	cancel   context.CancelFunc
	cause    *failure.Failure // why it was interrupted
	headSent bool             // of the response
}

// stage says who owns an exchange.
type stage uint8

const (
	stageNone  stage = iota // its memory waits for the next one
	stageRelay              // whoever holds mu
	stageGoroutine
)

// begin makes the memory a new exchange's.
func (x *http2Exchange) begin(h *http2Conn, st *http2.Stream, now int64) {
	x.exchange.begin(h.d, now)
	x.h, x.st = h, st
	x.req, st.Head = st.Head, x.req
	for i := range x.due {
		x.due[i].Store(0)
	}
	x.first, x.replayable, x.kept, x.tooMany = nil, false, nil, false
	x.keptEnd.Store(false)
	x.sentAll.Store(false)
	x.received.Store(false)
	x.wrote, x.sawResponse, x.entered = false, false, false
	x.switched.Store(false)
	x.websocket, x.connects = call.WebSocketKey{}, false
	x.callEnd = 0
	x.relay.begin()
	x.call, x.cancel, x.cause, x.headSent = nil, nil, nil, false
}

// interruptLocked ends the waits of the exchange's goroutine; the first cause counts.
func (x *http2Exchange) interruptLocked(f *failure.Failure) {
	if x.cause != nil {
		return
	}
	x.cause = f
	if x.cancel != nil {
		x.cancel()
	}
	if x.call != nil {
		x.call.Interrupt()
	}
	if x.headSent && f.Kind != failure.ClientLeft {
		x.st.Interrupt() // it may wait for the client's window
	}
}

// interrupted is why the exchange must end, or nil.
func (x *http2Exchange) interrupted() *failure.Failure {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.cause
}

// because prefers the cause of an interrupt to what it led to.
func (x *http2Exchange) because(f *failure.Failure) *failure.Failure {
	if cause := x.interrupted(); cause != nil {
		return cause
	}
	return x.inTime(f, x.d.e.clock.Now())
}

// inTime prefers the passed deadline of a call to what it led to: the service
// has the same deadline, a moment later, and ends the stream.
func (x *http2Exchange) inTime(f *failure.Failure, now int64) *failure.Failure {
	if x.callEnd > 0 && now >= x.callEnd && (f.Kind == failure.RemoteReset || f.Kind == failure.RouteTimeout) {
		return &failure.Failure{Kind: failure.CallDeadline, Cause: f.Cause}
	}
	return f
}

// touch says that something moved on the stream.
func (x *http2Exchange) touch(now int64) {
	if idle := x.idleTimeout(); idle > 0 {
		x.h.deadlines.set(x, dueIdle, now+int64(idle))
	}
}

// run is the exchange's goroutine. f is why the relay could not go on; nil: there
// was none.
func (x *http2Exchange) run(f *failure.Failure) {
	x.forward(f)
	x.end()
}

// forward sends the request to an endpoint and the response to the client,
// after a first attempt that failed, if any.
func (x *http2Exchange) forward(f *failure.Failure) {
	if f == nil {
		if f = x.takeFirst(); f != nil {
			x.failed(f)
			return
		}
		f = x.attempt()
	}
	for ; f != nil; f = x.attempt() {
		if f.Kind == failure.RouteTimeout {
			f = x.late()
		}
		if x.again(f) {
			f = x.pause()
		}
		if f != nil {
			x.failed(f)
			return
		}
	}
	x.upstream.Answered(x.res.Status)
}

// again decides whether to try again: as for HTTP/1.1, and when the endpoint
// says that it did nothing of the request (RFC 9113 §8.7).
func (x *http2Exchange) again(f *failure.Failure) bool {
	if x.headSent {
		return false
	}
	wrote := x.wrote
	if errors.Is(f.Cause, http2.ErrNotProcessed) && (x.replayable || !x.tooMany) {
		wrote = false
	}
	if !x.repeats(f, sent{wrote, x.canReplay(), x.sawResponse}) {
		return false
	}
	if !x.replayable {
		x.first, x.replayable = x.kept, x.keptEnd.Load()
	}
	return true
}

// canReplay reports whether the whole request is at hand, sent or not.
func (x *http2Exchange) canReplay() bool {
	return x.replayable || x.keptEnd.Load()
}

// late tells an attempt that took too long from a response that did. After the
// former the exchange may go on.
func (x *http2Exchange) late() *failure.Failure {
	f := x.lateResponse()
	if f.Kind == failure.TryTimeout {
		x.mu.Lock()
		x.cause = nil
		x.mu.Unlock()
	}
	return f
}

// pause waits before a retry, as long as nothing ends the exchange.
func (x *http2Exchange) pause() *failure.Failure {
	wait := x.retryPause()
	if wait <= 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	x.mu.Lock()
	x.cancel = cancel
	cause := x.cause
	x.mu.Unlock()
	if cause != nil {
		return cause
	}
	<-ctx.Done()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.cancel = nil
	return x.cause
}

// keep remembers what was read of the body, so that it can be sent again.
func (x *http2Exchange) keep(p []byte, end bool) {
	if len(x.kept)+len(p) > replayBytesMax || end && x.st.Trailers() != nil {
		x.kept, x.tooMany = nil, true
	}
	if !x.tooMany {
		x.kept = append(x.kept, p...)
		x.keptEnd.Store(end)
	}
}

func (x *http2Exchange) setDeadlines(complete bool) {
	m := x.manager
	if m.RequestTimeout > 0 && !complete && len(x.upgrade) == 0 {
		x.h.deadlines.set(x, dueRequest, x.start+int64(m.RequestTimeout))
	}
	if limit := x.streamMax(); limit > 0 {
		x.h.deadlines.set(x, dueLife, x.start+int64(limit))
	}
	if limit := x.callTimeout(); limit > 0 {
		x.callEnd = x.start + int64(limit)
		x.h.deadlines.set(x, dueCall, x.callEnd)
	}
	x.touch(x.start)
}

// takeFirst answers Expect and takes a body that is at hand as a whole.
func (x *http2Exchange) takeFirst() *failure.Failure {
	if len(x.upgrade) > 0 {
		// What follows is the other protocol's. Nobody who may still refuse the
		// upgrade must get it: it could be read as another request.
		x.replayable = true
		return nil
	}
	waiting, complete := x.st.Complete()
	if x.st.Expect100 && !complete {
		h := message.Head{Status: http.StatusContinue}
		if err := x.st.WriteResponse(&h, false); err != nil {
			return x.because(&failure.Failure{Kind: failure.ClientLeft, Cause: err})
		}
	}
	if !complete || waiting > replayBytesMax || x.st.Trailers() != nil {
		return nil
	}
	x.replayable = true
	if waiting == 0 {
		return nil
	}
	x.first = make([]byte, waiting)
	for n := 0; n < waiting; {
		m, err := x.st.Read(x.first[n:])
		if m == 0 && err != nil {
			return x.because(&failure.Failure{Kind: failure.ClientLeft, Cause: err})
		}
		n += m
	}
	x.tookBody(x.first)
	return nil
}

// attempt tries one endpoint. nil: the response went to the client as a whole.
func (x *http2Exchange) attempt() *failure.Failure {
	if f := x.choose(); f != nil {
		return f
	}
	if x.attempts == 1 {
		x.toUpstream()
	} else if x.retries.made > 0 {
		x.countAttempt()
	}
	x.startRouteTimeout(x.d.e.clock.Now(), false)
	c, f := x.open()
	if f != nil {
		return f
	}
	host := &x.upstream.Host
	host.Active.Add(1)
	defer host.Active.Add(-1)
	x.upstream.Counts.Requests.Add(1)
	f = x.over(c)
	x.mu.Lock()
	x.call = nil // no deadline reaches what others use from here on
	whole := f == nil && x.cause == nil
	x.mu.Unlock()
	if !x.replayable {
		whole = whole && x.sentAll.Load()
		if !whole { // a body that nobody wants any more
			x.st.StopReading()
			c.Interrupt()
		}
		x.side.Wait()
		x.st.ResumeReading() // if there is another attempt
	}
	c.Close(whole)
	x.side.Wait() // for a whole body that waited for the endpoint's window
	return f
}

// open gets a connection or a stream to the endpoint.
func (x *http2Exchange) open() (call.Call, *failure.Failure) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	x.mu.Lock()
	cause := x.cause
	x.cancel = cancel
	x.mu.Unlock()
	if cause != nil {
		return nil, cause
	}
	c, err := x.openCall(ctx)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.cancel = nil
	switch {
	case x.cause != nil:
		if err == nil {
			c.Close(false)
		}
		return nil, x.cause
	case err != nil:
		return nil, failure.OfConnect(err)
	}
	x.call = c
	return c, nil
}

func (x *http2Exchange) openCall(ctx context.Context) (call.Call, error) {
	if x.connects {
		return x.openTunnel(ctx)
	}
	two, err := x.speaksHTTP2(ctx, true)
	if err != nil {
		return nil, err
	}
	if two {
		c, err := x.openHTTP2(ctx, x.st.WantsTrailers)
		if err != nil {
			return nil, err
		}
		return c, nil
	}
	c, err := x.openHTTP1(ctx, !x.replayable || !x.idempotent())
	if err != nil {
		return nil, err
	}
	x.websocket.Begin(&x.req, x.upgrade)
	x.releaseHead()
	x.held = c
	return c, nil
}

// over exchanges the messages over a call.
func (x *http2Exchange) over(c call.Call) *failure.Failure {
	x.sent = x.d.e.clock.Now()
	x.wrote = true
	if x.replayable {
		x.startRouteTimeout(x.sent, true)
	}
	rest, err := x.sendFirst(c)
	if err != nil {
		return x.because(failure.OfCall(err))
	}
	if rest != nil || !x.replayable {
		x.side.Go(func() {
			if rest != nil && rest() != nil || x.replayable {
				return // the reader of the response finds out why
			}
			x.pump(c)
		})
	}
	x.touch(x.d.e.clock.Now())
	for {
		end, err := c.ReadHead(&x.res)
		if err != nil {
			return x.because(failure.OfCall(err))
		}
		x.sawResponse = true
		x.touch(x.d.e.clock.Now())
		if x.res.Status < 200 && x.res.Status != http.StatusSwitchingProtocols {
			if f := x.hinted(); f != nil {
				return x.because(f)
			}
			if x.res.Status != http.StatusContinue { // that one is between us and the endpoint
				if err := x.st.WriteResponse(&x.res, false); err != nil {
					return x.because(&failure.Failure{Kind: failure.ClientLeft, Cause: err})
				}
			}
			continue
		}
		return x.respond(c, end)
	}
}

// sendFirst sends the head and what is at hand of the body. rest, if any, waits
// until the latter is on its way: the response may come before.
func (x *http2Exchange) sendFirst(c call.Call) (rest func() error, err error) {
	two, ok := c.(*call.HTTP2)
	if !ok {
		return nil, c.SendHead(&x.req, x.first, x.replayable)
	}
	part := two.First(&x.req, x.first, x.replayable, nil)
	if done, err := two.Offer(part); done || err != nil {
		return nil, err
	}
	return func() error { return two.Finish(part) }, nil
}

// pump sends the body as it comes. It gives back-pressure: bytes that the
// endpoint does not take are not asked of the client.
func (x *http2Exchange) pump(c call.Call) {
	b := x.d.e.buffers.Get()
	defer x.d.e.buffers.Put(b)
	for {
		n, err := x.st.Read(b.B)
		if err != nil && !errors.Is(err, io.EOF) {
			return // the client left, or the exchange ended: both are known
		}
		x.touch(x.d.e.clock.Now())
		end := err != nil
		x.tookBody(b.B[:n])
		x.keep(b.B[:n], end)
		if end { // the response is waited for, although this may wait for the endpoint's window
			x.due[dueRequest].Store(0)
			x.received.Store(true)
			x.startRouteTimeout(x.d.e.clock.Now(), false)
		}
		if c.SendBody(b.B[:n], end, x.trailersOf(end)) != nil {
			return // the reader of the response finds out why
		}
		if end {
			x.sentAll.Store(true)
			x.startRouteTimeout(x.d.e.clock.Now(), true)
			return
		}
	}
}

func (x *http2Exchange) trailersOf(end bool) *message.Head {
	if !end {
		return nil
	}
	return x.st.Trailers()
}

// startRouteTimeout bounds the response; atUpstream: a connection has taken the
// request.
func (x *http2Exchange) startRouteTimeout(now int64, atUpstream bool) {
	complete := x.replayable || x.received.Load() || x.sentAll.Load()
	if at := x.responseBound(now, complete, atUpstream); at > 0 && complete && !x.switched.Load() {
		x.h.deadlines.set(x, dueResponse, at)
		if x.switched.Load() { // meanwhile: who sends the body and who reads the response are two
			x.due[dueResponse].Store(0)
		}
	}
}

// responseHead turns the response's head into what the client gets.
func (x *http2Exchange) responseHead(now int64) *failure.Failure {
	x.headAt = now
	if x.wantsAnother(x.canReplay()) {
		return &failure.Failure{Kind: failure.Again}
	}
	if x.res.Status == http.StatusNoContent {
		x.res.Remove("content-length") // RFC 9110 §8.6
	}
	x.toDownstream()
	if x.messages.call {
		x.h.mu.Lock() // of what the connection remembers
		x.answersCall()
		x.h.mu.Unlock()
	}
	return nil
}

// respond sends the response to the client as it comes.
func (x *http2Exchange) respond(c call.Call, end bool) *failure.Failure {
	switched := x.connects || x.res.Status == http.StatusSwitchingProtocols
	x.switched.Store(switched)
	if switched && !x.websocket.Accepted(&x.res) {
		return &failure.Failure{Kind: failure.BadResponse, Detail: "sec-websocket-accept is missing or wrong"}
	}
	if f := x.responseHead(x.d.e.clock.Now()); f != nil {
		return f
	}
	end = end && !switched
	if end {
		x.noteGRPC(&x.res)
	}
	x.mu.Lock()
	cause := x.cause
	x.headSent = cause == nil
	x.mu.Unlock()
	if cause != nil {
		return cause
	}
	if err := x.st.WriteResponse(&x.res, end); err != nil {
		return x.because(&failure.Failure{Kind: failure.ClientLeft, Cause: err})
	}
	switch {
	case end:
		return nil
	case switched:
		return x.passBoth(c)
	}
	return x.passBody(c)
}

// passBody sends the response's body as it comes.
func (x *http2Exchange) passBody(c call.Call) *failure.Failure {
	b := x.d.e.buffers.Get()
	defer x.d.e.buffers.Put(b)
	for {
		n, err := c.ReadBody(b.B)
		end := errors.Is(err, io.EOF)
		if err != nil && !end {
			return x.because(failure.OfCall(err))
		}
		x.touch(x.d.e.clock.Now())
		x.gaveBody(b.B[:n])
		var trailers *message.Head
		if end {
			trailers = c.Trailers()
			x.noteGRPC(trailers)
		}
		if err := x.toClient(b.B[:n], end, trailers); err != nil {
			return x.because(&failure.Failure{Kind: failure.ClientLeft, Cause: err})
		}
		if end {
			return nil
		}
	}
}

func (x *http2Exchange) toClient(p []byte, end bool, trailers *message.Head) error {
	last := end && (trailers == nil || trailers.Len() == 0)
	if len(p) > 0 || last {
		if _, err := x.st.Write(p, last); err != nil {
			return err
		}
	}
	if end && !last {
		return x.st.WriteTrailers(trailers)
	}
	return nil
}

// noteFailure records how the exchange ended.
func (x *http2Exchange) noteFailure(f *failure.Failure) {
	x.failure = *f
	if x.upstream == nil {
		return
	}
	x.upstream.Counts.RequestErrors.Add(1)
	if f.Kind == failure.RouteTimeout || f.Kind == failure.TryTimeout {
		x.upstream.Counts.RequestTimeouts.Add(1)
	}
}

// failed answers for a failed attempt, if the client can still be told.
func (x *http2Exchange) failed(f *failure.Failure) {
	x.noteFailure(f)
	switch {
	case x.headSent:
		x.st.Reset(cutCode(f))
	case f.Kind == failure.ClientLeft:
	default:
		x.fail(*f)
		x.local()
		x.sendLocal()
	}
}

// cutCode is how a response that began ends when it can't go on: it must not
// look complete. CANCEL is what a caller of gRPC takes for its own deadline when
// that has passed (gRPC: "HTTP2 Error Code to gRPC status mapping").
func cutCode(f *failure.Failure) http2.Code {
	if f.Kind == failure.CallDeadline {
		return http2.Cancel
	}
	return http2.InternalError
}

// sendLocal sends the answer that local made.
func (x *http2Exchange) sendLocal() {
	if x.res.Status == 0 {
		x.st.Reset(http2.InternalError)
		return
	}
	if string(x.req.Method) == http.MethodHead {
		x.body = nil
	}
	x.bytesOut = int64(len(x.body))
	if err := x.st.WriteResponse(&x.res, len(x.body) == 0); err != nil {
		return // the client left
	}
	if len(x.body) > 0 {
		_, _ = x.st.Write(x.body, true) // the same
	}
}

// end counts, logs and lets go, behind the exchange's goroutine.
func (x *http2Exchange) end() {
	x.mu.Lock()
	x.stage = stageNone
	x.h.deadlines.remove(x)
	x.leaveCluster()
	x.wireIn, x.wireOut = x.st.Wire()
	x.st.Close()
	x.count(x.d.e.clock.Now())
	x.releaseHead()
	x.mu.Unlock()
	x.h.let(x)
}

// leaveCluster ends what the exchange counts for in its cluster.
func (x *http2Exchange) leaveCluster() {
	if x.entered {
		x.entered = false
		x.endRetries()
		x.cluster.End()
	}
}

// count counts and logs what the exchange was.
func (x *http2Exchange) count(now int64) {
	x.h.mu.Lock()
	x.finish(now)
	x.h.mu.Unlock()
}

// releaseHead gives back what an HTTP/1.1 response's head was read into.
func (x *http2Exchange) releaseHead() {
	if x.held != nil {
		x.held.Release()
		x.held = nil
	}
}
