package engine

import (
	"bytes"
	"errors"
	"slices"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
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
	d.stopSide()
	x.toDownstream()
	x.announcedClose = true
	x.back = http1.AppendResponse(x.back[:0], &x.res, false, http1.Keep)
	x.headSent = true
	if f := x.toClient(append(x.back, first...)); f != nil {
		return f
	}
	d.guard.Clear(slotRoute)
	d.guard.Clear(slotStream)
	if len(x.rest) > 0 {
		if _, err := x.up1.Write(x.rest); err != nil {
			return x.upstreamFailure(err)
		}
	}
	r := tcp.Relay(d.stream, x.up1.Stream, tcp.Options{Idle: x.idleTimeout(), MaxDuration: x.streamMax(), Buffers: &d.buffers, Pipes: &d.shared.pipes})
	x.bytesIn += r.Sent + int64(len(x.rest))
	x.bytesOut += r.Received + int64(len(first))
	x.wireIn += r.Sent
	x.wireOut += r.Received
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
	if x.admit() == actForward && (d.tunnel != nil || !slices.Contains(x.result.Route.Forward.Upgrades, "connect")) {
		x.fail(failure.Failure{Kind: failure.NotSupported, Detail: "CONNECT"})
	}
	http := false
	if x.action == actAnswer {
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
	x.finish(d.clock.Now())
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
	sniffs := len(x.result.Host.Routes) > 1 // there are routes for what is inside
	if !sniffs {
		// The answer can then tell whether there is a way.
		if f := t.connect(); f != nil {
			return f
		}
	}
	x.headAt = x.d.clock.Now()
	x.res.Reset()
	x.res.Status = 200
	x.headSent = true
	if f := x.toClient(http1.AppendResponse(x.back[:0], &x.res, false, http1.Keep)); f != nil {
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
	x.counted = true
	x.d.tunnel = append([]byte(nil), x.req.Authority...)
	h.left, h.requests = x.d.buffers.Get(), 0
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
	f := t.x.choose()
	if f == nil {
		t.up, f = t.x.d.connectRaw(t.x.upstream, t.x.routeTimeout())
	}
	if f == nil {
		t.x.from = t.up.LocalAddr()
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
	x.upstream.Host.Active.Add(1)
	defer x.upstream.Host.Active.Add(-1)
	d.upstream.Store(t.up.Socket())
	x.counted = true
	series := d.tcpOpened(x.upstream)
	series.Moved(int64(len(t.first)), 0)
	r := tcp.Relay(d.stream, t.up.Stream, tcp.Options{Idle: x.idleTimeout(), MaxDuration: x.streamMax(), Buffers: &d.buffers, Pipes: &d.shared.pipes, Moved: series.Moved})
	d.upstream.Store(nil)
	series.Closed()
	x.bytesIn, x.bytesOut = r.Sent+int64(len(t.first)), r.Received
	x.wireIn += x.bytesIn
	x.wireOut += x.bytesOut
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
	b := d.buffers.Get()
	defer d.buffers.Put(b)
	defer func() {
		d.guard.Clear(slotHead)
		_ = d.sock.SetReadDeadline(time.Time{})
	}()
	for {
		switch protocol, s := listener.InspectHTTP(t.first); {
		case s == listener.Yes:
			t.http = protocol != "h2c" || t.x.manager.Codec != listener.CodecHTTP1
			return nil
		case s == listener.No:
			return nil
		case len(t.first) > 0:
			d.guard.Set(slotHead, t.x.start+int64(headTimeout))
		case t.up == nil:
			d.guard.Set(slotHead, d.clock.Now()+int64(tunnelPatience))
		}
		n, serverBegan, err := t.read(b.B)
		t.first = append(t.first, b.B[:n]...)
		late := d.guard.Clear(slotHead)
		_ = d.sock.SetReadDeadline(time.Time{})
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
		n, err = d.stream.Read(b)
		return n, false, err
	}
	began := make(chan bool, 1)
	go func() {
		err := t.up.AwaitReadable()
		if err == nil || !conn.IsTimeout(err) {
			_ = d.sock.SetReadDeadline(conn.Past())
		}
		began <- err == nil || !conn.IsTimeout(err)
	}()
	n, err = d.stream.Read(b)
	_ = t.up.SetReadDeadline(conn.Past())
	serverBegan = <-began
	_ = t.up.SetReadDeadline(time.Time{})
	return n, serverBegan && n == 0, err
}
