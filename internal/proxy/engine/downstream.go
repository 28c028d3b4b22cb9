package engine

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
	"github.com/tullemesh/tulle/internal/proxy/engine/generation"
	"github.com/tullemesh/tulle/internal/proxy/engine/http2"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/worker"
)

// The deadlines of a downstream connection, by slot of its guard.
const (
	slotIdle     = iota // between requests, or of a TCP connection
	slotHead            // the request's head
	slotRequest         // the whole request
	slotRoute           // the response, from the complete request
	slotStream          // anything moving on the stream
	slotEarly           // not a deadline: when to begin to connect for a silent client
	slotDuration        // the connection's life
	slotDrain           // a drain's patience
	slotLife            // the stream's life
)

// transportTimeout bounds inspectors and handshakes that have no bound of
// their own.
const transportTimeout = 15 * time.Second

// state of a downstream connection, for draining: an idle one may be closed
// under the goroutine that waits.
const (
	stateBusy int32 = iota
	stateIdle
	stateEnding
)

// downstream is one accepted connection. Its serve goroutine owns it; the
// guard's timer and the engine touch only what is atomic.
type downstream struct {
	// Fixed at creation.
	exchangeConn
	shared *downstreamShared
	sock   *conn.Socket
	guard  *conn.Guard

	// Owned by the serve goroutine, as are the facts, which judgeAgain reads after
	// known is set.
	stream conn.Stream

	// Small ones stand together: an idle connection is little more than this.
	known      atomic.Bool // facts and chain are complete
	state      atomic.Int32
	draining   atomic.Bool
	responding atomic.Bool
	left       atomic.Bool // the client did
	sideOn     atomic.Bool

	two atomic.Pointer[http2.Conn] // when the client speaks HTTP/2

	// Owned by the serve goroutine: has the upstream that was connected while the
	// client was silent; nil: none was.
	dialed *early

	// What the timer may interrupt.
	early      atomic.Pointer[early]
	upstream   atomic.Pointer[conn.Socket]
	cancel     atomic.Pointer[context.CancelFunc]
	waitsSince atomic.Int64 // when the client began to wait for a response; 0: it does not
	side       sync.WaitGroup
}

// downstreamShared is what all connections of an engine share.
type downstreamShared struct {
	exchangeShared

	// Fixed at creation.
	log       *slog.Logger
	drainTime time.Duration // bounds the connections of a removed listener

	conns      connections
	pipes      conn.Pipes
	workers    worker.Pool
	speakers   listener.FirstSpeakers
	handshakes handshakes
	watches    watches
}

// accept makes c, which came in at p, a connection of the engine; nil: it is
// closed already.
func (s *downstreamShared) accept(c net.Conn, p *place) *downstream {
	sock, err := conn.New(c)
	if err != nil {
		c.Close()
		return nil
	}
	d := &downstream{
		exchangeConn: exchangeConn{exchangeShared: &s.exchangeShared, place: p, begun: s.clock.Now(), id: s.meters.NextConn()},
		shared:       s, sock: sock, stream: sock,
	}
	d.guard = conn.NewGuard(s.clock, d.expire)
	return d
}

// close ends the connection and waits for what it started.
func (d *downstream) close() {
	d.guard.Stop()
	d.endWatch(watchNever)
	d.stream.Close()
	d.side.Wait()
	if d.dialed != nil {
		d.dialed.up.Close() // the client spoke something else
	}
}

// open finds the chain and does what comes before the application's bytes;
// false: the connection is over.
func (d *downstream) open() bool {
	o := opening{downstream: d}
	d.shared.workers.Do(&o, d.id)
	return o.ok
}

// opening is open as a task.
type opening struct {
	*downstream
	ok bool
}

func (o *opening) Do() { o.ok = o.begin() }

