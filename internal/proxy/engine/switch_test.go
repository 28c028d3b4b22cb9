package engine

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/call"
	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/http2"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/message"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

// end is one end of a connection or stream that carries another protocol.
type end interface {
	io.ReadWriter
	CloseWrite() error
	abort()
}

type connEnd struct {
	*net.TCPConn
	r *bufio.Reader
}

func (c connEnd) Read(p []byte) (int, error) { return c.r.Read(p) }
func (c connEnd) abort()                     { _ = c.SetLinger(0); c.Close() }

type streamEnd struct{ st *http2.Stream }

func (s streamEnd) Read(p []byte) (int, error)  { return s.st.Read(p) }
func (s streamEnd) Write(p []byte) (int, error) { return s.st.Write(p, false) }
func (s streamEnd) CloseWrite() error           { _, err := s.st.Write(nil, true); return err }
func (s streamEnd) abort()                      { s.st.Reset(http2.Cancel) }

// switcher is a server that takes every upgrade.
type switcher struct {
	two     bool
	refuses bool // extended CONNECT
	window  int64
	accept  string // in place of the right sec-websocket-accept
	answer  string // in place of 101, in HTTP/1.1
	serve   func(head *message.Head, c end)
}

func (s *switcher) start(t testing.TB) netip.AddrPort {
	return serveWith(t, func(_ int, c net.Conn) {
		if s.two {
			s.serve2(t, c)
			return
		}
		r := bufio.NewReader(c)
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		var h message.Head
		for name, values := range req.Header {
			h.Add(strings.ToLower(name), []byte(values[0]))
		}
		accept := s.accept
		if accept == "" {
			accept = call.AcceptOf(req.Header.Get("Sec-WebSocket-Key"))
		}
		if s.answer != "" {
			_, _ = io.WriteString(c, s.answer)
			return
		}
		fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n", accept)
		s.serve(&h, connEnd{c.(*net.TCPConn), r})
	}).at
}

func (s *switcher) serve2(t testing.TB, c net.Conn) {
	sock, err := conn.New(c.(*net.TCPConn))
	if err != nil {
		t.Error(err)
		return
	}
	defer sock.Close()
	var work sync.WaitGroup
	hc := http2.NewConn(sock, conn.NewClock(), http2.Options{Role: http2.Server, ExtendedConnect: !s.refuses, StreamWindow: s.window}, http2.Timeouts{}, nil)
	_ = hc.Serve(nil, func(_ *http2.Turn, st *http2.Stream) {
		work.Go(func() {
			defer st.Close()
			if string(st.Protocol) != "websocket" {
				t.Errorf("the protocol is %q", st.Protocol)
			}
			if st.WriteResponse(&message.Head{Status: 200}, false) == nil {
				s.serve(&st.Head, streamEnd{st})
			}
		})
	})
	work.Wait()
}

// proxied is a proxy in front of the server.
func (s *switcher) proxied(t testing.TB, edit func(*listener.HTTPManager)) *proxy {
	t.Helper()
	m := &listener.HTTPManager{Upgrades: []string{"websocket"}, AllowConnect: true}
	if edit != nil {
		edit(m)
	}
	return start(t, &setup{manager: m, routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{speaking(s.two, "cart", s.start(t))}})
}

// upgrade asks for WebSocket on /ws.
func (p *proxy) upgrade(t testing.TB, two bool, window int64, fields ...string) (*message.Head, end) {
	t.Helper()
	c := p.dial(t).(*net.TCPConn)
	if !two {
		more := ""
		for i := 0; i < len(fields); i += 2 {
			more += fields[i] + ": " + fields[i+1] + "\r\n"
		}
		if _, err := io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+more+"\r\n"); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(c)
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		h := &message.Head{Status: res.StatusCode}
		for name, values := range res.Header {
			h.Add(strings.ToLower(name), []byte(values[0]))
		}
		return h, connEnd{c, r}
	}
	st := openStream(t, c, window)
	h := &message.Head{Method: []byte("GET"), Scheme: []byte("http"), Path: []byte("/ws"), Authority: []byte("a")}
	for i := 0; i < len(fields); i += 2 {
		h.Add(fields[i], []byte(fields[i+1]))
	}
	if err := st.Finish(&http2.Part{Head: h, Protocol: []byte("WebSocket")}); err != nil {
		t.Fatal(err)
	}
	if _, err := st.ReadHead(h); err != nil {
		t.Fatal(err)
	}
	return h, streamEnd{st}
}

