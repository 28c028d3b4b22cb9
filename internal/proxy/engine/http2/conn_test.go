package http2

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair is two ends of a TCP connection.
func pair(t testing.TB) (a, b *conn.Socket) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
		}
		got <- c
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if a, err = conn.New(c); err != nil {
		t.Fatal(err)
	}
	if b, err = conn.New(<-got); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// serving runs a connection; its end is sent to the channel.
func serving(t testing.TB, s *conn.Socket, o Options, timeouts Timeouts, handle func(*Stream)) (*Conn, <-chan error) {
	t.Helper()
	c := NewConn(s, conn.NewClock(), o, timeouts, nil)
	done := make(chan error, 1)
	var work sync.WaitGroup
	work.Go(func() {
		done <- c.Serve(nil, func(_ *Turn, st *Stream) {
			work.Go(func() { handle(st) })
		})
		s.Close()
	})
	t.Cleanup(func() { s.Close(); work.Wait() })
	return c, done
}

func request() *message.Head {
	return &message.Head{Method: []byte("POST"), Scheme: []byte("http"), Path: []byte("/"), Authority: []byte("a")}
}

// echoing answers with the request's body and trailers.
func echoing(t testing.TB) func(*Stream) {
	return func(st *Stream) {
		defer st.Close()
		_ = st.WriteResponse(&message.Head{Status: 200}, false)
		b := make([]byte, 3000)
		for {
			n, err := st.Read(b)
			if err != nil && !errors.Is(err, io.EOF) {
				return
			}
			if _, werr := st.Write(b[:n], false); werr != nil {
				return
			}
			if err != nil {
				if err := st.WriteTrailers(st.Trailers()); err != nil {
					t.Error(err)
				}
				return
			}
		}
	}
}

func within(t *testing.T, what string, done <-chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("still waiting for " + what)
		return nil
	}
}

// eventually polls until something holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	end := time.After(20 * time.Second)
	for !holds() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatal("still waiting for " + what)
		}
	}
}

func TestBigBodiesPassThroughTinyWindows(t *testing.T) {
	a, b := pair(t)
	serving(t, a, Options{StreamWindow: 1000, ConnWindow: windowDefault}, Timeouts{}, echoing(t))
	c, _ := serving(t, b, Options{Role: Client, StreamWindow: 700, ConnWindow: windowDefault}, Timeouts{}, nil)
	if err := c.Ready(context.Background()); err != nil {
		t.Fatal(err)
	}
	body := bytes.Repeat([]byte("0123456789"), 30000)
	var work sync.WaitGroup
	for range 5 {
		work.Go(func() {
			st, err := c.Open()
			if err != nil {
				t.Error(err)
				return
			}
			defer st.Close()
			_ = st.WriteRequest(request(), false, false)
			work.Go(func() {
				_, _ = st.Write(body, false)
				var tr message.Head
				tr.SetString("sum", "7")
				_ = st.WriteTrailers(&tr)
			})
			var h message.Head
			if _, err := st.ReadHead(&h); err != nil || h.Status != 200 {
				t.Error(h.Status, err)
				return
			}
			got, err := io.ReadAll(st)
			if err != nil || !bytes.Equal(got, body) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if v, _ := st.Trailers().Get("sum"); string(v) != "7" {
				t.Errorf("trailer %q", v)
			}
		})
	}
	work.Wait()
}

// A reader that does not read stops its own stream, and the writer waits.
func TestAReaderThatWaitsHoldsTheWriterBackAndNobodyElse(t *testing.T) {
	a, b := pair(t)
	serving(t, a, Options{}, Timeouts{}, echoing(t))
	c, _ := serving(t, b, Options{Role: Client, StreamWindow: 1000}, Timeouts{}, nil)
	open := func() *Stream {
		st, err := c.Open()
		if err != nil {
			t.Fatal(err)
		}
		_ = st.WriteRequest(request(), false, false)
		return st
	}
	slow, fast := open(), open()
	if _, err := slow.Write(make([]byte, 50000), true); err != nil {
		t.Fatal(err)
	}
	if _, err := fast.Write([]byte("hi"), true); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(fast); err != nil || string(got) != "hi" {
		t.Errorf("%q, %v", got, err)
	}
	if n, complete := slow.Complete(); n > 1000 || complete {
		t.Errorf("%d bytes wait, complete %v", n, complete)
	}
	if got, err := io.ReadAll(slow); err != nil || len(got) != 50000 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	slow.Close()
	fast.Close()
}

