package driver1

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/downstream"
	"github.com/tullemesh/tulle/internal/proxy/engine/exchange"
	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
	"github.com/tullemesh/tulle/internal/proxy/engine/http1"
)

// forward sends the request to an endpoint and the response to the client;
// false: the connection ends.
func (x *http1Exchange) forward() bool {
	if len(x.Upgrade) > 0 && !x.UpgradeAllowed() {
		x.Fail(failure.Failure{Kind: failure.NotSupported, Detail: "upgrade"})
		return x.sendLocal()
	}
	if err := x.Cluster.Begin(); err != nil {
		x.Fail(failure.Failure{Kind: failure.Overflow, Cause: err})
		return x.sendLocal()
	}
	defer x.Cluster.End()
	defer x.EndRetries()
	if limit := x.lifeMax(); limit > 0 {
		x.d.Guard.Set(downstream.SlotLife, x.Start+int64(limit))
	}
	for {
		f := x.attempt()
		if f == nil {
			return x.complete()
		}
		x.dropUpstream()
		x.d.StopSide()
		x.replayable = x.canReplay()
		if x.headSent || !x.Repeats(f, exchange.Sent{Wrote: x.wrote, Replayable: x.replayable, Response: x.sawResponse}) {
			return x.failed(f)
		}
		if f := x.pause(); f != nil {
			return x.failed(f)
		}
	}
}

// failed answers for a failed attempt, if the client can still be told.
func (x *http1Exchange) failed(f *failure.Failure) bool {
	x.NoteFailure(f, x.headSent)
	if x.headSent {
		// A response that broke off must not look complete.
		_ = x.d.Sock.Abort()
		return false
	}
	if f.Gone() {
		return false
	}
	x.clearDeadlines()
	_ = x.d.Sock.SetDeadline(time.Time{})
	x.Fail(*f)
	if f.Kind == failure.BadRequest || !x.requestRead() {
		x.reqFrame.Close = true
	}
	return x.sendLocal()
}

// attempt tries one endpoint. nil: the response went to the client as a whole.
func (x *http1Exchange) attempt() *failure.Failure {
	if f := x.Choose(); f != nil {
		return f
	}
	two, known := x.KnowsHTTP2(false)
	if !known {
		var f *failure.Failure
		if two, f = x.askProtocol(); f != nil {
			return f
		}
	}
	if two || x.Web != nil {
		return x.attemptCall(two)
	}
	if x.Attempts == 1 {
		x.ToUpstream()
		if f := x.buildRequest(); f != nil {
			return f
		}
	} else {
		x.rebuildHead()
	}
	x.Upstream.Host.Active.Add(1)
	defer x.Upstream.Host.Active.Add(-1)
	for {
		if f := x.getConn(); f != nil {
			return f
		}
		n, err := x.send()
		if errors.Is(err, conn.ErrStale) {
			x.up1.Lost(x.Sent)
			x.dropUpstream() // the next one may be good: each goes once
			continue
		}
		x.Upstream.Counts.Requests.Add(1)
		if err != nil {
			return x.upstreamFailure(err)
		}
		return x.response(n)
	}
}

// send sends the request, or starts to. On a pooled connection it also waits for
// the answer: n of its bytes are in x.up.
func (x *http1Exchange) send() (n int, err error) {
	d := x.d
	x.touchAt(x.Sent)
	whole := x.replayable
	if whole {
		x.startRouteTimeoutAt(x.Sent, true)
		d.WatchLeave(x.Sent)
	}
	wrote := 0
	if whole && x.up1.Reused {
		if x.up == nil {
			x.up = d.Buffers.Get()
		}
		wrote, n, err = x.up1.RoundTrip(x.out, x.up.B)
		x.wrote = x.wrote || wrote > 0
		if n > 0 || err != nil {
			return n, err
		}
	}
	rest, err := x.up1.Write(x.out[wrote:])
	x.wrote = x.wrote || rest > 0
	if err != nil || whole {
		return 0, err
	}
	if x.reqFrame.Expect100 && !x.Manager.Proxy100Continue {
		if _, err := d.Stream.Write([]byte("HTTP/1.1 100 Continue\r\n\r\n")); err != nil {
			d.Left.Store(true)
			return 0, err
		}
	}
	x.pumping = true
	x.startPump()
	return 0, nil
}

