package http2

import (
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// sender is the peer's account of the windows, by the book (RFC 9113 §6.9): it
// reads what we say when told to, and sends as much as it may.
type sender struct {
	t       *testing.T
	s       *Session
	initial int64
	all     int64
	streams map[uint32]int64
	narrow  int // SETTINGS that made windows smaller
	wide    int // and larger
}

func newSender(t *testing.T, role Role) *sender {
	p := &sender{t: t, s: NewSession(Options{Role: role}), initial: windowDefault, all: windowDefault, streams: map[uint32]int64{}}
	w := newWire()
	if role == Server {
		w.b = append(w.b, Preface...)
	}
	p.feed(w.settings(uint32(settingStreams), limit.HTTP2StreamsMax))
	p.hear()
	p.narrow, p.wide = 0, 0
	return p
}

func (p *sender) feed(w *wire) {
	p.t.Helper()
	if used, err := p.s.Feed(w.b, edgeTime); err != nil || used != len(w.b) {
		p.t.Fatalf("used %d of %d bytes: %v", used, len(w.b), err)
	}
}

// hear reads what was said until then, and acknowledges settings.
func (p *sender) hear() {
	b := p.s.out
	if strings.HasPrefix(string(b), Preface) {
		b = b[len(Preface):]
	}
	acks := 0
	for len(b) > 0 {
		n := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
		f := frame{frameKind(b[3]), b[4], binary.BigEndian.Uint32(b[5:]), b[9 : 9+n]}
		b = b[9+n:]
		switch f.kind {
		case kindSettings:
			if f.has(flagAck) {
				continue
			}
			acks++
			p.settings(f.payload)
		case kindWindow:
			more := int64(binary.BigEndian.Uint32(f.payload))
			if more == 0 {
				p.t.Error("credit of nothing")
			}
			if f.stream == 0 {
				p.all += more
			} else {
				p.streams[f.stream] += more
			}
		case kindHeaders:
			p.streams[f.stream] = p.initial
			p.s.out = p.s.out[:0]
			defer p.feed(newWire().headers(f.stream, 0, ":status: 200"))
		case kindReset, kindGoAway:
			p.t.Fatalf("we said %s", said(p.t, appendFrameHead(nil, 0, f.kind, 0, f.stream)))
		default:
		}
	}
	p.s.out = p.s.out[:0]
	for range acks {
		p.feed(newWire().frame(kindSettings, flagAck, 0, ""))
	}
}

func (p *sender) settings(pairs []byte) {
	for ; len(pairs) > 0; pairs = pairs[6:] {
		if binary.BigEndian.Uint16(pairs) != settingWindow {
			continue
		}
		to := int64(binary.BigEndian.Uint32(pairs[2:]))
		for id := range p.streams {
			p.streams[id] += to - p.initial
		}
		if to < p.initial {
			p.narrow++
		} else if to > p.initial {
			p.wide++
		}
		p.initial = to
	}
}

// open begins a stream, whoever's part that is.
func (p *sender) open(id uint32) {
	if p.s.opts.Role == Server {
		p.feed(newWire().post(id))
		p.streams[id] = p.initial
		return
	}
	h := message.Head{Method: []byte("GET"), Scheme: []byte("http"), Authority: []byte("a"), Path: []byte("/")}
	p.s.sendRequest(p.s.open(), &Part{Head: &h}, true)
}

// send sends up to n bytes, as windows allow.
func (p *sender) send(id uint32, n int64) int64 {
	n = min(n, p.streams[id], p.all, FrameBytesMax)
	if n <= 0 {
		return 0
	}
	p.streams[id] -= n
	p.all -= n
	p.feed(newWire().frame(kindData, 0, id, strings.Repeat("x", int(n))))
	return n
}

// read is a reader that takes up to n bytes.
func (p *sender) read(id uint32, n int) {
	st := p.s.streams[id]
	if st == nil {
		return
	}
	n = min(n, len(st.body)-st.read)
	if st.read += n; st.read == len(st.body) {
		st.body, st.read = st.body[:0], 0
	}
	if n > 0 {
		p.s.consumed(st, int64(n))
	}
}

// TestWindowsAreNarrowWhileMuchWaits: at a byte more than may wait, streams
// begin with a frame; when a quarter is left, as before.
func TestWindowsAreNarrowWhileMuchWaits(t *testing.T) {
	const most = limit.HTTP2WaitingBytes
	for _, role := range []Role{Server, Client} {
		for _, waits := range []int64{most - 1, most, most + 1} {
			p := newSender(t, role)
			id := uint32(1)
			for left := waits; left > 0; id += 2 {
				p.open(id)
				p.hear()
				for n := min(left, limit.HTTP2StreamWindowFirst); n > 0; {
					k := p.send(id, n)
					n, left = n-k, left-k
				}
			}
			p.hear()
			if got, want := p.narrow, map[bool]int{true: 1}[waits > most]; got != want {
				t.Errorf("role %d, %d bytes wait: windows became narrow %d times, want %d", role, waits, got, want)
			}
			p.open(id)
			p.hear()
			if got, want := p.streams[id], map[bool]int64{true: limit.HTTP2StreamWindowNarrow, false: limit.HTTP2StreamWindowFirst}[waits > most]; got != want {
				t.Errorf("role %d, %d bytes wait: a stream begins with %d, want %d", role, waits, got, want)
			}
			// A stream without window may end all the same (RFC 9113 §6.9.1).
			if p.feed(newWire().frame(kindData, flagEndStream, 1, "")); said(t, p.s.out) != "" {
				t.Errorf("role %d: the end of a stream without window: %s", role, said(t, p.s.out))
			}
			for st := range p.s.streams {
				p.read(st, 1<<20)
			}
			p.feed(newWire().frame(kindPing, flagAck, 0, "12345678"))
			p.hear()
			if p.wide != p.narrow || p.s.held != 0 {
				t.Errorf("role %d: all was read, windows became wide %d times and narrow %d times, %d bytes wait", role, p.wide, p.narrow, p.s.held)
			}
		}
	}
}

// TestPeersMayBeBehindTheirAcknowledgement: a stream that another thread of the
// peer began by the old window is served up to that window, and no further.
func TestPeersMayBeBehindTheirAcknowledgement(t *testing.T) {
	for _, role := range []Role{Server, Client} {
		p := newSender(t, role)
		id := uint32(1)
		for ; p.narrow == 0; id += 2 {
			p.open(id)
			p.hear()
			for p.send(id, FrameBytesMax) > 0 {
			}
		}
		p.open(id)
		p.hear()
		p.streams[id] = limit.HTTP2StreamWindowFirst
		for p.send(id, FrameBytesMax) > 0 {
		}
		if got := said(t, p.s.out); got != "" {
			t.Errorf("role %d: within the old window: %s", role, got)
		}
		p.feed(newWire().frame(kindData, 0, id, "x"))
		if got := said(t, p.s.out); !strings.Contains(got, FlowControlError.String()) {
			t.Errorf("role %d: beyond the old window: %q", role, got)
		}
	}
}

// TestBothSidesKnowTheSameWindows: whatever is sent, read and said in whatever
// order, both accounts agree when all is said, and what waits is bounded.
func TestBothSidesKnowTheSameWindows(t *testing.T) {
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 1))
		role := Role(seed % 2)
		p := newSender(t, role)
		streams := uint32(0)
		for range 3000 {
			switch k := r.IntN(20); {
			case k == 0 && streams < 400:
				p.open(2*streams + 1)
				streams++
			case k < 12 && streams > 0:
				p.send(2*r.Uint32N(streams)+1, r.Int64N(FrameBytesMax)+1)
			case k < 12+int(seed%6) && streams > 0:
				p.read(2*r.Uint32N(streams/2+1)+1, r.IntN(40_000)) // others stall
			case k > 17:
				p.hear()
			}
		}
		for range 2 {
			p.hear()
		}
		waits := int64(0)
		for id, st := range p.s.streams {
			waits += int64(len(st.body) - st.read)
			if st.recvWindow != p.streams[id] {
				t.Errorf("seed %d: stream %d has %d left for us, %d for the peer", seed, id, st.recvWindow, p.streams[id])
			}
			if sum := st.recvWindow + st.unacked + int64(len(st.body)-st.read); sum != st.recvMax {
				t.Errorf("seed %d: stream %d: %d are left, read or wait, its most is %d", seed, id, sum, st.recvMax)
			}
			if p.s.narrow() && st.recvMax < limit.HTTP2StreamWindowNarrow {
				t.Errorf("seed %d: stream %d may send %d at most", seed, id, st.recvMax)
			}
		}
		if waits != p.s.held {
			t.Errorf("seed %d: %d bytes wait, counted %d", seed, waits, p.s.held)
		}
		// All that stalls goes on when it is read.
		for id := range p.s.streams {
			for range 40 {
				p.read(id, 1<<20)
				p.hear()
				p.send(id, FrameBytesMax)
			}
			if p.streams[id] <= 0 && p.all > 0 && len(p.s.streams[id].body) == 0 {
				t.Errorf("seed %d: stream %d is stuck", seed, id)
			}
		}
	}
}
