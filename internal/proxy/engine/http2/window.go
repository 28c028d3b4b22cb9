package http2

import "github.com/tullemesh/tulle/internal/limit"

// window is what peers may send us (RFC 9113 §5.2). A stream's begins with
// what our SETTINGS say, grows for a reader that keeps up, and shrinks by credit
// that is not given back while much waits. At any moment what is left of a
// window, what was read and not given back, and what waits make up its most.
type window struct {
	held    int64  // body bytes of all streams that wait or have not left
	first   int64  // what streams begin with as our last SETTINGS say
	applied int64  // what they begin with as far as the peer has said
	asking  bool   // the peer has not acknowledged our last SETTINGS
	from    uint32 // streams of ours from this on began behind them (Client)
	slack   int64  // how far a peer may go below a stream's window (resize)
}

// narrow reports whether so much waits that further streams get little.
func (s *Session) narrow() bool { return s.first < s.opts.firstWindow() }

// windowMost is what a stream's window may become.
func (s *Session) windowMost() int64 {
	if s.narrow() {
		return s.first
	}
	return s.opts.StreamWindow
}

// resize says what streams begin with from now on when that should change:
// stalled ones must not hold more and more. There is one change on its way at
// most, and much has to come or to leave before the next.
//
// Peers with several threads are a little behind their own word: what one began
// or sent by the old window goes out behind the acknowledgement that another
// wrote (Java's client). So peers may use what we took back of a window.
func (s *Session) resize() {
	want := s.first
	switch {
	case s.held > limit.HTTP2WaitingBytes:
		want = min(s.opts.firstWindow(), limit.HTTP2StreamWindowNarrow)
	case s.held < limit.HTTP2WaitingBytes/4:
		want = s.opts.firstWindow()
	}
	if s.asking || want == s.first || s.failed != nil {
		return
	}
	const settingBytes = 6
	s.out = appendFrameHead(s.out, settingBytes, kindSettings, 0, 0)
	s.out = appendSetting(s.out, settingWindow, uint32(want))
	s.slack = max(s.slack, s.first-want)
	s.first, s.asking, s.from = want, true, s.nextID
}

// resized follows the peer's word that it applies our SETTINGS: the windows of
// streams that began before them have moved by the difference, below 0 if need
// be (RFC 9113 §6.9.2).
func (s *Session) resized() {
	if !s.asking {
		return
	}
	s.asking = false
	delta := s.first - s.applied
	s.applied = s.first
	if delta == 0 {
		return
	}
	for id, st := range s.streams {
		if s.opts.Role == Server || id < s.from {
			st.recvWindow += delta
			st.recvMax += delta
			s.replenish(st) // what was little of the window may be all of it now
		}
	}
}

// beginWindow gives a stream the window that it begins with.
func (s *Session) beginWindow(st *Stream) {
	st.recvMax = s.applied
	if s.opts.Role == Client {
		st.recvMax = s.first // the peer reads our SETTINGS before its head
	}
	st.recvWindow = st.recvMax
}

// consumed gives a stream's and the connection's credit back when enough has
// come together. A window grows only for a reader that keeps up, so that slow
// ones don't hold much.
func (s *Session) consumed(st *Stream, n int64) {
	if st.gone {
		return // forget gave the connection's credit back
	}
	s.held -= n
	s.credit(n)
	st.unacked += n
	s.replenish(st)
}

// replenish gives a stream's credit back when enough has come together.
func (s *Session) replenish(st *Stream) {
	if st.remoteEnd || st.unacked < st.recvMax/2 {
		return
	}
	more := min(st.recvMax, s.windowMost()-st.recvMax)
	switch {
	case more > 0 && st.read < len(st.body), more < 0 && s.asking:
		more = 0 // a slow reader; what the peer applies next may shrink the window by itself
	case more < 0:
		more = max(more, -st.unacked)
	}
	st.recvMax += more
	st.unacked += more
	if st.unacked == 0 {
		return
	}
	s.out = appendWindow(s.out, st.ID, st.unacked)
	st.recvWindow += st.unacked
	st.unacked = 0
}

// credit gives the connection's credit back for bytes that a client sent and
// that were read.
func (s *Session) credit(n int64) {
	if s.opts.Role == Server {
		s.give(n)
	}
}

// give gives the connection's credit back when enough has come together, or
// when the peer has little left.
func (s *Session) give(n int64) {
	s.recvUnacked += n
	if s.recvUnacked < s.opts.ConnWindow/4 && s.recvWindow >= s.opts.StreamWindow {
		return
	}
	if s.recvUnacked == 0 {
		return
	}
	s.out = appendWindow(s.out, 0, s.recvUnacked)
	s.recvWindow += s.recvUnacked
	s.recvUnacked = 0
}
