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
// frames of a read are parsed, so many a turn (Server); it must not wait. The
// socket is the caller's to close.
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
