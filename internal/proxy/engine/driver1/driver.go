// Package driver1 serves clients that speak HTTP/1.x: a connection's goroutine
// reads a head, steps an exchange, passes bodies both ways, and begins again
// (RFC 9112). Endpoints get HTTP/1.1 over a connection that the driver has for
// itself, which costs the least, or what a call speaks. Clients that turn out to
// speak HTTP/2 are handed to driver2.
//
// A CONNECT ends here only where a route is for it and says so. HTTP inside its
// tunnel is judged by the listener that took the CONNECT: by its filters, and by
// the virtual host that its own route table has for the tunnel's host and port,
// whatever Host the inner requests have (tunnel.go).
//
// Read driver.go first, then forward.go.
package driver1

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/proxy/engine/call"
	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/downstream"
	"github.com/tullemesh/tulle/internal/proxy/engine/driver2"
	"github.com/tullemesh/tulle/internal/proxy/engine/exchange"
	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
	"github.com/tullemesh/tulle/internal/proxy/engine/http1"
	"github.com/tullemesh/tulle/internal/proxy/engine/http2"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// headTimeout bounds the wait for the rest of a request's head when the
// listener has no bound: a head that comes byte by byte must end some day.
const headTimeout = time.Minute

// Driver serves clients that speak HTTP/1.x.
type Driver struct {
	Two       *driver2.Driver // for those who turn out to speak HTTP/2
	exchanges sync.Pool       // of *http1Exchange
}

// http1Conn drives a downstream connection in HTTP/1.x: its goroutine reads a
// head, steps the exchange, forwards, and begins again.
type http1Conn struct {
	of       *Driver
	d        *downstream.Conn
	left     *conn.Buffer // bytes behind the last message, or nil
	nLeft    int
	requests uint32
	turn     conn.Turn
	next     after
	ended    int64 // when the last request did; 0: there was none
}

// http1Exchange is an exchange with what HTTP/1.x needs on both sides. It is
// pooled with its memory.
type http1Exchange struct {
	exchange.Exchange
	http1Memory
	http1State
}

// http1Memory is kept from one request to the next.
type http1Memory struct {
	reqBody, resBody http1.Body
	trailers         message.Head // of the request
	resTrailers      message.Head
	out              []byte // the request as the upstream gets it
	back             []byte // what goes to the client
	pumpOnSide       func()
}

// http1State is cleared for each request, in place.
type http1State struct {
	h                  *http1Conn
	d                  *downstream.Conn
	reqFrame, resFrame http1.Framing
	in, up             *conn.Buffer // request bytes; response bytes
	nIn                int          // valid bytes of in
	rest               []byte       // of in, behind the head
	up1                *cluster.Conn
	wrote              bool // some of the request went out
	replayable         bool // out is the whole request
	kept               bool // what the side goroutine sends is put behind out
	headBytes          int  // of out
	sawResponse        bool
	headSent           bool      // of the response, to the client
	held               call.Held // res may be in it
	announcedClose     bool
	clientCloses       bool                            // it said so
	pumping            bool                            // a side goroutine sends the request's body
	pumpDone           atomic.Bool                     // the side goroutine sent the whole request
	pumpFailure        atomic.Pointer[failure.Failure] // why it could not
}

// Serve runs the protocol that the client speaks.
func (v *Driver) Serve(d *downstream.Conn) {
	h := &http1Conn{of: v, d: d}
	d.Meters.HTTPConns.Add(1)
	defer d.Meters.HTTPConns.Add(-1)
	for h.next == served && h.awaitRequest() {
		d.Shared.Workers.Do(h, d.ID)
	}
	if h.next == speaksHTTP2 {
		var first []byte
		if h.left != nil {
			first = h.left.B[:h.nLeft]
		}
		v.Two.Serve(d, first)
	}
	if h.left != nil {
		d.Buffers.Put(h.left)
	}
}

// Do serves one request.
func (h *http1Conn) Do() {
	if h.startsHTTP2() {
		h.next = speaksHTTP2
		return
	}
	x, _ := h.of.exchanges.Get().(*http1Exchange)
	if x == nil {
		x = &http1Exchange{}
	}
	if !h.serve(x) {
		h.next = ends
	}
	x.release()
	h.of.exchanges.Put(x)
}

// after is what follows a request.
type after uint8

const (
	served      after = iota // another one
	ends                     // nothing
	speaksHTTP2              // it was none: the client speaks HTTP/2
)

