package http2

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/net/http2/hpack"
)

// script decodes arbitrary bytes into frames that mean something more often than chance would have it. Zero is always the plain choice.
type script struct {
	b       []byte
	role    Role // of those who get it
	enc     *hpack.Encoder
	text    bytes.Buffer
	nextID  uint32 // of a new stream (Server)
	first   []*step
	pending uint32 // the block in progress
	flags   uint8  // and END_STREAM
	dec     *hpack.Decoder
	got     []byte // of the block
}

// step is what is sent at once: a frame, or a whole header block.
type step struct {
	name   string
	kind   frameKind
	flags  uint8
	stream uint32
	bytes  []byte
	fields []string // of a header block, "name: value"
	raw    bool     // the payload is arbitrary
	data   int      // bytes of DATA with their padding
	last   uint32   // of GOAWAY
}

// String says the step for people.
func (s *step) String() string {
	out := fmt.Sprintf("%s flags=%x stream=%d", s.name, s.flags, s.stream)
	if s.fields != nil {
		return out + fmt.Sprintf(" %q", s.fields)
	}
	if len(s.bytes) > 60 {
		return out + fmt.Sprintf(" %d bytes", len(s.bytes))
	}
	return out + fmt.Sprintf(" %q", s.bytes)
}

// payload is the first frame's.
func (s *step) payload() []byte { return s.bytes[min(frameHeadBytes, len(s.bytes)):] }

// settings are those of a SETTINGS frame.
func (s *step) settings() (ids []uint16, values []uint32) {
	for p := s.payload(); s.is(kindSettings) && len(p) >= 6; p = p[6:] {
		ids, values = append(ids, binary.BigEndian.Uint16(p)), append(values, binary.BigEndian.Uint32(p[2:]))
	}
	return ids, values
}

// goesOn reports whether a block has more than one frame, or not all of them.
func (s *step) goesOn() bool {
	n := 0
	for b := s.bytes; len(b) >= frameHeadBytes; n++ {
		b = b[min(len(b), frameHeadBytes+int(b[0])<<16+int(b[1])<<8+int(b[2])):]
	}
	return s.is(kindContinuation) || s.is(kindHeaders) && (n > 1 || !s.has(flagEndHeaders))
}

func (s *step) is(kind frameKind) bool { return s.kind == kind }

func (s *step) has(flag uint8) bool { return s.flags&flag != 0 }

// cutField takes "name: value" apart; pseudo-header fields begin with a colon.
func cutField(f string) (name, value string) {
	from := 0
	if strings.HasPrefix(f, ":") && !strings.HasPrefix(f, ": ") {
		from = 1
	}
	name, value, _ = strings.Cut(f[from:], ": ")
	return f[:from] + name, value
}

// values are those of the fields of a name.
func (s *step) values(name string) (out []string) {
	for _, f := range s.fields {
		if n, v := cutField(f); n == name {
			out = append(out, v)
		}
	}
	return out
}

// field is a field's first value; "": there is none.
func (s *step) field(name string) string { return append(s.values(name), "")[0] }

// any reports whether a field begins with one of these.
func (s *step) any(begins ...string) bool {
	return slices.ContainsFunc(s.fields, func(f string) bool {
		return slices.ContainsFunc(begins, func(b string) bool { return strings.HasPrefix(f, b) })
	})
}

func newScript(b []byte, role Role) *script {
	s := &script{b: b, role: role, nextID: 1}
	s.enc, s.dec = hpack.NewEncoder(&s.text), hpack.NewDecoder(tableDefault, nil)
	if role == Server {
		s.first = []*step{{name: "preface", kind: 99, bytes: []byte(Preface)}}
	}
	s.first = append(s.first, s.frame("SETTINGS", kindSettings, 0, 0, nil))
	return s
}

func (s *script) byte() byte {
	if len(s.b) == 0 {
		return 0
	}
	b := s.b[0]
	s.b = s.b[1:]
	return b
}

func (s *script) pick(n int) int { return int(s.byte()) % n }

// chance is true for one of n values, and not for 0.
func (s *script) chance(n int) bool { return s.pick(n) == n-1 }

func (s *script) bytes(n int) []byte {
	n = min(n, len(s.b))
	out := s.b[:n]
	s.b = s.b[n:]
	return out
}

func (s *script) frame(name string, kind frameKind, flags uint8, stream uint32, payload []byte) *step {
	return &step{name: name, kind: kind, flags: flags, stream: stream, bytes: append(appendFrameHead(nil, len(payload), kind, flags, stream), payload...)}
}

