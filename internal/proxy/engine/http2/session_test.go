package http2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"

	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// wire builds what a peer sends.
type wire struct {
	b    []byte
	enc  *hpack.Encoder
	text bytes.Buffer
}

func newWire() *wire {
	w := &wire{}
	w.enc = hpack.NewEncoder(&w.text)
	return w
}

// fromClient begins as a client does.
func fromClient() *wire { w := newWire(); w.b = append(w.b, Preface...); return w.settings() }

func (w *wire) frame(kind frameKind, flags uint8, stream uint32, payload string) *wire {
	w.b = append(appendFrameHead(w.b, len(payload), kind, flags, stream), payload...)
	return w
}

func (w *wire) settings(pairs ...uint32) *wire {
	var p []byte
	for i := 0; i+1 < len(pairs); i += 2 {
		p = appendSetting(p, uint16(pairs[i]), pairs[i+1])
	}
	return w.frame(kindSettings, 0, 0, string(p))
}

// block encodes "name: value" lines.
func (w *wire) block(lines ...string) string {
	w.text.Reset()
	for _, l := range lines {
		i := strings.Index(l[1:], ": ") + 1
		_ = w.enc.WriteField(hpack.HeaderField{Name: l[:i], Value: l[i+2:]})
	}
	return w.text.String()
}

func (w *wire) headers(stream uint32, flags uint8, lines ...string) *wire {
	return w.frame(kindHeaders, flags|flagEndHeaders, stream, w.block(lines...))
}

// get is the fields of a plain request, with more behind.
func get(more ...string) []string {
	return append([]string{":method: GET", ":scheme: http", ":path: /", ":authority: a"}, more...)
}

func (w *wire) get(stream uint32, more ...string) *wire {
	return w.headers(stream, flagEndStream, get(more...)...)
}

func (w *wire) post(stream uint32, more ...string) *wire {
	return w.headers(stream, 0, append([]string{":method: POST", ":scheme: http", ":path: /", ":authority: a"}, more...)...)
}

func u32(v uint32) string { return string(binary.BigEndian.AppendUint32(nil, v)) }

// said describes the frames of a buffer, without those that every connection
// begins with.
func said(t testing.TB, b []byte) string {
	t.Helper()
	var out []string
	for len(b) > 0 {
		n := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
		f := frame{frameKind(b[3]), b[4], binary.BigEndian.Uint32(b[5:]), b[9 : 9+n]}
		b = b[9+n:]
		switch f.kind {
		case kindReset:
			out = append(out, fmt.Sprintf("RST %d %s", f.stream, Code(binary.BigEndian.Uint32(f.payload))))
		case kindGoAway:
			out = append(out, fmt.Sprintf("GOAWAY %d %s", binary.BigEndian.Uint32(f.payload), Code(binary.BigEndian.Uint32(f.payload[4:]))))
		case kindPing:
			out = append(out, fmt.Sprintf("PING ack=%v %q", f.has(flagAck), f.payload))
		case kindSettings:
			if f.has(flagAck) {
				out = append(out, "ACK")
			}
		case kindWindow:
			out = append(out, fmt.Sprintf("WINDOW %d +%d", f.stream, binary.BigEndian.Uint32(f.payload)))
		case kindData:
			out = append(out, fmt.Sprintf("DATA %d %d end=%v", f.stream, len(f.payload), f.has(flagEndStream)))
		case kindHeaders:
			out = append(out, fmt.Sprintf("HEADERS %d end=%v", f.stream, f.has(flagEndStream)))
		default:
			out = append(out, fmt.Sprintf("frame %d on %d", f.kind, f.stream))
		}
	}
	return strings.Join(out, ", ")
}

// begun is a session that has said what it says first.
func begun(o Options) *Session {
	s := NewSession(o)
	s.out = s.out[:0]
	return s
}

func TestRulesOfFrames(t *testing.T) {
	cases := rulesOfFrames()
	if len(cases) < 60 {
		t.Fatalf("%d cases", len(cases))
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := begun(Options{})
			used, err := s.Feed(c.in.b, 1)
			if got := said(t, s.out); got != c.want {
				t.Errorf("got %s, want %s (error %v)", got, c.want, err)
			}
			if ends := strings.Contains(c.want, "GOAWAY"); ends != (err != nil) {
				t.Errorf("error %v", err)
			}
			if err == nil && used != len(c.in.b) {
				t.Errorf("used %d of %d bytes", used, len(c.in.b))
			}
		})
	}
}

// However the bytes are cut, the same is said.
func TestFramesMayComeInAnyPieces(t *testing.T) {
	for _, c := range rulesOfFrames() {
		for _, size := range []int{1, 7, 10} {
			s := begun(Options{})
			var held []byte
			for rest := c.in.b; len(rest) > 0; {
				n := min(size, len(rest))
				held, rest = append(held, rest[:n]...), rest[n:]
				used, err := s.Feed(held, 1)
				held = held[used:]
				if err != nil {
					break
				}
			}
			if got := said(t, s.out); got != c.want {
				t.Errorf("%s in pieces of %d: got %s, want %s", c.name, size, got, c.want)
			}
		}
	}
}