func openStream(t testing.TB, c *net.TCPConn, window int64) *http2.Stream {
	t.Helper()
	sock, err := conn.New(c)
	if err != nil {
		t.Fatal(err)
	}
	hc := http2.NewConn(sock, conn.NewClock(), http2.Options{Role: http2.Client, StreamWindow: window}, http2.Timeouts{}, nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = hc.Serve(nil, nil)
	}()
	t.Cleanup(func() {
		sock.Close()
		<-done
	})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := hc.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	st, err := hc.Open()
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// switched is the status that says so.
func switched(two bool) int {
	if two {
		return 200
	}
	return 101
}

func echoing(_ *message.Head, c end) {
	_, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
	_ = c.CloseWrite()
}

func TestWebSocketPassesBetweenAllVersions(t *testing.T) {
	eachVersion(t, func(t *testing.T, down, up bool) {
		s := &switcher{two: up, serve: echoing}
		p := s.proxied(t, nil)
		h, c := p.upgrade(t, down, 0)
		if h.Status != switched(down) {
			t.Fatalf("%d to the upgrade", h.Status)
		}
		sent := 0
		for _, frame := range []string{
			"\x81\x85\x01\x02\x03\x04iggho", // text
			"\x02\x83\x00\x00\x00\x00abc",   // the first part of a binary message
			"\x80\x82\x00\x00\x00\x00de",    // the last one
			"\x88\x82\x00\x00\x00\x00\x03\xe8",
		} {
			if _, err := io.WriteString(c, frame); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(frame))
			if _, err := io.ReadFull(c, got); err != nil || string(got) != frame {
				t.Fatalf("%q came back, %v", got, err)
			}
			sent += len(frame)
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if rest, err := io.ReadAll(c); len(rest) > 0 || err != nil {
			t.Errorf("%q behind the end, %v", rest, err)
		}
		if want := fmt.Sprintf("GET /ws 101 - %d %d cart\n", sent, sent); p.logged() != want {
			t.Errorf("log %q, want %q", p.logged(), want)
		}
	})
}

func TestSwitchedStreamsKeepToSmallWindows(t *testing.T) {
	const size, window = 2 << 20, 16 << 10
	eachVersion(t, func(t *testing.T, down, up bool) {
		s := &switcher{two: up, window: window, serve: echoing}
		p := s.proxied(t, nil)
		_, c := p.upgrade(t, down, window)
		body := bytes.Repeat([]byte("0123456789abcdef"), size/16)
		sent := make(chan error, 1)
		go func() {
			_, err := io.Copy(struct{ io.Writer }{c}, bytes.NewReader(body))
			sent <- errors.Join(err, c.CloseWrite())
		}()
		got, err := io.ReadAll(c)
		if err := errors.Join(err, <-sent); err != nil || !bytes.Equal(got, body) {
			t.Errorf("%d bytes came back, %v", len(got), err)
		}
	})
}

func TestServerThatEndsFirstStillHearsTheClient(t *testing.T) {
	eachVersion(t, func(t *testing.T, down, up bool) {
		heard := make(chan string, 1)
		s := &switcher{two: up, serve: func(_ *message.Head, c end) {
			_, _ = io.WriteString(c, "bye")
			_ = c.CloseWrite()
			b, _ := io.ReadAll(c)
			heard <- string(b)
		}}
		p := s.proxied(t, nil)
		_, c := p.upgrade(t, down, 0)
		if b, err := io.ReadAll(c); string(b) != "bye" || err != nil {
			t.Fatalf("%q, %v", b, err)
		}
		if _, err := io.WriteString(c, "late"); err != nil {
			t.Fatal(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got := <-heard; got != "late" {
			t.Errorf("the server heard %q", got)
		}
	})
}

func TestAbortOfEitherSideEndsTheOther(t *testing.T) {
	eachVersion(t, func(t *testing.T, down, up bool) {
		t.Run("client", func(t *testing.T) {
			ended := make(chan error, 1)
			s := &switcher{two: up, serve: func(_ *message.Head, c end) {
				_, err := io.Copy(io.Discard, struct{ io.Reader }{c})
				ended <- err
			}}
			p := s.proxied(t, nil)
			_, c := p.upgrade(t, down, 0)
			c.abort()
			err := <-ended
			if up && err == nil {
				t.Error("the server saw an orderly end")
			}
			want := "GET /ws 101 DC 0 0 cart\n"
			if down {
				want = "GET /ws 101 DR 0 0 cart\n"
			}
			if (down || up) && p.logged() != want {
				t.Errorf("log %q, want %q", p.logged(), want)
			}
		})
		t.Run("server", func(t *testing.T) {
			s := &switcher{two: up, serve: func(_ *message.Head, c end) {
				_, _ = io.ReadFull(c, make([]byte, 1))
				c.abort()
			}}
			p := s.proxied(t, nil)
			_, c := p.upgrade(t, down, 0)
			_, _ = io.WriteString(c, "x")
			if _, err := io.ReadAll(c); err == nil && (down || up) {
				t.Error("the client saw an orderly end")
			}
			flag := "UC"
			if up {
				flag = "UR"
			}
			if want := "GET /ws 101 " + flag + " 1 0 cart\n"; (down || up) && p.logged() != want {
				t.Errorf("log %q, want %q", p.logged(), want)
			}
		})
	})
}

func TestSilentSwitchedStreamEnds(t *testing.T) {
	eachVersion(t, func(t *testing.T, down, up bool) {
		for _, half := range []bool{false, true} {
			name := "open"
			if half {
				name = "half closed by the server"
			}
			t.Run(name, func(t *testing.T) {
				s := &switcher{two: up, serve: func(_ *message.Head, c end) {
					if half {
						_ = c.CloseWrite()
					}
					_, _ = io.Copy(io.Discard, struct{ io.Reader }{c})
				}}
				p := s.proxied(t, func(m *listener.HTTPManager) { m.StreamIdleTimeout = 100 * time.Millisecond })
				_, c := p.upgrade(t, down, 0)
				_, _ = io.Copy(io.Discard, struct{ io.Reader }{c})
				eventually(t, "the log tells", func() bool { return p.log.String() != "" })
				if want := "GET /ws 101 SI 0 0 cart\n"; p.logged() != want {
					t.Errorf("log %q, want %q", p.logged(), want)
				}
			})
		}
	})
}

func TestRefusedSwitches(t *testing.T) {
	const refusal = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno"
	cases := []struct {
		name     string
		down, up bool
		refuses  bool
		manager  func(*listener.HTTPManager)
		accept   string
		answer   string
		status   int
		log      string
	}{
		{name: "the route does not allow it", down: true, up: true, status: 403, log: "GET /ws 403 - 0 0 cart\n",
			manager: func(m *listener.HTTPManager) { m.Upgrades = []string{"other"} }},
		{name: "the listener allows none", down: true, up: true, status: 403, log: "GET /ws 403 - 0 0 cart\n",
			manager: func(m *listener.HTTPManager) { m.Upgrades = nil }},
		{name: "the endpoint takes no extended CONNECT from HTTP/1.1", up: true, refuses: true, status: 403, log: "GET /ws 403 - 0 0 cart\n"},
		{name: "the endpoint takes no extended CONNECT from HTTP/2", down: true, up: true, refuses: true, status: 403, log: "GET /ws 403 - 0 0 cart\n"},
		{name: "the server answers 200 to HTTP/1.1", answer: refusal, status: 200, log: "GET /ws 200 - 0 2 cart\n"},
		{name: "the server answers 200, which HTTP/2 would take for consent", down: true, answer: refusal, status: 502, log: "GET /ws 502 UPE 0 87 cart\n"},
		{name: "the server did not understand our key", down: true, accept: "wrong", status: 502, log: "GET /ws 502 UPE 0 87 cart\n"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := &switcher{two: c.up, refuses: c.refuses, accept: c.accept, answer: c.answer, serve: echoing}
			p := s.proxied(t, c.manager)
			h, _ := p.upgrade(t, c.down, 0)
			if h.Status != c.status || p.logged() != c.log {
				t.Errorf("%d, log %q", h.Status, p.logged())
			}
		})
	}
}

// Extended CONNECT is taken from those who were told that it is, and from
// nobody else (Envoy: http2_protocol_options.allow_connect).
func TestExtendedConnectThatIsNotAllowedIsMalformed(t *testing.T) {
	s := &switcher{serve: echoing}
	p := s.proxied(t, func(m *listener.HTTPManager) { m.AllowConnect = false })
	c := p.dial(t)
	const (
		preface  = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
		announce = "\x00\x08\x00\x00\x00\x01"                             // SETTINGS_ENABLE_CONNECT_PROTOCOL = 1
		refusal  = "\x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\x00\x01" // RST_STREAM, PROTOCOL_ERROR
	)
	head := "\x02\x07CONNECT" // :method, of the static table's name
	for _, f := range [][2]string{{":protocol", "websocket"}, {":scheme", "http"}, {":path", "/ws"}, {":authority", "a"}} {
		head += "\x00" + string(rune(len(f[0]))) + f[0] + string(rune(len(f[1]))) + f[1]
	}
	if _, err := io.WriteString(c, preface+"\x00\x00"+string(rune(len(head)))+"\x01\x04\x00\x00\x00\x01"+head); err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for buf := make([]byte, 4096); !strings.Contains(got.String(), refusal); {
		n, err := c.Read(buf)
		if err != nil {
			t.Fatalf("%q, %v", got.String(), err)
		}
		got.Write(buf[:n])
	}
	if strings.Contains(got.String(), announce) {
		t.Errorf("it was announced: %q", got.String())
	}
}

// The example of RFC 6455 §1.3.
const exampleKey, exampleAccept = "dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

func TestKeysOfWebSocketAreMadeAndAnsweredBetweenVersions(t *testing.T) {
	eachVersion(t, func(t *testing.T, down, up bool) {
		for _, sends := range []bool{false, true} {
			t.Run(fmt.Sprintf("client sends a key %v", sends), func(t *testing.T) {
				key := make(chan string, 1)
				s := &switcher{two: up, serve: func(h *message.Head, c end) {
					v, _ := h.Get("sec-websocket-key")
					key <- string(v)
					_ = c.CloseWrite()
				}}
				p := s.proxied(t, nil)
				var fields []string
				if sends {
					fields = []string{"sec-websocket-key", exampleKey}
				}
				h, c := p.upgrade(t, down, 0, fields...)
				_ = c.CloseWrite()
				saw := <-key
				accept, answered := h.Get("sec-websocket-accept")
				switch made := down && !up && !sends; {
				case made && (len(saw) != 24 || answered):
					t.Errorf("key %q; the client got %q", saw, accept)
				case sends && saw != exampleKey:
					t.Errorf("the server saw the key %q", saw)
				case sends && !(down && up) && string(accept) != exampleAccept:
					t.Errorf("the client got %q", accept)
				case !sends && !made && saw != "":
					t.Errorf("the server saw the key %q", saw)
				}
			})
		}
	})
}

func TestBytesBehindAnExtendedConnectWaitForItsAnswer(t *testing.T) {
	b := serveWith(t, func(_ int, c net.Conn) {
		r := bufio.NewReader(c)
		raw, _ := rawRequest(r)
		if !strings.HasPrefix(raw, "GET /ws ") || r.Buffered() > 0 {
			t.Errorf("the server got %q and %d bytes", raw, r.Buffered())
		}
		_, _ = io.WriteString(c, "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
		if more, _ := io.ReadAll(r); len(more) > 0 {
			t.Errorf("behind the refusal came %q", more)
		}
	})
	p := start(t, &setup{manager: &listener.HTTPManager{Upgrades: []string{"websocket"}, AllowConnect: true}, routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{static("cart", b.at)}})
	st := openStream(t, p.dial(t).(*net.TCPConn), 0)
	h := &message.Head{Method: []byte("GET"), Scheme: []byte("http"), Path: []byte("/ws"), Authority: []byte("a")}
	if err := st.Finish(&http2.Part{Head: h, Protocol: []byte("websocket"), Body: []byte("GET /admin HTTP/1.1\r\nHost: a\r\n\r\n")}); err != nil {
		t.Fatal(err)
	}
	if _, err := st.ReadHead(h); err != nil || h.Status != 403 {
		t.Errorf("%d, %v", h.Status, err)
	}
	if b, err := io.ReadAll(streamEnd{st}); string(b) != "no" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	eventually(t, "the log tells", func() bool { return p.log.String() != "" })
	if want := "GET /ws 403 - 0 2 cart\n"; p.logged() != want {
		t.Errorf("log %q, want %q", p.logged(), want)
	}
}

func TestUpgradeToH2CIsAnsweredInHTTP11(t *testing.T) {
	p := start(t, &setup{manager: &listener.HTTPManager{Upgrades: []string{"websocket"}, AllowConnect: true}, routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{static("cart", echo(t).at)}})
	got := strings.ToLower(p.talk(t, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"))
	if !strings.HasPrefix(got, "http/1.1 200 ok\r\n") || strings.Contains(got, "h2c") || strings.Contains(got, "http2-settings") {
		t.Errorf("got %q", got)
	}
}

// connectTo asks for a tunnel over HTTP/2.
func (p *proxy) connectTo(t testing.TB, authority string) (int, end) {
	t.Helper()
	st := openStream(t, p.dial(t).(*net.TCPConn), 0)
	h := &message.Head{Method: []byte("CONNECT"), Authority: []byte(authority)}
	if err := st.Finish(&http2.Part{Head: h}); err != nil {
		t.Fatal(err)
	}
	if _, err := st.ReadHead(h); err != nil {
		t.Fatal(err)
	}
	return h.Status, streamEnd{st}
}

func TestConnectOverHTTP2IsATunnelForBytes(t *testing.T) {
	b := serveWith(t, func(_ int, c net.Conn) { echoing(nil, connEnd{c.(*net.TCPConn), bufio.NewReader(c)}) })
	p := tunnels(t, dead(t), b.at)
	status, c := p.connectTo(t, "db:5432")
	if status != 200 {
		t.Fatalf("%d to CONNECT", status)
	}
	body := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(struct{ io.Writer }{c}, bytes.NewReader(body))
		sent <- errors.Join(err, c.CloseWrite())
	}()
	got, err := io.ReadAll(c)
	if err := errors.Join(err, <-sent); err != nil || !bytes.Equal(got, body) {
		t.Errorf("%d bytes came back, %v", len(got), err)
	}
	p.stop()
	if want := fmt.Sprintf("CONNECT - 200 - %d %d bytes\n", len(body), len(body)); p.logged() != want {
		t.Errorf("log %q, want %q", p.logged(), want)
	}
}

func TestRefusedConnectsOverHTTP2(t *testing.T) {
	for _, c := range []struct {
		name, authority string
		status          int
	}{
		{"a host with routes of its own", "reviews:9080", 403},
		{"an endpoint that is not there", "db:5432", 503},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := tunnels(t, dead(t), dead(t))
			if status, _ := p.connectTo(t, c.authority); status != c.status {
				t.Errorf("%d, want %d", status, c.status)
			}
		})
	}
	t.Run("no route is for CONNECT", func(t *testing.T) {
		p := start(t, &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{static("cart", dead(t))}})
		if status, _ := p.connectTo(t, "cart:80"); status != 404 {
			t.Errorf("%d, want 404", status)
		}
	})
}
