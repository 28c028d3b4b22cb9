package engine

import (
	"bufio"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
)

// TestListenersTakeConnectionsUpToTheirLimit: the machine that tests run on has
// no room for the default number, so the edge is tried with a smaller one.
func TestListenersTakeConnectionsUpToTheirLimit(t *testing.T) {
	if n := cartProxy(t, echo(t)).opts.ConnectionsMax; n != limit.ListenerConnectionsMax {
		t.Errorf("%d connections by default, want %d", n, limit.ListenerConnectionsMax)
	}
	const most = 3
	var refused atomic.Int64
	release := make(chan struct{})
	l, err := listener.Listen(listenAny(), most, func(c net.Conn) {
		_, _ = io.WriteString(c, "hello")
		<-release
		c.Close()
	}, func() { refused.Add(1) })
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		close(release)
		l.Close()
		eventually(t, "the end of all connections", l.Done)
	}()
	dial := func() string {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		b := make([]byte, 5)
		n, _ := io.ReadFull(c, b) // a refused one may be reset
		return string(b[:n])
	}
	for range most - 2 {
		dial()
	}
	for _, n := range []int{most - 1, most, most + 1, most + 2} {
		want, wantRefused := "hello", int64(0)
		if n > most {
			want, wantRefused = "", int64(n-most)
		}
		if got := dial(); got != want || refused.Load() != wantRefused {
			t.Errorf("connection %d of %d: %q, %d refused; want %q, %d", n, most, got, refused.Load(), want, wantRefused)
		}
	}
	release <- struct{}{}
	eventually(t, "room for another", func() bool { return dial() == "hello" })
}

func TestInformationalResponsesAreTakenUpToTheirLimit(t *testing.T) {
	const most, hint = limit.InformationalMax, "HTTP/1.1 103 Early Hints\r\n"
	for n, want := range map[int]string{most - 1: "HTTP/1.1 200 OK\r\n", most: "HTTP/1.1 200 OK\r\n", most + 1: "HTTP/1.1 502 Bad Gateway\r\n"} {
		p := cartProxy(t, answering(t, strings.Repeat(hint+"\r\n", n)+"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"))
		got := p.talk(t, get)
		if hints := strings.Count(got, hint); hints != min(n, most) || !strings.Contains(got, "\r\n\r\n"+want) {
			t.Errorf("%d informational responses: %d came, and %.60q; want %q", n, hints, got[strings.LastIndex(got, "HTTP/1.1"):], want)
		}
	}
}

// TestFirstBytesAreReadUpToTheirLimit: a ClientHello that is not complete
// within the limit is no TLS, and goes where bytes go.
func TestFirstBytesAreReadUpToTheirLimit(t *testing.T) {
	const most, pieces, header = limit.SniffBytesMax, 4000, 5
	const serverHello, greeting = "\x16", "g"
	p := sniffing(t, listener.Inbound, newAuthority(t), static("web", dead(t)), static("db", greeter(t).at), nil)
	for n, want := range map[int]string{most - 1: serverHello, most: serverHello, most + 1: greeting} {
		message := helloMessage(t, n-pieces*header) // what is not of a record's header
		raw := records(message[:3*(pieces-1)], 3)
		raw = append(raw, records(message[3*(pieces-1):], len(message))...)
		if len(raw) != n {
			t.Fatalf("%d bytes, want %d", len(raw), n)
		}
		c := p.dial(t)
		if _, err := c.Write(raw); err != nil {
			t.Fatal(err)
		}
		if b, err := bufio.NewReader(c).ReadByte(); string(b) != want {
			t.Errorf("a hello of %d bytes: %q, %v; want %q", n, b, err, want)
		}
	}
}
