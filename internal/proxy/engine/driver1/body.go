package driver1

import (
	"errors"

	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/downstream"
	"github.com/tullemesh/tulle/internal/proxy/engine/exchange"
	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
	"github.com/tullemesh/tulle/internal/proxy/engine/http1"
)

// lastChunkRoom is the room behind a chunk for the end of the body.
const lastChunkRoom = 16

// startPump runs pump on the connection's one side goroutine. What runs there
// is made once, so that an upload allocates nothing.
func (x *http1Exchange) startPump() {
	d := x.d
	if x.pumpOnSide == nil {
		x.pumpOnSide = func() {
			defer x.d.EndSide()
			x.pump()
		}
	}
	d.BeginSide()
	go x.pumpOnSide()
}

// pump sends the rest of the request's body while the response may already
// come. It is the connection's side goroutine.
func (x *http1Exchange) pump() {
	d, up := x.d, x.up1
	b := d.Buffers.GetFor(x.reqFrame.Length - x.BytesIn)
	chunked := x.reqBody.Kind() == http1.ChunkedBody
	for n := 0; !x.reqBody.Done(); {
		b = x.widen(b, n)
		var err error
		n, err = d.Stream.Read(b.B[http1.ChunkRoom : len(b.B)-lastChunkRoom])
		if n == 0 && err != nil {
			d.Buffers.Put(b)
			x.clientEnded(err)
			return
		}
		x.touch()
		x.WireIn += int64(n)
		out, rest, f := x.decodeRequest(b, n, chunked)
		if f != nil {
			d.Buffers.Put(b)
			x.failPump(f)
			return
		}
		x.keep(out)
		b = x.pumped(b, rest)
		if _, err := up.Write(out); err != nil {
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
	d.WatchLeave(d.Clock.Now())
}

// clientEnded tells the request's goroutine that a read of the body failed: the
// client has left, but for a timeout, which is of one that was stopped, or late
// and told so.
func (x *http1Exchange) clientEnded(err error) {
	if !conn.IsTimeout(err) {
		x.d.Left.Store(true)
		x.d.InterruptUpstream()
	}
}

// failPump ends the exchange for what is wrong with the request's body.
func (x *http1Exchange) failPump(f *failure.Failure) {
	x.pumpFailure.Store(f)
	x.d.InterruptUpstream()
}

// widen changes a buffer that the last read of a body has filled for a wider
// one: more is likely to be there.
func (x *http1Exchange) widen(b *conn.Buffer, n int) *conn.Buffer {
	if n < len(b.B)-http1.ChunkRoom-lastChunkRoom || len(b.B) != conn.BufferBytes {
		return b
	}
	buffers := &x.d.Buffers
	buffers.Put(b)
	return buffers.GetFor(conn.WideBytes)
}

// pumped notes that the request has been read when its body is done, before its
// last bytes go out: their answer may come at once. rest bytes of the next
// request are kept with their buffer; else b is given back.
func (x *http1Exchange) pumped(b *conn.Buffer, rest int) *conn.Buffer {
	if !x.reqBody.Done() {
		return b
	}
	if rest > 0 {
		x.h.left, x.h.nLeft = b, rest
		b = nil
	}
	x.pumpDone.Store(true)
	x.startRouteTimeout(false) // although the rest may wait for the endpoint
	return b
}

// keep puts what goes out of the body behind what went out before, so that a
// route's retry policy can have it sent again.
func (x *http1Exchange) keep(p []byte) {
	if x.kept = x.kept && len(x.out)+len(p) <= exchange.ReplayBytesMax; x.kept {
		x.out = append(x.out, p...)
	}
}

// canReplay reports whether the whole request is at hand.
func (x *http1Exchange) canReplay() bool { return x.replayable || x.pumpDone.Load() && x.kept }

// decodeRequest takes n bytes of the body in b and returns what the upstream
// gets. rest bytes of the next request are moved to the front of b when the
// body is done; then out is a copy.
func (x *http1Exchange) decodeRequest(b *conn.Buffer, n int, chunked bool) (out []byte, rest int, f *failure.Failure) {
	w, used, err := compact(&x.reqBody, b.B, n)
	if err != nil {
		return nil, 0, &failure.Failure{Kind: failure.BadRequest, Cause: err}
	}
	if out, f = x.FromClient(b.B[http1.ChunkRoom : http1.ChunkRoom+w]); f == nil && x.reqBody.Done() {
		f = x.EndFromClient()
	}
	if f != nil {
		return nil, 0, f
	}
	w = len(out)
	rest = n - used
	if rest > 0 {
		// Chunk framing below may write behind the data.
		next := b.B[http1.ChunkRoom+used : http1.ChunkRoom+n]
		out = append([]byte(nil), b.B[:http1.ChunkRoom+w]...)[http1.ChunkRoom:]
		copy(b.B, next)
	}
	if !chunked {
		return out, rest, nil
	}
	if rest > 0 {
		out = http1.AppendChunk(nil, out)
	} else if w > 0 {
		out = http1.PutChunk(b.B, w)
	}
	if x.reqBody.Done() {
		if err := x.reqBody.Trailers(http1.Limits{}, &x.trailers); err != nil {
			return nil, 0, &failure.Failure{Kind: failure.BadRequest, Cause: err}
		}
		out = http1.AppendLastChunk(out, &x.trailers)
	}
	return out, rest, nil
}

// compact decodes n bytes of a body that begin at ChunkRoom in place: w bytes
// of data begin there afterwards; used is how many of the n the body took.
func compact(body *http1.Body, buf []byte, n int) (w, used int, err error) {
	in := buf[http1.ChunkRoom : http1.ChunkRoom+n]
	for used < n && !body.Done() {
		data, k, err := body.Next(in[used:])
		if err != nil {
			return w, used, err
		}
		if len(data) > 0 && &in[w] != &data[0] {
			copy(in[w:], data)
		}
		w += len(data)
		used += k
	}
	return w, used, nil
}

// response reads the response, of which n bytes are in x.up, and sends it to
// the client as it comes.
func (x *http1Exchange) response(n int) *failure.Failure {
	end, n, f := x.readResponseHead(n)
	if f != nil {
		return f
	}
	d := x.d
	x.HeadAt = d.Clock.Now()
	x.touchAt(x.HeadAt)
	if x.WantsAnother(x.canReplay()) {
		return &failure.Failure{Kind: failure.Again}
	}
	if x.Res.Status == 101 {
		return x.switchProtocols(x.up.B[end:n])
	}
	if len(x.resFrame.KeepAlive) > 0 && !x.up1.Reused {
		x.up1.Announced(x.resFrame.KeepAlive)
	}
	x.resBody.StartResponse(&x.Res, &x.resFrame, x.Req.Method)
	if !exchange.BodyAllowed(x.Res.Status) && x.Res.Status != 304 {
		x.Res.Remove("content-length") // RFC 9110 §8.6
	}
	x.ToDownstream()
	x.AnswersCall()
	kind := x.resBody.Kind()
	chunked := kind == http1.ChunkedBody || kind == http1.CloseBody
	if chunked && x.Req.Protocol == fact.HTTP10 {
		chunked = false
		x.reqFrame.Close = true // the end of the connection is the end of the body
	}
	p := x.persistence(x.replayable || x.pumpDone.Load())
	x.back = http1.AppendResponse(x.back[:0], &x.Res, chunked, p)
	rest := x.up.B[end:n]
	for len(rest) > 0 && !x.resBody.Done() {
		data, k, err := x.resBody.Next(rest)
		if err != nil {
			return x.upstreamFailure(err)
		}
		rest = rest[k:]
		x.GaveBody(data)
		if chunked {
			x.back = http1.AppendChunk(x.back, data)
		} else {
			x.back = append(x.back, data...)
		}
	}
	if len(rest) > 0 {
		x.resFrame.Close = true // bytes that belong to no response of ours
	}
	if x.resBody.Done() && chunked {
		if err := x.resBody.Trailers(http1.Limits{}, &x.resTrailers); err != nil {
			return x.upstreamFailure(err)
		}
		x.back = http1.AppendLastChunk(x.back, &x.resTrailers)
	}
	// The response is here in time: its deadline must not end the write to the client. One that came with it has ended the use of the endpoint's connection.
	if x.resBody.Done() && d.Guard.Clear(downstream.SlotRoute) {
		x.resFrame.Close = true
	}
	x.headSent = true
	d.Responding.Store(true)
	if f := x.toClient(x.back); f != nil || x.resBody.Done() {
		return f
	}
	return x.stream(chunked)
}

// toClient writes to the client.
func (x *http1Exchange) toClient(p []byte) *failure.Failure {
	n, err := x.d.Stream.Write(p)
	x.WireOut += int64(n)
	if err == nil {
		return nil
	}
	if f := x.interrupted(); f != nil {
		return f
	}
	return &failure.Failure{Kind: failure.ClientLeft, Cause: err}
}

// readResponseHead reads up to the final response's head: it is in
// x.up.B[:end], and n bytes are there in all; have bytes are there before.
// Informational responses are sent
// on, except 100, which is between us and the upstream.
func (x *http1Exchange) readResponseHead(have int) (end, n int, f *failure.Failure) {
	if x.up == nil {
		x.up = x.d.Buffers.Get()
	}
	if n = have; n > 0 {
		x.sawResponse = true
	}
	var scan http1.Scan
	for {
		var err error
		if n > 0 {
			end, err = scan.End(x.up.B[:n], http1.Limits{})
		} else {
			err = http1.ErrMore
		}
		switch {
		case err == nil:
			if err := http1.ParseResponse(x.up.B[:end], http1.Limits{}, &x.Res, &x.resFrame); err != nil {
				return 0, 0, x.upstreamFailure(err)
			}
			if x.Res.Status >= 200 || x.Res.Status == 101 {
				return end, n, nil
			}
			if f := x.informational(); f != nil {
				return 0, 0, f
			}
			n = copy(x.up.B, x.up.B[end:n])
			scan = http1.Scan{}
			continue
		case !errors.Is(err, http1.ErrMore):
			return 0, 0, x.upstreamFailure(err)
		}
		if n == len(x.up.B) {
			grown := make([]byte, 2*len(x.up.B)) // Scan.End bounds it
			copy(grown, x.up.B)
			x.up.B = grown
		}
		m, err := x.up1.Read(x.up.B[n:])
		if m == 0 && err != nil {
			if n > 0 {
				err = http1.ErrCut // what has begun is no response (Envoy: protocol error)
			}
			return 0, 0, x.upstreamFailure(err)
		}
		x.sawResponse = true
		n += m
		x.touch()
	}
}

// informational sends an informational response on.
func (x *http1Exchange) informational() *failure.Failure {
	if passes, f := x.Inform(); !passes {
		return f
	}
	return x.toClient(http1.AppendResponse(x.back[:0], &x.Res, false, http1.Keep))
}

// stream sends the rest of the response's body as it comes.
func (x *http1Exchange) stream(chunked bool) *failure.Failure {
	d := x.d
	b := d.Buffers.GetFor(x.resFrame.Length - x.BytesOut)
	defer func() { d.Buffers.Put(b) }()
	for n := 0; !x.resBody.Done(); {
		b = x.widen(b, n)
		var err error
		n, err = x.up1.Read(b.B[http1.ChunkRoom : len(b.B)-lastChunkRoom])
		if n == 0 && err != nil {
			if !conn.IsEnd(err) || !x.resBody.Close() {
				return x.upstreamFailure(err)
			}
		}
		x.touch()
		w, used, err := compact(&x.resBody, b.B, n)
		if err != nil {
			return x.upstreamFailure(err)
		}
		if used < n {
			x.resFrame.Close = true
		}
		out := b.B[http1.ChunkRoom : http1.ChunkRoom+w]
		x.GaveBody(out)
		if chunked && w > 0 {
			out = http1.PutChunk(b.B, w)
		}
		if chunked && x.resBody.Done() {
			if err := x.resBody.Trailers(http1.Limits{}, &x.resTrailers); err != nil {
				return x.upstreamFailure(err)
			}
			out = http1.AppendLastChunk(out, &x.resTrailers)
		}
		if len(out) == 0 {
			continue
		}
		if f := x.toClient(out); f != nil {
			return f
		}
	}
	return nil
}
