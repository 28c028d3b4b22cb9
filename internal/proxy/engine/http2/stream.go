package http2

import (
	"io"
	"sync"

	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// Stream is one request and its response. It is used in one of two ways: by
// goroutines, one that reads and one that writes, whose calls wait; or by a
// Watcher, whose calls (put.go) never wait and take the turn that they are part
// of. It is its user's until Close; then its memory is another stream's.
type Stream struct {
	// Fixed when the stream is handed out. Head is a request's (Server); its
	// user may swap it away.
	ID       uint32
	Head     message.Head
	TooLarge bool // the head is beyond its limit: it is incomplete
	// Malformed is the rule that the head breaks: it is incomplete, and the
	// stream was reset. It is handed out to be counted.
	Malformed string
	// WantsTrailers is te: trailers; Expect100 is expect: 100-continue.
	WantsTrailers, Expect100 bool
	// Protocol is what an extended CONNECT asks for, as it came; nil: it is none.
	// Head is then that of an upgrade in HTTP/1.1 (Server).
	Protocol []byte

	session *Session
	conn    *Conn // nil in a Session without I/O
	watcher Watcher

	// Guarded by conn.mu.
	cond       sync.Cond
	more       []*message.Head // of the response, behind Head (Client)
	trail      message.Head
	body       []byte
	read       int   // bytes of body that were read
	taken      int64 // bytes that TakeBody took and that have not left
	recvWindow int64
	recvMax    int64 // what recvWindow is when nothing waits
	unacked    int64
	sendWindow int64
	declared   int64 // content-length; -1: none
	received   int64
	wireIn     int64
	wireOut    int64
	err        error
	hasHead    bool // Head is a response's that nobody took (Client)
	hasTrail   bool
	isHead     bool
	extended   bool // our request was an extended CONNECT (Client)
	gotFinal   bool
	remoteEnd  bool
	localEnd   bool
	gone       bool
	touched    bool
	waits      bool // it is among conn.blocked
	unread     bool // StopReading: nobody wants the body any more
}

// begin makes the memory a new stream's.
func (st *Stream) begin(s *Session, id uint32) {
	st.ID, st.session, st.conn, st.watcher = id, s, nil, nil
	st.Head.Reset()
	st.trail.Reset()
	st.Malformed, st.Protocol, st.extended = "", nil, false
	st.TooLarge, st.WantsTrailers, st.Expect100 = false, false, false
	st.body = s.opts.Memory.Settle(st.body)
	st.more, st.read, st.taken = nil, 0, 0
	st.unacked, st.sendWindow = 0, s.peerWindow
	s.beginWindow(st)
	st.declared, st.received, st.wireIn, st.wireOut, st.err = -1, 0, 0, 0, nil
	st.hasHead, st.hasTrail, st.isHead, st.gotFinal, st.remoteEnd = false, false, false, false, false
	st.localEnd, st.gone, st.touched, st.waits, st.unread = false, false, false, false, false
}

// switched reports whether a response's status says that the stream now carries
// the protocol that an extended CONNECT asked for (RFC 8441 §4).
func (st *Stream) switched(status int) bool {
	return st.extended && status >= 200 && status < 300
}

// fail notes the first error.
func (st *Stream) fail(err error) {
	if st.err == nil {
		st.err = err
	}
}

// wakeLocked makes whoever waits look again.
func (st *Stream) wakeLocked(t *Turn) {
	st.touched = false
	st.cond.Broadcast()
	if st.watcher != nil {
		t.ready = append(t.ready, readied{st.watcher, st})
	}
}

// Watch makes w the stream's watcher. It returns why the stream has failed
// already, if it has: that is not told again.
func (st *Stream) Watch(w Watcher) error {
	st.conn.mu.Lock()
	defer st.conn.mu.Unlock()
	st.watcher = w
	return st.err
}

// Interrupt ends all waits on the stream with an error, and those to come.
func (st *Stream) Interrupt() {
	st.conn.mu.Lock()
	st.fail(ErrInterrupted)
	st.cond.Broadcast()
	st.conn.mu.Unlock()
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

// ReadHead waits for the response's next head (Client), informational ones
// first, and swaps it with h. end says that nothing follows.
func (st *Stream) ReadHead(h *message.Head) (end bool, err error) {
	c := st.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	for !st.hasHead {
		if st.err != nil {
			return false, st.err
		}
		st.cond.Wait()
	}
	st.nextHead(h)
	return h.Status >= 200 && st.endedLocked(), nil
}

// nextHead swaps the next head with h.
func (st *Stream) nextHead(h *message.Head) {
	*h, st.Head = st.Head, *h
	if st.hasHead = len(st.more) > 0; st.hasHead {
		st.Head = *st.more[0]
		st.more = st.more[1:]
	}
}

// endedLocked: no body byte and no trailer is left.
func (st *Stream) endedLocked() bool {
	return st.remoteEnd && st.read == len(st.body) && !st.hasTrail
}

// Read waits for body bytes. It returns io.EOF with the last ones when that is
// known; Trailers tells what follows.
func (st *Stream) Read(p []byte) (n int, err error) {
	c := st.conn
	t := c.begin()
	c.mu.Lock()
	for {
		if left := st.body[st.read:]; len(left) > 0 && st.err == nil {
			n = copy(p, left)
			st.read += n
			if st.read == len(st.body) {
				st.body, st.read = st.session.opts.Memory.Settle(st.body), 0
			}
			st.session.consumed(st, int64(n))
			if st.remoteEnd && len(st.body) == 0 {
				err = io.EOF
			}
			c.markLocked(t)
			break
		}
		switch {
		case st.err != nil:
			err = st.err
		case st.remoteEnd:
			err = io.EOF
		case st.gone:
			err = ErrClosed
		case st.unread:
			err = ErrInterrupted
		}
		if err != nil {
			break
		}
		st.cond.Wait()
	}
	c.mu.Unlock()
	c.end(t)
	return n, err
}

// Trailers are those that came behind the body, or nil. They are complete when
// Read has returned io.EOF, and live as long as the stream.
func (st *Stream) Trailers() *message.Head {
	st.conn.mu.Lock()
	defer st.conn.mu.Unlock()
	if !st.hasTrail {
		return nil
	}
	return &st.trail
}

// WriteRequest sends a request's head (Client); end: it has no body.
func (st *Stream) WriteRequest(h *message.Head, wantsTrailers, end bool) error {
	return st.write(&Part{Head: h, WantsTrailers: wantsTrailers, End: end})
}

// WriteResponse sends a response's head (Server); end: it has no body.
func (st *Stream) WriteResponse(h *message.Head, end bool) error {
	return st.write(&Part{Head: h, End: end})
}

// WriteTrailers ends our direction with trailers; without any it just ends.
func (st *Stream) WriteTrailers(h *message.Head) error {
	return st.write(&Part{Trailers: h, End: true})
}

// Write sends body bytes and waits for window and for the connection to take
// them; end ends our direction behind them.
func (st *Stream) Write(p []byte, end bool) (n int, err error) {
	part := Part{Body: p, End: end}
	err = st.write(&part)
	return len(p) - len(part.Body), err
}

// write waits until all of a part is on its way.
func (st *Stream) write(p *Part) error {
	c := st.conn
	t := c.begin()
	defer c.end(t)
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		done, err := st.putLocked(t, p)
		if done || err != nil {
			return err
		}
		if !c.writing && len(c.session.out) > 0 {
			if c.closing || c.broken != nil {
				return ErrClosed // nobody writes any more
			}
			c.flushLocked(t) // there may be room behind it
			if len(t.ready) == 0 {
				continue
			}
		}
		if len(t.ready) > 0 || len(t.dirty) > 0 {
			c.mu.Unlock() // nothing is left undone before a wait
			t.run()
			c.mu.Lock()
			continue
		}
		st.cond.Wait()
	}
}

// Reset ends the stream at once with a code of our choice.
func (st *Stream) Reset(code Code) {
	t := st.conn.begin()
	st.ResetIn(t, code)
	st.conn.end(t)
}

// Close ends the use of the stream; what is not complete is reset.
func (st *Stream) Close() {
	c := st.conn
	t := c.begin()
	c.mu.Lock()
	c.closeLocked(t, st)
	c.mu.Unlock()
	c.end(t)
}