// startsHTTP2 tells from the configuration, from ALPN, or from a connection's
// first bytes, which protocol follows. What it reads is in h's buffer.
func (h *http1Conn) startsHTTP2() bool {
	d := h.d
	switch codec := d.Chain.Load().HTTP.Codec; {
	case codec == listener.CodecHTTP2:
		return true
	case codec == listener.CodecHTTP1 || h.requests > 0:
		return false
	}
	if t, ok := d.Stream.(*conn.TLS); ok {
		if p := t.ConnectionState().NegotiatedProtocol; p != "" {
			return p == "h2"
		}
	}
	if h.left == nil {
		h.left = d.Buffers.Get()
	}
	// Three bytes tell the preface from every method of HTTP/1.1 in use.
	const telling = 3
	d.Guard.Set(downstream.SlotHead, d.Clock.Now()+int64(headTimeout))
	defer d.Guard.Clear(downstream.SlotHead)
	for {
		n := min(h.nLeft, telling)
		if string(h.left.B[:n]) != http2.Preface[:n] {
			return false
		}
		if n == telling {
			return true
		}
		m, err := d.Stream.Read(h.left.B[h.nLeft:])
		if m == 0 && err != nil {
			return false // the reader of the head finds the same
		}
		h.nLeft += m
	}
}

// awaitRequest waits without a buffer until a request begins.
func (h *http1Conn) awaitRequest() bool {
	d := h.d
	if h.nLeft > 0 {
		h.turn.Begin()
		return true // in a drain too: no response has said that the connection ends
	}
	idle := d.Chain.Load().HTTP.IdleTimeout
	if idle <= 0 {
		idle = time.Hour // Envoy: common_http_protocol_options.idle_timeout
	}
	var ok bool
	h.left, h.nLeft, ok = d.AwaitRequest(idle, h.ended)
	return ok
}

// serve handles one request; false: the connection ends.
func (h *http1Conn) serve(x *http1Exchange) bool {
	d := h.d
	h.requests++
	x.h, x.d = h, d
	x.Begin(&d.Conn, d.Clock.Now())
	if err := x.readHead(); err != nil {
		return x.refuse(err)
	}
	x.clientCloses = x.reqFrame.Close
	x.reqBody.StartRequest(&x.reqFrame)
	x.setDeadlines()
	x.Upgrade = x.reqFrame.Upgrade
	var ok bool
	if f := x.cannot(); f != nil {
		x.Fail(*f)
		ok = x.sendLocal()
	} else if string(x.Req.Method) == "CONNECT" {
		return x.connect()
	} else if x.Admit() == exchange.ActAnswer {
		ok = x.sendLocal()
	} else {
		ok = x.forward()
	}
	if x.sawResponse {
		h.turn.Waited()
	}
	x.clearDeadlines()
	if x.End == 0 {
		x.End = d.Clock.Now()
	}
	x.Finish(x.End)
	h.ended = x.End
	return ok
}

// cannot tells what of HTTP/1.x we refuse by configuration.
func (x *http1Exchange) cannot() *failure.Failure {
	if x.Req.Protocol == fact.HTTP10 && !x.Manager.AcceptHTTP10 {
		return &failure.Failure{Kind: failure.BadRequest, Cause: errUpgradeRequired()}
	}
	return nil
}

// errUpgradeRequired is Envoy's answer to HTTP/1.0 unless accept_http_10.
func errUpgradeRequired() error {
	return &http1.Error{Status: 426, Reason: "HTTP/1.0 is not accepted", Source: "Envoy: accept_http_10"}
}

// readHead reads until the head is complete and parses it.
func (x *http1Exchange) readHead() error {
	h, d := x.h, x.d
	if x.in, x.nIn = h.left, h.nLeft; x.in == nil {
		x.in = d.Buffers.Get()
	}
	h.left, h.nLeft = nil, 0
	limits := http1.Limits{HeadBytesMax: int(x.Manager.HeaderBytesMax), FieldsMax: int(x.Manager.HeaderCountMax)}
	var scan http1.Scan
	timed := false
	for {
		end, err := scan.End(x.in.B[:x.nIn], limits)
		if err == nil {
			x.rest = x.in.B[end:x.nIn]
			x.WireIn = int64(end)
			return http1.ParseRequest(x.in.B[:end], limits, &x.Req, &x.reqFrame)
		}
		if !errors.Is(err, http1.ErrMore) {
			return err
		}
		if x.nIn > 0 && !timed {
			timed = true
			wait := x.Manager.HeadersTimeout
			if wait <= 0 {
				wait = headTimeout
			}
			d.Guard.Set(downstream.SlotHead, x.Start+int64(wait))
		}
		if x.nIn == len(x.in.B) {
			grown := make([]byte, 2*len(x.in.B)) // Scan.End bounds it
			copy(grown, x.in.B)
			x.in.B = grown
		}
		n, err := d.Stream.Read(x.in.B[x.nIn:])
		if n == 0 && err != nil {
			return err
		}
		x.nIn += n
	}
}

// refuse ends the connection after a head that can't be served.
func (x *http1Exchange) refuse(err error) bool {
	var codec *http1.Error
	switch {
	case errors.As(err, &codec):
		x.Fail(failure.Failure{Kind: failure.BadRequest, Cause: err})
	case x.d.Guard.Clear(downstream.SlotHead):
		_ = x.d.Sock.SetReadDeadline(time.Time{})
		x.Fail(failure.Failure{Kind: failure.RequestTimeout, Detail: "head"})
	default:
		return false // the client left between requests or within a head
	}
	x.reqFrame = http1.Framing{Close: true}
	x.reqBody.StartRequest(&x.reqFrame) // whatever was meant: nothing more is read of it
	x.sendLocal()
	x.Finish(x.d.Clock.Now())
	return false
}