// begin does what open says.
func (d *downstream) begin() bool {
	accepts := d.learnAddresses()
	if accepts == nil {
		return false
	}
	d.spec = accepts.Spec()
	timeout := d.spec.SniffTimeout
	if timeout <= 0 {
		timeout = transportTimeout
	}
	d.guard.Set(slotHead, d.begun+int64(timeout))
	if !d.inspect(accepts) {
		return false
	}
	chain := accepts.Match(&d.facts, nil)
	if chain == nil {
		d.refuse(&failure.Failure{Kind: failure.NoChain})
		return false
	}
	d.chain.Store(chain)
	if chain.TLS != nil && !d.handshake(chain) {
		return false
	}
	d.guard.Clear(slotHead)
	if kind := generation.CheckTransport(chain, &d.facts, true); kind != "" {
		d.refuse(&failure.Failure{Kind: failure.BadRequest, Detail: string(kind)})
		return false
	}
	if v := generation.AdmitConn(chain, &d.facts, nil); !v.Allowed {
		d.refuse(&failure.Failure{Kind: failure.Denied, Detail: v.Policy})
		return false
	}
	d.peer = d.peers.Of(&d.facts)
	if chain.HTTP != nil && chain.HTTP.MaxConnectionDuration > 0 {
		d.guard.Set(slotDuration, d.begun+int64(chain.HTTP.MaxConnectionDuration))
	}
	d.known.Store(true)
	return true
}

// learnAddresses fills in the addresses and returns the listener that judges.
func (d *downstream) learnAddresses() *listener.Matcher {
	f := &d.facts
	f.Direct = conn.AddrPort(d.sock.LocalAddr())
	f.Remote = conn.AddrPort(d.sock.RemoteAddr())
	f.Local = f.Direct
	cfg := d.config.Load()
	l := cfg.At(d.place.at)
	if l == nil {
		// The client was connected before the listener was removed: it fares as
		// those whom we had accepted by then.
		cfg = d.place.last.Load()
		if l = cfg.At(d.place.at); l == nil {
			return nil
		}
		d.drainBy(d.begun + int64(d.shared.drainTime))
	}
	if l.Spec().OriginalDst || l.Spec().UseOriginalDst {
		if to, err := d.sock.OriginalDst(); err == nil {
			f.Local = to
		}
	}
	return cfg.HandOver(l, f.Local)
}

// expire runs on the guard's timer: it wakes whoever waits for what is late.
func (d *downstream) expire(slot int) {
	switch slot {
	case slotEarly:
		if e := d.early.Load(); e != nil {
			d.startSide(func() { d.connectEarly(e) })
		}
		return
	case slotIdle:
		if c := d.two.Load(); c != nil {
			c.Drain() // it came in a drain and did not ask
			return
		}
		// A drain sets the slot beside the owner, who may be busy by now.
		if d.state.Load() == stateIdle {
			_ = d.sock.SetReadDeadline(conn.Past())
		}
		return
	case slotHead:
		_ = d.sock.SetReadDeadline(conn.Past())
		if !d.known.Load() { // in a handshake, which writes too
			_ = d.sock.SetWriteDeadline(conn.Past())
		}
		return
	case slotRequest:
		_ = d.sock.SetReadDeadline(conn.Past())
	case slotDrain:
		d.state.Store(stateEnding) // what waits for the upstream is not tried again
		_ = d.sock.SetDeadline(conn.Past())
	case slotDuration:
		d.drain()
		return
	}
	d.interruptUpstream()
	if d.responding.Load() {
		_ = d.sock.SetWriteDeadline(conn.Past())
	}
}

// interruptUpstream wakes the goroutine that waits for the upstream.
func (d *downstream) interruptUpstream() {
	if cancel := d.cancel.Load(); cancel != nil {
		(*cancel)()
	}
	if up := d.upstream.Load(); up != nil {
		_ = up.SetDeadline(conn.Past())
	}
}

// startSide runs f on the connection's one side goroutine.
func (d *downstream) startSide(f func()) {
	d.beginSide()
	go func() {
		defer d.endSide()
		f()
	}()
}

// beginSide comes before the side goroutine is started, whose end is endSide.
func (d *downstream) beginSide() {
	d.sideOn.Store(true)
	d.side.Add(1)
}

// endSide is the last thing that the side goroutine does.
func (d *downstream) endSide() { d.side.Done() }

// hasSide reports whether a side goroutine was started and not joined.
func (d *downstream) hasSide() bool { return d.sideOn.Load() }

// stopSide ends the side goroutine's waiting for the client and joins it. When
// it returns there is none and none begins.
func (d *downstream) stopSide() {
	d.endWatch(0)
	if !d.sideOn.Load() {
		return
	}
	// Who sends the request's body asks for a watcher as the last thing it does.
	d.endWatch(watchNever)
	_ = d.sock.SetReadDeadline(conn.Past())
	d.side.Wait()
	d.sideOn.Store(false)
	_ = d.sock.SetReadDeadline(time.Time{})
	d.waitsSince.Store(0)
}

