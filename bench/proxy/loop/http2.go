package loop

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/net/http2/hpack"
	"golang.org/x/sys/unix"
)

// The frame types and flags that the loop knows (RFC 9113 §6).
const (
	frameData         = 0x0
	frameHeaders      = 0x1
	framePriority     = 0x2
	frameReset        = 0x3
	frameSettings     = 0x4
	framePing         = 0x6
	frameGoAway       = 0x7
	frameWindowUpdate = 0x8

	flagEndStream  = 0x1
	flagAck        = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20

	settingTableSize     = 0x1
	settingStreams       = 0x3
	settingInitialWindow = 0x4

	frameHead     = 9
	preface       = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	defaultWindow = 65535
	ourWindow     = 1 << 20 // of a stream: answers are smaller, so it is never refilled
	ourStreams    = 4000
	outEnough     = 64 << 10 // frames made beyond what the socket has taken
)

// h2stream is one exchange, on either side.
type h2stream struct {
	id       uint32
	lane     *lane // the client's
	window   int   // what we may send
	messages int   // left to send
	trailers bool  // end with trailers, not with the last message
}

// headers is a header list whose block is stable once it is in the peer's
// dynamic table: first adds it, later uses it.
type headers struct {
	fields      []hpack.HeaderField
	first, then []byte
}

func (h *headers) block() []byte {
	if h.first != nil {
		b := h.first
		h.first = nil
		return b
	}
	return h.then
}

// h2conn is one HTTP/2 connection. It decodes what it gets in full and encodes
// its few header lists once.
type h2conn struct {
	conn
	client  *h2client // nil on the backend
	in      []byte
	frames  []byte // made, not handed to the socket
	spare   []byte
	dirty   bool
	window  int // what we may send
	initial int // the peer's initial window of a stream
	taken   int // DATA since our last WINDOW_UPDATE
	begun   bool
	streams map[uint32]*h2stream
	active  []*h2stream // have messages to send
	free    []*h2stream
	decoder *hpack.Decoder
	encoder *hpack.Encoder
	encoded bytes.Buffer
	head    headers
	tail    headers
	status  string // of the header list last decoded: :status or grpc-status
	grpc    string
}

type h2client struct{ next uint32 }

func newH2(c conn, head, tail []hpack.HeaderField) *h2conn {
	h := &h2conn{conn: c, window: defaultWindow, initial: defaultWindow, streams: map[uint32]*h2stream{}, head: headers{fields: head}, tail: headers{fields: tail}}
	h.decoder = hpack.NewDecoder(4096, func(f hpack.HeaderField) {
		switch f.Name {
		case ":status":
			h.status = f.Value
		case "grpc-status":
			h.grpc = f.Value
		}
	})
	h.encoder = hpack.NewEncoder(&h.encoded)
	h.encode()
	return h
}

// encode makes the blocks of the header lists for the dynamic table as it is.
func (h *h2conn) encode() {
	for _, list := range []*headers{&h.head, &h.tail} {
		block := func() []byte {
			h.encoded.Reset()
			for _, f := range list.fields {
				_ = h.encoder.WriteField(f) // a bytes.Buffer takes all
			}
			return slices.Clone(h.encoded.Bytes())
		}
		list.first, list.then = block(), block()
	}
}

// grpcMessage is gRPC's frame: uncompressed, 4 bytes of length, the message.
func grpcMessage(size int) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(size)), make([]byte, size)...)
}

func newH2Client(c conn, host string) *h2conn {
	h := newH2(c, []hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: "/api/v1.Echo/Get"}, {Name: ":authority", Value: host},
		{Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"}, {Name: "user-agent", Value: "bench/1.0"}, {Name: "x-tenant", Value: "blue"}, {Name: "traceparent", Value: traceParent},
	}, nil)
	h.client, h.begun = &h2client{next: 1}, true
	h.frames = append(h.frames, preface...)
	h.hello()
	return h
}

func newH2Server(c conn) *h2conn {
	h := newH2(c, []hpack.HeaderField{{Name: ":status", Value: "200"}, {Name: "content-type", Value: "application/grpc"}},
		[]hpack.HeaderField{{Name: "grpc-status", Value: "0"}})
	h.hello()
	return h
}

