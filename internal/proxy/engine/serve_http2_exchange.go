package engine

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/http2"
	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// replayBytesMax is how much of a complete request body is kept so that the
// request can be sent again.
const replayBytesMax = 64 << 10

// http2Exchange is an exchange whose client speaks HTTP/2. Its goroutine
// receives the response; a second one sends the request's body when that was
// not there at once.
type http2Exchange struct {
	exchange

	h     *http2Conn
	st    *http2.Stream
	guard *conn.Guard
	side  sync.WaitGroup // the goroutine that sends the body

	first       []byte // body bytes that go out with the head
	replayable  bool   // they are the whole request
	kept        []byte // all body bytes so far, while they are few
	keptEnd     bool   // they are all
	tooMany     bool   // they were not few
	sentAll     atomic.Bool
	held        *http1Call // whose buffer res may be in
	wrote       bool       // some of the request went out
	sawResponse bool

	// Guarded by mu: what deadlines and a client that leaves may interrupt.
	mu       sync.Mutex
	call     call
	cancel   context.CancelFunc
	cause    *Failure // why it was interrupted
	headSent bool     // of the response
}

// expire runs on the guard's timer.
func (x *http2Exchange) expire(slot int) {
	switch slot {
	case slotRoute:
		x.interrupt(&Failure{Kind: RouteTimeout})
	case slotStream:
		x.interrupt(&Failure{Kind: StreamIdle})
	case slotRequest:
		x.interrupt(&Failure{Kind: RequestTimeout})
	case slotDuration:
		x.interrupt(&Failure{Kind: DurationTimeout})
	}
}

// interrupt ends the waits of the exchange; the first cause counts.
func (x *http2Exchange) interrupt(f *Failure) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.cause != nil {
		return
	}
	x.cause = f
	if x.cancel != nil {
		x.cancel()
	}
	if x.call != nil {
		x.call.interrupt()
	}
	if x.headSent && f.Kind != ClientLeft {
		x.st.Interrupt() // it may wait for the client's window
	}
}

// interrupted is why the exchange must end, or nil.
func (x *http2Exchange) interrupted() *Failure {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.cause
}

// because prefers the cause of an interrupt to what it led to.
func (x *http2Exchange) because(f *Failure) *Failure {
	if cause := x.interrupted(); cause != nil {
		return cause
	}
	return f
}

// touch says that something moved on the stream.
func (x *http2Exchange) touch() {
	if idle := x.idleTimeout(); idle > 0 {
		x.guard.Set(slotStream, x.d.e.clock.Now()+int64(idle))
	}
}

// forward sends the request to an endpoint and the response to the client.
func (x *http2Exchange) forward() {
	if err := x.cluster.Begin(); err != nil {
		x.failed(&Failure{Kind: Overflow, Cause: err})
		return
	}
	defer x.cluster.End()
	defer x.endRetries()
	x.st.OnFailure(func() { x.interrupt(&Failure{Kind: ClientLeft}) })
	x.setDeadlines()
	if f := x.takeFirst(); f != nil {
		x.failed(f)
		return
	}
	for {
		f := x.attempt()
		if f == nil {
			x.upstream.Counts.RequestOKs.Add(1)
			return
		}
		if f.Kind == RouteTimeout {
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
}

// again decides whether to try again: as for HTTP/1.1, and when the endpoint
// says that it did nothing of the request (RFC 9113 §8.7).
func (x *http2Exchange) again(f *Failure) bool {
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
		x.first, x.replayable = x.kept, x.keptEnd
	}
	return true
}

// canReplay reports whether the whole request is at hand; the side goroutine
// has ended, or has sent all.
func (x *http2Exchange) canReplay() bool {
	return x.replayable || x.sentAll.Load() && x.keptEnd && !x.tooMany
}

// late tells an attempt that took too long from a response that did. After the
// former the exchange may go on.
func (x *http2Exchange) late() *Failure {
	f := x.lateResponse()
	if f.Kind == TryTimeout {
		x.mu.Lock()
		x.cause = nil
		x.mu.Unlock()
	}
	return f
}

// pause waits before a retry, as long as nothing ends the exchange.
func (x *http2Exchange) pause() *Failure {
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
		x.keptEnd = end
	}
}

func (x *http2Exchange) setDeadlines() {
	m := x.manager
	if _, complete := x.st.Complete(); m.RequestTimeout > 0 && !complete {
		x.guard.Set(slotRequest, x.start+int64(m.RequestTimeout))
	}
	if limit := x.streamMax(); limit > 0 {
		x.guard.Set(slotDuration, x.start+int64(limit))
	}
	x.touch()
}

// takeFirst answers Expect and takes a body that is at hand as a whole.
func (x *http2Exchange) takeFirst() *Failure {
	waiting, complete := x.st.Complete()
	if x.st.Expect100 && !complete {
		h := message.Head{Status: http.StatusContinue}
		if err := x.st.WriteResponse(&h, false); err != nil {
			return x.because(&Failure{Kind: ClientLeft, Cause: err})
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
			return x.because(&Failure{Kind: ClientLeft, Cause: err})
		}
		n += m
	}
	x.bytesIn = int64(waiting)
	return nil
}

