package http2

import (
	"encoding/binary"
	"errors"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/proxy/engine/http2/hpack"
	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// Role is which side of a connection a Session is.
type Role uint8

// The roles.
const (
	Server Role = iota
	Client
)

// Options are a connection's limits as configured; zero values are the
// defaults of package limit.
type Options struct {
	Role Role
	// HeadBytesMax and HeadFieldsMax bound a head.
	HeadBytesMax, HeadFieldsMax int
	// StreamsMax bounds the peer's concurrent streams (Server), or ours beside
	// the peer's own bound (Client).
	StreamsMax uint32
	// StreamWindow and ConnWindow are how many bytes may wait to be read; a
	// stream begins with less when StreamWindow is large.
	StreamWindow, ConnWindow int64
	// ExtendedConnect lets clients switch a stream to another protocol (Server;
	// RFC 8441).
	ExtendedConnect bool
	// Memory is shared by connections; nil: the connection has its own.
	Memory *Memory
}

// firstWindow is a stream's window before its reader has shown how fast it is.
func (o *Options) firstWindow() int64 { return min(o.StreamWindow, limit.HTTP2StreamWindowFirst) }

func (o *Options) defaults() {
	if o.HeadBytesMax <= 0 {
		o.HeadBytesMax = limit.HeadBytesMax
	}
	if o.HeadFieldsMax <= 0 {
		o.HeadFieldsMax = limit.HeadFieldsMax
	}
	if o.StreamsMax == 0 {
		o.StreamsMax = limit.HTTP2StreamsMax
	}
	if o.StreamWindow <= 0 {
		o.StreamWindow = limit.HTTP2StreamWindow
	}
	if o.ConnWindow < windowDefault {
		o.ConnWindow = limit.HTTP2ConnWindow
	}
	if o.Memory == nil {
		o.Memory = NewMemory()
	}
}

// Session is the protocol state of one connection. It is owned by whoever
// holds it (Conn: under its mutex) and does no I/O.
type Session struct {
	opts Options
	now  int64 // of the Feed in progress

	// Receiving.
	preface     int // bytes of the preface still to come
	gotSettings bool
	block       block
	dec         *hpack.Decoder
	fields      fieldReader
	late        message.Head // of blocks that nobody wants
	lastPeer    uint32       // the peer's highest stream
	window
	recvWindow  int64
	recvUnacked int64 // bytes read by streams and not given back yet
	closed      [closedMax]closedStream
	closedAt    int
	lateOwed    int // late frames that our resets account for (Client)

	// Sending.
	out        []byte // what must be written
	enc        *hpack.Encoder
	moved      bool // a window grew
	asked      bool // a PING of ours is under way
	answered   bool // and was answered
	freed      bool // there may be room for streams, or none any more
	sendWindow int64
	peerFrame  int
	peerWindow int64
	peerMax    uint32 // concurrent streams that the peer takes
	switches   bool   // the peer takes extended CONNECT (Client)
	nextID     uint32 // of ours (Client)

	streams map[uint32]*Stream
	waiting int       // ours that have no id yet (Client)
	opened  []*Stream // requests that began in this Feed (Server)
	// rejected are requests of this Feed that break a rule (Server).
	rejected []*Stream
	touched  []*Stream // streams that something happened to in this Feed
	erred    bool      // the peer made errors of streams in this Feed (Server)

	// Ending.
	failed    error // a ConnError: nothing goes on
	away      bool  // the peer said GOAWAY
	draining  bool  // our GOAWAY notice went out
	final     bool  // our GOAWAY with the last stream went out
	lastTaken uint32

	resets, answers, idles, windows, errs bucket
}

// block is a header block in progress.
type block struct {
	stream uint32 // 0: none
	end    bool   // END_STREAM
	self   bool   // it depends on itself
	buf    []byte
	frames int
}

type closedStream struct {
	id    uint32
	local bool // we reset it: late frames are to be expected
}

// drainPing marks the PING whose answer says that the peer knows of our GOAWAY
// notice (RFC 9113 §6.8).
const drainPing = "tulle-go"

// keepalivePing marks the PING that asks whether the peer is there.
const keepalivePing = "tulle-ok"

// NewSession returns the state of a new connection, with the first bytes to be
// sent.
func NewSession(o Options) *Session {
	o.defaults()
	s := &Session{
		opts: o, recvWindow: o.ConnWindow, sendWindow: windowDefault, peerFrame: frameBytesMin, peerWindow: windowDefault,
		peerMax: 100, nextID: 1, streams: map[uint32]*Stream{}, lastTaken: streamIDMax,
		window: window{first: o.firstWindow(), applied: o.firstWindow(), asking: true, from: 1},
	}
	s.enc = hpack.NewEncoder(tableDefault)
	s.dec = hpack.NewDecoder(o.Memory.tables, tableDefault)
	settings := appendSetting(nil, settingWindow, uint32(o.firstWindow()))
	settings = appendSetting(settings, settingHeadSize, uint32(o.HeadBytesMax))
	if o.Role == Server {
		s.preface = len(Preface)
		settings = appendSetting(settings, settingStreams, o.StreamsMax)
		if o.ExtendedConnect {
			settings = appendSetting(settings, settingExtendConnect, 1)
		}
	} else {
		s.out = append(s.out, Preface...)
		settings = appendSetting(settings, settingPush, 0)
	}
	s.out = appendFrameHead(s.out, len(settings), kindSettings, 0, 0)
	s.out = append(s.out, settings...)
	if more := o.ConnWindow - windowDefault; more > 0 {
		s.out = appendWindow(s.out, 0, more)
	}
	return s
}

// Feed takes bytes of the peer and returns how many it used: all whole frames.
// An error ends the connection; what must still be sent is in the buffer. now
// is in nanoseconds.
func (s *Session) Feed(b []byte, now int64) (used int, err error) {
	s.now = now
	s.opened, s.rejected, s.touched = s.opened[:0], s.rejected[:0], s.touched[:0]
	s.erred = false
	if s.failed != nil {
		return 0, s.failed
	}
	if used, err = s.takePreface(b); err != nil {
		return used, s.fail(err)
	}
	for s.preface == 0 {
		f, n, err := nextFrame(b[used:])
		if err != nil {
			return used, s.fail(err)
		}
		if n == 0 {
			break
		}
		used += n
		if err := s.receive(&f); err != nil {
			var one *StreamError
			if !errors.As(err, &one) {
				return used, s.fail(err)
			}
			if !s.errs.take(errorBurst, errorRate, now) {
				return used, s.fail(flood("stream_errors", "too many stream errors"))
			}
			s.erred = s.opts.Role == Server // those who share a server must not wait for its errors
			s.refuse(one)
		}
	}
	s.resize()
	if len(s.out) > controlBytesMax {
		return used, s.fail(flood("unread_answers", "answers are not read"))
	}
	return used, nil
}

func (s *Session) takePreface(b []byte) (used int, err error) {
	for s.preface > 0 && used < len(b) {
		if b[used] != Preface[len(Preface)-s.preface] {
			return used, connError(ProtocolError, "no connection preface")
		}
		used++
		s.preface--
	}
	return used, nil
}

// fail ends the connection with GOAWAY.
func (s *Session) fail(err error) error {
	var c *ConnError
	if errors.As(err, &c) {
		s.out = appendGoAway(s.out, s.lastPeer, c.Code, c.Reason)
	}
	s.failed = err
	return err
}

// refuse answers a stream error with RST_STREAM.
func (s *Session) refuse(e *StreamError) {
	st := s.streams[e.Stream]
	if st == nil {
		s.out = appendReset(s.out, e.Stream, e.Code)
		s.remember(e.Stream, true)
		return
	}
	if !s.stands(st) {
		st.fail(e)
	}
	s.touch(st)
	s.reset(st, e.Code)
}

// receive takes one frame.
func (s *Session) receive(f *frame) error {
	if s.block.stream != 0 && (f.kind != kindContinuation || f.stream != s.block.stream) {
		return connError(ProtocolError, "header block interrupted") // RFC 9113 §4.3
	}
	if !s.gotSettings && (f.kind != kindSettings || f.has(flagAck)) {
		return connError(ProtocolError, "the first frame is not SETTINGS") // RFC 9113 §3.4
	}
	switch f.kind {
	case kindData:
		return s.data(f)
	case kindHeaders:
		return s.headers(f)
	case kindPriority:
		return s.priority(f)
	case kindReset:
		return s.peerReset(f)
	case kindSettings:
		return s.settings(f)
	case kindPush:
		return connError(ProtocolError, "PUSH_PROMISE, which we did not allow")
	case kindPing:
		return s.ping(f)
	case kindGoAway:
		return s.goAway(f)
	case kindWindow:
		return s.windowUpdate(f)
	case kindContinuation:
		return s.continuation(f)
	}
	return s.idle() // RFC 9113 §5.5: unknown kinds are ignored
}

// idle counts a frame that moves nothing.
func (s *Session) idle() error {
	if !s.idles.take(idleBurst, idleRate, s.now) {
		return flood("empty_frames", "too many frames without content")
	}
	return nil
}

// isIdle reports whether a stream was never opened (RFC 9113 §5.1).
func (s *Session) isIdle(id uint32) bool {
	if s.opts.Role == Client {
		return id%2 == 0 || id >= s.nextID
	}
	return id%2 == 0 || id > s.lastPeer
}

// settings applies the peer's settings (RFC 9113 §6.5).
func (s *Session) settings(f *frame) error {
	switch {
	case f.stream != 0:
		return connError(ProtocolError, "SETTINGS on a stream")
	case f.has(flagAck) && len(f.payload) != 0, len(f.payload)%6 != 0:
		return connError(FrameSizeError, "SETTINGS of a wrong length")
	}
	s.gotSettings = true
	if f.has(flagAck) {
		s.resized()
		return s.idle()
	}
	if !s.answers.take(answerBurst, answerRate, s.now) {
		return flood("settings", "too many SETTINGS")
	}
	for p := f.payload; len(p) > 0; p = p[6:] {
		if err := s.setting(binary.BigEndian.Uint16(p), binary.BigEndian.Uint32(p[2:])); err != nil {
			return err
		}
	}
	s.out = appendFrameHead(s.out, 0, kindSettings, flagAck, 0)
	return nil
}

func (s *Session) setting(id uint16, value uint32) error {
	switch id {
	case settingTableSize:
		s.enc.SetLimit(int(min(value, tableBytesMax)))
	case settingPush:
		if value > 1 || value == 1 && s.opts.Role == Client {
			return connError(ProtocolError, "SETTINGS_ENABLE_PUSH out of range")
		}
	case settingStreams:
		s.freed = s.freed || value > s.peerMax
		s.peerMax = value
	case settingWindow:
		if value > windowMax {
			return connError(FlowControlError, "SETTINGS_INITIAL_WINDOW_SIZE out of range")
		}
		s.moved = true
		delta := int64(value) - s.peerWindow
		s.peerWindow = int64(value)
		for _, st := range s.streams {
			if st.sendWindow += delta; st.sendWindow > windowMax {
				return connError(FlowControlError, "a window grew beyond 2^31-1")
			}
		}
	case settingFrameSize:
		if value < frameBytesMin || value > 1<<24-1 {
			return connError(ProtocolError, "SETTINGS_MAX_FRAME_SIZE out of range")
		}
		s.peerFrame = min(int(value), outBytesMax)
	case settingExtendConnect:
		if value > 1 {
			return connError(ProtocolError, "SETTINGS_ENABLE_CONNECT_PROTOCOL out of range")
		}
		s.switches = s.switches || value == 1 // RFC 8441 §3: it is not taken back
	}
	return nil
}

// ping answers (RFC 9113 §6.7).
func (s *Session) ping(f *frame) error {
	switch {
	case f.stream != 0:
		return connError(ProtocolError, "PING on a stream")
	case len(f.payload) != 8:
		return connError(FrameSizeError, "PING of a wrong length")
	case f.has(flagAck):
		if s.draining && string(f.payload) == drainPing {
			s.finalGoAway()
		}
		if s.asked && string(f.payload) == keepalivePing {
			s.asked, s.answered = false, true
			return nil
		}
		return s.idle()
	case !s.answers.take(answerBurst, answerRate, s.now):
		return flood("pings", "too many PINGs")
	}
	s.out = appendPing(s.out, flagAck, f.payload)
	return nil
}

// goAway takes the peer's wish to end (RFC 9113 §6.8).
func (s *Session) goAway(f *frame) error {
	switch {
	case f.stream != 0:
		return connError(ProtocolError, "GOAWAY on a stream")
	case len(f.payload) < 8:
		return connError(FrameSizeError, "GOAWAY of a wrong length")
	}
	s.away, s.freed = true, true
	last := binary.BigEndian.Uint32(f.payload) & streamIDMax
	if s.opts.Role == Client {
		for id, st := range s.streams {
			if id > last && !s.stands(st) {
				st.fail(ErrNotProcessed)
				s.touch(st)
				s.forget(st, false)
			}
		}
	}
	return s.idle()
}

// windowUpdate gives credit (RFC 9113 §6.9).
func (s *Session) windowUpdate(f *frame) error {
	if len(f.payload) != 4 {
		return connError(FrameSizeError, "WINDOW_UPDATE of a wrong length")
	}
	if !s.windows.take(windowBurst, windowRate, s.now) {
		return flood("window_updates", "too many WINDOW_UPDATEs")
	}
	n := int64(binary.BigEndian.Uint32(f.payload) & windowMax)
	if f.stream == 0 {
		s.moved = true
		if n == 0 {
			return connError(ProtocolError, "WINDOW_UPDATE by nothing")
		}
		if s.sendWindow += n; s.sendWindow > windowMax {
			return connError(FlowControlError, "the connection's window grew beyond 2^31-1")
		}
		return nil
	}
	st := s.streams[f.stream]
	switch {
	case st == nil && s.isIdle(f.stream):
		return connError(ProtocolError, "WINDOW_UPDATE on an idle stream")
	case st == nil:
		return nil // it closed meanwhile
	case n == 0:
		return &StreamError{f.stream, ProtocolError, "WINDOW_UPDATE by nothing"}
	}
	if st.sendWindow += n; st.sendWindow > windowMax {
		return &StreamError{f.stream, FlowControlError, "a window grew beyond 2^31-1"}
	}
	s.touch(st)
	return nil
}

// priority is ignored but for its form (RFC 9113 §5.3.2, §6.3).
func (s *Session) priority(f *frame) error {
	switch {
	case f.stream == 0:
		return connError(ProtocolError, "PRIORITY on stream 0")
	case len(f.payload) != 5:
		if s.isIdle(f.stream) {
			return connError(FrameSizeError, "PRIORITY of a wrong length")
		}
		return &StreamError{f.stream, FrameSizeError, "PRIORITY of a wrong length"}
	case binary.BigEndian.Uint32(f.payload)&streamIDMax == f.stream: // RFC 7540 §5.3.1
		if s.isIdle(f.stream) {
			return connError(ProtocolError, "a stream depends on itself")
		}
		return &StreamError{f.stream, ProtocolError, "a stream depends on itself"}
	}
	return s.idle()
}

// touch notes that somebody who waits for the stream should look again.
func (s *Session) touch(st *Stream) {
	if !st.touched {
		st.touched = true
		s.touched = append(s.touched, st)
	}
}