// startRouteTimeout bounds the response; atUpstream: a connection has taken the
// request.
func (x *http1Exchange) startRouteTimeout(atUpstream bool) {
	x.startRouteTimeoutAt(x.d.Clock.Now(), atUpstream)
}

func (x *http1Exchange) startRouteTimeoutAt(now int64, atUpstream bool) {
	if at := x.ResponseBound(now, x.replayable || x.pumpDone.Load(), atUpstream); at > 0 {
		x.d.Guard.Set(downstream.SlotRoute, at)
	}
}

// rebuildHead serializes the head again, with the number of this attempt, in
// front of the body that is there.
func (x *http1Exchange) rebuildHead() {
	if !x.CountRetry() {
		return
	}
	body := append([]byte(nil), x.out[x.headBytes:]...)
	x.out = http1.AppendRequest(x.out[:0], &x.Req, x.reqBody.Kind() == http1.ChunkedBody)
	x.headBytes = len(x.out)
	x.out = append(x.out, body...)
}

// pause waits before a retry, as long as nothing ends the exchange.
func (x *http1Exchange) pause() *failure.Failure {
	wait := x.RetryPause()
	if wait <= 0 {
		return nil
	}
	d := x.d
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	d.Cancel.Store(&cancel)
	d.WatchLeave(d.Clock.Now())
	<-ctx.Done()
	d.Cancel.Store(nil)
	f := x.interrupted()
	d.StopSide()
	return f
}

// passExpect passes an expectation on where there is a body.
func (x *http1Exchange) passExpect() {
	if x.reqFrame.Expect100 && x.reqBody.Kind() != http1.NoBody {
		x.PassExpect()
	}
}

// buildRequest serializes the head and what is at hand of the body.
func (x *http1Exchange) buildRequest() *failure.Failure {
	x.passExpect()
	chunked := x.reqBody.Kind() == http1.ChunkedBody
	x.out = http1.AppendRequest(x.out[:0], &x.Req, chunked)
	x.headBytes = len(x.out)
	used := 0
	for used < len(x.rest) && !x.reqBody.Done() {
		data, n, err := x.reqBody.Next(x.rest[used:])
		if err != nil {
			x.reqFrame.Close = true
			return &failure.Failure{Kind: failure.BadRequest, Cause: err}
		}
		used += n
		x.TookBody(data)
		if chunked {
			x.out = http1.AppendChunk(x.out, data)
		} else {
			x.out = append(x.out, data...)
		}
	}
	x.rest = x.rest[used:]
	x.WireIn += int64(used)
	if x.reqBody.Done() && chunked {
		if err := x.reqBody.Trailers(http1.Limits{}, &x.trailers); err != nil {
			x.reqFrame.Close = true
			return &failure.Failure{Kind: failure.BadRequest, Cause: err}
		}
		x.out = http1.AppendLastChunk(x.out, &x.trailers)
	}
	x.replayable, x.kept = x.reqBody.Done(), x.Policy() != nil
	return nil
}

// getConn takes a pooled connection or makes one.
func (x *http1Exchange) getConn() *failure.Failure {
	d, u := x.d, x.Upstream
	// A repetition trusts pooled connections less and less: where one was
	// stale, others of its age may be.
	now := d.Clock.Now()
	careful := !x.replayable || !x.Idempotent() || x.Attempts > 1
	var c *cluster.Conn
	switch {
	case x.Attempts >= exchange.AttemptsMax:
	case x.replayable:
		c = u.Take(careful, now) // send finds out whether it is good
	default:
		c = u.Reuse(careful, now)
	}
	if c == nil {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		d.Cancel.Store(&cancel)
		x.startRouteTimeout(false)
		d.WatchLeave(now)
		var err error
		c, err = u.Connect(ctx, x.Use())
		d.Cancel.Store(nil)
		if f := x.connected(); f != nil {
			if c != nil {
				c.Close()
			}
			return f
		}
		d.StopSide()
		if err != nil {
			return failure.OfConnect(err)
		}
		now = d.Clock.Now()
	}
	x.Sent, x.up1, x.From = now, c, c.LocalAddr()
	d.Upstream.Store(c.Socket())
	return nil
}