// hello sends our settings and opens the connection's window wide.
func (h *h2conn) hello() {
	h.frame(frameSettings, 0, 0, 12)
	h.setting(settingStreams, ourStreams)
	h.setting(settingInitialWindow, ourWindow)
	h.credit(1<<31 - 1 - defaultWindow)
	h.mark()
}

func (h *h2conn) setting(id uint16, value uint32) {
	h.frames = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(h.frames, id), value)
}

func (h *h2conn) credit(n uint32) {
	h.frame(frameWindowUpdate, 0, 0, 4)
	h.frames = binary.BigEndian.AppendUint32(h.frames, n)
}

func (h *h2conn) frame(kind, flags byte, id uint32, length int) {
	h.frames = append(h.frames, byte(length>>16), byte(length>>8), byte(length), kind, flags)
	h.frames = binary.BigEndian.AppendUint32(h.frames, id)
}

// mark has the connection written at the end of the turn.
func (h *h2conn) mark() {
	if !h.dirty {
		h.dirty = true
		h.loop.dirty = append(h.loop.dirty, h)
	}
}

// open begins an exchange's sending half.
func (h *h2conn) open(id uint32, messages int, trailers bool) *h2stream {
	s := &h2stream{}
	if n := len(h.free); n > 0 {
		s, h.free = h.free[n-1], h.free[:n-1]
	}
	*s = h2stream{id: id, window: h.initial, messages: messages, trailers: trailers}
	h.streams[id] = s
	block := h.head.block()
	h.frame(frameHeaders, flagEndHeaders, id, len(block))
	h.frames = append(h.frames, block...)
	h.active = append(h.active, s)
	h.mark()
	return s
}

func (h *h2conn) send(lane *lane) error {
	s := h.open(h.client.next, 1, false)
	s.lane = lane
	h.client.next += 2
	return nil
}

// pump makes frames, one message of each stream in turn, and writes them.
func (h *h2conn) pump() error {
	progress := true
	for progress && len(h.active) > 0 && len(h.frames) < outEnough {
		progress = false
		keep := h.active[:0]
		for _, s := range h.active {
			if h.emit(s) {
				progress = true
			}
			if s.messages > 0 {
				keep = append(keep, s)
			} else {
				h.sent(s)
			}
		}
		h.active = keep
	}
	if len(h.out) > 0 || len(h.frames) == 0 {
		return nil // what is out goes first; the socket says when
	}
	h.out, h.frames, h.spare = h.frames, h.spare[:0], h.frames
	if err := h.flush(); err != nil {
		return err
	}
	if progress && len(h.active) > 0 && len(h.out) == 0 {
		h.mark()
	}
	return nil
}

// emit makes the frame of one message when the windows allow it.
func (h *h2conn) emit(s *h2stream) bool {
	message := h.loop.answerPart
	if h.client != nil {
		message = h.loop.upMessage
	}
	n := len(message)
	if s.window < n || h.window < n {
		return false
	}
	s.window -= n
	h.window -= n
	s.messages--
	flags := byte(0)
	if s.messages == 0 && !s.trailers {
		flags = flagEndStream
	}
	h.frame(frameData, flags, s.id, n)
	h.frames = append(h.frames, message...)
	return true
}

// sent ends our half of the exchange; the backend's exchange ends with it.
func (h *h2conn) sent(s *h2stream) {
	if !s.trailers {
		return
	}
	block := h.tail.block()
	h.frame(frameHeaders, flagEndHeaders|flagEndStream, s.id, len(block))
	h.frames = append(h.frames, block...)
	h.forget(s)
}

func (h *h2conn) forget(s *h2stream) {
	delete(h.streams, s.id)
	h.free = append(h.free, s)
}

func (h *h2conn) ready(events uint32) error {
	if events&unix.EPOLLOUT != 0 {
		if err := h.flush(); err != nil {
			return err
		}
		h.mark()
	}
	data, err := h.read()
	if err != nil {
		if h.client == nil {
			h.loop.drop(h.fd)
			return nil
		}
		return err
	}
	if len(h.in) > 0 {
		h.in = append(h.in, data...)
		data = h.in
	}
	if !h.begun {
		if len(data) < len(preface) {
			h.in = append(h.in[:0], data...)
			return nil
		}
		if string(data[:len(preface)]) != preface {
			return fmt.Errorf("not HTTP/2: %q", data[:len(preface)])
		}
		h.begun, data = true, data[len(preface):]
	}
	for len(data) >= frameHead {
		n := frameHead + int(data[0])<<16 + int(data[1])<<8 + int(data[2])
		if len(data) < n {
			break
		}
		if err := h.take(data[3], data[4], binary.BigEndian.Uint32(data[5:])&^(1<<31), data[frameHead:n]); err != nil {
			return err
		}
		data = data[n:]
	}
	h.in = append(h.in[:0], data...)
	return nil
}

