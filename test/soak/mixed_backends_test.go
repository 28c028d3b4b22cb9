//go:build soak

package soak_test

import (
	"bytes"
	endian "encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// deed is what a server of HTTP/2 does with a stream.
type deed struct {
	name string
	do   func(c *chaosConn, s *chaosStream)
	// may are the outcomes, "status flags", that it can be the cause of; all those of the connection's other streams, when it concerns them.
	may, all []string
}

// chaos is a server of HTTP/2 that does one of its deeds to each stream.
type chaos struct {
	deeds  []deed
	record *record
	hello  []http2.Setting

	mu    sync.Mutex
	at    string
	l     net.Listener
	away  *life // while it is killed
	conns map[*chaosConn]bool
	all   sync.WaitGroup
}

// newChaos serves until the test ends. Its address is none that a client's end of a connection has.
func newChaos(t *testing.T, r *record, deeds []deed, hello ...http2.Setting) *chaos {
	t.Helper()
	b := &chaos{deeds: deeds, record: r, hello: hello, at: "127.0.0.9:0", conns: map[*chaosConn]bool{}}
	if err := b.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.kill(); b.all.Wait() })
	return b
}

// killed is the deed that resets connections.
const killed = "killed"

// kill ends everything as the end of a process does.
func (b *chaos) kill() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.away = b.record.away(b.at)
	_ = b.l.Close()
	for c := range b.conns {
		c.end(killed, []string{"503 UC", "200 UC"}, func() {})
		reset(c.Conn)
	}
}

// start listens, at the same address as before.
func (b *chaos) start() error {
	l, err := net.Listen("tcp", b.at)
	if err != nil {
		return err
	}
	b.mu.Lock()
	b.l, b.at = l, l.Addr().String()
	if b.away != nil {
		b.record.close(b.away)
	}
	b.mu.Unlock()
	b.all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			c := newChaosConn(b, conn)
			b.mu.Lock()
			b.conns[c] = true
			b.mu.Unlock()
			b.all.Go(c.serve)
		}
	})
	return nil
}

// active counts streams that neither side has ended.
func (b *chaos) active() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		c.mu.Lock()
		n += len(c.streams)
		c.mu.Unlock()
	}
	return n
}

// bidi ends the path of a call whose messages are echoed.
const bidi = "/bidi"

// chaosStream is a request.
type chaosStream struct {
	id    uint32
	path  string
	grpc  bool
	began bool // our head went out
	echo  bool // messages are answered as they come
	got   []byte
	ended bool // the client has sent all
	gone  chan struct{}
}

// chaosConn is a connection. Its reader is serve; whoever writes holds mu.
type chaosConn struct {
	net.Conn
	b    *chaos
	life *life
	work sync.WaitGroup

	mu      sync.Mutex
	framer  *http2.Framer
	text    bytes.Buffer
	enc     *hpack.Encoder
	streams map[uint32]*chaosStream
	last    uint32 // of our GOAWAY
	dead    *deed  // what ended the connection: streams that come late share its fate
}

func newChaosConn(b *chaos, conn net.Conn) *chaosConn {
	c := &chaosConn{Conn: conn, b: b, life: b.record.begin(conn.RemoteAddr().String() + ">" + conn.LocalAddr().String()), streams: map[uint32]*chaosStream{}, last: 1<<31 - 1}
	c.framer = http2.NewFramer(conn, conn)
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.enc = hpack.NewEncoder(&c.text)
	return c
}

func (c *chaosConn) serve() {
	defer func() {
		_ = c.Close()
		c.b.record.close(c.life)
		c.mu.Lock()
		for id := range c.streams {
			c.endLocked(id)
		}
		c.mu.Unlock()
		c.work.Wait()
		c.b.mu.Lock()
		delete(c.b.conns, c)
		c.b.mu.Unlock()
	}()
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c, preface); err != nil {
		return
	}
	c.mu.Lock()
	_ = c.framer.WriteSettings(c.b.hello...) // the reader notices an end
	c.mu.Unlock()
	for {
		f, err := c.framer.ReadFrame()
		if err != nil {
			return
		}
		c.mu.Lock()
		c.frameLocked(f)
		c.mu.Unlock()
	}
}

