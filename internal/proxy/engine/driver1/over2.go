package driver1

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/tullemesh/tulle/internal/proxy/engine/call"
	"github.com/tullemesh/tulle/internal/proxy/engine/exchange"
	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
	"github.com/tullemesh/tulle/internal/proxy/engine/http1"
	"github.com/tullemesh/tulle/internal/proxy/engine/http2"
	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// askProtocol asks the endpoint of an Auto cluster.
func (x *http1Exchange) askProtocol() (bool, *failure.Failure) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	x.d.Cancel.Store(&cancel)
	two, err := x.SpeaksHTTP2(ctx, false)
	x.d.Cancel.Store(nil)
	if f := x.interrupted(); f != nil {
		return false, f
	}
	if err != nil {
		return false, failure.OfConnect(err)
	}
	return two, nil
}

// attemptCall tries an endpoint by a call: one that speaks HTTP/2, and for a
// client of gRPC-Web any.
func (x *http1Exchange) attemptCall(two bool) *failure.Failure {
	d := x.d
	if x.Attempts == 1 {
		x.ToUpstream()
		if f := x.firstBody(); f != nil {
			return f
		}
	} else {
		x.CountRetry()
	}
	c, f := x.openCall(two)
	if f != nil {
		return f
	}
	// An interrupt may still be on its way: what is not shared isn't used again.
	defer c.Close(false)
	interrupt := context.CancelFunc(c.Interrupt)
	d.Cancel.Store(&interrupt)
	defer d.Cancel.Store(nil)
	x.Upstream.Host.Active.Add(1)
	defer x.Upstream.Host.Active.Add(-1)
	x.Upstream.Counts.Requests.Add(1)
	x.Sent = d.Clock.Now()
	x.wrote = true
	if x.replayable {
		x.startRouteTimeout(true)
	}
	part, done, err := x.sendFirst(c)
	if err != nil {
		return x.over2Failure(err)
	}
	if done && x.replayable {
		d.WatchLeave(x.Sent)
	} else {
		if !x.replayable && x.reqFrame.Expect100 && !x.Manager.Proxy100Continue {
			if _, err := d.Stream.Write([]byte("HTTP/1.1 100 Continue\r\n\r\n")); err != nil {
				return &failure.Failure{Kind: failure.ClientLeft, Cause: err}
			}
		}
		x.pumping = !x.replayable
		d.StartSide(func() { x.sendOver2(c, part) })
	}
	x.touch()
	return x.responseOver2(c)
}

// sendFirst sends the head and what is at hand of the body; if that is not done,
// part is what waits.
func (x *http1Exchange) sendFirst(c call.Call) (part *http2.Part, done bool, err error) {
	two, ok := c.(*call.HTTP2)
	if !ok {
		return nil, true, c.SendHead(&x.Req, x.out, x.replayable)
	}
	part = two.First(&x.Req, x.out, x.replayable, &x.trailers)
	done, err = two.Offer(part)
	return part, done, err
}

func (x *http1Exchange) openCall(two bool) (call.Call, *failure.Failure) {
	d := x.d
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	d.Cancel.Store(&cancel)
	x.startRouteTimeout(false)
	d.WatchLeave(d.Clock.Now())
	var c call.Call
	var err error
	if two {
		c, err = x.OpenHTTP2(ctx, x.reqFrame.WantsTrailers || x.Web != nil)
	} else {
		c, err = x.openWebHTTP1(ctx)
	}
	d.Cancel.Store(nil)
	if f := x.connected(); f != nil {
		if err == nil {
			c.Close(false)
		}
		return nil, f
	}
	d.StopSide()
	if err != nil {
		return nil, failure.OfConnect(err)
	}
	return c, nil
}

// firstBody takes what is at hand of the body into out.
func (x *http1Exchange) firstBody() *failure.Failure {
	x.passExpect()
	x.out = x.out[:0]
	used := 0
	for used < len(x.rest) && !x.reqBody.Done() {
		data, n, err := x.reqBody.Next(x.rest[used:])
		if err != nil {
			x.reqFrame.Close = true
			return &failure.Failure{Kind: failure.BadRequest, Cause: err}
		}
		used += n
		var f *failure.Failure
		if data, f = x.FromClient(data); f != nil {
			x.rest = x.rest[used:]
			return f
		}
		x.out = append(x.out, data...)
	}
	x.rest = x.rest[used:]
	x.WireIn += int64(used)
	x.trailers.Reset()
	if x.reqBody.Done() {
		if f := x.EndFromClient(); f != nil {
			return f
		}
	}
	if x.reqBody.Done() && x.reqBody.Kind() == http1.ChunkedBody {
		if err := x.reqBody.Trailers(http1.Limits{}, &x.trailers); err != nil {
			x.reqFrame.Close = true
			return &failure.Failure{Kind: failure.BadRequest, Cause: err}
		}
	}
	x.replayable, x.kept = x.reqBody.Done(), x.Policy() != nil
	return nil
}

