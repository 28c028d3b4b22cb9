package http2

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// edgeTime is when the sessions of these tests begin, in nanoseconds.
const edgeTime = 1

// floods is what a peer may send only so much of: a kind of frame for each
// bucket, some of them with two.
func floods() []struct {
	name        string
	burst, rate int
	flood       string
	first       int // frames of a connection's beginning that count
	begin       func(w *wire)
	frames      func(w *wire, i int)
} {
	none := func(*wire) {}
	post := func(w *wire) { w.post(1) }
	id := func(i int) uint32 { return uint32(2*i + 1) }
	return []struct {
		name        string
		burst, rate int
		flood       string
		first       int
		begin       func(w *wire)
		frames      func(w *wire, i int)
	}{
		{"resets", limit.HTTP2ResetBurst, limit.HTTP2ResetRate, "resets", 0, none, func(w *wire, i int) { w.get(id(i)).frame(kindReset, 0, id(i), u32(8)) }},
		{"pings", limit.HTTP2AnswerBurst, limit.HTTP2AnswerRate, "pings", 1, none, func(w *wire, _ int) { w.frame(kindPing, 0, 0, "12345678") }},
		{"settings", limit.HTTP2AnswerBurst, limit.HTTP2AnswerRate, "settings", 1, none, func(w *wire, _ int) { w.settings() }},
		{"DATA without bytes", limit.HTTP2IdleBurst, limit.HTTP2IdleRate, "empty_frames", 0, post, func(w *wire, _ int) { w.frame(kindData, 0, 1, "") }},
		{"priorities", limit.HTTP2IdleBurst, limit.HTTP2IdleRate, "empty_frames", 0, none, func(w *wire, _ int) { w.frame(kindPriority, 0, 9, u32(0)+"\x10") }},
		{"unknown kinds", limit.HTTP2IdleBurst, limit.HTTP2IdleRate, "empty_frames", 0, none, func(w *wire, _ int) { w.frame(77, 0, 0, "x") }},
		{"answers to no question", limit.HTTP2IdleBurst, limit.HTTP2IdleRate, "empty_frames", 0, none, func(w *wire, _ int) { w.frame(kindPing, flagAck, 0, "12345678") }},
		{"credit", limit.HTTP2WindowBurst, limit.HTTP2WindowRate, "window_updates", 0, post, func(w *wire, i int) { w.frame(kindWindow, 0, uint32(i%2), u32(1)) }},
		{"errors of streams", limit.HTTP2ErrorBurst, limit.HTTP2ErrorRate, "stream_errors", 0, none, func(w *wire, i int) { w.get(id(i), "X: y") }},
	}
}

// feedFlood gives a session so many frames at a time; they go on where those
// before ended. It returns the name of the flood, or nothing.
func feedFlood(t *testing.T, s *Session, w *wire, from, n int, frames func(w *wire, i int), now int64) string {
	t.Helper()
	for i := range n {
		frames(w, from+i)
	}
	used, err := s.Feed(w.b, now)
	var rule *ConnError
	switch {
	case err == nil && used == len(w.b):
		w.b, s.out = nil, s.out[:0]
		return ""
	case !errors.As(err, &rule) || rule.Code != EnhanceYourCalm:
		t.Fatalf("used %d of %d bytes, error %v", used, len(w.b), err)
	case !strings.HasSuffix(said(t, s.out), fmt.Sprintf("GOAWAY %d ENHANCE_YOUR_CALM", s.lastPeer)):
		t.Fatalf("it said %.300s", said(t, s.out))
	}
	return rule.Flood
}

