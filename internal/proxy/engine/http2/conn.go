package http2

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
)

// The deadlines of a connection, by slot of its guard.
const (
	slotIdle  = iota // without a stream
	slotHead         // the preface, or the rest of a header block
	slotWrite        // a write that does not come to its end
	slotDrain        // the peer's answer to our notice
)

// Defaults of Timeouts.
const (
	idleTimeout  = time.Hour
	headTimeout  = time.Minute
	writeTimeout = 5 * time.Minute
	// closeTimeout is how long an ending connection may take to say so.
	closeTimeout = time.Second
	// drainTimeout is how long the peer may take to see our GOAWAY notice.
	drainTimeout = time.Second
	// lingerBytesMax bounds what is read of a peer that was told to go.
	lingerBytesMax = 256 << 10
)

// Timeouts of a connection; zero values are the defaults.
type Timeouts struct {
	// Idle: no stream. Head: a preface or header block that does not go on.
	// Write: the peer takes nothing of what we write.
	Idle, Head, Write time.Duration
}

// Conn drives a socket with a Session. Serve's goroutine owns reading; a
// goroutine that exists while there is something to write owns writing.
type Conn struct {
	// Fixed at creation.
	stream   conn.Stream
	buffers  *conn.Buffers
	clock    conn.Clock
	timeouts Timeouts
	guard    *conn.Guard
	writers  sync.WaitGroup
	room     func()        // there may be room for another stream
	ready    chan struct{} // closed when the peer's settings have come, or never will

	// Guarded by mu; the guard's slots are set under it too.
	mu      sync.Mutex
	session *Session
	writing bool
	broken  error     // of writing
	spare   []byte    // the buffer that is not being filled
	blocked []*Stream // writers that wait for window or for room
	headOn  bool      // slotHead is set
	readied bool      // ready is closed
	closing bool      // nobody starts to write any more
	leaving bool      // Serve was woken to end
}

// NewConn takes a connection over. buffers lend what reading needs. room may be
// nil; it is told when a stream ended or the peer's limits changed, and must
// not wait or use the connection.
func NewConn(stream conn.Stream, buffers *conn.Buffers, clock conn.Clock, o Options, t Timeouts, room func()) *Conn {
	if room == nil {
		room = func() {}
	}
	if t.Idle <= 0 {
		t.Idle = idleTimeout
	}
	if t.Head <= 0 {
		t.Head = headTimeout
	}
	if t.Write <= 0 {
		t.Write = writeTimeout
	}
	c := &Conn{stream: stream, buffers: buffers, clock: clock, timeouts: t, session: NewSession(o), room: room, ready: make(chan struct{})}
	c.guard = conn.NewGuard(clock, c.expire)
	return c
}

func past() time.Time { return time.Unix(1, 0) }

// expire runs on the guard's timer: it wakes the goroutine that is concerned.
func (c *Conn) expire(slot int) {
	if slot == slotWrite {
		_ = c.stream.Socket().SetWriteDeadline(past())
	}
	_ = c.stream.Socket().SetReadDeadline(past())
}

// Serve reads until the connection ends, and returns why; nil: it was drained
// or idle. first is what was read already. handle gets each request when its
// head is complete (Server); it must not wait. The socket is the caller's to
// close.
func (c *Conn) Serve(first []byte, handle func(*Stream)) error {
	c.mu.Lock()
	c.flushLocked()
	c.deadlinesLocked(c.clock.Now())
	c.mu.Unlock()
	err := c.loop(first, handle)
	c.finish(err)
	c.guard.Stop()
	return err
}