// streamID is a stream that there is, or a wrong one.
func (s *script) streamID() uint32 {
	switch n := s.pick(12); {
	case n == 11:
		return 0
	case n == 10:
		return 2
	case n == 9:
		return s.nextID + 4
	case n >= 5:
		return max(s.nextID, 5) - 4
	case n >= 3:
		return 1
	default:
		return max(s.nextID, 3) - 2
	}
}

// next returns what is sent next; frames of streams that have parted are left out.
func (s *script) next(parted map[uint32]bool) (*step, bool) {
	if len(s.first) > 0 {
		st := s.first[0]
		s.first = s.first[1:]
		return st, true
	}
	for len(s.b) > 0 {
		if s.pending != 0 && !s.chance(4) {
			st := s.frame("CONTINUATION", kindContinuation, flagEndHeaders, s.pending, nil)
			st.flags |= s.flags
			s.pending = 0
			s.decode(st)
			return st, true
		}
		if st := s.draw(parted); st != nil {
			s.decode(st)
			return st, true
		}
	}
	return nil, false
}

// decode notes the fields of a block that a step completes: those that its
// receivers see, whatever was meant.
func (s *script) decode(st *step) {
	if !st.is(kindHeaders) && !st.is(kindContinuation) {
		return
	}
	for b := st.bytes; ; {
		f, n, err := nextFrame(b)
		if n == 0 || err != nil {
			return
		}
		b = b[n:]
		if f.kind == kindHeaders {
			s.got = nil
			if unpad(&f) != nil {
				return
			}
			if f.has(flagPriority) {
				f.payload = f.payload[min(5, len(f.payload)):]
			}
		}
		if s.got = append(s.got, f.payload...); !f.has(flagEndHeaders) {
			continue
		}
		fields, err := s.dec.DecodeFull(s.got)
		if err != nil {
			return // the connection ends
		}
		st.fields = []string{}
		for _, h := range fields {
			st.fields = append(st.fields, h.Name+": "+h.Value)
		}
	}
}

func (s *script) draw(parted map[uint32]bool) *step {
	op, id := s.pick(20), uint32(0)
	if op > 3 && op < 17 {
		if id = s.streamID(); parted[id] {
			return nil
		}
	}
	switch {
	case op <= 3:
		return s.message(parted)
	case op <= 7:
		return s.data(id)
	case op == 8:
		return s.block("trailers", id, s.trailers(), !s.chance(8))
	case op == 9:
		return s.settings(id)
	case op <= 11:
		n := []uint32{1, 100, 0, windowMax, windowMax - windowDefault, 70000}[s.pick(6)]
		return s.payload("WINDOW_UPDATE", kindWindow, 0, s.mostly(0, id), binary.BigEndian.AppendUint32(nil, n))
	case op == 12:
		code := []Code{Cancel, NoError, ProtocolError, RefusedStream, 77}[s.pick(5)]
		return s.payload("RST_STREAM", kindReset, 0, id, binary.BigEndian.AppendUint32(nil, uint32(code)))
	case op == 13:
		return s.payload("PING", kindPing, []uint8{0, flagAck}[s.pick(2)], s.rarely(0, id), []byte("12345678"))
	case op == 14:
		on := []uint32{0, 1, id, 3}[s.pick(4)]
		return s.payload("PRIORITY", kindPriority, 0, id, append(binary.BigEndian.AppendUint32(nil, on), 16))
	case op == 15:
		return s.goAway(id)
	case op == 16:
		st := s.payload("unknown", frameKind(0x20+s.pick(8)), s.byte(), id, s.bytes(s.pick(20)))
		st.raw = true
		return st
	case op == 17:
		return s.raw(parted)
	default:
		return s.message(parted)
	}
}

// mostly returns the second but for one of 4, rarely one of 8.
func (s *script) mostly(a, b uint32) uint32 {
	if s.chance(4) {
		return a
	}
	return b
}

func (s *script) rarely(a, b uint32) uint32 {
	if s.chance(8) {
		return b
	}
	return a
}

// payload is a frame whose length is wrong now and then.
func (s *script) payload(name string, kind frameKind, flags uint8, stream uint32, payload []byte) *step {
	if s.chance(12) {
		if cut := s.pick(len(payload) + 1); s.chance(2) {
			payload = payload[:cut]
		} else {
			payload = append(payload, payload[:cut]...)
		}
	}
	return s.frame(name, kind, flags, stream, payload)
}

