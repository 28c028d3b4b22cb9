package http2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
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
	slotPing         // the next question whether the peer is there
	slotPong         // its answer
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
	// Ping is how often the peer is asked whether it is there, and Pong how long
	// its answer may take; 0: it is not asked (Envoy: connection_keepalive).
	Ping, Pong time.Duration
}

// ErrSilent means that the peer did not answer a PING.
var ErrSilent = errors.New("the peer does not answer PING")

// Conn drives a socket with a Session. Serve's goroutine owns reading. Whoever
// ends a turn writes; a goroutine exists only while the socket takes no more.
type Conn struct {
	// Fixed at creation.
	stream   conn.Stream
	flusher  *conn.Flusher
	clock    conn.Clock
	timeouts Timeouts
	guard    *conn.Guard
	writers  sync.WaitGroup
	room     func()        // there may be room for another stream
	ready    chan struct{} // closed when the peer's settings have come, or never will
	reading  reading

	// Guarded by mu; the guard's slots are set under it too.
	mu      sync.Mutex
	session *Session
	marked  bool // a turn will flush
	writing bool
	wrote   sync.Cond // of writing
	broken  error     // of writing
	spare   []byte    // the buffer that is not being filled
	blocked []*Stream // those that wait for window or for room
	headOn  bool      // slotHead is set
	readied bool      // ready is closed
	closing bool      // nobody starts to write any more
	leaving bool      // Serve was woken to end
}

// NewConn takes a connection over. room may be nil; it is told when a stream
// ended or the peer's limits changed, and must not wait or use the connection.
func NewConn(stream conn.Stream, clock conn.Clock, o Options, t Timeouts, room func()) *Conn {
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
	c := &Conn{stream: stream, flusher: conn.NewFlusher(stream), clock: clock, timeouts: t, session: NewSession(o), room: room, ready: make(chan struct{})}
	c.guard = conn.NewGuard(clock, c.expire)
	c.reading.conn = c
	c.wrote.L = &c.mu
	return c
}

// begin begins a turn of a goroutine that uses streams by waiting calls.
func (c *Conn) begin() *Turn { return c.session.opts.Memory.Begin(c.clock.Now()) }

func (c *Conn) end(t *Turn) { c.session.opts.Memory.End(t) }

func past() time.Time { return time.Unix(1, 0) }

// expire runs on the guard's timer: it wakes the goroutine that is concerned.
func (c *Conn) expire(slot int) {
	if slot == slotWrite {
		_ = c.stream.Socket().SetWriteDeadline(past())
	}
	_ = c.stream.Socket().SetReadDeadline(past())
}

// Serve reads until the connection ends, and returns why; nil: it was drained
// or idle. first is what was read already. handle gets each request when all
// frames of a read are parsed (Server); it must not wait. The socket is the
// caller's to close.
func (c *Conn) Serve(first []byte, handle func(*Turn, *Stream)) error {
	c.reading.handle = handle
	t := c.begin()
	c.mu.Lock()
	c.markLocked(t)
	now := c.clock.Now()
	c.deadlinesLocked(now)
	c.pingLaterLocked(now)
	c.mu.Unlock()
	c.end(t)
	err := c.loop(first)
	c.finish(err)
	c.guard.Stop()
	return err
}

// reading is what Serve's goroutine owns. It implements conn.Turns.
type reading struct {
	conn   *Conn
	handle func(*Turn, *Stream)
	turn   Turn
	buffer []byte // while something is in it or about to be
	held   []byte // the beginning of a frame, while the connection waits
	n      int    // valid bytes of buffer
	err    error
}

// loop reads and takes turns until there is a reason to end; nil: it is over.
func (c *Conn) loop(first []byte) error {
	r := &c.reading
	defer r.Wait()
	for len(first) > 0 {
		n := copy(r.Room(), first)
		first = first[n:]
		if !r.Took(n) {
			return r.err
		}
	}
	for {
		err := conn.ReadTurns(c.stream, r)
		if err == nil {
			return r.err
		}
		if !c.goesOn(err) {
			return c.reason(err)
		}
	}
}

