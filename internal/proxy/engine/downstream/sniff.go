package downstream

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
	"github.com/tullemesh/tulle/internal/proxy/engine/generation"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
)

// What a listener learns from a connection's first bytes, and what it does for
// clients that say nothing.
//
// Where a server speaks first (MySQL, SMTP), the client waits for it and the
// inspectors for the client. So a silent client's upstream is connected
// meanwhile, when the chain for silence forwards bytes. If the upstream then
// speaks and the client is still silent after a patience, the server speaks
// first: it is a finding about this connection, never a guess. A destination
// where it was found is connected at once next time, and its patience is short.
const (
	// silentHeadStart is how long a client may be silent before its upstream is
	// connected; most clients speak at once.
	silentHeadStart = 10 * time.Millisecond
	// silentPatience is how long after the accept a server's words are taken for
	// an answer to silence. A client's TLS handshake begins within it.
	silentPatience = 100 * time.Millisecond
	// silentPatienceLearned is the same where servers were found to speak first
	// and no client was ever heard before one.
	silentPatienceLearned = 5 * time.Millisecond
)

// early is the upstream connection of a client that has said nothing yet.
type early struct {
	// Fixed at creation.
	accepts  *listener.Matcher
	patience time.Duration
	stopped  chan struct{} // closed by the serve goroutine

	// Owned by the side goroutine until it has ended.
	chain *listener.Chain
	up    *cluster.Conn

	socket atomic.Pointer[conn.Socket]
	spoke  atomic.Bool // the upstream did, and the client had its time
}

// sniffer reads a connection's first bytes without consuming them, but for a
// PROXY header.
type sniffer struct {
	d    *Conn
	b    []byte // all that may be read
	from int    // where what was not consumed begins
	n    int    // read so far
}

// inspect looks at the connection's first bytes as far as the listener asks.
// A client that says nothing in time goes on without an answer when the
// listener allows it, so that server-first protocols work.
func (d *Conn) inspect(accepts *listener.Matcher) bool {
	wantTLS, wantHTTP := d.Spec.Inspects(d.Facts.Local.Port())
	if d.Spec.Proxy == nil && !wantTLS && !wantHTTP {
		return true
	}
	b := d.Buffers.Get()
	defer d.Buffers.Put(b)
	s := sniffer{d: d, b: b.B}
	ok := (d.Spec.Proxy == nil || s.proxyHeader(d.Spec.Proxy)) && s.protocol(accepts)
	d.Sock.Unread(append([]byte(nil), s.b[s.from:s.n]...))
	return ok
}

// proxyHeader consumes a PROXY header and takes the addresses that it tells.
// A client that has to send one and does not is never let in.
func (s *sniffer) proxyHeader(p *listener.ProxyProtocol) bool {
	d := s.d
	for {
		h, n, found, err := p.ReadProxyHeader(s.b[:s.n])
		switch {
		case err != nil:
			d.refuse(&failure.Failure{Kind: failure.BadRequest, Cause: err})
			d.Shared.Log.Debug("PROXY header refused", slog.String("listener", d.Spec.Name), slog.Any("remote", d.Facts.Remote), slog.Any("error", err))
			return false
		case found == listener.No:
			return true
		case found == listener.Yes:
			s.from = n
			if f := &d.Facts; h.Known() {
				f.DirectRemote, f.Remote, f.Local = f.Remote, h.Source, h.Destination
			}
			return true
		}
		m, err := d.Sock.Read(s.b[s.n:])
		s.n += m
		if err != nil {
			return p.Optional && d.sniffEnded()
		}
	}
}

// protocol finds out what the client speaks.
func (s *sniffer) protocol(accepts *listener.Matcher) bool {
	d := s.d
	wantTLS, wantHTTP := d.Spec.Inspects(d.Facts.Local.Port())
	if !wantTLS && !wantHTTP {
		return true
	}
	if s.n == s.from {
		if goOn, ok := s.firstBytes(accepts); !goOn {
			return ok
		}
	}
	for !d.sniffed(s.b[s.from:s.n], &wantTLS, wantHTTP) {
		if s.n == len(s.b) && !s.grow() {
			break
		}
		m, err := d.Sock.Read(s.b[s.n:])
		s.n += m
		if err != nil {
			return d.sniffEnded()
		}
	}
	return true
}

// grow makes room for more bytes; false: there are enough.
func (s *sniffer) grow() bool {
	if len(s.b) >= limit.SniffBytesMax {
		return false
	}
	b := make([]byte, limit.SniffBytesMax)
	copy(b, s.b[:s.n])
	s.b = b
	return true
}

// firstBytes waits for the client to say something, and for its upstream to
// speak instead. goOn: there are bytes to look at; else ok is the answer.
func (s *sniffer) firstBytes(accepts *listener.Matcher) (goOn, ok bool) {
	d := s.d
	if d.Spec.ContinueOnTimeout {
		d.expectSilence(accepts)
	}
	for {
		m, err := d.Sock.Read(s.b[s.n:])
		s.n += m
		e := d.early.Load()
		spoke := d.stopEarly()
		if m > 0 {
			if e != nil {
				d.Shared.speakers.Client(d.Facts.Local)
			}
			return true, false
		}
		if !spoke || !conn.IsTimeout(err) {
			return false, d.sniffEnded()
		}
		if d.Sock.Look() == conn.Quiet {
			d.Shared.speakers.Server(d.Facts.Local)
			return false, true
		}
	}
}