func (h *h2conn) take(kind, flags byte, id uint32, p []byte) error {
	switch kind {
	case frameHeaders:
		return h.takeHeaders(flags, id, p)
	case frameData:
		return h.takeData(flags, id, p)
	case frameSettings:
		return h.takeSettings(flags, p)
	case framePing:
		if flags&flagAck == 0 {
			h.frame(framePing, flagAck, 0, len(p))
			h.frames = append(h.frames, p...)
			h.mark()
		}
	case frameWindowUpdate:
		n := int(binary.BigEndian.Uint32(p))
		if id == 0 {
			h.window += n
		} else if s := h.streams[id]; s != nil {
			s.window += n
		}
		if len(h.active) > 0 {
			h.mark()
		}
	case frameReset:
		s := h.streams[id]
		if s == nil {
			return nil
		}
		if h.client != nil {
			return h.ended(s, false)
		}
		h.active = slices.DeleteFunc(h.active, func(a *h2stream) bool { return a == s })
		h.forget(s)
	case frameGoAway:
		return fmt.Errorf("GOAWAY %x", p)
	case framePriority:
	default:
		return fmt.Errorf("frame of type %d", kind)
	}
	return nil
}

func (h *h2conn) takeHeaders(flags byte, id uint32, p []byte) error {
	if flags&flagEndHeaders == 0 {
		return errors.New("a header block in several frames")
	}
	if flags&flagPadded != 0 {
		p = p[1 : len(p)-int(p[0])]
	}
	if flags&flagPriority != 0 {
		p = p[5:]
	}
	h.status, h.grpc = "", ""
	if _, err := h.decoder.Write(p); err != nil {
		return err
	}
	if err := h.decoder.Close(); err != nil {
		return err
	}
	if h.client == nil {
		if flags&flagEndStream != 0 {
			h.answer(id)
		}
		return nil
	}
	s := h.streams[id]
	switch {
	case s == nil:
		return fmt.Errorf("answer on stream %d, which is not open", id)
	case h.status != "" && h.status != "200", h.grpc != "" && h.grpc != "0":
		return fmt.Errorf("answer :status %q grpc-status %q", h.status, h.grpc)
	case flags&flagEndStream != 0:
		return h.ended(s, h.grpc == "0")
	}
	return nil
}

func (h *h2conn) takeData(flags byte, id uint32, p []byte) error {
	h.taken += len(p)
	if h.taken > 1<<24 {
		h.credit(uint32(h.taken))
		h.taken = 0
		h.mark()
	}
	if flags&flagPadded != 0 {
		p = p[1 : len(p)-int(p[0])]
	}
	if h.client == nil {
		if flags&flagEndStream != 0 {
			h.answer(id)
		}
		return nil
	}
	h.loop.bytes += int64(len(p))
	if flags&flagEndStream != 0 {
		return fmt.Errorf("stream %d ended without a grpc-status", id)
	}
	return nil
}

// answer begins the backend's half, when a request is complete.
func (h *h2conn) answer(id uint32) {
	h.loop.answered++
	if h.loop.measuring && h.loop.load.Hold {
		return
	}
	h.open(id, h.loop.load.Messages, true)
}

func (h *h2conn) ended(s *h2stream, ok bool) error {
	lane := s.lane
	h.forget(s)
	return h.loop.finish(lane, ok)
}

func (h *h2conn) takeSettings(flags byte, p []byte) error {
	if flags&flagAck != 0 {
		return nil
	}
	for ; len(p) >= 6; p = p[6:] {
		value := binary.BigEndian.Uint32(p[2:])
		switch binary.BigEndian.Uint16(p) {
		case settingInitialWindow:
			for _, s := range h.streams {
				s.window += int(value) - h.initial
			}
			h.initial = int(value)
		case settingTableSize:
			if value < 4096 {
				h.encoder.SetMaxDynamicTableSizeLimit(value)
				h.encode()
			}
		}
	}
	h.frame(frameSettings, flagAck, 0, 0)
	h.mark()
	return nil
}
