package http2

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	xnet "golang.org/x/net/http2"

	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// What both servers announce.
const (
	differStreams = 4
	differWindow  = 20000
	differHead    = 2000
)

// serverUnderTest is our Session with a handler that does what theirs does: by
// path it answers at once (/early), never (/hold), or with the request's body when
// that is complete.
type serverUnderTest struct {
	ours
	said    []byte
	streams []*handled
}

type handled struct {
	st         *Stream
	hold, head bool
	got        []byte
	answered   bool
	left       []byte // of the answer
}

func newServerUnderTest() *serverUnderTest {
	u := &serverUnderTest{ours: newOurs(Options{StreamsMax: differStreams, StreamWindow: differWindow, ConnWindow: windowDefault, HeadBytesMax: differHead, HeadFieldsMax: 1000})}
	u.take(u.s.out)
	u.s.out = u.s.out[:0]
	return u
}

func (u *serverUnderTest) step(_ uint32, b []byte) (out []event) {
	if u.failed {
		return nil
	}
	if u.feed(b); !u.failed {
		out = u.serve()
	}
	u.flush()
	out = append(out, u.take(u.said)...)
	u.said = u.said[:0]
	return out
}

// flush makes room for more, as writing does.
func (u *serverUnderTest) flush() {
	u.said = append(u.said, u.s.out...)
	u.s.out = u.s.out[:0]
}

// serve is what the proxy does with what a turn brought.
func (u *serverUnderTest) serve() (out []event) {
	for _, st := range u.s.opened {
		h := &handled{st: st, head: string(st.Head.Method) == "HEAD"}
		u.streams = append(u.streams, h)
		if st.TooLarge {
			u.answer(h, 431, nil)
			continue
		}
		fields := map[string][]string{}
		for _, f := range st.Head.Fields() {
			fields[string(f.Name)] = append(fields[string(f.Name)], string(f.Value))
		}
		path := string(st.Head.Path)
		if string(st.Head.Method) == "CONNECT" {
			path = string(st.Head.Authority)
		}
		out = append(out, event{st.ID, fmt.Sprintf("request %s %s %s %s", st.Head.Method, path, st.Head.Authority, fieldsSaid(fields))})
		h.hold = strings.HasPrefix(path, "/hold")
		if strings.HasPrefix(path, "/early") {
			u.answer(h, 200, nil)
		}
	}
	for _, h := range u.streams {
		out = append(out, u.goOn(h)...)
	}
	return out
}

// goOn reads what has come, and answers when that is all.
func (u *serverUnderTest) goOn(h *handled) (out []event) {
	st := h.st
	switch {
	case h.answered && len(h.left) == 0:
		return nil
	case st.gone:
		if h.left = nil; h.answered {
			return nil
		}
		h.answered = true
		return []event{{st.ID, "fails"}}
	case h.answered:
		u.send(h)
		return nil
	case h.hold:
		return nil
	}
	if n := len(st.body); n > 0 {
		var b body
		b.add(st.body)
		h.got = append(h.got, st.body...)
		st.body = st.body[:0]
		u.s.consumed(st, int64(n))
		out = append(out, event{st.ID, fmt.Sprintf("body %d %x", b.n, b.sum)})
	}
	if st.remoteEnd {
		trailers := map[string][]string{}
		for _, f := range st.trail.Fields() {
			trailers[string(f.Name)] = append(trailers[string(f.Name)], string(f.Value))
		}
		out = append(out, event{st.ID, "complete " + fieldsSaid(trailers)})
		u.answer(h, 200, h.got)
	}
	return out
}

func (u *serverUnderTest) answer(h *handled, status int, b []byte) {
	if h.head {
		b = nil
	}
	h.answered, h.left = true, b
	u.s.sendResponse(h.st, &message.Head{Status: status}, len(b) == 0)
	u.send(h)
}

func (u *serverUnderTest) send(h *handled) {
	for len(h.left) > 0 {
		n := u.s.sendData(h.st, h.left, true)
		if n == 0 {
			return // there is no window
		}
		h.left = h.left[n:]
		u.flush()
	}
	if len(h.left) == 0 {
		u.s.close(h.st)
	}
}