// attempt tries one endpoint. nil: the response went to the client as a whole.
func (x *http2Exchange) attempt() *Failure {
	if f := x.choose(); f != nil {
		return f
	}
	if x.attempts == 1 {
		x.toUpstream()
	} else if x.retries.made > 0 {
		x.countAttempt()
	}
	x.startRouteTimeout(false)
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
			c.interrupt()
		}
		x.side.Wait()
		x.st.ResumeReading() // if there is another attempt
	}
	c.finish(whole)
	return f
}

// open gets a connection or a stream to the endpoint.
func (x *http2Exchange) open() (call, *Failure) {
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
			c.finish(false)
		}
		return nil, x.cause
	case err != nil:
		return nil, connectFailure(err)
	}
	x.call = c
	return c, nil
}

func (x *http2Exchange) openCall(ctx context.Context) (call, error) {
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
	x.releaseHead()
	x.held = c
	return c, nil
}

// over exchanges the messages over a call.
func (x *http2Exchange) over(c call) *Failure {
	x.sent = x.d.e.clock.Now()
	x.wrote = true
	if err := c.sendHead(&x.req, x.first, x.replayable); err != nil {
		return x.because(callFailure(err))
	}
	if x.replayable {
		x.startRouteTimeout(true)
	} else {
		x.side.Go(func() { x.pump(c) })
	}
	x.touch()
	for {
		end, err := c.readHead(&x.res)
		if err != nil {
			return x.because(callFailure(err))
		}
		x.sawResponse = true
		x.touch()
		if x.res.Status < 200 {
			if f := x.hinted(); f != nil {
				return x.because(f)
			}
			if x.res.Status != http.StatusContinue { // that one is between us and the endpoint
				if err := x.st.WriteResponse(&x.res, false); err != nil {
					return x.because(&Failure{Kind: ClientLeft, Cause: err})
				}
			}
			continue
		}
		return x.respond(c, end)
	}
}

// pump sends the body as it comes. It gives back-pressure: bytes that the
// endpoint does not take are not asked of the client.
func (x *http2Exchange) pump(c call) {
	b := x.d.e.buffers.Get()
	defer x.d.e.buffers.Put(b)
	for {
		n, err := x.st.Read(b.B)
		if err != nil && !errors.Is(err, io.EOF) {
			return // the client left, or the exchange ended: both are known
		}
		x.touch()
		end := err != nil
		x.bytesIn += int64(n)
		x.keep(b.B[:n], end)
		if c.sendBody(b.B[:n], end, x.trailersOf(end)) != nil {
			return // the reader of the response finds out why
		}
		if end {
			x.guard.Clear(slotRequest)
			x.sentAll.Store(true)
			x.startRouteTimeout(true)
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
func (x *http2Exchange) startRouteTimeout(atUpstream bool) {
	complete := x.replayable || x.sentAll.Load()
	if at := x.responseBound(x.d.e.clock.Now(), complete, atUpstream); at > 0 && complete {
		x.guard.Set(slotRoute, at)
	}
}

// respond sends the response to the client as it comes.
func (x *http2Exchange) respond(c call, end bool) *Failure {
	x.headAt = x.d.e.clock.Now()
	if x.wantsAnother(x.canReplay()) {
		return &Failure{Kind: Again}
	}
	if x.res.Status == http.StatusNoContent {
		x.res.Remove("content-length") // RFC 9110 §8.6
	}
	x.toDownstream()
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
		return x.because(&Failure{Kind: ClientLeft, Cause: err})
	}
	if end {
		return nil
	}
	b := x.d.e.buffers.Get()
	defer x.d.e.buffers.Put(b)
	for {
		n, err := c.readBody(b.B)
		end := errors.Is(err, io.EOF)
		if err != nil && !end {
			return x.because(callFailure(err))
		}
		x.touch()
		x.bytesOut += int64(n)
		var trailers *message.Head
		if end {
			trailers = c.trailers()
			x.noteGRPC(trailers)
		}
		if err := x.toClient(b.B[:n], end, trailers); err != nil {
			return x.because(&Failure{Kind: ClientLeft, Cause: err})
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

// failed answers for a failed attempt, if the client can still be told.
func (x *http2Exchange) failed(f *Failure) {
	x.failure = *f
	if (f.Kind == RouteTimeout || f.Kind == TryTimeout) && x.upstream != nil {
		x.upstream.Counts.RequestTimeouts.Add(1)
	}
	if x.upstream != nil {
		x.upstream.Counts.RequestErrors.Add(1)
	}
	switch {
	case x.headSent:
		x.st.Reset(http2.InternalError) // it must not look complete
	case f.Kind == ClientLeft:
	default:
		x.fail(*f)
		x.local()
		x.sendLocal()
	}
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

// end counts, logs and lets go.
func (x *http2Exchange) end() {
	x.guard.Stop()
	x.wireIn, x.wireOut = x.st.Wire()
	x.h.mu.Lock()
	x.finish(x.d.e.clock.Now())
	x.h.mu.Unlock()
	x.st.Close()
	x.releaseHead()
}

// releaseHead gives back what an HTTP/1.1 response's head was read into.
func (x *http2Exchange) releaseHead() {
	if x.held != nil {
		x.held.release()
		x.held = nil
	}
}
