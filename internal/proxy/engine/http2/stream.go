package http2

import (
	"io"
	"sync"

	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// Stream is one request and its response. Reads and writes block, one reader
// and one writer goroutine at a time; Interrupt may come from anywhere.
type Stream struct {
	// Fixed when the stream is handed out. Head is a request's (Server).
	ID       uint32
	Head     message.Head
	TooLarge bool // the head is beyond its limit: it is incomplete
	// WantsTrailers is te: trailers; Expect100 is expect: 100-continue.
	WantsTrailers, Expect100 bool

	session *Session
	conn    *Conn // nil in a Session without I/O

	// Guarded by conn.mu.
	cond       sync.Cond
	heads      []*message.Head // of the response, informational ones first (Client)
	body       []byte
	read       int // bytes of body that were read
	trailers   *message.Head
	recvWindow int64
	unacked    int64
	sendWindow int64
	declared   int64 // content-length; -1: none
	received   int64
	wireIn     int64
	wireOut    int64
	err        error
	onEnd      func()
	isHead     bool
	gotFinal   bool
	remoteEnd  bool
	localEnd   bool
	gone       bool
	touched    bool
	unread     bool // StopReading: nobody wants the body any more
}

func newStream(s *Session, id uint32) *Stream {
	return &Stream{ID: id, session: s, recvWindow: s.opts.StreamWindow, sendWindow: s.peerWindow, declared: -1}
}

// fail notes the first error.
func (st *Stream) fail(err error) {
	if st.err == nil {
		st.err = err
	}
}

// wakeLocked makes whoever waits look again, and tells the owner of an end.
func (st *Stream) wakeLocked() {
	st.touched = false
	st.cond.Broadcast()
	if st.err != nil && st.onEnd != nil {
		f := st.onEnd
		st.onEnd = nil
		f()
	}
}

// OnFailure makes f run when the peer resets the stream or the connection
// ends; at once when that has happened. f must not block and must not use the
// stream.
func (st *Stream) OnFailure(f func()) {
	c := st.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if st.err != nil {
		f()
		return
	}
	st.onEnd = f
}

// Interrupt ends all waits on the stream with an error, and those to come.
func (st *Stream) Interrupt() {
	c := st.conn
	c.mu.Lock()
	st.fail(ErrInterrupted)
	st.onEnd = nil
	st.wakeLocked()
	c.mu.Unlock()
}

// StopReading ends waits for the peer's body, now and to come; writing goes on.
func (st *Stream) StopReading() {
	c := st.conn
	c.mu.Lock()
	st.unread = true
	st.cond.Broadcast()
	c.mu.Unlock()
}

// ResumeReading takes StopReading back.
func (st *Stream) ResumeReading() {
	st.conn.mu.Lock()
	st.unread = false
	st.conn.mu.Unlock()
}

// Err tells why the stream failed, or nil.
func (st *Stream) Err() error {
	st.conn.mu.Lock()
	defer st.conn.mu.Unlock()
	return st.err
}

// Complete reports whether the peer's whole message is here, and how many body
// bytes of it wait.
func (st *Stream) Complete() (waiting int, complete bool) {
	st.conn.mu.Lock()
	defer st.conn.mu.Unlock()
	return len(st.body) - st.read, st.remoteEnd
}

// Wire is how many bytes came and went, heads and framing included.
func (st *Stream) Wire() (in, out int64) {
	st.conn.mu.Lock()
	defer st.conn.mu.Unlock()
	return st.wireIn, st.wireOut
}

// ReadHead waits for the response's next head (Client): informational ones
// first. end says that nothing follows.
func (st *Stream) ReadHead() (h *message.Head, end bool, err error) {
	c := st.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(st.heads) == 0 {
		if st.err != nil {
			return nil, false, st.err
		}
		st.cond.Wait()
	}
	h = st.heads[0]
	st.heads = st.heads[1:]
	return h, h.Status >= 200 && st.endedLocked(), nil
}

// endedLocked: no body byte and no trailer is left.
func (st *Stream) endedLocked() bool {
	return st.remoteEnd && st.read == len(st.body) && st.trailers == nil
}

// Read waits for body bytes. It returns io.EOF with the last ones when that is
// known; Trailers tells what follows.
func (st *Stream) Read(p []byte) (n int, err error) {
	c := st.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if left := st.body[st.read:]; len(left) > 0 && st.err == nil {
			n = copy(p, left)
			st.read += n
			if st.read == len(st.body) {
				st.body, st.read = st.body[:0], 0
			}
			st.session.consumed(st, int64(n))
			if st.remoteEnd && len(st.body) == 0 {
				err = io.EOF
			}
			c.flushLocked()
			return n, err
		}
		switch {
		case st.err != nil:
			return 0, st.err
		case st.remoteEnd:
			return 0, io.EOF
		case st.gone:
			return 0, ErrClosed
		case st.unread:
			return 0, ErrInterrupted
		}
		st.cond.Wait()
	}
}

// Trailers are those that came behind the body, or nil. They are complete when
// Read has returned io.EOF.
func (st *Stream) Trailers() *message.Head {
	st.conn.mu.Lock()
	defer st.conn.mu.Unlock()
	return st.trailers
}

// WriteRequest sends a request's head (Client); end: it has no body.
func (st *Stream) WriteRequest(h *message.Head, wantsTrailers, end bool) error {
	return st.send(func(s *Session) {
		s.sendRequest(st, h, wantsTrailers, end)
	})
}

// WriteResponse sends a response's head (Server); end: it has no body.
func (st *Stream) WriteResponse(h *message.Head, end bool) error {
	return st.send(func(s *Session) { s.sendResponse(st, h, end) })
}

// WriteTrailers ends our direction with trailers; without any it just ends.
func (st *Stream) WriteTrailers(h *message.Head) error {
	if h == nil || h.Len() == 0 {
		_, err := st.Write(nil, true)
		return err
	}
	return st.send(func(s *Session) { s.sendFields(st, h, true) })
}

func (st *Stream) send(f func(*Session)) error {
	c := st.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if st.err != nil {
		return st.err
	}
	s := st.session
	switch {
	case st.answeredLocked():
		return nil
	case st.gone:
		return ErrClosed
	case st.ID == 0 && (s.away || s.failed != nil || s.nextID > streamIDMax-2):
		return ErrNotProcessed
	}
	f(s)
	c.flushLocked()
	return nil
}

// answeredLocked: the server's whole response is here and it wants no more of
// the request; the rest is dropped (RFC 9113 §8.1).
func (st *Stream) answeredLocked() bool {
	return st.gone && st.remoteEnd && st.session.opts.Role == Client
}

// Write sends body bytes and waits for window and for the connection to take
// them; end ends our direction behind them.
func (st *Stream) Write(p []byte, end bool) (n int, err error) {
	c := st.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case st.err != nil:
			return n, st.err
		case st.answeredLocked():
			return len(p), nil
		case st.gone:
			return n, ErrClosed
		}
		n += st.session.sendData(st, p[n:], end)
		c.flushLocked()
		if n == len(p) {
			return n, nil
		}
		c.blocked = append(c.blocked, st)
		st.cond.Wait()
	}
}

// Reset ends the stream at once with a code of our choice.
func (st *Stream) Reset(code Code) {
	c := st.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	st.session.reset(st, code)
	st.cond.Broadcast()
	c.leftLocked()
}

// Close ends the use of the stream; what is not complete is reset.
func (st *Stream) Close() {
	c := st.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	st.onEnd = nil
	st.session.close(st)
	st.cond.Broadcast()
	c.leftLocked()
}
