package http2

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	xnet "golang.org/x/net/http2"

	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// asked are the requests of both clients, on streams 1, 3, 5 and 7: the body of
// the POST never ends, and nobody reads the body of the last one's response.
func asked() []string { return []string{"GET", "HEAD", "POST", "GET"} }

const askedHold = 7

// clientUnderTest is our Session with a caller.
type clientUnderTest struct {
	ours
	streams []*calling
}

type calling struct {
	st   *Stream
	over bool
}

func newClientUnderTest() *clientUnderTest {
	u := &clientUnderTest{ours: newOurs(Options{Role: Client, StreamsMax: 100, StreamWindow: differWindow, ConnWindow: windowDefault, HeadBytesMax: differHead, HeadFieldsMax: 1000})}
	for _, method := range asked() {
		st := u.s.open()
		h := request()
		h.Method = []byte(method)
		u.s.sendRequest(st, &Part{Head: h}, method != "POST")
		u.streams = append(u.streams, &calling{st: st})
	}
	u.take(u.s.out[len(Preface):])
	u.s.out = u.s.out[:0]
	return u
}

func (u *clientUnderTest) step(_ uint32, b []byte) (out []event) {
	if u.failed {
		return nil
	}
	u.feed(b)
	for _, c := range u.streams {
		if !c.over && !u.failed {
			out = append(out, u.goOn(c)...)
		}
	}
	out = append(out, u.take(u.s.out)...)
	u.s.out = u.s.out[:0]
	return out
}

// goOn is what a caller does with what has come.
func (u *clientUnderTest) goOn(c *calling) (out []event) {
	st := c.st
	for st.hasHead {
		var h message.Head
		st.nextHead(&h)
		fields := map[string][]string{}
		for _, f := range h.Fields() {
			fields[string(f.Name)] = append(fields[string(f.Name)], string(f.Value))
		}
		out = append(out, event{st.ID, fmt.Sprintf("gets %d %s", h.Status, fieldsSaid(fields))})
	}
	if st.ID == askedHold && st.gotFinal {
		return out
	}
	if n := len(st.body); n > 0 {
		var b body
		b.add(st.body)
		st.body = st.body[:0]
		u.s.consumed(st, int64(n))
		out = append(out, event{st.ID, fmt.Sprintf("body %d %x", b.n, b.sum)})
	}
	var reset *ResetError
	var broken *StreamError
	switch {
	case errors.As(st.err, &reset):
		out = append(out, event{st.ID, "fails by the peer's " + reset.Code.String()})
	case errors.As(st.err, &broken):
		out = append(out, event{st.ID, "fails by our " + broken.Code.String()})
	case errors.Is(st.err, ErrNotProcessed):
		out = append(out, event{st.ID, "was not processed"})
	case st.remoteEnd:
		trailers := map[string][]string{}
		for _, f := range st.trail.Fields() {
			trailers[string(f.Name)] = append(trailers[string(f.Name)], string(f.Value))
		}
		out = append(out, event{st.ID, "complete " + fieldsSaid(trailers)})
	default:
		return out
	}
	c.over = true
	u.s.close(st)
	return out
}

// theirClient is golang.org/x/net/http2's Transport with a caller for each
// request.
type theirClient struct {
	theirServer
	conn  *xnet.ClientConn //nolint:staticcheck // SA1019: it is what this test compares with
	leave chan struct{}
	code  atomic.Pointer[string] // of a connection error that a caller saw
}

func newTheirClient(t *testing.T) *theirClient {
	t.Helper()
	x := &theirClient{leave: make(chan struct{})}
	x.speech, x.bodies = newSpeech(), map[uint32]*body{}
	end, theirs := net.Pipe()
	x.end = end
	x.listen()
	t1 := &http.Transport{DisableCompression: true, HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: differWindow, MaxReceiveBufferPerConnection: windowDefault, MaxReadFrameSize: frameBytesMin}}
	h2, err := xnet.ConfigureTransports(t1) //nolint:staticcheck // SA1019: it is what this test compares with
	if err != nil {
		t.Fatal(err)
	}
	h2.MaxHeaderListSize = differHead                       //nolint:staticcheck // SA1019: as above
	if x.conn, err = h2.NewClientConn(theirs); err != nil { //nolint:staticcheck // SA1019: as above
		t.Fatal(err)
	}
	for i, method := range asked() {
		x.work.Go(func() { x.call(uint32(2*i+1), method) })
		synctest.Wait()
	}
	x.mu.Lock()
	said := drained(&x.said)
	x.mu.Unlock()
	x.take(said[len(Preface):])
	return x
}