// sendOver2 sends what waits for the upstream's window, and then what is to
// come of the body. The response may come meanwhile.
func (x *http1Exchange) sendOver2(c call.Call, part *http2.Part) {
	if two, ok := c.(*call.HTTP2); ok && two.Finish(part) != nil {
		return // the reader of the response finds out why
	}
	if x.replayable {
		x.d.Watch()
		return
	}
	x.pumpOver2(c)
}

// pumpOver2 sends the rest of the body; then it watches for the client's leave.
func (x *http1Exchange) pumpOver2(c call.Call) {
	d := x.d
	b := d.Buffers.Get()
	for !x.reqBody.Done() {
		n, err := d.Stream.Read(b.B[http1.ChunkRoom : len(b.B)-lastChunkRoom])
		if n == 0 && err != nil {
			d.Buffers.Put(b)
			x.clientEnded(err)
			return
		}
		x.touch()
		x.WireIn += int64(n)
		out, rest, f := x.decodeRequest(b, n, false)
		var trailers *message.Head
		if f == nil && x.reqBody.Done() && x.reqBody.Kind() == http1.ChunkedBody {
			if err := x.reqBody.Trailers(http1.Limits{}, &x.trailers); err != nil {
				f = &failure.Failure{Kind: failure.BadRequest, Cause: err}
			}
			trailers = &x.trailers
		}
		if f != nil {
			d.Buffers.Put(b)
			x.failPump(f)
			return
		}
		x.keep(out)
		b = x.pumped(b, rest)
		if c.SendBody(out, x.reqBody.Done(), trailers) != nil {
			if b != nil {
				d.Buffers.Put(b)
			}
			return // the reader of the response finds out why
		}
	}
	if b != nil {
		d.Buffers.Put(b)
	}
	x.startRouteTimeout(true)
	d.Watch()
}

func (x *http1Exchange) over2Failure(err error) *failure.Failure {
	if f := x.interrupted(); f != nil {
		return f
	}
	f := x.InTime(failure.OfCall(err), x.d.Clock.Now())
	if errors.Is(err, http2.ErrNotProcessed) && x.replayable {
		x.wrote = false // RFC 9113 §8.7: it may be sent again
	}
	return f
}

// responseOver2 passes the response to the client as it comes.
func (x *http1Exchange) responseOver2(c call.Call) *failure.Failure {
	d := x.d
	end := false
	for {
		var err error
		if end, err = c.ReadHead(&x.Res); err != nil {
			return x.over2Failure(err)
		}
		x.sawResponse = true
		x.touch()
		if x.Res.Status >= 200 || x.Res.Status == http.StatusSwitchingProtocols {
			break
		}
		if f := x.informational(); f != nil {
			return f
		}
	}
	x.HeadAt = d.Clock.Now()
	if x.WantsAnother(x.canReplay()) {
		return &failure.Failure{Kind: failure.Again}
	}
	if x.Res.Status == http.StatusSwitchingProtocols {
		return x.switchOver2(c)
	}
	if !exchange.BodyAllowed(x.Res.Status) && x.Res.Status != 304 {
		x.Res.Remove("content-length") // RFC 9110 §8.6
	}
	x.ToDownstream()
	x.AnswersCall()
	if x.Web != nil {
		return x.respondWeb(c, end)
	}
	bodiless := !exchange.BodyAllowed(x.Res.Status) || string(x.Req.Method) == "HEAD"
	_, measured := x.Res.Get("content-length")
	if end && !measured && !bodiless {
		x.Res.SetString("content-length", "0")
		measured = true
	}
	if end {
		x.NoteGRPC(&x.Res)
	}
	chunked := !measured && !bodiless
	if chunked && x.Req.Protocol == fact.HTTP10 {
		chunked = false
		x.reqFrame.Close = true // the end of the connection is the end of the body
	}
	p := x.persistence(x.replayable || x.pumpDone.Load())
	x.headSent = true
	d.Responding.Store(true)
	if f := x.toClient(http1.AppendResponse(x.back[:0], &x.Res, chunked, p)); f != nil || end {
		return f
	}
	return x.streamOver2(c, chunked, bodiless)
}

func (x *http1Exchange) streamOver2(c call.Call, chunked, bodiless bool) *failure.Failure {
	b := x.d.Buffers.Get()
	defer x.d.Buffers.Put(b)
	for {
		n, err := c.ReadBody(b.B[http1.ChunkRoom : len(b.B)-lastChunkRoom])
		end := errors.Is(err, io.EOF)
		if err != nil && !end {
			return x.over2Failure(err)
		}
		x.touch()
		if bodiless && n > 0 {
			return &failure.Failure{Kind: failure.BadResponse, Detail: "body in a response that has none"}
		}
		out := b.B[http1.ChunkRoom : http1.ChunkRoom+n]
		x.GaveBody(out)
		if chunked && n > 0 {
			out = http1.PutChunk(b.B, n)
		}
		if end {
			trailers := c.Trailers()
			x.NoteGRPC(trailers)
			if chunked {
				out = http1.AppendLastChunk(out, trailers)
			}
		}
		if len(out) > 0 {
			if f := x.toClient(out); f != nil {
				return f
			}
		}
		if end {
			return nil
		}
	}
}
