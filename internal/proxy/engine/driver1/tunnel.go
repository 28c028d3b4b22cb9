package driver1

import (
	"bytes"
	"errors"
	"slices"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/downstream"
	"github.com/tullemesh/tulle/internal/proxy/engine/exchange"
	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
	"github.com/tullemesh/tulle/internal/proxy/engine/http1"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/tcp"
)

// switchProtocols answers 101 and then passes bytes both ways until both
// directions have ended. first is what the upstream has sent already.
func (x *http1Exchange) switchProtocols(first []byte) *failure.Failure {
	d := x.d
	if len(x.reqFrame.Upgrade) == 0 || !bytes.Equal(x.resFrame.Upgrade, x.reqFrame.Upgrade) {
		return &failure.Failure{Kind: failure.BadResponse, Detail: "101 to what was not asked for"} // RFC 9110 §7.8
	}
	d.StopSide()
	x.ToDownstream()
	x.announcedClose = true
	x.back = http1.AppendResponse(x.back[:0], &x.Res, false, http1.Keep)
	x.headSent = true
	if f := x.toClient(append(x.back, first...)); f != nil {
		return f
	}
	d.Guard.Clear(downstream.SlotRoute)
	d.Guard.Clear(downstream.SlotStream)
	if len(x.rest) > 0 {
		if _, err := x.up1.Write(x.rest); err != nil {
			return x.upstreamFailure(err)
		}
	}
	r := tcp.Relay(d.Stream, x.up1.Stream, tcp.Options{Idle: x.IdleTimeout(), MaxDuration: x.StreamMax(), Buffers: &d.Buffers, Pipes: &d.Shared.Pipes})
	x.BytesIn += r.Sent + int64(len(x.rest))
	x.BytesOut += r.Received + int64(len(first))
	x.WireIn += r.Sent
	x.WireOut += r.Received
	x.resFrame.Close = true
	x.rest = nil
	if r.Idle || r.TooOld {
		return &failure.Failure{Kind: failure.StreamIdle}
	}
	return nil
}

// connect serves CONNECT: a tunnel where a route is for CONNECT and says that
// it ends here (Envoy: ConnectMatcher, connect_config). Routes by path do not
// hold for a request without a path. A tunnel within a tunnel is refused.
//
// What is inside is judged as if the client had called the tunnel's host and
// port: HTTP in the clear goes on as this connection's next requests, through
// this connection manager's filters and the routes that its table has for the
// tunnel's authority. TLS and everything else is passed to the CONNECT route's
// cluster. true: HTTP follows.
func (x *http1Exchange) connect() bool {
	d := x.d
	if x.Admit() == exchange.ActForward && (d.Tunnel != nil || !slices.Contains(x.Result.Route.Forward.Upgrades, "connect")) {
		x.Fail(failure.Failure{Kind: failure.NotSupported, Detail: "CONNECT"})
	}
	http := false
	if x.Action == exchange.ActAnswer {
		x.reqFrame.Close = true
		x.sendLocal()
	} else {
		t := tunnel{x: x}
		f := t.serve()
		if t.up != nil {
			t.up.Close()
		}
		if f != nil {
			x.failed(f)
		}
		http = t.http && f == nil
	}
	x.clearDeadlines()
	x.Finish(d.Clock.Now())
	return http
}

// tunnelPatience is how long a tunnel's client may be silent before the
// upstream is connected to, so that servers that speak first are heard.
const tunnelPatience = 200 * time.Millisecond

// tunnel is what a CONNECT opens. Its request is logged, but counted only when
// it is refused or fails: what is inside is counted for itself.
type tunnel struct {
	x     *http1Exchange
	first []byte        // what the client sent into it and nobody has taken
	up    *cluster.Conn // nil: not connected
	http  bool          // HTTP is inside
}

// serve answers the CONNECT and passes the bytes, unless HTTP is inside.
func (t *tunnel) serve() *failure.Failure {
	x := t.x
	t.first = append(t.first, x.rest...)
	sniffs := len(x.Result.Host.Routes) > 1 // there are routes for what is inside
	if !sniffs {
		// The answer can then tell whether there is a way.
		if f := t.connect(); f != nil {
			return f
		}
	}
	x.HeadAt = x.d.Clock.Now()
	x.Res.Reset()
	x.Res.Status = 200
	x.headSent = true
	if f := x.toClient(http1.AppendResponse(x.back[:0], &x.Res, false, http1.Keep)); f != nil {
		return f
	}
	if sniffs {
		if f := t.sniff(); f != nil {
			return f
		}
	}
	if t.http {
		t.handOver()
		return nil
	}
	if f := t.connect(); f != nil {
		return f
	}
	return t.relay()
}