// watch waits for the client's leave and then cancels the upstream's work.
func (d *downstream) watch() {
	if err := d.sock.AwaitEnd(); err != nil {
		return // stopped, or the connection failed, which the writer will see
	}
	d.left.Store(true)
	d.interruptUpstream()
}

// awaitRequest waits without a buffer until a request begins, for as long as
// idle from ended on, when the last request did; 0: there was none. It may have
// read n bytes into a buffer then. false: the connection is over.
func (d *downstream) awaitRequest(idle time.Duration, ended int64) (b *conn.Buffer, n int, ok bool) {
	now := ended
	if now == 0 {
		now = d.clock.Now()
	}
	d.state.Store(stateIdle) // first: the slot expires to nothing on a busy connection
	d.guard.Set(slotIdle, now+int64(idle))
	if d.draining.Load() {
		d.guard.Set(slotIdle, now+int64(min(idle, drainIdle)))
	}
	var err error
	if s, ok := d.stream.(*conn.Socket); ok {
		b, n, err = s.ReadFirst(&d.buffers)
	} else {
		err = d.stream.AwaitReadable()
	}
	late := d.guard.Clear(slotIdle)
	if late && conn.IsTimeout(err) && d.sock.Look() == conn.Readable {
		err = nil // the request was there before we read
	}
	if !d.state.CompareAndSwap(stateIdle, stateBusy) || err != nil {
		return b, n, false
	}
	if late { // the request and the deadline came together
		_ = d.sock.SetReadDeadline(time.Time{})
	}
	return b, n, true
}

// speaksHTTP2 says that c serves the connection from now on.
func (d *downstream) speaksHTTP2(c *http2.Conn) {
	d.two.Store(c)
	if d.draining.Load() { // its request is on its way, and tells it to go elsewhere
		d.guard.Set(slotIdle, d.clock.Now()+int64(drainIdle))
	}
}

// drainIdle is how long an idle connection stays open in a drain: a request may
// be on its way, whose response then says that the connection ends.
const drainIdle = 300 * time.Millisecond

// isDraining reports whether the connection was asked to end.
func (d *downstream) isDraining() bool { return d.draining.Load() }

// isEnding reports whether the connection is ended under its goroutine.
func (d *downstream) isEnding() bool { return d.state.Load() == stateEnding }

// drain asks the connection to end: an idle one soon, others after what they
// are doing.
func (d *downstream) drain() {
	d.draining.Store(true)
	if c := d.two.Load(); c != nil {
		c.Drain()
	}
	if d.state.Load() == stateIdle {
		d.guard.Set(slotIdle, d.clock.Now()+int64(drainIdle))
	}
}

// drainBy is drain with an end: what is not over until then is cut.
func (d *downstream) drainBy(until int64) {
	d.drain()
	d.guard.Set(slotDrain, until)
}

// abort ends the connection at once.
func (d *downstream) abort() {
	d.draining.Store(true)
	d.state.Store(stateEnding)
	d.interruptUpstream()
	d.sock.Close()
}

// judgeAgain re-matches an open connection against a new generation. What is
// still admitted is left alone; what is now refused drains.
func (d *downstream) judgeAgain(cfg *generation.Config) {
	if !d.known.Load() || d.draining.Load() {
		return
	}
	l := cfg.At(d.place.at)
	if l == nil {
		return // its socket is closed: bindLocked drains it
	}
	chain := cfg.HandOver(l, d.facts.Local).Match(&d.facts, nil)
	old := d.chain.Load()
	if chain != nil && (chain.HTTP != nil) == (old.HTTP != nil) &&
		(chain.TLS != nil) == (old.TLS != nil) &&
		generation.CheckTransport(chain, &d.facts, true) == "" && generation.AdmitConn(chain, &d.facts, nil).Allowed {
		d.chain.Store(chain)
		return
	}
	d.drainBy(d.clock.Now() + int64(drainPatience(old)))
}

// drainPatience is how long a refused connection may finish what it does.
func drainPatience(c *listener.Chain) time.Duration {
	if c.HTTP != nil && c.HTTP.DrainTimeout > 0 {
		return c.HTTP.DrainTimeout
	}
	return 5 * time.Second // Envoy: HttpConnectionManager.drain_timeout
}

// refuse records a connection that ends before it is served.
func (d *downstream) refuse(f *failure.Failure) {
	d.meters.ConnFailed(f.Answer().Flag)
	logs := d.spec.AccessLog
	if c := d.chain.Load(); c != nil && c.TCP != nil {
		logs = c.TCP.AccessLog
	}
	d.logConn(logs, f, nil)
}