// TestFloodsEndAtTheirBurstAndRate: limit.HTTP2ResetBurst and its like.
func TestFloodsEndAtTheirBurstAndRate(t *testing.T) {
	for _, c := range floods() {
		for _, n := range []int{c.burst - 1, c.burst, c.burst + 1} {
			s, w := begun(Options{}), fromClient()
			c.begin(w)
			want := ""
			if n > c.burst {
				want = c.flood
			}
			if got := feedFlood(t, s, w, 0, n-c.first, c.frames, edgeTime); got != want {
				t.Errorf("%s: %d at once, the burst is %d: flood %q, want %q", c.name, n, c.burst, got, want)
			}
		}
		// When the burst is used up, a second brings the rate.
		for _, n := range []int{c.rate - 1, c.rate, c.rate + 1} {
			s, w := begun(Options{}), fromClient()
			c.begin(w)
			if got := feedFlood(t, s, w, 0, c.burst-c.first, c.frames, edgeTime); got != "" {
				t.Fatalf("%s: flood %q", c.name, got)
			}
			want := ""
			if n > c.rate {
				want = c.flood
			}
			if got := feedFlood(t, s, w, c.burst, n, c.frames, edgeTime+1e9); got != want {
				t.Errorf("%s: %d a second later, the rate is %d: flood %q, want %q", c.name, n, c.rate, got, want)
			}
		}
	}
	// Every bucket is among them.
	for name, edge := range map[string][2]int{
		"resets": {limit.HTTP2ResetBurst, limit.HTTP2ResetRate}, "pings": {limit.HTTP2AnswerBurst, limit.HTTP2AnswerRate},
		"empty_frames": {limit.HTTP2IdleBurst, limit.HTTP2IdleRate}, "window_updates": {limit.HTTP2WindowBurst, limit.HTTP2WindowRate},
		"stream_errors": {limit.HTTP2ErrorBurst, limit.HTTP2ErrorRate},
	} {
		tried := false
		for _, c := range floods() {
			tried = tried || c.flood == name && c.burst == edge[0] && c.rate == edge[1]
		}
		if !tried {
			t.Errorf("no flood of %s was tried at %v", name, edge)
		}
	}
}

// TestCreditIsAllowedForWhatWasSent: each DATA frame of ours allows more
// WINDOW_UPDATEs beside the burst.
func TestCreditIsAllowedForWhatWasSent(t *testing.T) {
	const allowed = limit.HTTP2WindowsPerData
	update := func(w *wire, _ int) { w.frame(kindWindow, 0, 1, u32(1)) }
	for n, want := range map[int]string{allowed - 1: "", allowed: "", allowed + 1: "window_updates"} {
		s, w := begun(Options{}), fromClient().post(1)
		if got := feedFlood(t, s, w, 0, limit.HTTP2WindowBurst, update, edgeTime); got != "" {
			t.Fatalf("flood %q", got)
		}
		if sent := s.sendData(s.streams[1], []byte("x"), false); sent != 1 {
			t.Fatalf("%d bytes were sent", sent)
		}
		s.out = s.out[:0]
		if got := feedFlood(t, s, w, 0, n, update, edgeTime); got != want {
			t.Errorf("%d for a frame that was sent: flood %q, want %q", n, got, want)
		}
	}
}

// TestStreamsBeyondTheMostAreRefused: of a client by a server, and of ours.
func TestStreamsBeyondTheMostAreRefused(t *testing.T) {
	const most = limit.HTTP2StreamsMax
	for _, n := range []int{most - 1, most, most + 1} {
		s, w := begun(Options{}), fromClient()
		for i := range n {
			w.post(uint32(2*i + 1))
		}
		if _, err := s.Feed(w.b, edgeTime); err != nil {
			t.Fatal(err)
		}
		want, opened := "ACK", n
		if n > most {
			want, opened = fmt.Sprintf("ACK, RST %d REFUSED_STREAM", 2*n-1), most
		}
		if got := said(t, s.out); got != want || len(s.opened) != opened {
			t.Errorf("%d requests at once: %d begin, it said %.200s; want %d, %s", n, len(s.opened), got, opened, want)
		}

		ours := begun(Options{Role: Client})
		if _, err := ours.Feed(newWire().settings(settingStreams, 1<<30).b, edgeTime); err != nil {
			t.Fatal(err)
		}
		got := 0
		for range n {
			if ours.open() != nil {
				got++
			}
		}
		if got != opened {
			t.Errorf("%d of %d requests of ours begin, want %d", got, n, opened)
		}
	}
}

// TestContinuationsAndBlocksHaveALimit: heads in many frames, and large ones.
func TestContinuationsAndBlocksHaveALimit(t *testing.T) {
	const continuations, headMax = limit.HTTP2ContinuationsMax, 1000
	for _, n := range []int{continuations - 1, continuations, continuations + 1} {
		w := fromClient()
		w.frame(kindHeaders, flagEndStream, 1, w.block(get()...))
		for range n - 1 {
			w.frame(kindContinuation, 0, 1, "")
		}
		w.frame(kindContinuation, flagEndHeaders, 1, "")
		edgeOfBlock(t, fmt.Sprintf("%d continuations", n), Options{}, w, n > continuations, "continuations", false)
	}
	const slack = limit.HTTP2BlockBytesSlack
	for _, n := range []int{headMax + slack - 1, headMax + slack, headMax + slack + 1} {
		w := fromClient()
		block := w.block(get()...)
		block += strings.Repeat("\x90", n-len(block)) // accept-encoding of the static table
		w.frame(kindHeaders, flagEndStream, 1, block[:FrameBytesMax]).frame(kindContinuation, flagEndHeaders, 1, block[FrameBytesMax:])
		edgeOfBlock(t, fmt.Sprintf("a block of %d bytes", n), Options{HeadBytesMax: headMax}, w, n > headMax+slack, "header_blocks", true)
	}
}

