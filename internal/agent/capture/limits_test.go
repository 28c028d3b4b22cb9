package capture_test

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tullemesh/tulle/internal/agent/capture"
	"github.com/tullemesh/tulle/internal/limit"
)

// pipes is a listener without sockets, so that a test needs no thousands of files.
type pipes struct {
	net.Listener
	in chan net.Conn
}

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p.in
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (p pipes) Close() error { close(p.in); return nil }

// TestRelayCarriesConnectionsUpToItsLimit: one more is closed at once.
func TestRelayCarriesConnectionsUpToItsLimit(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	const most = limit.RelayConnectionsMax
	front, behind := pipes{in: make(chan net.Conn)}, make(chan net.Conn)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- capture.Relay(ctx, front, func(context.Context) (net.Conn, error) {
			c, far := net.Pipe()
			behind <- far
			return c, nil
		})
	}()
	join := func() (ok bool) {
		client, in := net.Pipe()
		front.in <- in
		closed := make(chan error, 1)
		go func() {
			_, err := client.Read(make([]byte, 1))
			closed <- err
		}()
		select {
		case server := <-behind:
			if _, err := server.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			return <-closed == nil
		case err := <-closed:
			if !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			return false
		case <-time.After(5 * time.Second):
			t.Fatal("the connection is neither joined nor closed")
			return false
		}
	}
	for n := 1; n <= most+1; n++ {
		if ok := join(); ok != (n <= most) {
			t.Fatalf("connection %d of %d: joined %v", n, most, ok)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Relay returned %v", err)
	}
}