// loop reads and takes turns. held is a buffer only while bytes are in it.
func (c *Conn) loop(first []byte, handle func(*Stream)) error {
	held := c.buffers.Get()
	defer func() { c.giveBack(held) }()
	if len(first) > len(held.B) {
		held = c.grow(held, 0, len(first))
	}
	n := copy(held.B, first)
	for {
		if n > 0 {
			used, err := c.turn(held.B[:n], handle)
			if err != nil || used < 0 {
				return err
			}
			n = copy(held.B, held.B[used:n])
		}
		if n == 0 {
			c.giveBack(held)
			held = nil
			if err := c.stream.AwaitReadable(); err != nil && !c.goesOn(err) {
				return c.reason(err)
			}
			held = c.buffers.Get()
		} else if n == len(held.B) {
			held = c.grow(held, n, frameHeadBytes+FrameBytesMax+n)
		}
		m, err := c.stream.Read(held.B[n:])
		if m == 0 && err != nil && !c.goesOn(err) {
			return c.reason(err)
		}
		n += m
	}
}

func (c *Conn) giveBack(b *conn.Buffer) {
	if b != nil {
		c.buffers.Put(b)
	}
}

func (c *Conn) grow(held *conn.Buffer, n, size int) *conn.Buffer {
	next := &conn.Buffer{B: make([]byte, size)}
	copy(next.B, held.B[:n])
	c.buffers.Put(held)
	return next
}

// turn parses what was read and then acts: it wakes streams, hands out new
// ones and flushes once. used is negative when the connection is over.
func (c *Conn) turn(b []byte, handle func(*Stream)) (used int, err error) {
	c.mu.Lock()
	s := c.session
	now := c.clock.Now()
	used, err = s.Feed(b, now)
	for _, st := range s.opened {
		st.adopt(c)
	}
	for _, st := range s.touched {
		if st.conn != nil {
			st.wakeLocked()
		}
	}
	c.unblockLocked()
	opened := s.opened
	c.mu.Unlock()
	for _, st := range opened {
		handle(st)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flushLocked()
	c.deadlinesLocked(now)
	c.room()
	c.readyLocked(s.gotSettings)
	if err == nil && s.over() {
		return -1, nil
	}
	return used, err
}

// adopt gives the stream what it needs to wait.
func (st *Stream) adopt(c *Conn) {
	st.conn = c
	st.cond.L = &c.mu
}

// deadlinesLocked sets the deadlines that follow from the state.
func (c *Conn) deadlinesLocked(now int64) {
	s := c.session
	unfinished := s.block.stream != 0 || s.preface > 0
	if unfinished != c.headOn {
		if c.headOn = unfinished; unfinished {
			c.guard.Set(slotHead, now+int64(c.timeouts.Head))
		} else {
			c.guard.Clear(slotHead)
		}
	}
	if s.used() == 0 {
		c.guard.Set(slotIdle, now+int64(c.timeouts.Idle))
	} else {
		c.guard.Clear(slotIdle)
	}
}

// goesOn tells what an error of reading means: some are only how a deadline
// wakes the reader.
func (c *Conn) goesOn(err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !conn.IsTimeout(err) || c.leaving || c.broken != nil {
		return false
	}
	_ = c.stream.Socket().SetReadDeadline(time.Time{})
	switch {
	case c.guard.Clear(slotHead):
		_ = c.session.fail(connError(EnhanceYourCalm, "a head does not go on"))
		return false
	case c.guard.Clear(slotDrain):
		c.session.finalGoAway()
		c.flushLocked()
		return !c.session.over()
	case c.guard.Clear(slotIdle):
		if c.session.used() > 0 {
			return true
		}
		c.session.finalGoAway()
		c.leaving = true
		return false
	}
	return false // a deadline that somebody else set: the connection must end
}

// reason is what ended the connection.
func (c *Conn) reason(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.session.failed != nil:
		return c.session.failed
	case c.broken != nil:
		return c.broken
	case c.leaving || c.session.over():
		return nil
	}
	return err
}