func (c *chaosConn) frameLocked(f http2.Frame) {
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if !f.IsAck() && c.dead == nil {
			_ = c.framer.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if !f.IsAck() && c.dead == nil {
			_ = c.framer.WritePing(true, f.Data)
		}
	case *http2.RSTStreamFrame:
		c.endLocked(f.StreamID)
	case *http2.DataFrame:
		c.dataLocked(f)
	case *http2.MetaHeadersFrame:
		c.requestLocked(f) // no client sends trailers
	}
}

// dataLocked gives the window back, and echoes.
func (c *chaosConn) dataLocked(f *http2.DataFrame) {
	s := c.streams[f.StreamID]
	if c.dead != nil {
		return
	}
	if f.Length > 0 {
		_ = c.framer.WriteWindowUpdate(0, f.Length)
	}
	if s == nil {
		return
	}
	if f.Length > 0 && !f.StreamEnded() {
		_ = c.framer.WriteWindowUpdate(f.StreamID, f.Length)
	}
	if strings.HasSuffix(s.path, bidi) {
		s.got = append(s.got, f.Data()...)
	}
	s.ended = f.StreamEnded()
	c.echoLocked(s)
}

// echoLocked answers what has come, when that has begun.
func (c *chaosConn) echoLocked(s *chaosStream) {
	if !s.echo {
		return
	}
	if len(s.got) > 0 {
		_ = c.framer.WriteData(s.id, false, s.got)
		s.got = nil
	}
	if s.ended {
		c.headLocked(s, true, "grpc-status", "0")
		c.endLocked(s.id)
	}
}

func (c *chaosConn) requestLocked(f *http2.MetaHeadersFrame) {
	c.b.record.read(c.life, f.PseudoValue("path"))
	if f.StreamID > c.last { // the proxy learns that we don't look, and repeats what it can (RFC 9113 §6.8)
		c.b.record.note(f.PseudoValue("path"), "behind GOAWAY", []string{"503 UC", "200 UC"})
		return
	}
	s := &chaosStream{id: f.StreamID, path: f.PseudoValue("path"), gone: make(chan struct{})}
	for _, h := range f.RegularFields() {
		s.grpc = s.grpc || h.Name == "content-type" && strings.HasPrefix(h.Value, "application/grpc")
	}
	c.streams[s.id] = s
	if c.dead != nil {
		c.b.record.note(s.path, "too late: "+c.dead.name, c.dead.all)
		return
	}
	d := &c.b.deeds[rand.IntN(len(c.b.deeds))]
	c.b.record.note(s.path, d.name, d.may)
	c.work.Go(func() { d.do(c, s) })
}

// endLocked ends a stream for us.
func (c *chaosConn) endLocked(id uint32) {
	if s := c.streams[id]; s != nil {
		delete(c.streams, id)
		close(s.gone)
	}
}

// end ends the connection by a deed: the other streams have it as a cause, and those that come until the proxy has read of it.
func (c *chaosConn) end(name string, all []string, write func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead != nil {
		return
	}
	c.dead = &deed{name: name, all: all}
	c.b.record.strike(c.life, all, name == killed)
	for _, s := range c.streams {
		c.b.record.note(s.path, "others: "+name, all)
	}
	write()
	_ = c.Conn.(*net.TCPConn).CloseWrite()
}

// with lets do write on a stream that there still is.
func (c *chaosConn) with(s *chaosStream, do func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.streams[s.id] == s && c.dead == nil {
		do()
	}
}

func (c *chaosConn) headLocked(s *chaosStream, end bool, fields ...string) {
	c.text.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = c.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}) // into memory
	}
	_ = c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: s.id, BlockFragment: c.text.Bytes(), EndHeaders: true, EndStream: end})
	s.began = true
}

