package http2

import (
	"errors"
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

func past() time.Time { return time.Unix(1, 0) }

// expire runs on the guard's timer: it wakes the goroutine that is concerned.
func (c *Conn) expire(slot int) {
	if slot == slotWrite {
		_ = c.stream.Socket().SetWriteDeadline(past())
	}
	_ = c.stream.Socket().SetReadDeadline(past())
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