// Room implements conn.Turns.
func (r *reading) Room() []byte {
	if r.buffer == nil {
		r.buffer = r.conn.session.opts.Memory.buffer()
		r.n = copy(r.buffer, r.held)
		r.held = r.held[:0]
	}
	return r.buffer[r.n:]
}

// Took implements conn.Turns.
func (r *reading) Took(n int) bool {
	r.n += n
	used, err := r.conn.turn(&r.turn, r.buffer[:r.n], r.handle)
	if err != nil || used < 0 {
		r.err = err
		return false
	}
	r.n = copy(r.buffer, r.buffer[used:r.n]) // less than a frame, and seldom any
	return true
}

// Wait implements conn.Turns.
func (r *reading) Wait() (between bool) {
	if r.buffer == nil {
		return len(r.held) == 0
	}
	if r.held = append(r.held[:0], r.buffer[:r.n]...); len(r.held) == 0 {
		r.held = nil
	}
	r.conn.session.opts.Memory.lender.give(r.buffer)
	r.buffer, r.n = nil, 0
	return len(r.held) == 0
}

// turn parses what was read and then acts: it wakes those that wait, hands out
// new streams, and flushes once. used is negative when the connection is over.
func (c *Conn) turn(t *Turn, b []byte, handle func(*Turn, *Stream)) (used int, err error) {
	c.mu.Lock()
	s := c.session
	t.Now = c.clock.Now()
	used, err = s.Feed(b, t.Now)
	s.opened = append(s.opened, s.rejected...)
	for _, st := range s.opened {
		st.adopt(c)
	}
	for _, st := range s.touched {
		if st.conn != nil {
			st.wakeLocked(t)
		}
	}
	if s.moved {
		s.moved = false
		c.unblockLocked(t)
	}
	opened := s.opened
	c.markLocked(t)
	c.readyLocked(s.gotSettings)
	c.deadlinesLocked(t.Now)
	if s.answered {
		s.answered = false
		c.guard.Clear(slotPong)
		c.pingLaterLocked(t.Now)
	}
	c.mu.Unlock()
	for _, st := range opened {
		handle(t, st)
	}
	t.run()
	c.mu.Lock()
	over, freed := err == nil && s.over(), s.freed
	s.freed = false
	c.mu.Unlock()
	if freed {
		c.room()
	}
	if over {
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

// pingLaterLocked asks the peer in a while whether it is there.
func (c *Conn) pingLaterLocked(now int64) {
	if c.timeouts.Ping > 0 {
		c.guard.Set(slotPing, now+int64(c.timeouts.Ping))
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
	case c.guard.Clear(slotPong):
		c.session.failed = ErrSilent
		return false
	case c.guard.Clear(slotPing):
		c.session.out = appendPing(c.session.out, 0, []byte(keepalivePing))
		c.session.asked = true
		c.guard.Set(slotPong, c.clock.Now()+int64(c.timeouts.Pong))
		c.flushInLocked(&c.reading.turn)
		return true
	case c.guard.Clear(slotDrain):
		c.session.finalGoAway()
		c.flushInLocked(&c.reading.turn)
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
	case c.leaving, c.session.over(), c.session.draining && conn.IsEnd(err): // the peer went as we asked
		return nil
	}
	return err
}

// finish fails the streams and says goodbye.
func (c *Conn) finish(err error) {
	t := c.begin()
	c.mu.Lock()
	s := c.session
	cause := ErrClosed
	switch {
	case errors.Is(err, io.EOF): // which tells a stream's user that a body is complete
		cause = fmt.Errorf("%w: %w", ErrClosed, io.ErrUnexpectedEOF)
	case err != nil:
		cause = fmt.Errorf("%w: %w", ErrClosed, err)
	}
	if s.failed == nil {
		s.failed = cause
	}
	for _, st := range s.streams {
		if s.stands(st) {
			s.forget(st, false)
		} else {
			st.fail(cause)
		}
		st.wakeLocked(t)
	}
	var codec *ConnError
	polite := err == nil || errors.As(err, &codec)
	c.readyLocked(true)
	_ = c.stream.Socket().SetWriteDeadline(time.Now().Add(closeTimeout))
	for polite && c.broken == nil && (c.writing || len(s.out) > 0) {
		if c.writing {
			c.wrote.Wait()
		} else {
			c.flushLocked(t)
		}
	}
	c.closing = true
	c.mu.Unlock()
	c.end(t)
	if f := s.opts.Memory.OnFlood; f != nil && codec != nil && codec.Flood != "" {
		f(codec.Flood)
	}
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
	m := c.session.opts.Memory
	b := m.buffer()
	defer m.lender.give(b)
	for total := 0; total < lingerBytesMax; {
		n, err := c.stream.Read(b)
		if err != nil {
			return
		}
		total += n
	}
}

// markLocked makes the turn flush the connection at its end, unless another
// one will.
func (c *Conn) markLocked(t *Turn) {
	if len(c.session.out) > 0 && !c.marked && !c.writing {
		c.marked = true
		t.dirty = append(t.dirty, c)
	}
}

// flushLocked writes what there is without waiting. It lets go of the lock
// meanwhile. What the socket does not take is left to a goroutine.
func (c *Conn) flushLocked(t *Turn) {
	s := c.session
	for !c.writing && !c.closing && c.broken == nil && len(s.out) > 0 {
		b := c.takeOut()
		c.mu.Unlock()
		full, err := c.flusher.Flush(b)
		c.mu.Lock()
		if full && err == nil {
			c.guard.Set(slotWrite, c.clock.Now()+int64(c.timeouts.Write))
			c.writers.Go(func() { c.write(b) })
			return
		}
		c.wroteLocked(t, b, err)
	}
}

// flushInLocked flushes and does what follows from it.
func (c *Conn) flushInLocked(t *Turn) {
	c.flushLocked(t)
	c.mu.Unlock()
	t.run()
	c.mu.Lock()
}

// takeOut takes what must be written: the caller is the writer now.
func (c *Conn) takeOut() []byte {
	c.writing = true
	b := c.session.out
	c.session.out, c.spare = c.spare[:0], nil
	return b
}

// wroteLocked ends a write.
func (c *Conn) wroteLocked(t *Turn, b []byte, err error) {
	s := c.session
	c.writing = false
	c.wrote.Broadcast()
	if c.spare = b[:0]; cap(b) > 4*outBytesMax {
		c.spare = nil
	}
	if err != nil {
		c.broken = err
		_ = c.stream.Socket().SetReadDeadline(past())
	}
	if s.used() == 0 && len(s.out) == 0 && cap(b) > idleBytesKept { // an idle connection holds little
		m := s.opts.Memory
		c.spare, s.out = m.Settle(c.spare), m.Settle(s.out)
		c.flusher.Release()
	}
	c.unblockLocked(t) // there is room again
}

// idleBytesKept is the largest buffer that a connection without streams keeps.
const idleBytesKept = 4 << 10

// write waits until the socket has taken what a flush left, and what came
// meanwhile.
func (c *Conn) write(b []byte) {
	t := c.begin()
	err := c.flusher.Rest()
	c.mu.Lock()
	c.guard.Clear(slotWrite)
	c.wroteLocked(t, b, err)
	c.markLocked(t)
	c.mu.Unlock()
	c.end(t)
}

// unblockLocked lets those that wait for window or room look again.
func (c *Conn) unblockLocked(t *Turn) {
	for i, st := range c.blocked {
		st.waits = false
		st.wakeLocked(t)
		c.blocked[i] = nil
	}
	c.blocked = c.blocked[:0]
}

// closeLocked ends the use of a stream.
func (c *Conn) closeLocked(t *Turn, st *Stream) {
	c.session.close(st)
	st.watcher = nil
	st.cond.Broadcast()
	if st.waits {
		st.waits = false
		c.blocked = slices.DeleteFunc(c.blocked, func(o *Stream) bool { return o == st })
	}
	c.leftLocked(t)
}

// leftLocked follows the end of a stream.
func (c *Conn) leftLocked(t *Turn) {
	c.markLocked(t)
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
	if c.session.ended() {
		return nil, ErrEnding
	}
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
	t := c.begin()
	defer c.end(t)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session.draining || c.closing {
		return
	}
	c.session.drain()
	c.markLocked(t)
	if c.session.over() {
		c.leaving = true
		_ = c.stream.Socket().SetReadDeadline(past())
		return
	}
	c.guard.Set(slotDrain, c.clock.Now()+int64(drainTimeout))
}