// told is a watcher that passes on why a stream failed.
type told chan error

func (c told) StreamReady(_ *Turn, st *Stream) {
	if err := st.Err(); err != nil {
		c <- err
	}
}

func TestResetWakesWhoeverWaits(t *testing.T) {
	a, b := pair(t)
	got := make(chan error, 1)
	ended := make(chan error, 1)
	serving(t, a, Options{}, Timeouts{}, func(st *Stream) {
		if err := st.Watch(told(ended)); err != nil {
			ended <- err
		}
		_, err := st.Read(make([]byte, 10))
		got <- err
		st.Close()
	})
	c, _ := serving(t, b, Options{Role: Client}, Timeouts{}, nil)
	st, err := c.Open()
	if err != nil {
		t.Fatal(err)
	}
	_ = st.WriteRequest(request(), false, false)
	st.Close()
	var reset *ResetError
	if err := within(t, "the reader", got); !errors.As(err, &reset) || reset.Code != Cancel {
		t.Errorf("the reader got %v", err)
	}
	_ = within(t, "the owner", ended)
}

func TestDrainedConnectionsEndAfterTheirStreams(t *testing.T) {
	a, b := pair(t)
	began, release := make(chan struct{}), make(chan struct{})
	server, serverDone := serving(t, a, Options{}, Timeouts{}, func(st *Stream) {
		close(began)
		<-release
		_ = st.WriteResponse(&message.Head{Status: 204}, true)
		st.Close()
	})
	c, clientDone := serving(t, b, Options{Role: Client}, Timeouts{}, nil)
	st, err := c.Open()
	if err != nil {
		t.Fatal(err)
	}
	_ = st.WriteRequest(request(), false, true)
	<-began
	server.Drain()
	eventually(t, "the notice", c.Ended)
	if _, err := c.Open(); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a new stream: %v", err)
	}
	close(release)
	var h message.Head
	if _, err := st.ReadHead(&h); err != nil || h.Status != 204 {
		t.Errorf("the stream in progress: %v", err)
	}
	st.Close()
	if err := within(t, "the server", serverDone); err != nil {
		t.Error(err)
	}
	if err := within(t, "the client", clientDone); err != nil && !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

// What ends a connection whose peer does nothing.
func TestPeersThatDoNothingAreSentAway(t *testing.T) {
	short := 50 * time.Millisecond
	for _, c := range []struct {
		name     string
		sends    []byte
		timeouts Timeouts
		says     string
	}{
		{"no preface", nil, Timeouts{Head: short}, "GOAWAY 0 ENHANCE_YOUR_CALM"},
		{"half a head", newWire().settings().frame(kindHeaders, 0, 1, "").b, Timeouts{Head: short}, "GOAWAY 0 ENHANCE_YOUR_CALM"},
		{"no streams", fromClient().b, Timeouts{Idle: short}, "GOAWAY 0 NO_ERROR"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := pair(t)
			_, done := serving(t, a, Options{}, c.timeouts, echoing(t))
			sends := c.sends
			if c.name == "half a head" {
				sends = append([]byte(Preface), sends...)
			}
			if _, err := b.Write(sends); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(b)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(said(t, got), c.says) {
				t.Errorf("it said %s, not %s", said(t, got), c.says)
			}
			b.Close()
			_ = within(t, "the end", done)
		})
	}
}

// A peer that makes us answer and does not read is bounded by bytes too.
func TestAnswersThatNobodyReadsAreBounded(t *testing.T) {
	s := begun(Options{})
	s.out = append(s.out, make([]byte, controlBytesMax)...)
	if _, err := s.Feed(fromClient().b, 1); err == nil {
		t.Error("it goes on")
	}
}

