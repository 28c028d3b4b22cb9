package http2

import "github.com/tullemesh/tulle/internal/proxy/engine/message"

// Part is what is to be sent on a stream: a head, body bytes, trailers. What
// has gone out is taken off it.
type Part struct {
	Head *message.Head
	Body []byte
	// End: nothing follows but Trailers, which may be nil or empty.
	End      bool
	Trailers *message.Head
	// WantsTrailers adds te: trailers to a request's head.
	WantsTrailers bool
	// Protocol makes a request an extended CONNECT (Client, RFC 8441): the head is
	// an upgrade's of HTTP/1.1. ErrNoSwitch: the peer takes none.
	Protocol []byte
}

// Put sends as much of p as windows and the connection's buffer allow. done:
// that was all; otherwise the watcher is told when there may be room.
func (st *Stream) Put(t *Turn, p *Part) (done bool, err error) {
	c := st.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	return st.putLocked(t, p)
}

// Offer is Put by who may wait, but does not want to yet: Finish does. It is a
// turn of its own.
func (st *Stream) Offer(p *Part) (done bool, err error) {
	t := st.conn.begin()
	defer st.conn.end(t)
	return st.Put(t, p)
}

// Finish waits until what Offer left of p is on its way.
func (st *Stream) Finish(p *Part) error { return st.write(p) }

func (st *Stream) putLocked(t *Turn, p *Part) (done bool, err error) {
	s, c := st.session, st.conn
	switch {
	case st.err != nil:
		return false, st.err
	case st.answeredLocked(): // RFC 9113 §8.1: the rest is not wanted
		p.Head, p.Body = nil, nil
		return true, nil
	case st.gone:
		return false, ErrClosed
	case st.ID == 0 && (s.away || s.failed != nil || s.nextID > streamIDMax-2):
		// The connection ended before the stream began: nobody else will tell the
		// one that waits for its response.
		st.fail(ErrNotProcessed)
		return false, ErrNotProcessed
	case len(p.Protocol) > 0 && p.Head != nil && !s.switches:
		return false, ErrNoSwitch // RFC 8441 §3
	}
	trailers := p.Trailers != nil && p.Trailers.Len() > 0
	ended := false
	if p.Head != nil {
		ended = p.End && len(p.Body) == 0 && !trailers
		if s.opts.Role == Client {
			s.sendRequest(st, p, ended)
		} else {
			s.sendResponse(st, p.Head, ended)
		}
		p.Head = nil
	}
	if !ended && (len(p.Body) > 0 || p.End && !trailers) {
		p.Body = p.Body[s.sendData(st, p.Body, p.End && !trailers):]
	}
	if len(p.Body) > 0 {
		if !st.waits {
			st.waits = true
			c.blocked = append(c.blocked, st)
		}
		c.markLocked(t)
		return false, nil
	}
	if p.End && trailers {
		s.sendFields(st, p.Trailers, true)
	}
	c.markLocked(t)
	return true, nil
}

// answeredLocked: the server's whole response is here and it wants no more of
// the request; the rest is dropped (RFC 9113 §8.1).
func (st *Stream) answeredLocked() bool {
	return st.gone && st.remoteEnd && st.session.opts.Role == Client
}

// TakeHead takes the response's next head if there is one (Client), and with a
// final one what has come of the body, as TakeBody does.
func (st *Stream) TakeHead(h *message.Head, body *[]byte) (got, end bool, err error) {
	st.conn.mu.Lock()
	defer st.conn.mu.Unlock()
	if !st.hasHead {
		return false, false, st.err
	}
	st.nextHead(h)
	if h.Status < 200 {
		return true, false, nil
	}
	st.takeLocked(body)
	return true, st.remoteEnd, nil
}

// TakeBody swaps what has come of the body with *body, whose bytes have left:
// only now the peer may send as many again. end: nothing follows but Trailers.
func (st *Stream) TakeBody(t *Turn, body *[]byte) (end bool, err error) {
	c := st.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if st.err != nil {
		return false, st.err
	}
	if st.gone && !st.remoteEnd {
		return false, ErrClosed
	}
	if n := st.taken; n > 0 {
		st.taken = 0
		st.session.consumed(st, n)
		c.markLocked(t)
	}
	st.takeLocked(body)
	return st.remoteEnd, nil
}

func (st *Stream) takeLocked(body *[]byte) {
	*body, st.body = st.body, st.session.opts.Memory.Settle(*body)
	st.taken += int64(len(*body))
}

// ResetIn is Reset as part of a turn.
func (st *Stream) ResetIn(t *Turn, code Code) {
	c := st.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	st.session.reset(st, code)
	st.cond.Broadcast()
	c.leftLocked(t)
}

// Release is Close as part of a turn, for streams that no goroutine ever waited
// on: their memory is used again. It returns how many bytes came and went.
func (st *Stream) Release(t *Turn) (wireIn, wireOut int64) {
	c := st.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeLocked(t, st)
	wireIn, wireOut = st.wireIn, st.wireOut
	m := c.session.opts.Memory
	st.body = m.Settle(st.body)
	m.streams.Put(st)
	return wireIn, wireOut
}
