package http2

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
