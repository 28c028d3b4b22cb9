package http2

import (
	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
)

// reading is what Serve's goroutine owns. It implements conn.Turns.
//
// What is read is parsed at once, so that limits know of all that a peer has
// asked for, but requests begin so many a turn: a read may hold thousands. Then
// others get their turn, and so they do whenever a peer has made errors: a block
// that must be decoded only to be refused may have thousands of fields.
type reading struct {
	conn   *Conn
	handle func(*Turn, *Stream)
	turn   Turn
	buffer []byte // while something is in it or about to be
	held   []byte // the beginning of a frame, while the connection waits
	n      int    // valid bytes of buffer
	err    error
	fresh  []*Stream // those that wait to begin
	begun  int       // how many of fresh did
}

// loop reads and takes turns until there is a reason to end; nil: it is over.
func (c *Conn) loop(first []byte) error {
	r := &c.reading
	defer r.release()
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
	used, err := r.take(r.buffer[:r.n])
	if err != nil || used < 0 {
		r.err = err
		return false
	}
	r.n = copy(r.buffer, r.buffer[used:r.n]) // less than a frame, and seldom any
	if len(r.fresh) > 0 || r.conn.session.erred {
		conn.GiveWay()
	}
	return true
}

// Wait implements conn.Turns.
func (r *reading) Wait() (between bool) {
	r.rest()
	r.release()
	return len(r.held) == 0
}

// release gives the buffer back, and keeps the beginning of a frame.
func (r *reading) release() {
	if r.buffer == nil {
		return
	}
	if r.held = append(r.held[:0], r.buffer[:r.n]...); len(r.held) == 0 {
		r.held = nil
	}
	r.conn.session.opts.Memory.lender.give(r.buffer)
	r.buffer, r.n = nil, 0
}

// begin hands requests out, as many as a turn may.
func (r *reading) begin() {
	now := min(len(r.fresh), r.begun+limit.RequestsPerTurn)
	for _, st := range r.fresh[r.begun:now] {
		r.handle(&r.turn, st)
	}
	if r.begun = now; now == len(r.fresh) {
		r.fresh, r.begun = r.fresh[:0], 0
	}
}

// rest hands out all requests that still wait.
func (r *reading) rest() {
	for len(r.fresh) > 0 {
		r.turn.Now = r.conn.clock.Now()
		r.begin()
		r.turn.run()
		if len(r.fresh) > 0 {
			conn.GiveWay()
		}
	}
}

// take parses what was read and then acts: it wakes those that wait, hands out
// new streams, and flushes once. used is negative when the connection is over.
// A connection that failed begins nothing.
func (r *reading) take(b []byte) (used int, err error) {
	c, t := r.conn, &r.turn
	c.mu.Lock()
	s := c.session
	t.Now = c.clock.Now()
	used, err = s.Feed(b, t.Now)
	s.opened = append(s.opened, s.rejected...)
	for _, st := range s.opened {
		st.adopt(c)
	}
	r.fresh = append(r.fresh, s.opened...)
	for _, st := range s.touched {
		if st.conn != nil {
			st.wakeLocked(t)
		}
	}
	if s.moved {
		s.moved = false
		c.unblockLocked(t)
	}
	c.markLocked(t)
	c.readyLocked(s.gotSettings)
	c.deadlinesLocked(t.Now)
	if s.answered {
		s.answered = false
		c.guard.Clear(slotPong)
		c.pingLaterLocked(t.Now)
	}
	c.mu.Unlock()
	if err == nil {
		r.begin()
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
