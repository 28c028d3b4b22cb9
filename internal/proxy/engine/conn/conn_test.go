package conn

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair returns two ends of a loopback TCP connection.
func pair(t *testing.T) (a, b *Socket) {
	t.Helper()
	c := net.ListenConfig{Control: BoundUnsent}
	c.SetMultipathTCP(false)
	l, err := c.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err = Dial(context.Background(), AddrPort(l.Addr()), "", DialOptions{Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	b, err = New(accepted)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func TestManyBytesPassBothWaysAtOnceAndHalfCloseIsKept(t *testing.T) {
	a, b := pair(t)
	sent := make([]byte, 5<<20)
	if _, err := rand.Read(sent); err != nil {
		t.Fatal(err)
	}
	got := make(chan []byte, 2)
	for _, s := range []*Socket{a, b} {
		go func() {
			all, err := io.ReadAll(s)
			if err != nil {
				t.Error(err)
			}
			got <- all
		}()
	}
	errs := make(chan error, 2)
	for _, s := range []*Socket{a, b} {
		go func() {
			_, err := s.Write(sent)
			errs <- errors.Join(err, s.CloseWrite())
		}()
	}
	for range 2 {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(<-got, sent) {
			t.Error("other bytes arrived")
		}
	}
}

func TestUnreadBytesComeFirst(t *testing.T) {
	a, b := pair(t)
	if _, err := a.Write([]byte("world")); err != nil {
		t.Fatal(err)
	}
	b.Unread([]byte("lo "))
	b.Unread([]byte("hel"))
	if err := b.AwaitReadable(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 11)
	if _, err := io.ReadFull(b, buf); err != nil || string(buf) != "hello world" {
		t.Errorf("%q, %v", buf, err)
	}
}

func TestLookTellsQuietReadableAndEnded(t *testing.T) {
	a, b := pair(t)
	if got := b.Look(); got != Quiet {
		t.Errorf("new connection: %v, want Quiet", got)
	}
	if err := b.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if got := b.Look(); got != Quiet {
		t.Errorf("past a deadline: %v, want Quiet", got)
	}
	if err := b.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := b.AwaitReadable(); err != nil {
		t.Fatal(err)
	}
	if got := b.Look(); got != Readable {
		t.Errorf("with a byte: %v, want Readable", got)
	}
	if n, err := b.Read(make([]byte, 5)); n != 1 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	a.Close()
	if err := b.AwaitReadable(); err != nil {
		t.Fatal(err)
	}
	if got := b.Look(); got != Ended {
		t.Errorf("after close: %v, want Ended", got)
	}
}

func TestAwaitEndSeesTheEndBehindUnreadBytes(t *testing.T) {
	a, b := pair(t)
	if _, err := a.Write([]byte("unread")); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- b.AwaitEnd() }()
	if err := a.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if all, err := io.ReadAll(b); string(all) != "unread" || err != nil {
		t.Errorf("%q, %v: the wait consumed bytes", all, err)
	}
}

func TestAwaitEndStopsAtADeadlineAndReadingGoesOn(t *testing.T) {
	a, b := pair(t)
	done := make(chan error, 1)
	go func() { done <- b.AwaitEnd() }()
	if err := b.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if err := b.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if n, err := b.Read(make([]byte, 5)); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

func TestAbortResetsThePeer(t *testing.T) {
	a, b := pair(t)
	if err := a.Abort(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("got %v, want a reset", err)
	}
}

func TestDialBindsTheSourceAddress(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, err := Dial(context.Background(), AddrPort(l.Addr()), "", DialOptions{Bind: netip.MustParseAddr("127.0.0.6"), KeepaliveIdle: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := AddrPort(c.RemoteAddr()).Addr().String(); got != "127.0.0.6" {
		t.Errorf("the peer sees %s", got)
	}
}

func TestOriginalDestinationOfADirectConnectionIsAnError(t *testing.T) {
	_, b := pair(t)
	if to, err := b.OriginalDst(); err == nil && to != AddrPort(b.LocalAddr()) {
		t.Errorf("a connection that was not redirected has the original destination %s", to)
	}
}

func TestKeptAliveExchangeDoesNotAllocate(t *testing.T) {
	a, b := pair(t)
	buf, msg := make([]byte, 64), []byte("ping")
	n := testing.AllocsPerRun(200, func() {
		if _, err := a.Write(msg); err != nil {
			t.Fatal(err)
		}
		if err := b.AwaitReadable(); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Read(buf); err != nil {
			t.Fatal(err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func TestGuardExpiresEachSlotAtItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var expired [Slots]atomic.Int64
		clock := NewClock()
		g := NewGuard(clock, func(slot int) { expired[slot].Store(clock.Now()) })
		defer g.Stop()
		start := clock.Now()
		g.Set(0, start+int64(time.Minute))
		g.Set(1, start+int64(time.Second))
		g.Set(2, start+int64(2*time.Second))
		g.Clear(2)
		g.Set(3, start+int64(3*time.Second))
		g.Set(3, start+int64(5*time.Second)) // later: the timer fires early and is armed again
		<-time.After(2 * time.Minute)
		for slot, want := range []time.Duration{time.Minute, time.Second, 0, 5 * time.Second} {
			if got := expired[slot].Load(); want == 0 && got != 0 || want != 0 && time.Duration(got-start) != want {
				t.Errorf("slot %d expired after %v, want %v", slot, time.Duration(got-start), want)
			}
		}
		g.Set(4, clock.Now()+int64(time.Hour))
		if !g.Expired(0) || g.Expired(0) || g.Expired(4) || expired[4].Load() != 0 {
			t.Error("Expired tells of an expiry once, and leaves the others")
		}
		<-time.After(2 * time.Hour)
		if expired[4].Load() == 0 {
			t.Error("asking whether a deadline has expired unset it")
		}
		if !g.Clear(1) || g.Clear(1) || g.Clear(2) {
			t.Error("Clear tells of an expiry once, and only of one that was")
		}
	})
}

func TestGuardFiresOnceForManyRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := NewClock()
		g := NewGuard(clock, func(int) { t.Error("expired") })
		defer g.Stop()
		for range 1000 { // a request each 10 ms with a deadline of a second
			g.Set(0, clock.Now()+int64(time.Second))
			<-time.After(10 * time.Millisecond)
			g.Clear(0)
		}
	})
}

func TestGuardSettingDoesNotAllocate(t *testing.T) {
	clock := NewClock()
	g := NewGuard(clock, func(int) {})
	defer g.Stop()
	g.Set(0, clock.Now()+int64(time.Hour))
	if n := testing.AllocsPerRun(100, func() { g.Set(1, clock.Now()+int64(2*time.Hour)); g.Clear(1) }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}
