package driver2

import (
	"net/http"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/exchange"
	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
	"github.com/tullemesh/tulle/internal/proxy/engine/http2"
	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// relay is the first attempt of an exchange from HTTP/2 to HTTP/2, and an
// answer of ours: they have no goroutine. Each step runs on a goroutine that
// reads one of the two connections, when something happened there, moves what
// can be moved without waiting, and is part of that reader's turn: what it
// writes goes out once, with all else that the turn led to. An attempt that
// fails before its response began gets a goroutine, which decides what follows
// (run).
type relay struct {
	up   *http2.Stream // nil: the answer is ours
	out  pipe          // the request's way
	back pipe          // the response's
}

// pipe is one direction of a relay.
type pipe struct {
	buf   []byte     // what came; part is a part of it
	part  http2.Part // what has not gone out
	begun bool       // part is to be sent, or a part was
	ended bool       // the last part is at hand
	done  bool       // it went out
}

// relayBytesKept is the largest buffer that waits with an exchange's memory.
const relayBytesKept = 4 << 10

func (r *relay) begin() {
	r.up = nil
	for _, p := range [...]*pipe{&r.out, &r.back} {
		buf := p.buf[:0]
		if cap(buf) > relayBytesKept {
			buf = nil
		}
		*p = pipe{buf: buf}
	}
}

// enter begins what Admit decided, on the goroutine that reads the client's
// connection.
func (x *http2Exchange) enter(t *http2.Turn) {
	x.mu.Lock()
	over := x.enterLocked(t)
	x.mu.Unlock()
	if over {
		x.h.let(x)
	}
}

// enterLocked reports whether the exchange is over.
func (x *http2Exchange) enterLocked(t *http2.Turn) (over bool) {
	x.stage = stageRelay
	x.h.deadlines.add(x)
	if x.Action == exchange.ActForward {
		if err := x.Cluster.Begin(); err != nil {
			x.Fail(failure.Failure{Kind: failure.Overflow, Cause: err})
		} else {
			x.entered = true
		}
	}
	left := x.st.Watch(x)
	if x.Action == exchange.ActAnswer {
		if x.Res.Status != 0 {
			x.Local()
		}
		return x.answerLocal(t)
	}
	_, complete := x.st.Complete()
	x.setDeadlines(complete)
	if left != nil {
		return x.stop(t, failure.OfClient(left))
	}
	if !x.relays() {
		x.stage = stageGoroutine
		go x.run(nil)
		return false
	}
	if x.st.Expect100 && !complete && !x.PassExpect() {
		h := message.Head{Status: http.StatusContinue}
		if _, err := x.st.Put(t, &http2.Part{Head: &h}); err != nil {
			return x.stop(t, failure.OfClient(err))
		}
	}
	return x.launch(t)
}

// relays picks the endpoint and reports whether it takes a stream at once. What
// is translated on its way has a goroutine.
func (x *http2Exchange) relays() bool {
	if p := x.Cluster.Spec().Protocol; len(x.Upgrade) > 0 || x.Web != nil || p != cluster.HTTP2 && p != cluster.Downstream {
		return false
	}
	if x.MayResolve() {
		return false // the choice may wait for DNS
	}
	if f := x.Choose(); f != nil {
		x.Attempts, x.Upstream = 0, nil
		return false // the goroutine finds the same, and answers
	}
	if x.relay.up = x.Upstream.TryStream(); x.relay.up == nil {
		x.Attempts, x.Upstream = 0, nil
		return false
	}
	x.From = x.relay.up.LocalAddr()
	return true
}

// launch sends the request as far as it has come.
func (x *http2Exchange) launch(t *http2.Turn) (over bool) {
	r := &x.relay
	x.ToUpstream()
	x.startRouteTimeout(t.Now, false)
	if err := r.up.Watch(x); err != nil {
		return x.stop(t, failure.OfCall(err))
	}
	x.Upstream.Host.Active.Add(1)
	x.Upstream.Counts.Requests.Add(1)
	x.Sent, x.wrote = t.Now, true
	end, err := x.st.TakeBody(t, &r.out.buf)
	if err != nil {
		return x.stop(t, failure.OfClient(err))
	}
	trailers := x.trailersOf(end)
	x.TookBody(r.out.buf)
	if end && trailers == nil && len(r.out.buf) <= exchange.ReplayBytesMax {
		x.first, x.replayable = r.out.buf, true
	} else {
		x.keep(r.out.buf, end)
	}
	r.out.begun, r.out.ended = true, end
	r.out.part = http2.Part{Head: &x.Req, Body: r.out.buf, End: end, Trailers: trailers, WantsTrailers: x.st.WantsTrailers}
	return x.step(t)
}

// StreamReady implements http2.Watcher.
func (x *http2Exchange) StreamReady(t *http2.Turn, st *http2.Stream) {
	x.mu.Lock()
	over := false
	switch x.stage {
	case stageRelay:
		if err := x.lost(st); err != nil {
			over = x.stop(t, failure.OfClient(err))
		} else {
			over = x.step(t)
		}
	case stageGoroutine:
		if err := x.lost(st); err != nil {
			x.interruptLocked(failure.OfClient(err))
		}
	case stageNone:
	}
	x.mu.Unlock()
	if over {
		x.h.let(x)
	}
}

// lost tells why there is no client any more, when it is the client's stream that is ready.
func (x *http2Exchange) lost(st *http2.Stream) error {
	if st != x.st {
		return nil
	}
	return st.Err()
}

// expire ends an exchange that missed a deadline.
func (x *http2Exchange) expire(t *http2.Turn) {
	x.mu.Lock()
	over := false
	if f := x.overdue(t.Now); f != nil {
		switch x.stage {
		case stageRelay:
			over = x.stop(t, f)
		case stageGoroutine:
			x.interruptLocked(f)
		case stageNone:
		}
	}
	x.mu.Unlock()
	if over {
		x.h.let(x)
	}
}

// step moves what can be moved, both ways. The exchange is over when it says
// so, and not a relay any more when stage says so.
func (x *http2Exchange) step(t *http2.Turn) (over bool) {
	r := &x.relay
	if !r.out.done && r.up != nil {
		if f := x.stepRequest(t); f != nil {
			return x.stop(t, f)
		}
	}
	if !r.back.begun {
		if f := x.stepHead(t); f != nil {
			return x.stop(t, f)
		}
	}
	if !r.back.begun {
		return false
	}
	if f := x.stepBody(t); f != nil {
		return x.stop(t, f)
	}
	if !r.back.done {
		return false
	}
	if r.up != nil {
		x.Upstream.Answered(x.Res.Status)
	}
	x.endRelay(t)
	return true
}

// stepRequest sends what came of the request's body. Only what has left is
// asked of the client again.
func (x *http2Exchange) stepRequest(t *http2.Turn) *failure.Failure {
	p := &x.relay.out
	for {
		done, err := x.relay.up.Put(t, &p.part)
		if err != nil {
			p.done = true // the response's side finds out why
			return nil
		}
		if !done {
			if _, complete := x.st.Complete(); complete {
				x.requestHere(t.Now)
			}
			return nil
		}
		if p.ended {
			p.done = true
			x.requestHere(t.Now)
			return nil
		}
		end, err := x.st.TakeBody(t, &p.buf)
		if err != nil {
			return failure.OfClient(err)
		}
		if len(p.buf) == 0 && !end {
			return nil
		}
		x.touch(t.Now)
		x.TookBody(p.buf)
		x.keep(p.buf, end)
		p.ended = end
		p.part = http2.Part{Body: p.buf, End: end, Trailers: x.trailersOf(end)}
	}
}

// requestHere says that the client has sent all: from here on the response is
// waited for, although some of the request may wait for the endpoint's window.
func (x *http2Exchange) requestHere(now int64) {
	if x.sentAll.Swap(true) {
		return
	}
	x.due[dueRequest].Store(0)
	x.startRouteTimeout(now, true)
}

// stepHead passes the response's heads on.
func (x *http2Exchange) stepHead(t *http2.Turn) *failure.Failure {
	r := &x.relay
	for {
		got, end, err := r.up.TakeHead(&x.Res, &r.back.buf)
		if err != nil {
			return failure.OfCall(err)
		}
		if !got {
			return nil
		}
		x.sawResponse = true
		x.touch(t.Now)
		if x.Res.Status < 200 {
			if f := x.inform(t); f != nil {
				return f
			}
			continue
		}
		if f := x.responseHead(t.Now); f != nil {
			return f
		}
		x.kept = nil // nobody sends it again
		x.headSent = true
		r.back.begun = true
		x.takeBack(end)
		r.back.part.Head = &x.Res
		if end && r.back.part.Trailers == nil {
			x.NoteGRPC(&x.Res)
		}
		return nil
	}
}

// inform passes an informational response on.
func (x *http2Exchange) inform(t *http2.Turn) *failure.Failure {
	if passes, f := x.Inform(); !passes {
		return f
	}
	if _, err := x.st.Put(t, &http2.Part{Head: &x.Res}); err != nil {
		return failure.OfClient(err)
	}
	return nil
}

// takeBack makes what came of the response the next part.
func (x *http2Exchange) takeBack(end bool) {
	p := &x.relay.back
	p.part = http2.Part{Body: p.buf, End: end}
	if p.ended = end; end {
		p.part.Trailers = x.relay.up.Trailers()
		x.NoteGRPC(p.part.Trailers)
	}
}

// stepBody sends what came of the response.
func (x *http2Exchange) stepBody(t *http2.Turn) *failure.Failure {
	p := &x.relay.back
	for {
		waits := p.part.Body
		done, err := x.st.Put(t, &p.part)
		x.GaveBody(waits[:len(waits)-len(p.part.Body)])
		if err != nil {
			return failure.OfClient(err)
		}
		if !done {
			return nil
		}
		if p.ended {
			p.done = true
			return nil
		}
		end, err := x.relay.up.TakeBody(t, &p.buf)
		if err != nil {
			return failure.OfCall(err)
		}
		if len(p.buf) == 0 && !end {
			return nil
		}
		x.touch(t.Now)
		x.takeBack(end)
	}
}

// stop ends a relay that can't go on.
func (x *http2Exchange) stop(t *http2.Turn, f *failure.Failure) (over bool) {
	x.endAttempt(t)
	f = x.InTime(f, t.Now)
	if f.Gone() || x.headSent {
		x.NoteFailure(f, x.headSent)
		if x.headSent && !f.Gone() {
			x.st.ResetIn(t, cutCode(f))
		}
		x.endRelay(t)
		return true
	}
	x.stage = stageGoroutine
	go x.run(f)
	return false
}

// endAttempt lets go of the upstream's stream.
func (x *http2Exchange) endAttempt(t *http2.Turn) {
	if x.relay.up != nil {
		x.relay.up.Release(t)
		x.relay.up = nil
		if x.Sent > 0 {
			x.Upstream.Host.Active.Add(-1)
		}
	}
}

// answerLocal sends the answer that Local made.
func (x *http2Exchange) answerLocal(t *http2.Turn) (over bool) {
	r := &x.relay
	if x.Res.Status == 0 {
		x.st.ResetIn(t, http2.InternalError)
		x.endRelay(t)
		return true
	}
	if string(x.Req.Method) == http.MethodHead {
		x.Body = nil
	}
	r.back.begun, r.back.ended, x.headSent = true, true, true
	r.back.part = http2.Part{Head: &x.Res, Body: x.Body, End: true}
	return x.step(t)
}

// endRelay counts, logs and lets go.
func (x *http2Exchange) endRelay(t *http2.Turn) {
	x.stage = stageNone
	x.endAttempt(t)
	m, r := x.h.of.Memory, &x.relay
	r.out.buf, r.back.buf, x.first = m.Settle(r.out.buf), m.Settle(r.back.buf), nil
	x.h.deadlines.remove(x)
	x.leaveCluster()
	x.WireIn, x.WireOut = x.st.Release(t)
	x.st = nil
	x.count(t.Now)
}
