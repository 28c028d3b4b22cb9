package http2

import (
	"context"
	"net"
	"sync"

	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
)

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

// LocalAddr is our address of the stream's connection.
func (st *Stream) LocalAddr() net.Addr { return st.conn.stream.LocalAddr() }

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
