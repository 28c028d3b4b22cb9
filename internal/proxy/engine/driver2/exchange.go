package driver2

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/tullemesh/tulle/internal/proxy/engine/call"
	"github.com/tullemesh/tulle/internal/proxy/engine/downstream"
	"github.com/tullemesh/tulle/internal/proxy/engine/exchange"
	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
	"github.com/tullemesh/tulle/internal/proxy/engine/http2"
)

// http2Exchange is an exchange whose client speaks HTTP/2. It begins on the
// goroutine that reads the client's connection and needs no other as long as
// nothing waits: relay.go. What must wait has a goroutine: it dials,
// speaks HTTP/1.1, pauses, tries again; one that receives the response, and a
// second one that sends the request's body when that was not there at once.
type http2Exchange struct {
	exchange.Exchange

	// Fixed while the exchange lasts.
	h  *http2Conn
	d  *downstream.Conn
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
	held        call.Held   // res may be in it
	wrote       bool        // some of the request went out
	sawResponse bool
	switched    atomic.Bool // another protocol than HTTP follows, both ways
	websocket   call.WebSocketKey
	connects    bool // the request is CONNECT, which asks for a tunnel
	entered     bool // the cluster counts it

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
	x.Exchange.Begin(&h.d.Conn, now)
	x.h, x.d, x.st = h, h.d, st
	x.Req, st.Head = st.Head, x.Req
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
	if x.headSent && !f.Gone() {
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
	return x.InTime(f, x.d.Clock.Now())
}

// failed answers for a failed attempt, if the client can still be told.
func (x *http2Exchange) failed(f *failure.Failure) {
	x.NoteFailure(f, x.headSent)
	switch {
	case x.headSent:
		x.st.Reset(cutCode(f))
	case f.Gone():
	default:
		x.Fail(*f)
		x.Local()
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

// sendLocal sends the answer that Local made.
func (x *http2Exchange) sendLocal() {
	if x.Res.Status == 0 {
		x.st.Reset(http2.InternalError)
		return
	}
	if string(x.Req.Method) == http.MethodHead {
		x.Body = nil
	}
	x.BytesOut = int64(len(x.Body))
	if err := x.st.WriteResponse(&x.Res, len(x.Body) == 0); err != nil {
		return // the client left
	}
	if len(x.Body) > 0 {
		_, _ = x.st.Write(x.Body, true) // the same
	}
}

// end counts, logs and lets go, behind the exchange's goroutine.
func (x *http2Exchange) end() {
	x.mu.Lock()
	x.stage = stageNone
	x.h.deadlines.remove(x)
	x.leaveCluster()
	x.WireIn, x.WireOut = x.st.Wire()
	x.st.Close()
	x.count(x.d.Clock.Now())
	x.held.Release()
	x.mu.Unlock()
	x.h.let(x)
}

// leaveCluster ends what the exchange counts for in its cluster.
func (x *http2Exchange) leaveCluster() {
	if x.entered {
		x.entered = false
		x.EndRetries()
		x.Cluster.End()
	}
}

// count counts and logs what the exchange was.
func (x *http2Exchange) count(now int64) {
	x.h.mu.Lock()
	x.Finish(now)
	x.h.mu.Unlock()
}