func (x *theirClient) close() {
	close(x.leave)
	_ = x.conn.Close()
	x.theirServer.close()
}

func (x *theirClient) step(stream uint32, b []byte) []event {
	out := x.theirServer.step(stream, b)
	code := x.code.Load()
	for i := range out {
		if out[i] == (event{0, "closed"}) && code != nil {
			out[i].what = "goaway " + *code
		}
	}
	return out
}

// unended is a body that does not end.
type unended struct{ leave chan struct{} }

func (u unended) Read([]byte) (int, error) {
	<-u.leave
	return 0, io.EOF
}

// call makes one request and reads its response.
func (x *theirClient) call(id uint32, method string) {
	req, err := http.NewRequest(method, "http://a/", nil)
	if err != nil {
		panic(err) // the URL is ours
	}
	if method == "POST" {
		closed := make(chan struct{})
		req.Body = struct {
			io.Reader
			io.Closer
		}{unended{closed}, closer(func() {
			select {
			case <-closed:
			default:
				close(closed)
			}
		})}
	}
	req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{Got1xxResponse: func(status int, h textproto.MIMEHeader) error {
		x.note(id, "gets %d %s", status, fieldsSaid(h))
		return nil
	}}))
	resp, err := x.conn.RoundTrip(req)
	if err != nil {
		x.fails(id, err)
		return
	}
	defer resp.Body.Close()
	x.note(id, "gets %d %s", resp.StatusCode, fieldsSaid(resp.Header))
	if id == askedHold {
		<-x.leave
		return
	}
	b := make([]byte, 32<<10)
	for {
		n, err := resp.Body.Read(b)
		if n > 0 {
			x.mu.Lock()
			if x.bodies[id] == nil {
				x.bodies[id] = &body{}
			}
			x.bodies[id].add(b[:n])
			x.mu.Unlock()
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			x.fails(id, err)
			return
		}
	}
	trailers := map[string][]string{}
	for name, values := range resp.Trailer {
		if values != nil {
			trailers[name] = values
		}
	}
	x.note(id, "complete %s", fieldsSaid(trailers))
}

type closer func()

func (c closer) Close() error { c(); return nil }

func (x *theirClient) fails(id uint32, err error) {
	var one xnet.StreamError
	var all xnet.ConnectionError
	switch {
	case errors.As(err, &all):
		code := Code(all).String()
		x.code.Store(&code)
		x.note(id, "fails with the connection")
	case errors.As(err, &one) && strings.Contains(err.Error(), "received from peer"):
		x.note(id, "fails by the peer's %s", Code(one.Code))
	case errors.As(err, &one):
		x.note(id, "fails by our %s", Code(one.Code))
	case strings.Contains(err.Error(), "GOAWAY"), strings.Contains(err.Error(), "graceful shutdown"):
		x.note(id, "was not processed")
	default:
		x.note(id, "fails: %v", err)
	}
}

// differClients runs a script against both clients and returns the rules that it needed.
func differClients(t *testing.T, s *script) map[string]int {
	t.Helper()
	used := map[string]int{}
	synctest.Test(t, func(t *testing.T) {
		ours := newClientUnderTest()
		d := &differ{session: ours.s, ours: ours, theirs: newTheirClient(t), rules: clientRules(), used: used, parted: map[uint32]bool{}, refused: map[uint32]bool{}, bodiless: map[uint32]bool{}}
		s.nextID = uint32(2*len(asked()) + 1)
		d.run(t, s)
	})
	return used
}

// Whatever a server sends: our client sees what golang.org/x/net/http2's does, or a rule says why not.
func TestClientsSeeTheSame(t *testing.T) {
	quiet(t)
	long := "x-long: " + strings.Repeat("l", 900)
	s := newScript(nil, Client)
	large := s.block("response", 1, []string{":status: 200", long, long, long}, true)
	s.decode(large)
	(&table{run: differClients, role: Client, rules: clientRules(), shared: frameRules(), seeds: []int{2347, 2441, 2648, 6670, 14373, 25502, 26358, 36246, 47140}, stories: [][]*step{{large}}}).test(t)
}

// quiet keeps x/net's Transport, which logs to the standard logger alone, from telling every fault.
func quiet(t testing.TB) {
	was := log.Writer()
	log.SetOutput(io.Discard)
	t.Cleanup(func() { log.SetOutput(was) })
}

func FuzzClients(f *testing.F) {
	quiet(f)
	for b := range scripts(200) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 400 {
			differClients(t, newScript(b, Client))
		}
	})
}