// beginLocked sends a good head.
func (c *chaosConn) beginLocked(s *chaosStream) {
	kind := "text/plain"
	if s.grpc {
		kind = "application/grpc"
	}
	c.headLocked(s, false, ":status", "200", "content-type", kind)
}

// message is a message of gRPC of n bytes.
func message(n int) []byte {
	return append(endian.BigEndian.AppendUint32([]byte{0}, uint32(n)), bytes.Repeat([]byte{'m'}, n)...)
}

// fineLocked is a good answer, or its beginning: bidirectional calls are echoed.
func (c *chaosConn) fineLocked(s *chaosStream) {
	c.beginLocked(s)
	switch {
	case strings.HasSuffix(s.path, bidi):
		s.echo = true
		c.echoLocked(s)
		return
	case s.grpc:
		for range 1 + rand.IntN(4) {
			_ = c.framer.WriteData(s.id, false, message(rand.IntN(2000)))
		}
		c.headLocked(s, true, "grpc-status", "0")
	default:
		_ = c.framer.WriteData(s.id, true, bytes.Repeat([]byte{'x'}, rand.IntN(3000)))
	}
	c.endLocked(s.id)
}

func fine(c *chaosConn, s *chaosStream) { c.with(s, func() { c.fineLocked(s) }) }

func (c *chaosConn) reset(s *chaosStream, code http2.ErrCode) {
	c.with(s, func() {
		_ = c.framer.WriteRSTStream(s.id, code)
		c.endLocked(s.id)
	})
}

// later waits unless the stream ends first.
func (s *chaosStream) later(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-s.gone:
		return false
	case <-t.C:
		return true
	}
}

// partsTime is how far apart a head and what breaks off behind it are: what is read in one go has no head for the client.
const partsTime = 60 * time.Millisecond

// streamDeeds concern one stream.
func streamDeeds() []deed {
	good := []string{"200 -"}
	codes := []http2.ErrCode{http2.ErrCodeNo, http2.ErrCodeProtocol, http2.ErrCodeInternal, http2.ErrCodeCancel, http2.ErrCodeEnhanceYourCalm}
	wrong := func(write func(c *chaosConn, s *chaosStream)) func(*chaosConn, *chaosStream) {
		return func(c *chaosConn, s *chaosStream) {
			c.with(s, func() { write(c, s) })
			<-s.gone // the proxy resets it
		}
	}
	return []deed{
		{name: "fine", do: fine, may: good},
		{name: "fine", do: fine, may: good},
		{name: "fine, slowly", may: good, do: func(c *chaosConn, s *chaosStream) {
			if s.later(time.Duration(rand.Int64N(int64(100 * time.Millisecond)))) {
				fine(c, s)
			}
		}},
		{name: "trailers only", may: good, do: func(c *chaosConn, s *chaosStream) {
			c.with(s, func() {
				c.headLocked(s, true, ":status", "200", "content-type", "application/grpc", "grpc-status", "13", "grpc-message", "no")
				c.endLocked(s.id)
			})
		}},
		{name: "reset before the head", may: []string{"503 UR", "200 UR"}, do: func(c *chaosConn, s *chaosStream) { c.reset(s, codes[rand.IntN(len(codes))]) }},
		{name: "refused", may: []string{"503 UR", "200 UR"}, do: func(c *chaosConn, s *chaosStream) { c.reset(s, http2.ErrCodeRefusedStream) }},
		{name: "reset behind the head", may: []string{"200 UR"}, do: func(c *chaosConn, s *chaosStream) {
			c.with(s, func() { c.beginLocked(s) })
			if s.later(partsTime) {
				c.reset(s, codes[1+rand.IntN(len(codes)-1)])
			}
		}},
		{name: "reset within the body", may: []string{"200 UR"}, do: func(c *chaosConn, s *chaosStream) {
			c.with(s, func() { c.beginLocked(s); _ = c.framer.WriteData(s.id, false, message(500)[:300]) })
			if s.later(partsTime) {
				c.reset(s, codes[1+rand.IntN(len(codes)-1)])
			}
		}},
		{name: "no head in time", may: []string{"504 UT", "200 UT"}, do: func(_ *chaosConn, s *chaosStream) { <-s.gone }},
		{name: "a head and nothing more", may: []string{"200 UT"}, do: func(c *chaosConn, s *chaosStream) { c.with(s, func() { c.beginLocked(s) }); <-s.gone }},
		{name: "malformed head", may: []string{"502 UPE", "200 UPE"}, do: wrong(func(c *chaosConn, s *chaosStream) { c.headLocked(s, true, ":status", "2x0") })},
		{name: "window by nothing", may: []string{"502 UPE", "200 UPE"}, do: wrong(func(c *chaosConn, s *chaosStream) {
			_ = c.framer.WriteRawFrame(http2.FrameWindowUpdate, 0, s.id, make([]byte, 4))
		})},
		{name: "too little body", may: []string{"200 UPE"}, do: func(c *chaosConn, s *chaosStream) {
			c.with(s, func() { c.headLocked(s, false, ":status", "200", "content-length", "100") })
			if s.later(partsTime) {
				c.with(s, func() { _ = c.framer.WriteData(s.id, true, []byte("abc")) })
				<-s.gone
			}
		}},
	}
}

