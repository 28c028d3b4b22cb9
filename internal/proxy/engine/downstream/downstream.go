// Package downstream is a client's connection from its accept to its end: it is
// inspected, matched to a filter chain, has its TLS ended and is admitted (Open).
// Then its bytes are passed on (ServeTCP), or a driver serves HTTP on it, for
// which Conn holds the socket, the deadlines, what interrupts a wait, and the
// watch for clients that leave. A drain and a new generation reach the
// connection through it, too.
//
// The goroutine that serves a connection owns it; what others may touch is
// atomic. Shared is what the connections of an engine share.
//
// Read downstream.go first.
package downstream

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/exchange"
	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
	"github.com/tullemesh/tulle/internal/proxy/engine/generation"
	"github.com/tullemesh/tulle/internal/proxy/engine/http2"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/worker"
)

// The deadlines of a connection, by slot of its guard.
const (
	slotIdle     = iota // between requests, or of a TCP connection
	SlotHead            // the request's head
	SlotRequest         // the whole request
	SlotRoute           // the response, from the complete request
	SlotStream          // anything moving on the stream
	slotEarly           // not a deadline: when to begin to connect for a silent client
	slotDuration        // the connection's life
	slotDrain           // a drain's patience
	SlotLife            // the stream's life
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

// Conn is one accepted connection. The goroutine that serves it owns it; the
// guard's timer and the engine touch only what is atomic.
type Conn struct {
	// Fixed at creation.
	exchange.Conn
	Shared *Shared
	Sock   *conn.Socket
	Guard  *conn.Guard

	// Owned by the serve goroutine, as are the facts, which JudgeAgain reads after
	// known is set.
	Stream conn.Stream

	// Small ones stand together: an idle connection is little more than this.
	known      atomic.Bool // facts and chain are complete
	state      atomic.Int32
	draining   atomic.Bool
	Responding atomic.Bool // the client gets a response: who ends it ends the write too
	Left       atomic.Bool // the client did
	sideOn     atomic.Bool

	two atomic.Pointer[http2.Conn] // when the client speaks HTTP/2

	// Owned by the serve goroutine: has the upstream that was connected while the
	// client was silent; nil: none was.
	dialed *early

	// What the timer may interrupt: Upstream is the socket, and Cancel ends the
	// wait, that the connection is in; nil: it is in none.
	early      atomic.Pointer[early]
	Upstream   atomic.Pointer[conn.Socket]
	Cancel     atomic.Pointer[context.CancelFunc]
	waitsSince atomic.Int64 // when the client began to wait for a response; 0: it does not
	side       sync.WaitGroup
}

// Shared is what all connections of an engine share.
type Shared struct {
	exchange.Shared

	// Fixed at creation.
	Log       *slog.Logger
	DrainTime time.Duration // bounds the connections of a removed listener

	Conns      Connections
	Pipes      conn.Pipes
	Workers    worker.Pool
	speakers   listener.FirstSpeakers
	handshakes handshakes
	watches    watches
}

// Accept makes c, which came in at p, a connection of the engine; nil: it is
// closed already.
func (s *Shared) Accept(c net.Conn, p *exchange.Place) *Conn {
	sock, err := conn.New(c)
	if err != nil {
		c.Close()
		return nil
	}
	d := &Conn{
		Conn:   exchange.Conn{Shared: &s.Shared, Place: p, Begun: s.Clock.Now(), ID: s.Meters.NextConn()},
		Shared: s, Sock: sock, Stream: sock,
	}
	d.Guard = conn.NewGuard(s.Clock, d.expire)
	return d
}

// Close ends the connection and waits for what it started.
func (d *Conn) Close() {
	d.Guard.Stop()
	d.endWatch(watchNever)
	d.Stream.Close()
	d.side.Wait()
	if d.dialed != nil {
		d.dialed.up.Close() // the client spoke something else
	}
}

// Open finds the chain and does what comes before the application's bytes;
// false: the connection is over.
func (d *Conn) Open() bool {
	o := opening{Conn: d}
	d.Shared.Workers.Do(&o, d.ID)
	return o.ok
}

// opening is open as a task.
type opening struct {
	*Conn
	ok bool
}

func (o *opening) Do() { o.ok = o.begin() }

// begin does what Open says.
func (d *Conn) begin() bool {
	accepts := d.learnAddresses()
	if accepts == nil {
		return false
	}
	d.Spec = accepts.Spec()
	timeout := d.Spec.SniffTimeout
	if timeout <= 0 {
		timeout = transportTimeout
	}
	d.Guard.Set(SlotHead, d.Begun+int64(timeout))
	if !d.inspect(accepts) {
		return false
	}
	chain := accepts.Match(&d.Facts, nil)
	if chain == nil {
		d.refuse(&failure.Failure{Kind: failure.NoChain})
		return false
	}
	d.Chain.Store(chain)
	if chain.TLS != nil && !d.handshake(chain) {
		return false
	}
	d.Guard.Clear(SlotHead)
	if kind := generation.CheckTransport(chain, &d.Facts, true); kind != "" {
		d.refuse(&failure.Failure{Kind: failure.BadRequest, Detail: string(kind)})
		return false
	}
	if v := generation.AdmitConn(chain, &d.Facts, nil); !v.Allowed {
		d.refuse(&failure.Failure{Kind: failure.Denied, Detail: v.Policy})
		return false
	}
	d.Peer = d.Peers.Of(&d.Facts)
	if chain.HTTP != nil && chain.HTTP.MaxConnectionDuration > 0 {
		d.Guard.Set(slotDuration, d.Begun+int64(chain.HTTP.MaxConnectionDuration))
	}
	d.known.Store(true)
	return true
}

// learnAddresses fills in the addresses and returns the listener that judges.
func (d *Conn) learnAddresses() *listener.Matcher {
	f := &d.Facts
	f.Direct = conn.AddrPort(d.Sock.LocalAddr())
	f.Remote = conn.AddrPort(d.Sock.RemoteAddr())
	f.Local = f.Direct
	cfg := d.Config.Load()
	l := cfg.At(d.Place.At)
	if l == nil {
		// The client was connected before the listener was removed: it fares as
		// those whom we had accepted by then.
		cfg = d.Place.Last.Load()
		if l = cfg.At(d.Place.At); l == nil {
			return nil
		}
		d.DrainBy(d.Begun + int64(d.Shared.DrainTime))
	}
	if l.Spec().OriginalDst || l.Spec().UseOriginalDst {
		if to, err := d.Sock.OriginalDst(); err == nil {
			f.Local = to
		}
	}
	return cfg.HandOver(l, f.Local)
}

// expire runs on the guard's timer: it wakes whoever waits for what is late.
func (d *Conn) expire(slot int) {
	switch slot {
	case slotEarly:
		if e := d.early.Load(); e != nil {
			d.StartSide(func() { d.connectEarly(e) })
		}
		return
	case slotIdle:
		if c := d.two.Load(); c != nil {
			c.Drain() // it came in a drain and did not ask
			return
		}
		// A drain sets the slot beside the owner, who may be busy by now.
		if d.state.Load() == stateIdle {
			_ = d.Sock.SetReadDeadline(conn.Past())
		}
		return
	case SlotHead:
		_ = d.Sock.SetReadDeadline(conn.Past())
		if !d.known.Load() { // in a handshake, which writes too
			_ = d.Sock.SetWriteDeadline(conn.Past())
		}
		return
	case SlotRequest:
		_ = d.Sock.SetReadDeadline(conn.Past())
	case slotDrain:
		d.state.Store(stateEnding) // what waits for the upstream is not tried again
		_ = d.Sock.SetDeadline(conn.Past())
	case slotDuration:
		d.Drain()
		return
	}
	d.InterruptUpstream()
	if d.Responding.Load() {
		_ = d.Sock.SetWriteDeadline(conn.Past())
	}
}

// InterruptUpstream wakes the goroutine that waits for the upstream.
func (d *Conn) InterruptUpstream() {
	if cancel := d.Cancel.Load(); cancel != nil {
		(*cancel)()
	}
	if up := d.Upstream.Load(); up != nil {
		_ = up.SetDeadline(conn.Past())
	}
}

// StartSide runs f on the connection's one side goroutine.
func (d *Conn) StartSide(f func()) {
	d.BeginSide()
	go func() {
		defer d.EndSide()
		f()
	}()
}

// BeginSide comes before the side goroutine is started, whose end is EndSide.
func (d *Conn) BeginSide() {
	d.sideOn.Store(true)
	d.side.Add(1)
}

// EndSide is the last thing that the side goroutine does.
func (d *Conn) EndSide() { d.side.Done() }

// HasSide reports whether a side goroutine was started and not joined.
func (d *Conn) HasSide() bool { return d.sideOn.Load() }

// StopSide ends the side goroutine's waiting for the client and joins it. When
// it returns there is none and none begins.
func (d *Conn) StopSide() {
	d.endWatch(0)
	if !d.sideOn.Load() {
		return
	}
	// Who sends the request's body asks for a watcher as the last thing it does.
	d.endWatch(watchNever)
	_ = d.Sock.SetReadDeadline(conn.Past())
	d.side.Wait()
	d.sideOn.Store(false)
	_ = d.Sock.SetReadDeadline(time.Time{})
	d.waitsSince.Store(0)
}

// Watch waits for the client's leave and then cancels the upstream's work.
func (d *Conn) Watch() {
	if err := d.Sock.AwaitEnd(); err != nil {
		return // stopped, or the connection failed, which the writer will see
	}
	d.Left.Store(true)
	d.InterruptUpstream()
}

// AwaitRequest waits without a buffer until a request begins, for as long as
// idle from ended on, when the last request did; 0: there was none. It may have
// read n bytes into a buffer then. false: the connection is over.
func (d *Conn) AwaitRequest(idle time.Duration, ended int64) (b *conn.Buffer, n int, ok bool) {
	now := ended
	if now == 0 {
		now = d.Clock.Now()
	}
	d.state.Store(stateIdle) // first: the slot expires to nothing on a busy connection
	d.Guard.Set(slotIdle, now+int64(idle))
	if d.draining.Load() {
		d.Guard.Set(slotIdle, now+int64(min(idle, drainIdle)))
	}
	var err error
	if s, ok := d.Stream.(*conn.Socket); ok {
		b, n, err = s.ReadFirst(&d.Buffers)
	} else {
		err = d.Stream.AwaitReadable()
	}
	late := d.Guard.Clear(slotIdle)
	if late && conn.IsTimeout(err) && d.Sock.Look() == conn.Readable {
		err = nil // the request was there before we read
	}
	if !d.state.CompareAndSwap(stateIdle, stateBusy) || err != nil {
		return b, n, false
	}
	if late { // the request and the deadline came together
		_ = d.Sock.SetReadDeadline(time.Time{})
	}
	return b, n, true
}

// SpeaksHTTP2 says that c serves the connection from now on.
func (d *Conn) SpeaksHTTP2(c *http2.Conn) {
	d.two.Store(c)
	if d.draining.Load() { // its request is on its way, and tells it to go elsewhere
		d.Guard.Set(slotIdle, d.Clock.Now()+int64(drainIdle))
	}
}

// drainIdle is how long an idle connection stays open in a drain: a request may
// be on its way, whose response then says that the connection ends.
const drainIdle = 300 * time.Millisecond

// IsDraining reports whether the connection was asked to end.
func (d *Conn) IsDraining() bool { return d.draining.Load() }

// IsEnding reports whether the connection is ended under its goroutine.
func (d *Conn) IsEnding() bool { return d.state.Load() == stateEnding }

// Drain asks the connection to end: an idle one soon, others after what they
// are doing.
func (d *Conn) Drain() {
	d.draining.Store(true)
	if c := d.two.Load(); c != nil {
		c.Drain()
	}
	if d.state.Load() == stateIdle {
		d.Guard.Set(slotIdle, d.Clock.Now()+int64(drainIdle))
	}
}

// DrainBy is drain with an end: what is not over until then is cut.
func (d *Conn) DrainBy(until int64) {
	d.Drain()
	d.Guard.Set(slotDrain, until)
}

// Abort ends the connection at once.
func (d *Conn) Abort() {
	d.draining.Store(true)
	d.state.Store(stateEnding)
	d.InterruptUpstream()
	d.Sock.Close()
}

// JudgeAgain re-matches an open connection against a new generation. What is
// still admitted is left alone; what is now refused drains.
func (d *Conn) JudgeAgain(cfg *generation.Config) {
	if !d.known.Load() || d.draining.Load() {
		return
	}
	l := cfg.At(d.Place.At)
	if l == nil {
		return // its socket is closed: bindLocked drains it
	}
	chain := cfg.HandOver(l, d.Facts.Local).Match(&d.Facts, nil)
	old := d.Chain.Load()
	if chain != nil && (chain.HTTP != nil) == (old.HTTP != nil) &&
		(chain.TLS != nil) == (old.TLS != nil) &&
		generation.CheckTransport(chain, &d.Facts, true) == "" && generation.AdmitConn(chain, &d.Facts, nil).Allowed {
		d.Chain.Store(chain)
		return
	}
	d.DrainBy(d.Clock.Now() + int64(drainPatience(old)))
}

// drainPatience is how long a refused connection may finish what it does.
func drainPatience(c *listener.Chain) time.Duration {
	if c.HTTP != nil && c.HTTP.DrainTimeout > 0 {
		return c.HTTP.DrainTimeout
	}
	return 5 * time.Second // Envoy: HttpConnectionManager.drain_timeout
}

// refuse records a connection that ends before it is served.
func (d *Conn) refuse(f *failure.Failure) {
	d.Meters.ConnFailed(f.Answer().Flag)
	logs := d.Spec.AccessLog
	if c := d.Chain.Load(); c != nil && c.TCP != nil {
		logs = c.TCP.AccessLog
	}
	d.logConn(logs, f, nil)
}