func (s *script) goAway(id uint32) *step {
	last := []uint32{0, 1, 3, streamIDMax}[s.pick(4)]
	p := binary.BigEndian.AppendUint32(nil, last)
	p = binary.BigEndian.AppendUint32(p, []uint32{0, 2, 99}[s.pick(3)])
	st := s.payload("GOAWAY", kindGoAway, 0, s.rarely(0, id), append(p, s.bytes(s.pick(5))...))
	st.last = last
	return st
}

func (s *script) settings(id uint32) *step {
	var p []byte
	for range 1 + s.pick(3) {
		p = appendSetting(p, []uint16{settingWindow, settingTableSize, settingStreams, settingFrameSize, settingHeadSize, settingPush, settingExtendConnect, 0xabc}[s.pick(8)],
			[]uint32{100, 0, 1, 16384, 1 << 24, 1<<24 - 1, 1 << 31, windowMax, 4096, 70000, 2}[s.pick(11)])
	}
	flags := uint8(0)
	if s.chance(6) {
		if flags = flagAck; !s.chance(4) {
			p = nil
		}
	}
	return s.payload("SETTINGS", kindSettings, flags, s.rarely(0, id), p)
}

func (s *script) data(id uint32) *step {
	n := []int{5, 0, 1, 100, 1000, 4000, 16000, 16384, 16385}[s.pick(9)]
	p, flags := bytes.Repeat([]byte{'d'}, n), uint8(0)
	if s.chance(3) {
		flags |= flagEndStream
	}
	if s.chance(5) {
		pad := s.pick(40)
		if p = append(append([]byte{byte(pad)}, p...), make([]byte, pad)...); s.chance(6) {
			p = p[:s.pick(len(p)+1)]
		}
		flags |= flagPadded
	}
	st := s.frame("DATA", kindData, flags, id, p)
	st.data = len(p)
	return st
}

// raw is a frame of any kind with any payload.
func (s *script) raw(parted map[uint32]bool) *step {
	id := s.streamID()
	if parted[id] {
		return nil
	}
	st := s.frame("raw", frameKind(s.pick(11)), s.byte(), id, s.bytes(s.pick(30)))
	st.raw = true
	if st.kind == kindData {
		st.data = len(st.bytes) - frameHeadBytes
	}
	if st.kind == kindHeaders || st.kind == kindContinuation {
		if st.kind == kindHeaders {
			s.flags = st.flags & flagEndStream
		}
		if s.pending = id; st.has(flagEndHeaders) {
			s.pending = 0
		}
	}
	if st.kind == kindHeaders && id == s.nextID+4 {
		s.nextID = id + 2
	}
	return st
}

// message is a request's head or a response's.
func (s *script) message(parted map[uint32]bool) *step {
	if s.role == Client {
		id := s.streamID()
		if parted[id] {
			return nil
		}
		return s.block("response", id, s.response(), s.chance(3))
	}
	id := s.nextID
	if s.chance(10) {
		if id = s.streamID(); parted[id] {
			return nil
		}
	}
	if id >= s.nextID && id%2 == 1 {
		s.nextID = id + 2
	}
	return s.block("request", id, s.request(), s.chance(3))
}

func (s *script) request() []string {
	f := []string{
		":method: " + []string{"POST", "GET", "HEAD", "OPTIONS", "CONNECT", "G T", "", "gét"}[s.pick(8)%max(1, s.pick(9))],
		":scheme: " + []string{"http", "https", "ftp", "", "1x", "h+2"}[s.pick(6)%max(1, s.pick(7))],
		":path: " + []string{"/echo", "/hold", "/early", "/a?b=c%20&d", "*", "", "a/b", "/ x", "/\x7f", "/ä", "/%zz", "/x#y", "//x", "http://h/"}[s.pick(14)%max(1, s.pick(15))],
		":authority: " + []string{"a", "a:80", "A", "", "me@a", "[::1]:8", "a b", "a/b", "ä", "a,b"}[s.pick(10)%max(1, s.pick(11))],
	}
	switch s.pick(16) {
	case 15:
		f = slices.Delete(f, 0, 1)
	case 14:
		f = slices.Delete(f, 1, 2)
	case 13:
		f = slices.Delete(f, 2, 3)
	case 12:
		f = slices.Delete(f, 3, 4)
	case 11:
		slices.Reverse(f)
	case 10:
		f = append(f, "x: y", f[0])
	case 9:
		f = []string{":method: CONNECT", ":authority: a:1"}
	}
	return s.more(f, ":status: 200", ":path: /", ":method: POST", ":protocol: websocket", "host: a", "host: b", "host: a", "expect: 100-continue", "expect: x",
		"cookie: a=1", "cookie: b=2", "te: trailers", "te: gzip", "te: ", "trailer: x-t", "trailer: x-t, x-u")
}