// finish fails the streams and says goodbye.
func (c *Conn) finish(err error) {
	c.mu.Lock()
	s := c.session
	cause := ErrClosed
	if err != nil {
		cause = fmt.Errorf("%w: %w", ErrClosed, err)
	}
	if s.failed == nil {
		s.failed = cause
	}
	for _, st := range s.streams {
		st.fail(cause)
		st.wakeLocked()
	}
	for st := range s.waiting {
		st.fail(fmt.Errorf("%w: %w", ErrNotProcessed, cause))
	}
	var codec *ConnError
	polite := err == nil || errors.As(err, &codec)
	if polite {
		c.flushLocked()
	}
	c.closing = true
	c.readyLocked(true)
	c.mu.Unlock()
	_ = c.stream.Socket().SetWriteDeadline(time.Now().Add(closeTimeout))
	c.writers.Wait()
	if polite {
		c.linger()
	}
}

// linger reads what the peer still sends, so that the kernel does not reset
// the connection before the peer has read our last frames.
func (c *Conn) linger() {
	if c.stream.CloseWrite() != nil {
		return
	}
	_ = c.stream.Socket().SetReadDeadline(time.Now().Add(closeTimeout))
	b := c.buffers.Get()
	defer c.buffers.Put(b)
	for total := 0; total < lingerBytesMax; {
		n, err := c.stream.Read(b.B)
		if err != nil {
			return
		}
		total += n
	}
}

// flushLocked makes sure that somebody writes. The goroutine runs when those
// that have something to say pause, and so writes for all of them at once.
func (c *Conn) flushLocked() {
	if c.writing || c.closing || c.broken != nil || len(c.session.out) == 0 {
		return
	}
	c.writing = true
	c.writers.Go(c.write)
}

func (c *Conn) write() {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.session
	for len(s.out) > 0 && c.broken == nil {
		b := s.out
		s.out = c.spare[:0]
		c.unblockLocked() // there is room again
		c.guard.Set(slotWrite, c.clock.Now()+int64(c.timeouts.Write))
		c.mu.Unlock()
		_, err := c.stream.Write(b)
		c.mu.Lock()
		c.guard.Clear(slotWrite)
		if c.spare = b[:0]; cap(b) > 4*outBytesMax {
			c.spare = nil
		}
		if err != nil {
			c.broken = err
			_ = c.stream.Socket().SetReadDeadline(past())
		}
	}
	c.writing = false
	if s.used() == 0 && len(s.out) == 0 { // an idle connection holds no buffers
		c.spare, s.out = nil, nil
	}
}

// unblockLocked lets writers look for window and room again.
func (c *Conn) unblockLocked() {
	for i, st := range c.blocked {
		st.cond.Broadcast()
		c.blocked[i] = nil
	}
	c.blocked = c.blocked[:0]
}

// leftLocked follows the end of a stream.
func (c *Conn) leftLocked() {
	c.flushLocked()
	c.room()
	if c.session.used() > 0 || c.closing {
		return
	}
	c.guard.Set(slotIdle, c.clock.Now()+int64(c.timeouts.Idle))
	if c.session.over() && !c.leaving {
		c.leaving = true
		_ = c.stream.Socket().SetReadDeadline(past())
	}
}

func (c *Conn) readyLocked(is bool) {
	if is && !c.readied {
		c.readied = true
		close(c.ready)
	}
}

// Ready waits for the peer's first SETTINGS, so that its limits are known
// before streams begin.
func (c *Conn) Ready(ctx context.Context) error {
	select {
	case <-c.ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.session.failed
}

// Open begins a stream (Client).
func (c *Conn) Open() (*Stream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.session.open()
	if st == nil {
		return nil, ErrUnavailable
	}
	st.adopt(c)
	c.guard.Clear(slotIdle)
	return st, nil
}

// Ended reports whether no stream will ever begin again.
func (c *Conn) Ended() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.session.ended()
}

// Drain ends the connection when the streams in progress have ended; new ones
// are no longer taken. It does not wait.
func (c *Conn) Drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session.draining || c.closing {
		return
	}
	c.session.drain()
	c.flushLocked()
	if c.session.over() {
		c.leaving = true
		_ = c.stream.Socket().SetReadDeadline(past())
		return
	}
	c.guard.Set(slotDrain, c.clock.Now()+int64(drainTimeout))
}
