package capture_test

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tullemesh/tulle/internal/agent/capture"
)

func listen(t *testing.T) net.Listener {
	t.Helper()
	var lc net.ListenConfig
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln
}

// connect dials an address with a deadline for the whole test.
func connect(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	var d net.Dialer
	c, err := d.DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

func TestRelayKeepsHalfCloseAndEndsWithItsContext(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	server, front := listen(t), listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- capture.Relay(ctx, front, func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", server.Addr().String())
		})
	}()
	client := connect(t, front.Addr().String())
	behind, err := server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer behind.Close()
	if _, err := io.WriteString(client, "question"); err != nil {
		t.Fatal(err)
	}
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(behind); err != nil || string(got) != "question" {
		t.Errorf("behind the relay: %q, %v", got, err)
	}
	if _, err := io.WriteString(behind, "answer after the end of the question"); err != nil {
		t.Fatal(err)
	}
	_ = behind.Close()
	if got, err := io.ReadAll(client); err != nil || string(got) != "answer after the end of the question" {
		t.Errorf("before the relay: %q, %v", got, err)
	}
	idle := connect(t, front.Addr().String())
	held, err := server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Relay returned %v", err)
	}
	if _, err := idle.Read(make([]byte, 1)); err == nil {
		t.Error("a connection outlived the relay")
	}
	_ = held.Close()
	if _, err := new(net.Dialer).DialContext(t.Context(), "tcp", front.Addr().String()); err == nil {
		t.Error("the relay still accepts")
	}
}

func TestRelayResetsWhatItCannotJoin(t *testing.T) {
	front := listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- capture.Relay(ctx, front, func(context.Context) (net.Conn, error) { return nil, errors.New("nobody there") })
	}()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", front.Addr().String())
	if err == nil { // the reset may come before connect has returned
		_, err = c.Read(make([]byte, 1))
		_ = c.Close()
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client sees %v, want a reset", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