// edgeOfBlock gives a session one request, and looks whether it ends the
// connection or begins, as too large or as it is.
func edgeOfBlock(t *testing.T, name string, o Options, w *wire, ends bool, flood string, large bool) {
	t.Helper()
	s := begun(o)
	_, err := s.Feed(w.b, edgeTime)
	var rule *ConnError
	if got := errors.As(err, &rule); got != ends || got && (rule.Code != EnhanceYourCalm || rule.Flood != flood) {
		t.Errorf("%s: error %v, want it to end: %v", name, err, ends)
	}
	if begins := len(s.opened) == 1 && s.opened[0].TooLarge == large; begins == ends {
		t.Errorf("%s: %d requests begin", name, len(s.opened))
	}
}

func TestInformationalHeadsThatNobodyReadHaveALimit(t *testing.T) {
	const most = limit.InformationalMax
	for n, want := range map[int]string{most - 1: "ACK", most: "ACK", most + 1: "ACK, RST 1 ENHANCE_YOUR_CALM"} {
		s := begun(Options{Role: Client})
		s.sendRequest(s.open(), &Part{Head: request(), End: true}, true)
		s.out = s.out[:0]
		w := newWire().settings()
		for range n {
			w.headers(1, 0, ":status: 103")
		}
		if _, err := s.Feed(w.b, edgeTime); err != nil {
			t.Fatal(err)
		}
		if got := said(t, s.out); got != want {
			t.Errorf("%d informational heads: it said %s, want %s", n, got, want)
		}
	}
}

// TestWindowsEndAtTheirLastByte: of a stream at its beginning, of one that has
// grown, and of all streams of a connection.
func TestWindowsEndAtTheirLastByte(t *testing.T) {
	const first, grown, all = limit.HTTP2StreamWindowFirst, limit.HTTP2StreamWindow, limit.HTTP2ConnWindow
	send := func(t *testing.T, s *Session, id uint32, n int) error {
		for n > 0 {
			k := min(n, FrameBytesMax)
			if _, err := s.Feed(newWire().frame(kindData, 0, id, strings.Repeat("x", k)).b, edgeTime); err != nil {
				return err
			}
			n -= k
		}
		return nil
	}
	server := func(streams int) *Session {
		s, w := begun(Options{}), fromClient()
		for i := range streams {
			w.post(uint32(2*i + 1))
		}
		if _, err := s.Feed(w.b, edgeTime); err != nil {
			t.Fatal(err)
		}
		s.out = s.out[:0]
		return s
	}
	for n, want := range map[int]string{first - 1: "", first: "", first + 1: "RST 1 FLOW_CONTROL_ERROR"} {
		s := server(1)
		if err := send(t, s, 1, n); err != nil || said(t, s.out) != want {
			t.Errorf("%d bytes into a new stream: %v, %s; want %s", n, err, said(t, s.out), want)
		}
	}
	for n, want := range map[int]string{grown - 1: "", grown: "", grown + 1: "RST 1 FLOW_CONTROL_ERROR"} {
		s := server(1)
		st := s.streams[1]
		for st.recvWindow != grown { // whoever reads at once is given more
			took := st.recvMax / 2
			if err := send(t, s, 1, int(took)); err != nil || s.streams[1] == nil {
				t.Fatal("the window does not grow", err)
			}
			st.body, st.read = st.body[:0], 0
			s.consumed(st, took)
		}
		s.out = s.out[:0]
		if err := send(t, s, 1, n); err != nil || said(t, s.out) != want {
			t.Errorf("%d bytes into a stream that has grown: %v, %s; want %s", n, err, said(t, s.out), want)
		}
	}
	for _, n := range []int{all - 1, all, all + 1} {
		s := server(all/first + 1)
		left, err := n, error(nil)
		for id := uint32(1); left > 0; id += 2 {
			k := min(left, first)
			left -= k
			err = errors.Join(err, send(t, s, id, k))
		}
		var rule *ConnError
		if ends := errors.As(err, &rule); ends != (n > all) || ends && rule.Code != FlowControlError {
			t.Errorf("%d bytes into all streams: %v", n, err)
		}
	}
}