func TestFrameBeyondTheSizeIsRefusedBeforeItComes(t *testing.T) {
	s := begun(Options{})
	b := append(fromClient().b, appendFrameHead(nil, FrameBytesMax+1, kindData, 0, 1)...)
	_, err := s.Feed(b, 1)
	var rule *ConnError
	if !errors.As(err, &rule) || rule.Code != FrameSizeError {
		t.Errorf("error %v", err)
	}
}

func TestFloodCountersForgetWithTime(t *testing.T) {
	s := begun(Options{})
	w := fromClient()
	for range answerBurst - 1 {
		w.frame(kindPing, 0, 0, "12345678")
	}
	if _, err := s.Feed(w.b, 1); err != nil {
		t.Fatal(err)
	}
	more := newWire().frame(kindPing, 0, 0, "12345678")
	if _, err := s.Feed(more.b, 2e9); err != nil {
		t.Errorf("a ping 2 s later: %v", err)
	}
}

func TestHeadsBeyondTheirLimits(t *testing.T) {
	o := Options{HeadBytesMax: 1000, HeadFieldsMax: 10}
	for _, c := range []struct {
		name  string
		more  []string
		large bool
	}{
		{"at the field limit", []string{"a: b", "c: d", "e: f", "g: h", "i: j", "k: l"}, false},
		{"beyond the field limit", []string{"a: b", "c: d", "e: f", "g: h", "i: j", "k: l", "m: n"}, true},
		{"beyond the byte limit", []string{"a: " + strings.Repeat("x", 900)}, true},
	} {
		s := begun(o)
		if _, err := s.Feed(fromClient().get(1, c.more...).b, 1); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if len(s.opened) != 1 || s.opened[0].TooLarge != c.large {
			t.Errorf("%s: %d streams, too large %v", c.name, len(s.opened), s.opened)
		}
	}
	// A block whose mere decoding costs too much ends the connection.
	s := begun(o)
	w := fromClient().frame(kindHeaders, 0, 1, strings.Repeat("\x00", 16<<10)).frame(kindContinuation, 0, 1, strings.Repeat("\x00", 2000))
	if _, err := s.Feed(w.b, 1); err == nil {
		t.Error("a block of 18 KiB passed")
	}
}

func TestStreamsBeyondTheirLimitAreRefused(t *testing.T) {
	s := begun(Options{StreamsMax: 2})
	if _, err := s.Feed(fromClient().post(1).post(3).get(5).b, 1); err != nil {
		t.Fatal(err)
	}
	if got := said(t, s.out); got != "ACK, RST 5 REFUSED_STREAM" {
		t.Errorf("got %s", got)
	}
	s.reset(s.streams[1], Cancel)
	s.out = s.out[:0]
	w := newWire()
	if _, err := s.Feed(w.get(7).b, 1); err != nil || said(t, s.out) != "" || len(s.opened) != 1 {
		t.Errorf("after one ended: %v, %s", err, said(t, s.out))
	}
}

func TestWindowsBoundWhatIsHeld(t *testing.T) {
	s := begun(Options{StreamWindow: 100, ConnWindow: windowDefault})
	if _, err := s.Feed(fromClient().post(1).frame(kindData, 0, 1, strings.Repeat("x", 100)).b, 1); err != nil || said(t, s.out) != "ACK" {
		t.Fatalf("%v, %s", err, said(t, s.out))
	}
	st := s.streams[1]
	st.read = 60
	s.consumed(st, 60)
	if got := said(t, s.out); got != "ACK, WINDOW 1 +60" {
		t.Errorf("after 60 were read: %s", got)
	}
	if _, err := s.Feed(newWire().frame(kindData, 0, 1, strings.Repeat("x", 61)).b, 1); err != nil {
		t.Fatal(err)
	}
	if got := said(t, s.out); got != "ACK, WINDOW 1 +60, RST 1 FLOW_CONTROL_ERROR" {
		t.Errorf("after one too many: %s", got)
	}
	// All windows of the connection together.
	s = begun(Options{StreamWindow: 1 << 20, ConnWindow: windowDefault})
	w := fromClient().post(1)
	for range 4 {
		w.frame(kindData, 0, 1, strings.Repeat("x", 16000))
	}
	w.frame(kindData, 0, 1, strings.Repeat("x", 1536))
	if _, err := s.Feed(w.b, 1); err == nil {
		t.Error("65536 bytes passed a window of 65535")
	}
}

