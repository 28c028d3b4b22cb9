package engine

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/observe"
	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/http2"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

// appendFrame begins a frame.
func appendFrame(dst []byte, length int, kind, flags byte, stream uint32) []byte {
	return binary.BigEndian.AppendUint32(append(dst, byte(length>>16), byte(length>>8), byte(length), kind, flags), stream)
}

// Frame types and flags (RFC 9113 §6).
const (
	frameData, frameHeaders, frameReset, frameSettings, frameGoAway, frameWindow = 0, 1, 3, 4, 7, 8
	endStream, endHeaders                                                        = 1, 4
)

// frames reads frames without allocating.
type frames struct {
	c    net.Conn
	buf  [32 << 10]byte
	have []byte
}

func (f *frames) next() (kind, flags byte, stream uint32, payload []byte, err error) {
	for {
		if len(f.have) >= 9 {
			n := int(f.have[0])<<16 | int(f.have[1])<<8 | int(f.have[2])
			if len(f.have) >= 9+n {
				h := f.have[:9+n]
				f.have = f.have[9+n:]
				return h[3], h[4], binary.BigEndian.Uint32(h[5:]), h[9:], nil
			}
		}
		n := copy(f.buf[:], f.have)
		m, err := f.c.Read(f.buf[n:])
		if err != nil {
			return 0, 0, 0, nil, err
		}
		f.have = f.buf[:n+m]
	}
}

// cannedHTTP2 answers each request of HTTP/2 with the same frames, without
// allocating; a request with a body that is not "go" waits for ever.
func cannedHTTP2(t testing.TB) netip.AddrPort {
	return serveWith(t, func(_ int, c net.Conn) {
		f := &frames{c: c}
		if _, err := io.ReadFull(c, f.buf[:len(http2.Preface)]); err != nil {
			return
		}
		settings := append(appendFrame(nil, 6, frameSettings, 0, 0), 0, 3, 0, 0, 0x40, 0) // 16384 streams
		settings = appendFrame(settings, 0, frameSettings, 1, 0)
		if _, err := c.Write(settings); err != nil {
			return
		}
		// :status 200, then trailers "grpc-status: 0".
		answer := append(appendFrame(nil, 1, frameHeaders, endHeaders, 0), 0x88)
		answer = append(appendFrame(answer, 5, frameData, 0, 0), "hello"...)
		trailer := "\x00\x0bgrpc-status\x010"
		answer = append(appendFrame(answer, len(trailer), frameHeaders, endHeaders|endStream, 0), trailer...)
		answer = append(appendFrame(answer, 4, frameWindow, 0, 0), 0, 0, 0, 2) // for "go"
		for {
			kind, flags, stream, payload, err := f.next()
			if err != nil {
				return
			}
			if kind != frameData || flags&endStream == 0 || string(payload) != "go" {
				continue
			}
			for _, at := range [...]int{5, 5 + 10, 5 + 10 + 14} {
				binary.BigEndian.PutUint32(answer[at:], stream)
			}
			if _, err := c.Write(answer); err != nil {
				return
			}
		}
	}).at
}

// asker is a client of HTTP/2 that does not allocate.
type asker struct {
	*frames
	stream uint32
	out    []byte
}

func newAsker(t testing.TB, p *proxy) *asker {
	a := &asker{frames: &frames{c: p.dial(t)}, stream: 1}
	if _, err := a.c.Write(appendFrame([]byte(http2.Preface), 0, frameSettings, 0, 0)); err != nil {
		t.Fatal(err)
	}
	return a
}

// begin sends a request with a body.
func (a *asker) begin(t testing.TB, body string) (stream uint32) {
	a.out = a.out[:0]
	stream = a.add(body)
	if _, err := a.c.Write(a.out); err != nil {
		t.Fatal(err)
	}
	return stream
}

// add adds a request to what will be sent.
func (a *asker) add(body string) (stream uint32) {
	stream = a.stream
	a.stream += 2
	const head = "\x83\x86\x04\x0a/test.Echo\x01\x0cshop.example\x0f\x10\x10application/grpc\x00\x02te\x08trailers\x00\x08x-tenant\x04blue"
	a.out = append(appendFrame(a.out, 4, frameWindow, 0, 0), 0, 0, 0, 5) // for "hello"
	a.out = append(appendFrame(a.out, len(head), frameHeaders, endHeaders, stream), head...)
	a.out = append(appendFrame(a.out, len(body), frameData, endStream, stream), body...)
	return stream
}

// ask waits for the answer of a request.
func (a *asker) ask(t testing.TB) {
	stream := a.begin(t, "go")
	for {
		_, flags, of, _, err := a.next()
		if err != nil {
			t.Fatal(err)
		}
		if of == stream && flags&endStream != 0 {
			return
		}
	}
}

func http2Proxy(t testing.TB) *proxy {
	return start(t, &setup{routes: []*router.Route{to("/other", "echo"), to("/", "echo")},
		clusters: []*cluster.Spec{speaking(true, "echo", cannedHTTP2(t))}})
}

// A request from HTTP/2 to HTTP/2 with its trailers, metrics and deadlines.
func TestStreamsDoNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	a := newAsker(t, http2Proxy(t))
	for range 500 {
		a.ask(t)
	}
	const want = 0
	if n := testing.AllocsPerRun(2000, func() { a.ask(t) }); n > want {
		t.Errorf("%v allocations per stream, want %d", n, want)
	}
}

