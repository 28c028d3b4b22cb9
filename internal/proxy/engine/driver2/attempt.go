package driver2

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/tullemesh/tulle/internal/proxy/engine/call"
	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// attempt tries one endpoint. nil: the response went to the client as a whole.
func (x *http2Exchange) attempt() *failure.Failure {
	if f := x.Choose(); f != nil {
		return f
	}
	if x.Attempts == 1 {
		x.ToUpstream()
	} else {
		x.CountRetry()
	}
	x.startRouteTimeout(x.d.Clock.Now(), false)
	c, f := x.open()
	if f != nil {
		return f
	}
	host := &x.Upstream.Host
	host.Active.Add(1)
	defer host.Active.Add(-1)
	x.Upstream.Counts.Requests.Add(1)
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
	two, err := x.SpeaksHTTP2(ctx, true)
	if err != nil {
		return nil, err
	}
	if two {
		c, err := x.OpenHTTP2(ctx, x.st.WantsTrailers || x.Web != nil)
		if err != nil {
			return nil, err
		}
		return c, nil
	}
	c, err := x.OpenHTTP1(ctx, !x.replayable || !x.Idempotent())
	if err != nil {
		return nil, err
	}
	x.websocket.Begin(&x.Req, x.Upgrade)
	x.held.Keep(c)
	return c, nil
}

// over exchanges the messages over a call.
func (x *http2Exchange) over(c call.Call) *failure.Failure {
	x.Sent = x.d.Clock.Now()
	x.wrote = true
	if x.replayable {
		x.startRouteTimeout(x.Sent, true)
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
	x.touch(x.d.Clock.Now())
	for {
		end, err := c.ReadHead(&x.Res)
		if err != nil {
			return x.because(failure.OfCall(err))
		}
		x.sawResponse = true
		x.touch(x.d.Clock.Now())
		if x.Res.Status < 200 && x.Res.Status != http.StatusSwitchingProtocols {
			passes, f := x.Inform()
			if f != nil {
				return x.because(f)
			}
			if passes {
				if err := x.st.WriteResponse(&x.Res, false); err != nil {
					return x.because(failure.OfClient(err))
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
		return nil, c.SendHead(&x.Req, x.first, x.replayable)
	}
	part := two.First(&x.Req, x.first, x.replayable, nil)
	if done, err := two.Offer(part); done || err != nil {
		return nil, err
	}
	return func() error { return two.Finish(part) }, nil
}

// pump sends the body as it comes. It gives back-pressure: bytes that the
// endpoint does not take are not asked of the client.
func (x *http2Exchange) pump(c call.Call) {
	b := x.d.Buffers.Get()
	defer x.d.Buffers.Put(b)
	for {
		n, err := x.st.Read(b.B)
		if err != nil && !errors.Is(err, io.EOF) {
			return // the client left, or the exchange ended: both are known
		}
		x.touch(x.d.Clock.Now())
		end := err != nil
		out, f := x.FromClient(b.B[:n])
		if f == nil && end {
			f = x.EndFromClient()
		}
		if f != nil {
			x.mu.Lock()
			x.interruptLocked(f)
			x.mu.Unlock()
			return
		}
		x.keep(out, end)
		if end { // the response is waited for, although this may wait for the endpoint's window
			x.due[dueRequest].Store(0)
			x.received.Store(true)
			x.startRouteTimeout(x.d.Clock.Now(), false)
		}
		if c.SendBody(out, end, x.trailersOf(end)) != nil {
			return // the reader of the response finds out why
		}
		if end {
			x.sentAll.Store(true)
			x.startRouteTimeout(x.d.Clock.Now(), true)
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
	if at := x.ResponseBound(now, complete, atUpstream); at > 0 && complete && !x.switched.Load() {
		x.h.deadlines.set(x, dueResponse, at)
		if x.switched.Load() { // meanwhile: who sends the body and who reads the response are two
			x.due[dueResponse].Store(0)
		}
	}
}

// responseHead turns the response's head into what the client gets.
func (x *http2Exchange) responseHead(now int64) *failure.Failure {
	x.HeadAt = now
	if x.WantsAnother(x.canReplay()) {
		return &failure.Failure{Kind: failure.Again}
	}
	if x.Res.Status == http.StatusNoContent {
		x.Res.Remove("content-length") // RFC 9110 §8.6
	}
	x.ToDownstream()
	if x.IsCall() {
		x.h.mu.Lock() // of what the connection remembers
		x.AnswersCall()
		x.h.mu.Unlock()
	}
	return nil
}

// respond sends the response to the client as it comes.
func (x *http2Exchange) respond(c call.Call, end bool) *failure.Failure {
	switched := x.connects || x.Res.Status == http.StatusSwitchingProtocols
	x.switched.Store(switched)
	if !switched && len(x.Upgrade) > 0 && x.Res.Status < 300 {
		// It refuses, which in HTTP/2 a status of 2xx would deny (RFC 8441 §5).
		return &failure.Failure{Kind: failure.BadResponse, Detail: "an upgrade is answered by 2xx"}
	}
	if switched && !x.websocket.Accepted(&x.Res) {
		return &failure.Failure{Kind: failure.BadResponse, Detail: "sec-websocket-accept is missing or wrong"}
	}
	if f := x.responseHead(x.d.Clock.Now()); f != nil {
		return f
	}
	end = end && !switched
	if end {
		x.NoteGRPC(&x.Res)
	}
	if x.Web != nil && !switched {
		var err error
		if end, err = x.WebHead(c, end, func() { x.touch(x.d.Clock.Now()) }); err != nil {
			return x.because(failure.OfCall(err))
		}
	}
	x.mu.Lock()
	cause := x.cause
	x.headSent = cause == nil
	x.mu.Unlock()
	if cause != nil {
		return cause
	}
	if err := x.st.WriteResponse(&x.Res, end); err != nil {
		return x.because(failure.OfClient(err))
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
	b := x.d.Buffers.Get()
	defer x.d.Buffers.Put(b)
	for {
		n, err := c.ReadBody(b.B)
		end := errors.Is(err, io.EOF)
		if err != nil && !end {
			return x.because(failure.OfCall(err))
		}
		x.touch(x.d.Clock.Now())
		out := b.B[:n]
		var trailers *message.Head
		if end {
			trailers = c.Trailers()
			x.NoteGRPC(trailers)
		}
		if x.Web == nil {
			x.GaveBody(out)
		} else {
			out, trailers = x.ToWeb(out, end, trailers), nil
		}
		if err := x.toClient(out, end, trailers); err != nil {
			return x.because(failure.OfClient(err))
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
