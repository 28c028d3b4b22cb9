package tcp

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair returns two ends of a loopback connection.
func pair(t testing.TB) (a, b *conn.Socket) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = conn.Dial(context.Background(), conn.AddrPort(l.Addr()), "", conn.DialOptions{}); err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if b, err = conn.New(c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func relay(client, upstream conn.Stream, o Options) <-chan Result {
	o.Buffers = &conn.Buffers{}
	done := make(chan Result, 1)
	go func() { done <- Relay(client, upstream, o) }()
	return done
}

func TestBytesThatWereSniffedGoFirst(t *testing.T) {
	client, in := pair(t)
	out, server := pair(t)
	in.Unread([]byte("sniffed "))
	done := relay(in, out, Options{})
	if _, err := io.WriteString(client, "rest"); err != nil {
		t.Fatal(err)
	}
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if all, err := io.ReadAll(server); string(all) != "sniffed rest" || err != nil {
		t.Errorf("%q, %v", all, err)
	}
	if _, err := io.WriteString(server, "answer after the end of the request"); err != nil {
		t.Fatal(err)
	}
	server.Close()
	if all, err := io.ReadAll(client); !strings.HasPrefix(string(all), "answer") || err != nil {
		t.Errorf("%q, %v", all, err)
	}
	if r := <-done; r.Sent != 12 || r.Received != 35 || r.SendErr != nil || r.ReceiveErr != nil || r.Idle || r.TooOld {
		t.Errorf("%+v", r)
	}
}

func TestIdleRelayEnds(t *testing.T) {
	_, in := pair(t)
	out, _ := pair(t)
	if r := <-relay(in, out, Options{Idle: 50 * time.Millisecond}); !r.Idle || r.TooOld {
		t.Errorf("%+v", r)
	}
}

func TestBusyRelayIsNotIdle(t *testing.T) {
	client, in := pair(t)
	out, server := pair(t)
	done := relay(in, out, Options{Idle: 200 * time.Millisecond})
	buf := make([]byte, 1)
	for range 10 { // half a second
		if _, err := client.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := server.Read(buf); err != nil {
			t.Fatal(err)
		}
		<-time.After(50 * time.Millisecond)
	}
	client.Close()
	server.Close()
	if r := <-done; r.Idle || r.Sent != 10 {
		t.Errorf("%+v", r)
	}
}

func TestRelayEndsAtItsMaximum(t *testing.T) {
	_, in := pair(t)
	out, _ := pair(t)
	if r := <-relay(in, out, Options{MaxDuration: 50 * time.Millisecond}); !r.TooOld || r.Idle {
		t.Errorf("%+v", r)
	}
}

func TestAResetEndsBothDirections(t *testing.T) {
	client, in := pair(t)
	out, _ := pair(t)
	done := relay(in, out, Options{})
	if err := client.Abort(); err != nil {
		t.Fatal(err)
	}
	if r := <-done; r.SendErr == nil {
		t.Errorf("%+v", r)
	}
}
