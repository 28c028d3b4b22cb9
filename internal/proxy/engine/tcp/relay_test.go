package tcp

import (
	"context"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
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
	pipes := &conn.Pipes{}
	o.Pipes = pipes
	done := make(chan Result, 1)
	go func() {
		r := Relay(client, upstream, o)
		client.Close() // as every owner does
		upstream.Close()
		pipes.Close()
		done <- r
	}()
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

// Much goes both ways at once, first copied and then by the kernel, past
// readers that stop now and then; all of it arrives and is counted.
func TestBulkGoesBothWaysUnchanged(t *testing.T) {
	client, in := pair(t)
	out, server := pair(t)
	var sent, received atomic.Int64
	done := relay(in, out, Options{Idle: time.Minute, Moved: func(s, r int64) { sent.Add(s); received.Add(r) }})
	const size = 32 << 20
	send := func(to *conn.Socket, seed uint64) [sha256.Size]byte {
		h := sha256.New()
		r := rand.New(rand.NewPCG(seed, 0))
		chunk := make([]byte, 100<<10)
		for left := size; left > 0; {
			b := chunk[:min(left, 1+r.IntN(len(chunk)))]
			for i := range b {
				b[i] = byte(i) ^ byte(left)
			}
			h.Write(b)
			if _, err := to.Write(b); err != nil {
				t.Error(err)
				break
			}
			left -= len(b)
		}
		_ = to.CloseWrite()
		return [sha256.Size]byte(h.Sum(nil))
	}
	receive := func(from *conn.Socket) [sha256.Size]byte {
		h := sha256.New()
		b := make([]byte, 64<<10)
		for n := 0; ; n++ {
			m, err := from.Read(b)
			h.Write(b[:m])
			if err != nil {
				return [sha256.Size]byte(h.Sum(nil))
			}
			if n%100 == 0 {
				<-time.After(time.Millisecond) // the sender has to wait
			}
		}
	}
	var up, upGot, down, downGot [sha256.Size]byte
	var wg sync.WaitGroup
	wg.Go(func() { up = send(client, 1) })
	wg.Go(func() { down = send(server, 2) })
	wg.Go(func() { upGot = receive(server) })
	wg.Go(func() { downGot = receive(client) })
	wg.Wait()
	if r := <-done; r.Sent != size || r.Received != size || r.SendErr != nil || r.ReceiveErr != nil || sent.Load() != size || received.Load() != size {
		t.Errorf("%+v, told %d and %d", r, sent.Load(), received.Load())
	}
	if up != upGot || down != downGot {
		t.Error("bytes arrived changed")
	}
}

// Half of a connection may be open for long: what the other half says then
// still arrives.
func TestAHalfClosedConnectionGoesOn(t *testing.T) {
	for _, first := range []string{"client", "server"} {
		client, in := pair(t)
		out, server := pair(t)
		done := relay(in, out, Options{})
		ends, goesOn := client, server
		if first == "server" {
			ends, goesOn = server, client
		}
		if err := ends.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if _, err := goesOn.Read(make([]byte, 1)); !conn.IsEnd(err) {
			t.Fatalf("%s ended: %v", first, err)
		}
		for range 3 {
			if _, err := io.WriteString(goesOn, "more"); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(ends, make([]byte, 4)); err != nil {
				t.Fatal(err)
			}
		}
		goesOn.Close()
		if r := <-done; r.Sent+r.Received != 12 || r.SendErr != nil || r.ReceiveErr != nil {
			t.Errorf("%+v", r)
		}
	}
}

// A relay that waits holds no descriptors but those of its two connections.
func TestAWaitingRelayHoldsNoPipe(t *testing.T) {
	client, in := pair(t)
	out, server := pair(t)
	open := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip("no /proc on this platform")
		}
		return len(list)
	}
	before := open()
	done := relay(in, out, Options{})
	const size = 8 << 20
	go func() { _, _ = client.Write(make([]byte, size)) }()
	if _, err := io.CopyN(io.Discard, server, size); err != nil {
		t.Fatal(err)
	}
	if n := open() - before; n > 2 {
		t.Errorf("%d further descriptors are open, want those of one pipe that waits for all", n)
	}
	client.Close()
	server.Close()
	<-done
	if n := open(); n > before {
		t.Errorf("%d descriptors, before %d", n, before)
	}
}
