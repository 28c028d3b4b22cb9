package engine

import (
	"context"
	"errors"
	"io"
	"slices"

	"github.com/tullemesh/tulle/internal/proxy/engine/call"
	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
	"github.com/tullemesh/tulle/internal/proxy/engine/http1"
)

// A request that switches to another protocol has one form in an exchange,
// whatever carries it: HTTP/1.1's GET with Upgrade, and 101 as its answer. In
// HTTP/2 it is an extended CONNECT and 200 (RFC 8441).

// connectType is the upgrade type that stands for CONNECT itself (Envoy:
// upgrade_configs).
const connectType = "connect"

// upgradeAllowed reports whether the listener or the route allows the wanted
// upgrade (Envoy: upgrade_configs). CONNECT is not one that can be asked for by
// name.
func (x *exchange) upgradeAllowed() bool {
	wanted := string(x.upgrade)
	if wanted == connectType {
		return false
	}
	if slices.Contains(x.manager.Upgrades, wanted) {
		return true
	}
	r := x.result.Route
	return r != nil && r.Forward != nil && slices.Contains(r.Forward.Upgrades, wanted)
}

// passBoth passes bytes both ways until both directions have ended.
func (x *http2Exchange) passBoth(c call.Call) *failure.Failure {
	x.replayable, x.tooMany = false, true
	x.due[dueResponse].Store(0)
	x.side.Go(func() { x.pump(c) })
	if f := x.passBody(c); f != nil {
		return f
	}
	if x.side.Wait(); x.sentAll.Load() {
		return nil // whoever leaves now has heard and said all
	}
	return x.interrupted()
}

// switchOver2 answers 101 for an endpoint that took an extended CONNECT, and
// then passes bytes both ways until both directions have ended.
func (x *http1Exchange) switchOver2(c call.Call) *failure.Failure {
	d := x.d
	d.stopSide()
	if f := x.interrupted(); f != nil {
		return f
	}
	call.AcceptFor(&x.req, &x.res)
	x.toDownstream()
	x.announcedClose = true
	d.guard.Clear(slotRoute)
	d.responding.Store(true)
	x.headSent = true
	if f := x.toClient(http1.AppendResponse(x.back[:0], &x.res, false, http1.Keep)); f != nil {
		return f
	}
	interrupt := context.CancelFunc(func() {
		c.Interrupt()
		_ = d.sock.SetReadDeadline(conn.Past())
	})
	d.cancel.Store(&interrupt)
	sent := make(chan struct{})
	d.startSide(func() {
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
	x.bytesIn += int64(n)
	x.wireIn += int64(n)
	if n > 0 && c.SendBody(x.rest, false, nil) != nil {
		return // the reader of the other direction finds out why
	}
	x.rest = nil
	b := d.e.buffers.Get()
	defer d.e.buffers.Put(b)
	for {
		n, err := d.stream.Read(b.B)
		end := n == 0 && conn.IsEnd(err)
		if n == 0 && err != nil && !end {
			if !conn.IsTimeout(err) {
				d.left.Store(true)
				d.interruptUpstream()
			}
			return
		}
		x.touch()
		x.bytesIn += int64(n)
		x.wireIn += int64(n)
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
	b := d.e.buffers.Get()
	defer d.e.buffers.Put(b)
	for {
		n, err := c.ReadBody(b.B)
		end := errors.Is(err, io.EOF)
		if err != nil && !end {
			return x.over2Failure(err)
		}
		x.touch()
		x.bytesOut += int64(n)
		if n > 0 {
			if f := x.toClient(b.B[:n]); f != nil {
				return f
			}
		}
		if end {
			_ = d.stream.CloseWrite() // who has closed both directions has left: the other one tells
			return nil
		}
	}
}
