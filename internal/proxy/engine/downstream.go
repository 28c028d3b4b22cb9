package engine

import (
	"context"
	"crypto/x509"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
	"github.com/tullemesh/tulle/internal/proxy/engine/generation"
	"github.com/tullemesh/tulle/internal/proxy/engine/http2"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
	"github.com/tullemesh/tulle/internal/proxy/engine/telemetry"
)

type netConn = net.Conn

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
	e        *Engine
	sock     *conn.Socket
	acceptor *acceptor
	guard    *conn.Guard
	begun    int64

	// Owned by the serve goroutine; read by judgeAgain after known is set.
	stream   conn.Stream
	facts    fact.Conn
	chain    atomic.Pointer[listener.Chain] // judgeAgain puts the newest generation's here
	spec     *listener.Spec
	series   telemetry.Conn
	peer     *telemetry.Peer
	id       uint64
	peerCert *x509.Certificate
	tunnel   []byte // the authority of the CONNECT whose tunnel carries HTTP; nil: none
	xfcc     string // made by xfccElement

	// Small ones stand together: an idle connection is little more than this.
	known      atomic.Bool // facts and chain are complete
	state      atomic.Int32
	draining   atomic.Bool
	responding atomic.Bool
	left       atomic.Bool // the client did
	sideOn     atomic.Bool

	two atomic.Pointer[http2.Conn] // when the client speaks HTTP/2

	// Owned by the serve goroutine: made while the client was silent.
	dialed    *cluster.Conn
	dialedFor *listener.Chain

	// What the timer may interrupt.
	early      atomic.Pointer[early]
	upstream   atomic.Pointer[conn.Socket]
	cancel     atomic.Pointer[context.CancelFunc]
	waitsSince atomic.Int64 // when the client began to wait for a response; 0: it does not
	side       sync.WaitGroup
}

// serve handles a connection from its first byte to its last.
func (e *Engine) serve(c netConn, a *acceptor) {
	sock, err := conn.New(c)
	if err != nil {
		c.Close()
		return
	}
	d := &downstream{e: e, sock: sock, stream: sock, acceptor: a, begun: e.clock.Now(), id: e.meters.NextConn()}
	d.guard = conn.NewGuard(e.clock, d.expire)
	defer func() {
		d.guard.Stop()
		d.endWatch(watchNever)
		d.stream.Close()
		d.side.Wait()
		if d.dialed != nil {
			d.dialed.Close() // the client spoke something else
		}
		e.remove(d)
	}()
	if !e.add(d) {
		return
	}
	opening := opening{downstream: d}
	if e.workers.Do(&opening, d.id); !opening.ok {
		return
	}
	switch chain := d.chain.Load(); {
	case chain.HTTP != nil:
		d.serveHTTP()
	case chain.TCP != nil:
		d.serveTCP(chain.TCP)
	}
}

// opening is open as a task.
type opening struct {
	*downstream
	ok bool
}

func (o *opening) Do() { o.ok = o.open() }

// open finds the chain and does what comes before the application's bytes.
func (d *downstream) open() bool {
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
	d.peer = d.e.peers.Of(&d.facts)
	d.known.Store(true)
	return true
}

// learnAddresses fills in the addresses and returns the listener that judges.
func (d *downstream) learnAddresses() *listener.Matcher {
	f := &d.facts
	f.Direct = conn.AddrPort(d.sock.LocalAddr())
	f.Remote = conn.AddrPort(d.sock.RemoteAddr())
	f.Local = f.Direct
	cfg := d.e.Config()
	l := cfg.At(d.acceptor.at)
	if l == nil {
		// The client was connected before the listener was removed: it fares as
		// those whom we had accepted by then.
		cfg = d.acceptor.last.Load()
		if l = cfg.At(d.acceptor.at); l == nil {
			return nil
		}
		d.drain()
		d.guard.Set(slotDrain, d.begun+int64(d.e.opts.DrainTime))
	}
	if l.Spec().OriginalDst || l.Spec().UseOriginalDst {
		if to, err := d.sock.OriginalDst(); err == nil {
			f.Local = to
		}
	}
	return cfg.HandOver(l, f.Local)
}

// routes are those of the generation in force. They may have gone with the
// connection's listener: then those hold that were there with it.
func (d *downstream) routes(m *listener.HTTPManager) *router.Table {
	cfg := d.e.Config()
	if t := cfg.RouteTable(m); t != nil || cfg.At(d.acceptor.at) != nil {
		return t
	}
	return d.acceptor.last.Load().RouteTable(m)
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
	d.sideOn.Store(true)
	d.side.Go(f)
}

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

// drainIdle is how long an idle connection stays open in a drain: a request may
// be on its way, whose response then says that the connection ends.
const drainIdle = 300 * time.Millisecond

// drain asks the connection to end: an idle one soon, others after what they
// are doing.
func (d *downstream) drain() {
	d.draining.Store(true)
	if c := d.two.Load(); c != nil {
		c.Drain()
	}
	if d.state.Load() == stateIdle {
		d.guard.Set(slotIdle, d.e.clock.Now()+int64(drainIdle))
	}
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
	l := cfg.At(d.acceptor.at)
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
	d.drain()
	patience := drainPatience(old)
	d.guard.Set(slotDrain, d.e.clock.Now()+int64(patience))
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
	d.e.meters.ConnFailed(f.Answer().Flag)
	logs := d.spec.AccessLog
	if c := d.chain.Load(); c != nil && c.TCP != nil {
		logs = c.TCP.AccessLog
	}
	d.logConn(logs, f, nil)
}
