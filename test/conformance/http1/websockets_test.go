package http1_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/net/websocket"
)

// chain starts so many proxies in a row, the last in front of an address.
func chain(t *testing.T, n int, to netip.AddrPort) string {
	t.Helper()
	for range n {
		to = netip.MustParseAddrPort(startProxy(t, asIstio(), to).at)
	}
	return to.String()
}

// A real client and a real server of WebSocket, through one and two proxies.
func TestWebSocketsPassProxies(t *testing.T) {
	t.Parallel()
	echo := httptest.NewServer(websocket.Handler(func(c *websocket.Conn) {
		for {
			var m []byte
			if websocket.Message.Receive(c, &m) != nil || websocket.Message.Send(c, m) != nil {
				return
			}
		}
	}))
	t.Cleanup(echo.Close)
	for _, n := range []int{1, 2} {
		t.Run(fmt.Sprint(n, " proxies"), func(t *testing.T) {
			t.Parallel()
			at := chain(t, n, netip.MustParseAddrPort(echo.Listener.Addr().String()))
			c, err := websocket.Dial("ws://"+at+"/chat?a=b", "", "http://a/")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			for _, m := range []string{"", "hello", strings.Repeat("x", 200_000), "GET / HTTP/1.1\r\nHost: a\r\n\r\n"} {
				var got []byte
				if err := websocket.Message.Send(c, []byte(m)); err != nil {
					t.Fatal(err)
				}
				if err := websocket.Message.Receive(c, &got); err != nil || string(got) != m {
					t.Fatalf("%d bytes come back as %d, %v", len(m), len(got), err)
				}
			}
		})
	}
}

// frame is a masked frame of RFC 6455 §5.2; the mask is zero, so that the bytes
// are readable.
func frame(fin bool, opcode byte, payload string) []byte {
	out := []byte{opcode, 0x80}
	if fin {
		out[0] |= 0x80
	}
	switch n := len(payload); {
	case n < 126:
		out[1] |= byte(n)
	case n <= 0xffff:
		out[1] |= 126
		out = binary.BigEndian.AppendUint16(out, uint16(n))
	default:
		out[1] |= 127
		out = binary.BigEndian.AppendUint64(out, uint64(n))
	}
	return append(append(out, 0, 0, 0, 0), payload...)
}

// Frames pass as they are, in whatever pieces; the close handshake and each
// direction's end pass, too (RFC 6455 §5.4, §7).
func TestFramesAndClosesPassAsTheyAre(t *testing.T) {
	t.Parallel()
	const (
		text, continued, closing, ping = 1, 0, 8, 9
		switching                      = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
	)
	message := bytes.Join([][]byte{frame(false, text, "frag"), frame(true, ping, "p"), frame(false, continued, strings.Repeat("m", 70_000)), frame(true, continued, "ent")}, nil)
	bye := frame(true, closing, "\x03\xe8")
	for _, n := range []int{1, 2} {
		t.Run(fmt.Sprint(n, " proxies"), func(t *testing.T) {
			t.Parallel()
			after := make(chan []byte, 1)
			s := serve(t, func(c *net.TCPConn) {
				r := bufio.NewReader(c)
				head, err := readHead(r)
				if err != nil || !strings.Contains(head, "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n") {
					t.Errorf("%q, %v", head, err)
				}
				// The first frames come with the answer, before the client's.
				_, _ = c.Write(append([]byte(switching), frame(true, text, "first")...))
				all := make([]byte, len(message)+len(bye))
				_, err = io.ReadFull(r, all)
				if want := string(message) + string(bye); err != nil || string(all) != want {
					t.Errorf("%d bytes of frames are not the client's %d, %v", len(all), len(want), err)
				}
				_, _ = c.Write(all)
				_ = c.CloseWrite()
				rest, _ := io.ReadAll(r)
				after <- rest
			})
			conn := dial(t, chain(t, n, s.at))
			// The first frame comes with the request, before the answer.
			hello := "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
			_, _ = conn.Write(append([]byte(hello), message[:3]...))
			r := reader{bufio.NewReader(conn)}
			a, err := r.response("GET")
			if err != nil || a.status != 101 || a.field("upgrade") != "websocket" || a.field("connection") != "upgrade" || a.field("sec-websocket-accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
				t.Fatalf("%s %q, %v", a, a.fields, err)
			}
			for rest := message[3:]; len(rest) > 0; {
				k := min(len(rest), 1+len(rest)/7)
				_, _ = conn.Write(rest[:k])
				rest = rest[k:]
			}
			_, _ = conn.Write(bye)
			got, err := io.ReadAll(r)
			if want := string(frame(true, text, "first")) + string(message) + string(bye); err != nil || string(got) != want {
				t.Errorf("%d bytes come back, %v; want %d", len(got), err, len(want))
			}
			// The server's direction has ended, ours has not.
			_, _ = io.WriteString(conn, "late")
			_ = conn.CloseWrite()
			if rest := <-after; string(rest) != "late" {
				t.Errorf("the server saw %q behind its end", rest)
			}
		})
	}
}

// Bytes behind an upgrade's request are the other protocol's only when the
// server has switched; a refusal leaves HTTP, and its rules.
func TestFramesBehindARefusedUpgradeAreNoFrames(t *testing.T) {
	t.Parallel()
	for name, more := range map[string]string{"frames": string(frame(true, 1, "GET /x HTTP/1.1\r\nHost: a\r\n\r\n")), "half a frame": "\x81"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, _ := newStrict(t).(*strict)
			p := startProxy(t, asIstio(), b.addr())
			conn := dial(t, p.at)
			_, _ = io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"+more+"\r\n\r\n")
			r := reader{bufio.NewReader(conn)}
			if a, err := r.response("GET"); err != nil || a.status != 200 {
				t.Fatalf("%s, %v", a, err)
			}
			if a, err := r.response("GET"); err != nil || a.status != 400 || a.field("connection") != "close" {
				t.Errorf("%s, %v", a, err)
			}
			p.stop()
			if saw := b.seen(); len(saw) != 1 {
				t.Errorf("the backend saw %q", saw)
			}
		})
	}
}