// A peer that never answers the notice is told the last stream all the same.
func TestDrainDoesNotWaitForAnAnswerToItsNotice(t *testing.T) {
	a, b := pair(t)
	c, done := serving(t, a, Options{}, Timeouts{}, echoing(t))
	if _, err := b.Write(fromClient().b); err != nil {
		t.Fatal(err)
	}
	if err := c.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.Drain()
	got, err := io.ReadAll(b)
	if err != nil {
		t.Fatal(err)
	}
	if s := said(t, got); !strings.Contains(s, "GOAWAY 2147483647 NO_ERROR") || !strings.HasSuffix(s, "GOAWAY 0 NO_ERROR") {
		t.Errorf("it said %s", s)
	}
	b.Close()
	if err := within(t, "the end", done); err != nil {
		t.Error(err)
	}
}

// Streams of one upstream connection belong to many clients: those that read
// nothing leave the others their share of the connection's window.
func TestStreamsThatNobodyReadsDoNotStopOthers(t *testing.T) {
	a, b := pair(t)
	serving(t, a, Options{}, Timeouts{}, echoing(t))
	c, _ := serving(t, b, Options{Role: Client, StreamWindow: 20000, ConnWindow: windowDefault}, Timeouts{}, nil)
	var stuck []*Stream
	for range 5 {
		st, err := c.Open()
		if err != nil {
			t.Fatal(err)
		}
		_ = st.WriteRequest(request(), false, false)
		if _, err := st.Write(make([]byte, 20000), true); err != nil {
			t.Fatal(err)
		}
		stuck = append(stuck, st)
	}
	for _, st := range stuck {
		eventually(t, "the whole window", func() bool { n, _ := st.Complete(); return n == 20000 })
	}
	for _, st := range stuck {
		if got, err := io.ReadAll(st); err != nil || len(got) != 20000 {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		st.Close()
	}
}

// A window begins small and grows for a reader that keeps up.
func TestWindowsGrowForFastReadersOnly(t *testing.T) {
	s := begun(Options{})
	if _, err := s.Feed(fromClient().post(1).post(3).b, 1); err != nil {
		t.Fatal(err)
	}
	fast, slow := s.streams[1], s.streams[3]
	for range 20 {
		for _, st := range []*Stream{fast, slow} {
			if _, err := s.Feed(newWire().frame(kindData, 0, st.ID, strings.Repeat("x", 16000)).b, 1); err != nil {
				t.Fatal(err)
			}
			n := int64(16000)
			if st == slow && len(st.body) == 16000 {
				continue // one frame behind
			}
			st.read += int(n)
			if st == fast {
				st.body, st.read = st.body[:0], 0
			}
			s.consumed(st, n)
		}
	}
	if fast.recvMax != limit.HTTP2StreamWindow || slow.recvMax != limit.HTTP2StreamWindowFirst {
		t.Errorf("windows of %d and %d bytes", fast.recvMax, slow.recvMax)
	}
}

// A peer that answers is asked again, one that does not has left.
func TestPeersAreAskedWhetherTheyAreThere(t *testing.T) {
	for _, answers := range []bool{true, false} {
		a, b := pair(t)
		_, done := serving(t, a, Options{}, Timeouts{Ping: 20 * time.Millisecond, Pong: 50 * time.Millisecond}, echoing(t))
		if _, err := b.Write(fromClient().post(1).b); err != nil {
			t.Fatal(err)
		}
		pings, buf := 0, make([]byte, 4096)
		for pings < 5 {
			n, err := b.Read(buf)
			if err != nil {
				break
			}
			for range strings.Count(string(buf[:n]), keepalivePing) {
				pings++
				if answers {
					_, _ = b.Write(appendPing(nil, flagAck, []byte(keepalivePing)))
				}
			}
		}
		if want := map[bool]int{true: 5, false: 1}[answers]; pings != want {
			t.Errorf("answers %v: asked %d times, want %d", answers, pings, want)
		}
		b.Close()
		if err := within(t, "the end", done); answers == errors.Is(err, ErrSilent) {
			t.Errorf("answers %v: ended by %v", answers, err)
		}
	}
}