// TestWhatWaitsToBeWrittenHasALimit: body bytes wait first, and a peer that
// makes us answer and does not read loses the connection.
func TestWhatWaitsToBeWrittenHasALimit(t *testing.T) {
	const room, control, answer = limit.HTTP2OutBytesMax, limit.HTTP2ControlBytesMax, frameHeadBytes + 8
	for waits, want := range map[int]int{room - 1: 1, room: 0, room + 1: 0} {
		s := begun(Options{})
		if _, err := s.Feed(fromClient().get(1).b, edgeTime); err != nil {
			t.Fatal(err)
		}
		s.out = make([]byte, waits)
		if n := s.sendData(s.streams[1], []byte("xyz"), true); n != want {
			t.Errorf("%d bytes of a body are taken while %d wait, want %d", n, waits, want)
		}
	}
	for waits, want := range map[int]string{control - 1: "", control: "", control + 1: "unread_answers"} {
		s := begun(Options{})
		if _, err := s.Feed(fromClient().b, edgeTime); err != nil {
			t.Fatal(err)
		}
		s.out = make([]byte, waits-answer)
		_, err := s.Feed(newWire().frame(kindPing, 0, 0, "12345678").b, edgeTime)
		got := ""
		var rule *ConnError
		if errors.As(err, &rule) && rule.Code == EnhanceYourCalm {
			got = rule.Flood
		}
		if got != want {
			t.Errorf("%d bytes of answers wait: %v, want flood %q", waits, err, want)
		}
	}
}

// TestClosedStreamsAreRememberedUpToTheirLimit: a frame for one that is known
// to be closed is answered, one for a stream that is forgotten only counted.
func TestClosedStreamsAreRememberedUpToTheirLimit(t *testing.T) {
	const most = limit.HTTP2ClosedMax
	for n, want := range map[int]string{most - 1: "RST 1 STREAM_CLOSED", most: "RST 1 STREAM_CLOSED", most + 1: ""} {
		s, w := begun(Options{}), fromClient()
		for i := range n {
			w.post(uint32(2*i+1)).frame(kindReset, 0, uint32(2*i+1), u32(8))
		}
		if _, err := s.Feed(w.b, edgeTime); err != nil {
			t.Fatal(err)
		}
		s.out = s.out[:0]
		if _, err := s.Feed(newWire().frame(kindData, 0, 1, "x").b, edgeTime); err != nil || said(t, s.out) != want {
			t.Errorf("DATA for the first of %d closed streams: %v, %s; want %s", n, err, said(t, s.out), want)
		}
	}
}

// TestLateFramesAreExcusedByResets: a reset of ours excuses some late frames of
// the server, many resets no more than a limit; further ones are idle frames.
func TestLateFramesAreExcusedByResets(t *testing.T) {
	const each, most, idle = limit.HTTP2LatePerReset, limit.HTTP2LateMax, limit.HTTP2IdleBurst
	empty := func(w *wire, _ int) { w.frame(kindData, 0, 1, "") }
	try := func(resets, excused int) {
		for n, want := range map[int]string{excused + idle - 1: "", excused + idle: "", excused + idle + 1: "empty_frames"} {
			s := begun(Options{Role: Client})
			for range resets {
				st := s.open()
				s.sendRequest(st, &Part{Head: request(), End: true}, true)
				s.reset(st, Cancel)
			}
			s.out = s.out[:0]
			if got := feedFlood(t, s, newWire().settings(), 0, n, empty, edgeTime); got != want {
				t.Errorf("%d late frames behind %d resets: flood %q, want %q", n, resets, got, want)
			}
		}
	}
	try(1, each)
	try(most/each-1, most-each)
	try(most/each, most)
	try(most/each+1, most)
}

// TestTablesForSendingHaveALargestSize: a peer that offers more gets no more.
func TestTablesForSendingHaveALargestSize(t *testing.T) {
	const most = limit.HTTP2TableBytesMax
	for offer, want := range map[uint32]string{most - 1: "\x3f\xe0\x1f", most: "", most + 1: ""} { // RFC 7541 §6.3: the default is not told
		s := begun(Options{})
		if _, err := s.Feed(fromClient().settings(settingTableSize, offer).get(1).b, edgeTime); err != nil {
			t.Fatal(err)
		}
		s.out = s.out[:0]
		s.sendResponse(s.streams[1], &message.Head{Status: 200}, true)
		if got := string(s.out[frameHeadBytes:]); got != want+"\x88" {
			t.Errorf("offered %d bytes, the block is %x, want %x before the status", offer, got, want)
		}
	}
}
