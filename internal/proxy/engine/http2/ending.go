package http2

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
)

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

// Ended reports whether no stream will ever begin again.
func (c *Conn) Ended() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.session.ended()
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
	c.reading.rest() // they have failed with the others
	if f := s.opts.Memory.OnFlood; f != nil && codec != nil && codec.Flood != "" {
		f(codec.Flood)
	}
	c.writers.Wait()
	if polite {
		b := c.session.opts.Memory.buffer()
		defer c.session.opts.Memory.lender.give(b)
		conn.Linger(c.stream, b, limit.LingerBytesMax, closeTimeout)
	}
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