// theirServer is golang.org/x/net/http2's server at the other end of a pipe,
// within a bubble of testing/synctest: a step is over when nothing moves.
type theirServer struct {
	*speech
	end  net.Conn
	work sync.WaitGroup

	mu     sync.Mutex
	about  uint32 // the stream of the step
	events []event
	bodies map[uint32]*body
	said   bytes.Buffer
	closed bool
}

func newTheirServer() *theirServer {
	x := &theirServer{speech: newSpeech(), bodies: map[uint32]*body{}}
	end, theirs := net.Pipe()
	x.end = end
	hs := &http.Server{Handler: x, ErrorLog: log.New(io.Discard, "", 0), MaxHeaderBytes: differHead - 10*32,
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: differStreams, MaxReceiveBufferPerStream: differWindow, MaxReceiveBufferPerConnection: windowDefault, MaxReadFrameSize: frameBytesMin}}
	h2 := &xnet.Server{}                                 //nolint:staticcheck // SA1019: it is what this test compares with
	if err := xnet.ConfigureServer(hs, h2); err != nil { //nolint:staticcheck // SA1019: as above
		panic(err) // the options are ours
	}
	serve := &xnet.ServeConnOpts{BaseConfig: hs, Handler: x} //nolint:staticcheck // SA1019: as above
	x.work.Go(func() { h2.ServeConn(theirs, serve) })        //nolint:staticcheck // SA1019: as above
	x.listen()
	synctest.Wait()
	x.collect()
	return x
}

// listen collects what the other end says.
func (x *theirServer) listen() {
	x.work.Go(func() {
		b := make([]byte, 32<<10)
		for {
			n, err := x.end.Read(b)
			x.mu.Lock()
			x.said.Write(b[:n])
			x.closed = err != nil
			x.mu.Unlock()
			if err != nil {
				return
			}
		}
	})
}

func (x *theirServer) close() {
	_ = x.end.Close()
	x.work.Wait()
}

func (x *theirServer) step(stream uint32, b []byte) []event {
	x.mu.Lock()
	x.about = stream
	x.mu.Unlock()
	x.sent(b)
	var took atomic.Bool
	x.work.Go(func() {
		_, err := x.end.Write(b)
		took.Store(err == nil)
	})
	synctest.Wait()
	out := x.collect()
	if !took.Load() && !slices.ContainsFunc(out, event.ends) {
		out = append(out, event{0, "closed"}) // it reads no more
	}
	return out
}

func (x *theirServer) collect() []event {
	x.mu.Lock()
	defer x.mu.Unlock()
	out := x.events
	for id, b := range x.bodies {
		out = append(out, event{id, fmt.Sprintf("body %d %x", b.n, b.sum)})
	}
	x.events, x.bodies = nil, map[uint32]*body{}
	out = append(out, x.take(drained(&x.said))...)
	if x.closed {
		out = append(out, event{0, "closed"})
	}
	return out
}

func (x *theirServer) note(id uint32, format string, args ...any) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.events = append(x.events, event{id, fmt.Sprintf(format, args...)})
}

// ServeHTTP implements http.Handler.
func (x *theirServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x.mu.Lock()
	id := x.about
	x.mu.Unlock()
	x.note(id, "request %s %s %s %s", r.Method, r.RequestURI, r.Host, fieldsSaid(r.Header))
	switch {
	case strings.HasPrefix(r.RequestURI, "/early"):
		return
	case strings.HasPrefix(r.RequestURI, "/hold"):
		<-r.Context().Done()
		x.note(id, "fails")
		return
	}
	var got []byte
	b := make([]byte, 32<<10)
	for {
		n, err := r.Body.Read(b)
		if n > 0 {
			x.mu.Lock()
			if x.bodies[id] == nil {
				x.bodies[id] = &body{}
			}
			x.bodies[id].add(b[:n])
			x.mu.Unlock()
			got = append(got, b[:n]...)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			x.note(id, "fails")
			panic(http.ErrAbortHandler)
		}
	}
	trailers := map[string][]string{}
	for name, values := range r.Trailer {
		if values != nil {
			trailers[name] = values
		}
	}
	x.note(id, "complete %s", fieldsSaid(trailers))
	_, _ = w.Write(got) // what the client sees of it is compared
}