func (x *http1Exchange) setDeadlines() {
	g, m := x.d.Guard, x.Manager
	g.Clear(downstream.SlotHead)
	if m.RequestTimeout > 0 && x.reqBody.Kind() != http1.NoBody {
		g.Set(downstream.SlotRequest, x.Start+int64(m.RequestTimeout))
	}
}

// clearDeadlines ends the request's deadlines; true: one has expired, so that
// the upstream's socket is not fit for another request. The client's is again:
// nothing told it that its connection would end.
func (x *http1Exchange) clearDeadlines() (expired bool) {
	g := x.d.Guard
	for _, slot := range [...]int{downstream.SlotHead, downstream.SlotRequest, downstream.SlotRoute, downstream.SlotStream, downstream.SlotLife} {
		expired = g.Clear(slot) || expired
	}
	if expired {
		_ = x.d.Sock.SetDeadline(time.Time{})
	}
	return expired
}

// touch says that something moved on the stream.
func (x *http1Exchange) touch() { x.touchAt(x.d.Clock.Now()) }

func (x *http1Exchange) touchAt(now int64) {
	if idle := x.IdleTimeout(); idle > 0 {
		x.d.Guard.Set(downstream.SlotStream, now+int64(idle))
	}
}

// sendLocal answers by ourselves.
func (x *http1Exchange) sendLocal() bool {
	d := x.d
	if x.Res.Status == 0 {
		return false
	}
	x.Local()
	// A request whose body has not been read leaves the connection unusable.
	data, n, _ := x.reqBody.Next(x.rest)
	_ = data
	complete := x.requestRead()
	if len(x.reqFrame.Upgrade) > 0 {
		x.reqFrame.Close = true // what follows may be the other protocol's
	}
	persistence := x.persistence(complete)
	x.back = http1.AppendResponse(x.back[:0], &x.Res, false, persistence)
	if string(x.Req.Method) != "HEAD" {
		x.back = append(x.back, x.Body...)
		x.BytesOut = int64(len(x.Body))
	}
	_ = d.Sock.SetWriteDeadline(time.Time{})
	x.WireOut += int64(len(x.back))
	x.headSent = true
	if _, err := d.Stream.Write(x.back); err != nil {
		return false
	}
	if persistence == http1.CloseAfter {
		x.linger(complete)
		return false
	}
	x.keepRest(n)
	return true
}

// requestRead reports whether the whole request has been read, and with it
// nothing that is not kept.
func (x *http1Exchange) requestRead() bool {
	return x.reqBody.Done() && (!x.pumping || x.pumpDone.Load())
}

// persistence decides whether the connection goes on after this response.
func (x *http1Exchange) persistence(requestComplete bool) http1.Persistence {
	m := x.Manager
	if x.reqFrame.Close || !requestComplete || x.d.IsDraining() ||
		m.MaxRequestsPerConnection > 0 && x.h.requests >= m.MaxRequestsPerConnection {
		x.announcedClose = true
		return http1.CloseAfter
	}
	if x.Req.Protocol == fact.HTTP10 {
		return http1.KeepOld
	}
	return http1.Keep
}

// keepRest keeps what came behind this request's body for the next one.
func (x *http1Exchange) keepRest(used int) {
	rest := x.rest[used:]
	if len(rest) == 0 {
		return
	}
	x.h.nLeft = copy(x.in.B, rest)
	x.h.left, x.in = x.in, nil
}

// lingerTime is how long we still read what a client sends after our last
// answer.
const lingerTime = time.Second

// linger closes in stages, so that the kernel does not reset the connection
// before the client has read our last answer (RFC 9112 §9.6). There is no need
// when the client has said that it closes and has sent no more than one request.
func (x *http1Exchange) linger(requestRead bool) {
	d := x.d
	if requestRead && x.clientCloses && len(x.rest) == 0 && x.h.nLeft == 0 {
		return
	}
	b := d.Buffers.Get()
	defer d.Buffers.Put(b)
	conn.Linger(d.Stream, b.B, limit.LingerBytesMax, lingerTime)
}

// release gives the buffers back and forgets the request.
func (x *http1Exchange) release() {
	buffers := &x.d.Buffers
	x.held.Release()
	for _, b := range [...]*conn.Buffer{x.in, x.up} {
		if b != nil {
			buffers.Put(b)
		}
	}
	if cap(x.out) > 4*conn.BufferBytes {
		x.out = nil
	}
	if cap(x.back) > 4*conn.BufferBytes {
		x.back = nil
	}
	x.Reset()
	x.http1State = http1State{}
}
