package driver1

import (
	"context"
	"errors"
	"io"

	"github.com/tullemesh/tulle/internal/proxy/engine/call"
	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/downstream"
	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
	"github.com/tullemesh/tulle/internal/proxy/engine/http1"
)

// switchOver2 answers 101 for an endpoint that took an extended CONNECT, and
// then passes bytes both ways until both directions have ended.
func (x *http1Exchange) switchOver2(c call.Call) *failure.Failure {
	d := x.d
	d.StopSide()
	if f := x.interrupted(); f != nil {
		return f
	}
	call.AcceptFor(&x.Req, &x.Res)
	x.ToDownstream()
	x.announcedClose = true
	d.Guard.Clear(downstream.SlotRoute)
	d.Responding.Store(true)
	x.headSent = true
	if f := x.toClient(http1.AppendResponse(x.back[:0], &x.Res, false, http1.Keep)); f != nil {
		return f
	}
	interrupt := context.CancelFunc(func() {
		c.Interrupt()
		_ = d.Sock.SetReadDeadline(conn.Past())
	})
	d.Cancel.Store(&interrupt)
	sent := make(chan struct{})
	d.StartSide(func() {
		defer close(sent)
		x.pumpSwitched(c)
	})
	if f := x.streamSwitched(c); f != nil {
		return f
	}
	if <-sent; x.pumpDone.Load() {
		return nil // as in passBoth
	}
	return x.interrupted()
}

// pumpSwitched passes what the client sends.
func (x *http1Exchange) pumpSwitched(c call.Call) {
	d := x.d
	n := len(x.rest)
	x.BytesIn += int64(n)
	x.WireIn += int64(n)
	if n > 0 && c.SendBody(x.rest, false, nil) != nil {
		return // the reader of the other direction finds out why
	}
	x.rest = nil
	b := d.Buffers.Get()
	defer d.Buffers.Put(b)
	for {
		n, err := d.Stream.Read(b.B)
		end := n == 0 && conn.IsEnd(err)
		if n == 0 && err != nil && !end {
			x.clientEnded(err)
			return
		}
		x.touch()
		x.BytesIn += int64(n)
		x.WireIn += int64(n)
		if c.SendBody(b.B[:n], end, nil) != nil {
			return // as above
		}
		if end {
			x.pumpDone.Store(true)
			return
		}
	}
}

// streamSwitched passes what the endpoint sends.
func (x *http1Exchange) streamSwitched(c call.Call) *failure.Failure {
	d := x.d
	b := d.Buffers.Get()
	defer d.Buffers.Put(b)
	for {
		n, err := c.ReadBody(b.B)
		end := errors.Is(err, io.EOF)
		if err != nil && !end {
			return x.over2Failure(err)
		}
		x.touch()
		x.BytesOut += int64(n)
		if n > 0 {
			if f := x.toClient(b.B[:n]); f != nil {
				return f
			}
		}
		if end {
			_ = d.Stream.CloseWrite() // who has closed both directions has left: the other one tells
			return nil
		}
	}
}