// messagesPerCall of 1 KiB fit the windows that peers begin with.
const messagesPerCall = 48

// streamingHTTP2 answers each request of HTTP/2 with a stream of messages,
// without allocating.
func streamingHTTP2(t testing.TB) netip.AddrPort {
	return serveWith(t, func(_ int, c net.Conn) {
		f := &frames{c: c}
		if _, err := io.ReadFull(c, f.buf[:len(http2.Preface)]); err != nil {
			return
		}
		if _, err := c.Write(appendFrame(appendFrame(nil, 0, frameSettings, 0, 0), 0, frameSettings, 1, 0)); err != nil {
			return
		}
		var answer []byte
		for {
			kind, flags, stream, _, err := f.next()
			if err != nil {
				return
			}
			if kind != frameData || flags&endStream == 0 {
				continue
			}
			answer = append(appendFrame(answer[:0], 1, frameHeaders, endHeaders, stream), 0x88)
			for i := range messagesPerCall {
				answer = appendFrame(answer, 1<<10, frameData, byte((i+1)/messagesPerCall)*endStream, stream)
				answer = append(answer, f.buf[:1<<10]...)
			}
			if _, err := c.Write(answer); err != nil {
				return
			}
		}
	}).at
}

// Messages that stream leave nothing to collect, although a collection empties
// the pools again and again: what is counted are the streams themselves.
func TestMessagesDoNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	a := newAsker(t, start(t, &setup{routes: []*router.Route{to("/", "echo")}, clusters: []*cluster.Spec{speaking(true, "echo", streamingHTTP2(t))}}))
	credit := append(appendFrame(nil, 4, frameWindow, 0, 0), 0, 0, messagesPerCall<<2, 0)
	call := func() {
		if _, err := a.c.Write(credit); err != nil {
			t.Fatal(err)
		}
		a.ask(t)
	}
	for range 20 {
		call()
	}
	const calls, want = 200, 64
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range calls {
		call()
		if i%4 == 0 {
			runtime.GC()
		}
	}
	runtime.ReadMemStats(&after)
	each := (after.TotalAlloc - before.TotalAlloc) / (calls * messagesPerCall)
	t.Logf("%d bytes a message", each)
	if each > want {
		t.Errorf("%d bytes of garbage a message, want at most %d", each, want)
	}
}

// What 1,000 streams hold that wait for their answer: heap and stacks.
func TestWaitingStreamsAreSmall(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector takes memory of its own")
	}
	const streams, want = 1000, 6 << 10
	a := newAsker(t, http2Proxy(t))
	for range 100 {
		a.ask(t)
	}
	used := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // pools keep what they have for one round
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	before := used()
	for range streams {
		a.begin(t, strings.Repeat("x", 64))
	}
	a.ask(t) // behind all of them
	each := int(used()-before) / streams
	t.Logf("%d bytes a stream", each)
	if each > want {
		t.Errorf("%d bytes a stream, want at most %d", each, want)
	}
}

func BenchmarkHTTP2Request(b *testing.B) {
	a := newAsker(b, http2Proxy(b))
	b.ReportAllocs()
	for b.Loop() {
		a.ask(b)
	}
}

func TestFloodsAreCountedByKind(t *testing.T) {
	p := http2Proxy(t)
	a := newAsker(t, p)
	for range 2 * limit.HTTP2ResetBurst { // at once: the limit forgets with time
		stream := a.add("wait")
		a.out = append(appendFrame(a.out, 4, frameReset, 0, stream), 0, 0, 0, 8)
	}
	if _, err := a.c.Write(a.out); err != nil {
		t.Fatal(err)
	}
	for {
		kind, _, _, payload, err := a.next()
		if err != nil {
			t.Fatalf("no GOAWAY: %v", err)
		}
		if kind == frameGoAway {
			if code := binary.BigEndian.Uint32(payload[4:]); http2.Code(code) != http2.EnhanceYourCalm {
				t.Errorf("GOAWAY %s", http2.Code(code))
			}
			break
		}
	}
	p.stop()
	if n := p.registry.Sum("tulle_http2_floods_total", observe.Label{Name: "kind", Value: "resets"}); n != 1 {
		t.Errorf("%v floods of resets", n)
	}
}

// The codec resets what breaks a rule of HTTP/2; it is counted and logged all
// the same, and the connection goes on.
func TestMalformedRequestsOfHTTP2AreLogged(t *testing.T) {
	p := http2Proxy(t)
	a := newAsker(t, p)
	const head = "\x82\x86\x04\x04/bad\x01\x04shop\x00\x0aconnection\x05close"
	if _, err := a.c.Write(append(appendFrame(nil, len(head), frameHeaders, endHeaders|endStream, a.stream), head...)); err != nil {
		t.Fatal(err)
	}
	a.stream += 2
	a.ask(t)
	if log := p.logged(); !strings.Contains(log, "GET /bad 0 DPE ") || !strings.Contains(log, "POST /test.Echo 200 ") {
		t.Errorf("log %q", log)
	}
	p.stop()
	if n := p.registry.Sum("istio_requests_total", observe.Label{Name: "response_flags", Value: "DPE"}); n != 1 {
		t.Errorf("%v requests with flag DPE", n)
	}
}