// differServers runs a script against both servers and returns the rules that it needed.
func differServers(t *testing.T, s *script) map[string]int {
	t.Helper()
	used := map[string]int{}
	synctest.Test(t, func(t *testing.T) {
		ours := newServerUnderTest()
		d := &differ{session: ours.s, ours: ours, theirs: newTheirServer(), rules: serverRules(), used: used, parted: map[uint32]bool{}, refused: map[uint32]bool{}, bodiless: map[uint32]bool{}}
		d.run(t, s)
	})
	return used
}

// Whatever a client sends: our server does what golang.org/x/net/http2's does, or a rule says why not.
func TestServersDoTheSame(t *testing.T) {
	(&table{run: differServers, role: Server, rules: serverRules(), seeds: []int{1346, 1501, 1727, 2184, 2634, 2806, 5470, 7060, 7616, 10746, 19769, 52279, 68396, 93366}, stories: serverStories()}).test(t)
}

// serverStories are what chance seldom finds.
func serverStories() [][]*step {
	long := "x-long: " + strings.Repeat("l", 900)
	post := func(s *script, id uint32, path string, more ...string) *step {
		st := s.block("request", id, append([]string{":method: POST", ":scheme: http", ":path: " + path, ":authority: a"}, more...), false)
		s.decode(st)
		return st
	}
	data := func(s *script, id uint32, sizes ...int) (out []*step) {
		for _, n := range sizes {
			st := s.frame("DATA", kindData, 0, id, make([]byte, n))
			st.data = n
			out = append(out, st)
		}
		return out
	}
	large, slow, full, behind := newScript(nil, Server), newScript(nil, Server), newScript(nil, Server), newScript(nil, Server)
	first := post(behind, 1, "/echo")
	trail := behind.block("trailers", 1, []string{long, long, long}, true)
	behind.decode(trail)
	many := appendFrameHead(nil, 0, kindHeaders, flagEndStream, 1)
	for range 2 * continuationsMax {
		many = appendFrameHead(many, 0, kindContinuation, 0, 1)
	}
	var filled []*step
	for id := uint32(1); id < 7; id += 2 {
		filled = append(append(filled, post(full, id, "/hold")), data(full, id, 16384, 3616)...)
	}
	return [][]*step{
		{post(large, 1, "/echo", long, long, long)},
		{first, trail},
		{{name: "request", kind: kindHeaders, stream: 1, bytes: many}},
		append([]*step{post(slow, 1, "/echo")}, data(slow, 1, 1000, 4000, 16384)...),
		append(append(filled, post(full, 7, "/hold")), data(full, 7, 5000, 1000)...),
		{large.frame("HEADERS", kindHeaders, flagEndHeaders|flagEndStream, 1, []byte("\x82\x84\x86\x41\x01a")), large.frame("HEADERS", kindHeaders, flagEndHeaders|flagEndStream, 3, []byte("\x20\x3f\xe1\x1f\x82\x84\x86\x01\x01a")),
			large.frame("HEADERS", kindHeaders, flagEndHeaders|flagEndStream, 5, []byte("\x3f\x45\x3f\xe1\x1f\x82\x84\x86\x01\x01a")),
			large.frame("HEADERS", kindHeaders, flagEndHeaders|flagEndStream, 7, []byte("\x40\x01x\x01y\x82\x84\x86\x01\x01a")), large.frame("HEADERS", kindHeaders, flagEndHeaders|flagEndStream, 9, []byte("\x3f\x45\x3f\xe1\x1f\x82\x84\x86\x01\x01a"))},
		{large.frame("HEADERS", kindHeaders, flagEndHeaders, 1, []byte("\x00\x03X-A\x01b\x00\x01x\x81\x00"))}, // no name may be in upper case, and the last value is no Huffman code
	}
}

func FuzzServers(f *testing.F) {
	for b := range scripts(200) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 400 {
			differServers(t, newScript(b, Server))
		}
	})
}