// handOver makes what was read the beginning of the connection's next request.
func (t *tunnel) handOver() {
	x, h := t.x, t.x.h
	x.Counted = true
	x.d.Tunnel = append([]byte(nil), x.Req.Authority...)
	h.left, h.requests = x.d.Buffers.Get(), 0
	if len(t.first) > len(h.left.B) {
		h.left.B = make([]byte, 2*len(t.first))
	}
	h.nLeft = copy(h.left.B, t.first)
}

// connect connects to the CONNECT route's cluster.
func (t *tunnel) connect() *failure.Failure {
	if t.up != nil {
		return nil
	}
	f := t.x.Choose()
	if f == nil {
		t.up, f = t.x.d.ConnectRaw(t.x.Upstream, t.x.RouteTimeout())
	}
	if f == nil {
		t.x.From = t.up.LocalAddr()
	}
	return f
}

// relay passes bytes that are not ours to understand.
func (t *tunnel) relay() *failure.Failure {
	x, d := t.x, t.x.d
	if len(t.first) > 0 {
		if _, err := t.up.Write(t.first); err != nil {
			return &failure.Failure{Kind: failure.Reset, Cause: err}
		}
	}
	x.Upstream.Host.Active.Add(1)
	defer x.Upstream.Host.Active.Add(-1)
	d.Upstream.Store(t.up.Socket())
	x.Counted = true
	series := d.TCPOpened(x.Upstream)
	series.Moved(int64(len(t.first)), 0)
	r := tcp.Relay(d.Stream, t.up.Stream, tcp.Options{Idle: x.IdleTimeout(), MaxDuration: x.StreamMax(), Buffers: &d.Buffers, Pipes: &d.Shared.Pipes, Moved: series.Moved})
	d.Upstream.Store(nil)
	series.Closed()
	x.BytesIn, x.BytesOut = r.Sent+int64(len(t.first)), r.Received
	x.WireIn += x.BytesIn
	x.WireOut += x.BytesOut
	if r.Idle || r.TooOld {
		return &failure.Failure{Kind: failure.StreamIdle}
	}
	return nil
}

// sniff reads until it is known whether the client speaks HTTP. One that is
// silent at first gets its connection to the upstream, which may then begin;
// whoever begins decides. A client that begins like HTTP and stops is late,
// not passed on: that would be a way around the routes.
func (t *tunnel) sniff() *failure.Failure {
	d := t.x.d
	b := d.Buffers.Get()
	defer d.Buffers.Put(b)
	defer func() {
		d.Guard.Clear(downstream.SlotHead)
		_ = d.Sock.SetReadDeadline(time.Time{})
	}()
	for {
		switch protocol, s := listener.InspectHTTP(t.first); {
		case s == listener.Yes:
			t.http = protocol != "h2c" || t.x.Manager.Codec != listener.CodecHTTP1
			return nil
		case s == listener.No:
			return nil
		case len(t.first) > 0:
			d.Guard.Set(downstream.SlotHead, t.x.Start+int64(headTimeout))
		case t.up == nil:
			d.Guard.Set(downstream.SlotHead, d.Clock.Now()+int64(tunnelPatience))
		}
		n, serverBegan, err := t.read(b.B)
		t.first = append(t.first, b.B[:n]...)
		late := d.Guard.Clear(downstream.SlotHead)
		_ = d.Sock.SetReadDeadline(time.Time{})
		switch {
		case n > 0:
		case serverBegan:
			return nil
		case late && len(t.first) > 0:
			return &failure.Failure{Kind: failure.RequestTimeout, Detail: "tunnel"}
		case late && t.up == nil:
			if f := t.connect(); f != nil {
				return f
			}
		case conn.IsEnd(err):
			return nil // it is passed on
		default:
			return &failure.Failure{Kind: failure.ClientLeft, Cause: errors.Join(err)}
		}
	}
}

// read reads from the client. When there is an upstream, its first byte ends
// the wait too.
func (t *tunnel) read(b []byte) (n int, serverBegan bool, err error) {
	d := t.x.d
	if t.up == nil {
		n, err = d.Stream.Read(b)
		return n, false, err
	}
	began := make(chan bool, 1)
	go func() {
		err := t.up.AwaitReadable()
		if err == nil || !conn.IsTimeout(err) {
			_ = d.Sock.SetReadDeadline(conn.Past())
		}
		began <- err == nil || !conn.IsTimeout(err)
	}()
	n, err = d.Stream.Read(b)
	_ = t.up.SetReadDeadline(conn.Past())
	serverBegan = <-began
	_ = t.up.SetReadDeadline(time.Time{})
	return n, serverBegan && n == 0, err
}