// expectSilence has the upstream connected when the client stays silent.
func (d *Conn) expectSilence(accepts *listener.Matcher) {
	e := &early{accepts: accepts, patience: silentPatience, stopped: make(chan struct{})}
	d.early.Store(e)
	switch d.Shared.speakers.At(d.Facts.Local) {
	case listener.ServerFirst:
		e.patience = silentPatienceLearned
		fallthrough
	case listener.BothFirst:
		if d.Sock.Look() == conn.Quiet {
			d.StartSide(func() { d.connectEarly(e) })
		}
	case listener.NobodyKnown:
		d.Guard.Set(slotEarly, d.Begun+int64(silentHeadStart))
	}
}

// connectEarly runs on the side goroutine. The facts do not change while it
// does: the serve goroutine waits for the first byte.
func (d *Conn) connectEarly(e *early) {
	chain := e.accepts.Match(&d.Facts, nil)
	if chain == nil || chain.TCP == nil || chain.TLS != nil ||
		generation.CheckTransport(chain, &d.Facts, false) != "" || !generation.AdmitConn(chain, &d.Facts, nil).Allowed {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	d.Cancel.Store(&cancel)
	defer d.Cancel.Store(nil)
	select {
	case <-e.stopped:
		return // before it could cancel
	default:
	}
	c, f := d.clusterTCP(chain.TCP)
	if f != nil {
		return // told when the connection is served
	}
	u, f := d.pickTCP(c)
	if f != nil {
		return
	}
	up, err := u.Connect(ctx, d.UseTCP())
	if err != nil {
		return
	}
	e.chain, e.up = chain, up
	e.socket.Store(up.Socket())
	select {
	case <-e.stopped:
		return // before it saw the socket
	default:
	}
	if up.AwaitReadable() != nil {
		return
	}
	if !d.hearOut(e) {
		return
	}
	e.spoke.Store(true)
	_ = d.Sock.SetReadDeadline(conn.Past())
}

// hearOut gives the client the rest of its time to speak.
func (d *Conn) hearOut(e *early) (silent bool) {
	left := time.Duration(d.Begun + int64(e.patience) - d.Clock.Now())
	if left <= 0 {
		return true
	}
	t := time.NewTimer(left)
	defer t.Stop()
	select {
	case <-e.stopped:
		return false
	case <-t.C:
		return true
	}
}

// stopEarly ends the wait for the upstream and keeps its connection for
// ServeTCP. It reports whether the upstream spoke.
func (d *Conn) stopEarly() (spoke bool) {
	e := d.early.Load()
	if e == nil {
		return false
	}
	d.Guard.Clear(slotEarly) // from here nobody starts the side goroutine
	close(e.stopped)
	if cancel := d.Cancel.Load(); cancel != nil {
		(*cancel)()
	}
	if s := e.socket.Load(); s != nil {
		_ = s.SetReadDeadline(conn.Past())
	}
	d.side.Wait()
	d.early.Store(nil)
	if d.sideOn.Swap(false) {
		_ = d.Sock.SetDeadline(time.Time{})
		if d.Guard.Expired(SlotHead) { // its wake may be undone
			d.Guard.Set(SlotHead, d.Clock.Now())
		}
	}
	if e.up != nil {
		d.dialed = e
		_ = e.up.Socket().SetReadDeadline(time.Time{})
	}
	return e.spoke.Load()
}

// takeDialed is the connection made while the client was silent, if it goes
// where the chain sends it.
func (d *Conn) takeDialed(p *listener.TCPProxy) *cluster.Conn {
	e := d.dialed
	if e == nil || e.chain.TCP != p {
		return nil
	}
	d.dialed = nil
	return e.up
}

// sniffEnded decides what an end of the wait means: a timeout goes on when
// allowed, and so does a client that only listens.
func (d *Conn) sniffEnded() bool {
	if !d.Guard.Clear(SlotHead) {
		return true // the end of the client's bytes: the chain decides
	}
	_ = d.Sock.SetDeadline(time.Time{})
	return d.Spec.ContinueOnTimeout
}

// sniffed applies the inspectors in order; true: they have their answers.
func (d *Conn) sniffed(b []byte, wantTLS *bool, wantHTTP bool) bool {
	f := &d.Facts
	if *wantTLS {
		hello, s := listener.InspectTLS(b)
		switch s {
		case listener.NeedMore:
			return false
		case listener.Yes:
			f.TLS, f.SNI, f.ALPN = true, hello.SNI, hello.ALPN
			return true
		case listener.No:
			*wantTLS = false
		}
	}
	if wantHTTP {
		protocol, s := listener.InspectHTTP(b)
		if s == listener.NeedMore {
			return false
		}
		if s == listener.Yes {
			f.ALPN = []string{protocol}
		}
	}
	return true
}