// interrupted tells which deadline or event of ours ended a wait for the
// upstream, or nil.
func (x *http1Exchange) interrupted() *failure.Failure {
	if f := x.pumpFailure.Load(); f != nil {
		return f
	}
	g := x.d.Guard
	switch {
	case x.d.Left.Load():
		return &failure.Failure{Kind: failure.ClientLeft}
	case g.Expired(downstream.SlotRoute):
		return x.LateResponse()
	case g.Expired(downstream.SlotStream):
		return &failure.Failure{Kind: failure.StreamIdle}
	case g.Expired(downstream.SlotLife): // once: it is clear then
		if x.CallEnd > 0 && x.d.Clock.Now() >= x.CallEnd {
			return &failure.Failure{Kind: failure.CallDeadline}
		}
		f := &failure.Failure{Kind: failure.DurationTimeout}
		if !x.requestRead() {
			f.Detail = failure.Incomplete
		}
		return f
	case g.Expired(downstream.SlotRequest):
		return &failure.Failure{Kind: failure.RequestTimeout}
	case x.d.IsEnding():
		return &failure.Failure{Kind: failure.ClientLeft, Detail: "the proxy ends"}
	}
	return nil
}

// connected ends a wait for a connection: the route's timeout bounded it, and
// begins anew when the request is complete.
func (x *http1Exchange) connected() *failure.Failure {
	if f := x.interrupted(); f != nil {
		return f
	}
	if x.d.Guard.Clear(downstream.SlotRoute) {
		return x.LateResponse()
	}
	return nil
}

// upstreamFailure tells what an error of the upstream connection means.
func (x *http1Exchange) upstreamFailure(err error) *failure.Failure {
	if f := x.interrupted(); f != nil {
		return f
	}
	var codec *http1.Error
	if errors.As(err, &codec) {
		return &failure.Failure{Kind: failure.BadResponse, Cause: err}
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if !x.sawResponse && x.up1 != nil {
		x.up1.Lost(x.d.Clock.Now())
	}
	return &failure.Failure{Kind: failure.Reset, Cause: err}
}

// dropUpstream closes the upstream connection.
func (x *http1Exchange) dropUpstream() {
	if x.up1 == nil {
		return
	}
	x.d.Upstream.Store(nil)
	x.up1.Close()
	x.up1 = nil
}

// complete ends an exchange whose response is with the client.
func (x *http1Exchange) complete() bool {
	d := x.d
	if d.HasSide() && !x.pumpDone.Load() && !x.replayable {
		// The response came before the end of the request: neither side's
		// connection can be used again.
		d.InterruptUpstream()
	}
	d.StopSide()
	requestDone := x.requestRead()
	d.Responding.Store(false)
	expired := x.clearDeadlines()
	x.Upstream.Answered(x.Res.Status)
	if x.up1 != nil {
		reusable := requestDone && !expired && x.resBody.Done() && x.resBody.Kind() != http1.CloseBody && !x.resFrame.Close && !d.Left.Load()
		d.Upstream.Store(nil)
		if reusable {
			x.End = d.Clock.Now()
			x.up1.Release(x.End)
		} else {
			x.up1.Close()
		}
		x.up1 = nil
	}
	switch {
	case d.Left.Load():
		return false
	case !requestDone, x.announcedClose:
		x.linger(requestDone)
		return false
	}
	x.keepRest(0)
	return true
}