func TestSendingKeepsWithinWindowsAndFrames(t *testing.T) {
	s := begun(Options{})
	if _, err := s.Feed(fromClient().settings(settingWindow, 20000).get(1).b, 1); err != nil {
		t.Fatal(err)
	}
	st := s.streams[1]
	s.out = s.out[:0]
	h := &message.Head{Status: 200}
	s.sendResponse(st, h, false)
	if n := s.sendData(st, make([]byte, 30000), true); n != 20000 {
		t.Errorf("%d bytes went out", n)
	}
	if got := said(t, s.out); got != "HEADERS 1 end=false, DATA 1 16384 end=false, DATA 1 3616 end=false" {
		t.Errorf("got %s", got)
	}
	s.out = s.out[:0]
	if _, err := s.Feed(newWire().frame(kindWindow, 0, 1, u32(50000)).b, 1); err != nil {
		t.Fatal(err)
	}
	if n := s.sendData(st, make([]byte, 10000), true); n != 10000 || said(t, s.out) != "DATA 1 10000 end=true" {
		t.Errorf("%d bytes: %s", n, said(t, s.out))
	}
}

func TestLongHeadsGoOutInContinuations(t *testing.T) {
	s := begun(Options{})
	if _, err := s.Feed(fromClient().get(1).b, 1); err != nil {
		t.Fatal(err)
	}
	s.out = s.out[:0]
	h := &message.Head{Status: 200}
	h.SetString("x-long", strings.Repeat("~", 40000))
	s.sendResponse(s.streams[1], h, true)
	if got := said(t, s.out); !strings.HasPrefix(got, "HEADERS 1 end=true, frame 9 on 1, frame 9 on 1") {
		t.Errorf("got %s", got)
	}
}

func TestCookieCrumbsAreJoined(t *testing.T) {
	s := begun(Options{})
	if _, err := s.Feed(fromClient().get(1, "cookie: a=1", "cookie: b=2").b, 1); err != nil {
		t.Fatal(err)
	}
	h := &s.streams[1].Head
	if v, _ := h.Get("cookie"); string(v) != "a=1; b=2" || h.Values("cookie") != 1 {
		t.Errorf("cookie %q in %d fields", v, h.Values("cookie"))
	}
}

func TestDrainGivesNoticeBeforeItRefuses(t *testing.T) {
	s := begun(Options{})
	if _, err := s.Feed(fromClient().post(1).b, 1); err != nil {
		t.Fatal(err)
	}
	s.out = s.out[:0]
	s.drain()
	if got := said(t, s.out); got != `GOAWAY 2147483647 NO_ERROR, PING ack=false "tulle-go"` {
		t.Fatalf("notice: %s", got)
	}
	s.out = s.out[:0]
	w := newWire()
	if _, err := s.Feed(w.get(3).frame(kindPing, flagAck, 0, drainPing).get(5).b, 1); err != nil {
		t.Fatal(err)
	}
	if got := said(t, s.out); got != "GOAWAY 3 NO_ERROR" || len(s.opened) != 1 {
		t.Errorf("after the notice was seen: %s, %d streams", got, len(s.opened))
	}
	for _, st := range s.streams {
		st.localEnd, st.remoteEnd = true, true
		s.close(st)
	}
	if !s.over() {
		t.Error("it is not over")
	}
}

func TestRulesOfResponses(t *testing.T) {
	for name, c := range rulesOfResponses() {
		s := NewSession(Options{Role: Client})
		st := s.open()
		s.sendRequest(st, &Part{Head: &message.Head{Method: []byte("GET"), Scheme: []byte("http"), Path: []byte("/"), Authority: []byte("a")}}, true)
		s.out = s.out[:0]
		_, err := s.Feed(c.in.b, 1)
		if got := said(t, s.out); got != c.want {
			t.Errorf("%s: got %s, want %s (%v)", name, got, c.want, err)
		}
	}
}

func TestRefusedAndUnseenStreamsMayBeSentAgain(t *testing.T) {
	for name, in := range map[string]*wire{
		"refused":         newWire().settings().frame(kindReset, 0, 1, u32(uint32(RefusedStream))),
		"beyond a GOAWAY": newWire().settings().frame(kindGoAway, 0, 0, u32(0)+u32(0)),
	} {
		s := NewSession(Options{Role: Client})
		st := s.open()
		s.sendRequest(st, &Part{Head: &message.Head{Method: []byte("GET"), Scheme: []byte("http"), Path: []byte("/"), Authority: []byte("a")}}, true)
		if _, err := s.Feed(in.b, 1); err != nil {
			t.Fatal(err)
		}
		if !errors.Is(st.err, ErrNotProcessed) {
			t.Errorf("%s: %v", name, st.err)
		}
	}
}

func TestACompleteResponseStandsWhenTheServerWantsNoMoreOfTheRequest(t *testing.T) {
	s := NewSession(Options{Role: Client})
	st := s.open()
	s.sendRequest(st, &Part{Head: &message.Head{Method: []byte("POST"), Scheme: []byte("http"), Path: []byte("/"), Authority: []byte("a")}}, false)
	in := newWire().settings().headers(1, 0, ":status: 200").frame(kindData, flagEndStream, 1, "ok").frame(kindReset, 0, 1, u32(uint32(NoError)))
	if _, err := s.Feed(in.b, 1); err != nil {
		t.Fatal(err)
	}
	if st.err != nil || !st.gone || string(st.body) != "ok" {
		t.Errorf("error %v, gone %v, body %q", st.err, st.gone, st.body)
	}
}