// connDeeds concern a connection.
func connDeeds() []deed {
	good, left, broken := []string{"200 -"}, []string{"503 UC", "200 UC"}, []string{"502 UPE", "200 UPE"}
	leave := func(code http2.ErrCode) func(*chaosConn, *chaosStream) {
		return func(c *chaosConn, s *chaosStream) {
			c.with(s, func() {
				c.b.record.strike(c.life, left, false)
				last := s.id
				for id, o := range c.streams { // those beyond are not processed, and are repeated
					if id > last {
						c.b.record.note(o.path, "left out by GOAWAY", left)
						c.endLocked(id)
					}
				}
				c.last = last
				_ = c.framer.WriteGoAway(last, code, nil)
				c.fineLocked(s)
			})
		}
	}
	ends := func(name string, all []string, begun bool, write func(c *chaosConn, s *chaosStream)) deed {
		return deed{name: name, may: all, all: all, do: func(c *chaosConn, s *chaosStream) {
			if begun {
				c.with(s, func() { c.beginLocked(s) })
				if !s.later(partsTime) {
					return
				}
			}
			c.end(name, all, func() { write(c, s) })
		}}
	}
	return []deed{
		{name: "fine", do: fine, may: good}, {name: "fine", do: fine, may: good}, {name: "fine", do: fine, may: good}, {name: "fine", do: fine, may: good},
		{name: "fine", do: fine, may: good}, {name: "fine", do: fine, may: good}, {name: "fine", do: fine, may: good}, {name: "fine", do: fine, may: good},
		{name: "GOAWAY", do: leave(http2.ErrCodeNo), may: good},
		{name: "GOAWAY with an error", do: leave(http2.ErrCodeInternal), may: good},
		ends("close", left, false, func(*chaosConn, *chaosStream) {}),
		ends("close behind the head", left, true, func(*chaosConn, *chaosStream) {}),
		ends("cut within a frame", left, true, func(c *chaosConn, s *chaosStream) {
			_, _ = c.Write(append([]byte{0, 0, 100, 0, 0, 0, 0, 0, byte(s.id)}, "abc"...))
		}),
		ends("garbage", broken, false, func(c *chaosConn, _ *chaosStream) { _, _ = io.WriteString(c, "SSH-2.0-OpenSSH_9.6\r\n\r\n") }),
		{name: "smaller limits", may: good, do: func(c *chaosConn, s *chaosStream) {
			c.with(s, func() {
				_ = c.framer.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10},
					http2.Setting{ID: http2.SettingHeaderTableSize, Val: uint32(rand.IntN(2) * 4096)})
			})
			fine(c, s)
		}},
	}
}
