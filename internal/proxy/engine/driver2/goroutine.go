package driver2

import (
	"context"
	"errors"
	"net/http"

	"github.com/tullemesh/tulle/internal/proxy/engine/exchange"
	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
	"github.com/tullemesh/tulle/internal/proxy/engine/http2"
	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// The goroutine form of an exchange whose client speaks HTTP/2: what waits, and
// what is tried again.

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
	x.Upstream.Answered(x.Res.Status)
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
	if !x.Repeats(f, exchange.Sent{Wrote: wrote, Replayable: x.canReplay(), Response: x.sawResponse}) {
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
	f := x.LateResponse()
	if f.Kind == failure.TryTimeout {
		x.mu.Lock()
		x.cause = nil
		x.mu.Unlock()
	}
	return f
}

// pause waits before a retry, as long as nothing ends the exchange.
func (x *http2Exchange) pause() *failure.Failure {
	wait := x.RetryPause()
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
	if len(x.kept)+len(p) > exchange.ReplayBytesMax || end && x.st.Trailers() != nil {
		x.kept, x.tooMany = nil, true
	}
	if !x.tooMany {
		x.kept = append(x.kept, p...)
		x.keptEnd.Store(end)
	}
}

// takeFirst answers Expect and takes a body that is at hand as a whole.
func (x *http2Exchange) takeFirst() *failure.Failure {
	if len(x.Upgrade) > 0 {
		// What follows is the other protocol's. Nobody who may still refuse the
		// upgrade must get it: it could be read as another request.
		x.replayable = true
		return nil
	}
	waiting, complete := x.st.Complete()
	if x.st.Expect100 && !complete && !x.PassExpect() {
		h := message.Head{Status: http.StatusContinue}
		if err := x.st.WriteResponse(&h, false); err != nil {
			return x.because(failure.OfClient(err))
		}
	}
	if !complete || waiting > exchange.ReplayBytesMax || x.st.Trailers() != nil {
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
			return x.because(failure.OfClient(err))
		}
		n += m
	}
	var f *failure.Failure
	if x.first, f = x.FromClient(x.first); f != nil {
		return f
	}
	return x.EndFromClient()
}