func (s *script) response() []string {
	f := []string{":status: " + []string{"200", "204", "304", "404", "100", "103", "101", "999", "099", "20", "2000", "abc", "", "+20", "600"}[s.pick(15)%max(1, s.pick(16))]}
	switch s.pick(12) {
	case 11:
		f = nil
	case 10:
		f = append([]string{"x: y"}, f...)
	case 9:
		f = append(f, f[0])
	}
	return s.more(f, ":path: /", ":method: GET", "set-cookie: a", "set-cookie: b", "te: trailers", "trailer: x-t", "host: a", "server: x")
}

// more adds regular fields, good ones and bad ones.
func (s *script) more(f []string, special ...string) []string {
	all := append([]string{"x-a: b", "x-a: c", "content-length: 0", "content-length: 5", "content-length: 5", "content-length: 100", "content-length: +5", "content-length: 5, 5", "content-length: ",
		"content-length: 99999999999999999999", "content-length: 9999999999999999999", "connection: close", "transfer-encoding: chunked", "upgrade: h2c", "keep-alive: 5", "proxy-connection: x", "X-Upper: a", "x a: b", "x:y: b", ": b",
		"x: a\rb", "x: a\nb", "x:  a", "x: a ", "x: \ta", "x: \x7f", "x: \x80", "x: \x01", "x: \x00", "x: ", ":foo: x", "priority: u=3", "x-long: " + strings.Repeat("l", 700), "é: b"}, special...)
	for range s.pick(6) {
		f = append(f, all[s.pick(len(all))])
	}
	if s.chance(20) {
		f = append(f, string(s.bytes(s.pick(8)))+": "+string(s.bytes(s.pick(8))))
	}
	return f
}

func (s *script) trailers() []string {
	return s.more(nil, "x-t: 1", "x-u: 2", "x-t: 3", ":path: /", "authorization: x", "content-length: 5", "te: trailers", "host: a", "cookie: a", "trailer: x", "set-cookie: a")
}

// block puts fields into HEADERS and, now and then, CONTINUATION.
func (s *script) block(name string, id uint32, fields []string, end bool) *step {
	s.text.Reset()
	if s.chance(16) {
		s.enc.SetMaxDynamicTableSize([]uint32{0, 100, 4096}[s.pick(3)])
	}
	for _, f := range fields {
		name, value := cutField(f)
		_ = s.enc.WriteField(hpack.HeaderField{Name: name, Value: value, Sensitive: s.chance(6)})
	}
	b := bytes.Clone(s.text.Bytes())
	if s.chance(30) && len(b) > 0 {
		b[s.pick(len(b))] ^= 1 << s.pick(8)
	}
	flags := uint8(0)
	if end {
		flags |= flagEndStream
	}
	st := &step{name: name, kind: kindHeaders, stream: id}
	rest, first := b, b
	if s.chance(6) {
		at := s.pick(len(b) + 1)
		first, rest = b[:at], b[at:]
	} else {
		flags |= flagEndHeaders
		rest = nil
	}
	p := bytes.Clone(first)
	if s.chance(10) {
		flags |= flagPriority
		p = append(append(binary.BigEndian.AppendUint32(nil, []uint32{0, id, 1, 1 << 31}[s.pick(4)]), 7), p...)
	}
	if s.chance(10) {
		flags |= flagPadded
		pad := s.pick(20)
		if p = append(append([]byte{byte(pad)}, p...), make([]byte, pad)...); s.chance(6) {
			p = p[:s.pick(len(p)+1)]
		}
	}
	st.flags = flags
	st.bytes = append(appendFrameHead(nil, len(p), kindHeaders, flags, id), p...)
	for flags&flagEndHeaders == 0 {
		n := len(rest)
		if s.chance(4) {
			n = s.pick(n + 1)
		}
		flags = flagEndHeaders
		if n < len(rest) || s.chance(8) {
			flags = 0
		}
		st.bytes = append(appendFrameHead(st.bytes, n, kindContinuation, flags, id), rest[:n]...)
		if rest = rest[n:]; len(rest) == 0 && flags == 0 {
			s.pending, s.flags = id, st.flags&flagEndStream
			break
		}
	}
	st.flags |= flags
	return st
}
