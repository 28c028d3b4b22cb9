//go:build conformance

package http2_test

import (
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	"golang.org/x/net/http2"

	"github.com/tullemesh/tulle/internal/testkit/proxyrun"
)

// step is one frame of a conversation.
type step struct {
	client bool
	kind   string
	bytes  int
	end    bool
}

// conversations reads the scenario file.
func conversations(t *testing.T) map[string][]step {
	t.Helper()
	a, err := txtar.ParseFile(filepath.Join("testdata", "conversations.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]step{}
	for _, f := range a.Files {
		for line := range strings.Lines(string(f.Data)) {
			words := strings.Fields(line)
			s := step{client: words[0] == "client", kind: words[1], end: words[len(words)-1] == "END"}
			if s.kind == "DATA" {
				if _, err := fmt.Sscan(words[2], &s.bytes); err != nil {
					t.Fatalf("%s: %q: %v", f.Name, line, err)
				}
			}
			out[f.Name] = append(out[f.Name], s)
		}
	}
	return out
}

// seen is what one side has seen of a stream.
type seen struct {
	heads, bytes int
	status       string
	ended        bool
	reset        string
	closed       bool
}

// side is one end of a conversation.
type side struct {
	w      *wire
	stream uint32

	mu   sync.Mutex
	seen seen
	news chan struct{} // of size 1: seen has changed
}

func newSide(w *wire, stream uint32) *side {
	return &side{w: w, stream: stream, news: make(chan struct{}, 1)}
}

// take notes a frame of the stream; nil: the connection has ended.
func (s *side) take(f http2.Frame) {
	s.mu.Lock()
	switch f := f.(type) {
	case nil:
		s.seen.closed = true
	case *http2.MetaHeadersFrame:
		if f.PseudoValue("status") != "" {
			s.seen.status = f.PseudoValue("status")
		}
		s.seen.heads++
		s.seen.ended = s.seen.ended || f.StreamEnded()
	case *http2.DataFrame:
		s.seen.bytes += len(f.Data())
		s.seen.ended = s.seen.ended || f.StreamEnded()
	case *http2.RSTStreamFrame:
		s.seen.reset = f.ErrCode.String()
	}
	s.mu.Unlock()
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// await waits until what was seen is as wanted.
func (s *side) await(t *testing.T, what string, ok func(seen) bool) seen {
	t.Helper()
	limit := time.NewTimer(lookTime)
	defer limit.Stop()
	for {
		s.mu.Lock()
		now := s.seen
		s.mu.Unlock()
		if ok(now) {
			return now
		}
		select {
		case <-s.news:
		case <-limit.C:
			t.Fatalf("not within %v: %s; seen: %+v", lookTime, what, now)
		}
	}
}

// send sends a step.
func (s *side) send(path string, st step) {
	flags := byte(0)
	if st.end {
		flags = endStream
	}
	switch st.kind {
	case "HEADERS":
		if st.client {
			s.w.headers(s.stream, flags, ":method", "POST", ":scheme", "http", ":path", path, ":authority", "shop", "te", "trailers")
		} else {
			s.w.headers(s.stream, flags, ":status", "200")
		}
	case "HINTS":
		s.w.headers(s.stream, 0, ":status", "103", "link", "</a>")
	case "DATA":
		s.w.data(s.stream, flags, strings.Repeat("x", st.bytes))
	case "TRAILERS":
		s.w.headers(s.stream, flags, "x-sum", "1")
	}
}

// exchange is a running conversation.
type exchange struct {
	client, server *side
	path           string
	// toServer and toClient are what each must see next.
	toServer, toClient seen
}

// play plays one step and waits until the other side has seen it.
func (x *exchange) play(t *testing.T, st step, arrivals chan *side) {
	t.Helper()
	from, to, want := x.client, x.server, &x.toServer
	if !st.client {
		from, to, want = x.server, x.client, &x.toClient
	}
	from.send(x.path, st)
	if st.kind == "DATA" {
		want.bytes += st.bytes
	} else {
		want.heads++
	}
	want.ended = want.ended || st.end
	if st.client && x.server == nil {
		select {
		case x.server = <-arrivals:
		case <-time.After(lookTime):
			t.Fatalf("the request does not arrive")
		}
		to = x.server
	}
	to.await(t, fmt.Sprintf("%+v arrives", st), func(s seen) bool { return s.heads == want.heads && s.bytes == want.bytes && s.ended == want.ended })
}

// fault ends a conversation from one side.
type fault struct {
	name   string
	client bool
	do     func(s *side)
	// flag is what the access log says of it; nothing, when fine, of one behind a whole request.
	flag string
	fine bool
}

func faults() []fault {
	var out []fault
	for _, code := range []http2.ErrCode{http2.ErrCodeNo, http2.ErrCodeInternal, http2.ErrCodeRefusedStream, http2.ErrCodeCancel} {
		reset := func(s *side) { s.w.reset(s.stream, code) }
		out = append(out, fault{name: "client resets by " + code.String(), client: true, do: reset, flag: "DR", fine: code == http2.ErrCodeNo})
		if code == http2.ErrCodeRefusedStream {
			continue // a server's refusal is asked again
		}
		out = append(out, fault{name: "server resets by " + code.String(), do: reset, flag: "UR"})
	}
	leave := func(s *side) { _ = s.w.Close() }
	abort := func(s *side) {
		_ = s.w.Conn.(*net.TCPConn).SetLinger(0)
		_ = s.w.Close()
	}
	return append(out, fault{name: "client leaves", client: true, do: leave, flag: "DC"}, fault{name: "server leaves", do: leave, flag: "UC"},
		fault{name: "client aborts", client: true, do: abort, flag: "DC"}, fault{name: "server aborts", do: abort, flag: "UC"})
}

// TestResetsAtEveryFrameBoundary: whoever is left learns of it at once, nobody's stream stays, and the log says who it was.
func TestResetsAtEveryFrameBoundary(t *testing.T) {
	arrivals := make(chan *side, 1)
	at := serveWire(t, func(_ int, w *wire) {
		sides := map[uint32]*side{}
		defer func() {
			for _, s := range sides {
				s.take(nil)
			}
		}()
		if _, err := w.Read(make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		w.settings()
		for {
			f, err := w.next()
			if err != nil {
				return
			}
			id := f.Header().StreamID
			_, isHead := f.(*http2.MetaHeadersFrame)
			if s := sides[id]; s != nil {
				s.take(f)
			} else if isHead {
				s := newSide(w, id)
				sides[id] = s
				s.take(f)
				arrivals <- s
			}
		}
	})
	bootstrap := proxyrun.Bootstrap([]proxyrun.Listener{{Name: "front"}}, []proxyrun.Cluster{{Name: "be", To: []string{at}, HTTP2: true}})
	t.Run("ours", func(t *testing.T) {
		breakAllOff(t, proxyrun.Start(t, tulle, bootstrap), conversations(t), faults(), arrivals)
	})
	// What a client does is logged as stock Envoy logs it, which passes no hints on.
	t.Run("stock Envoy", func(t *testing.T) {
		envoy, all := proxyrun.Envoy(t, filepath.Join("..", "..", "envoy.sh"), bootstrap), conversations(t)
		delete(all, "hints first")
		breakAllOff(t, envoy, all, slices.DeleteFunc(faults(), func(f fault) bool { return !f.client }), arrivals)
	})
}

// breakAllOff breaks every conversation off in all ways.
func breakAllOff(t *testing.T, p *proxyrun.Proxy, talks map[string][]step, all []fault, arrivals chan *side) {
	front, number := p.At(t, "front"), 0
	for name, steps := range talks {
		for n := 1; n <= len(steps); n++ {
			for _, f := range all {
				if n == len(steps) && f.name != "client leaves" {
					continue // it is complete: once is enough
				}
				number++
				path := fmt.Sprintf("/%d", number)
				t.Run(fmt.Sprintf("%s/%s behind frame %d", name, f.name, n), func(t *testing.T) { breakOff(t, p, front, path, steps, n, f, arrivals) })
			}
		}
	}
}

// breakOff plays n steps, does the fault, and looks at who is left.
func breakOff(t *testing.T, p *proxyrun.Proxy, front, path string, steps []step, n int, f fault, arrivals chan *side) {
	x := &exchange{path: path}
	w := dial(t, front)
	defer w.Close()
	x.client = newSide(w, 1)
	reading := make(chan struct{})
	go func() {
		defer close(reading)
		for {
			fr, err := w.next()
			if err != nil {
				x.client.take(nil)
				return
			}
			if fr.Header().StreamID == 1 {
				x.client.take(fr)
			}
		}
	}()
	defer func() {
		_ = w.Close()
		<-reading
	}()
	for _, st := range steps[:n] {
		x.play(t, st, arrivals)
	}
	if n == len(steps) {
		if got := flagsOf(t, p, front+path); got != "-" {
			t.Errorf("a whole conversation is logged as %q", got)
		}
		return
	}
	actor, left := x.client, x.server
	if !f.client {
		actor, left = x.server, x.client
	}
	f.do(actor)
	if f.client {
		left.await(t, "the server learns of it", func(s seen) bool { return s.reset != "" || s.closed || x.toServer.ended && x.toClient.ended })
	} else {
		got := left.await(t, "the client learns of it", func(s seen) bool { return s.reset != "" || s.closed || s.ended })
		final := x.toClient.heads > 0 && got.status == "200"
		if final && got.ended && !x.toClient.ended {
			t.Errorf("what was broken off looks complete: %+v", got)
		}
		if !final && got.status != "503" {
			t.Errorf("the client got %+v in place of 503", got)
		}
	}
	want := f.flag
	if x.toServer.ended && f.fine {
		want = "-"
	}
	if x.toClient.ended && !f.client {
		want = "-" // the answer is complete, whatever the server does then (RFC 9113 §8.1)
	}
	if got := flagsOf(t, p, front+path); got != want {
		t.Errorf("flags %q, want %q", got, want)
	}
}
