package downstream

import (
	"net"
	"testing"

	"go.uber.org/goleak"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTheOldestHandshakeEndsWhenThereAreTooMany(t *testing.T) {
	var h handshakes
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	open := func() *conn.Socket {
		s, err := conn.Dial(t.Context(), conn.AddrPort(l.Addr()), "", conn.DialOptions{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	oldest, other := open(), open()
	leaveOldest := h.begin(oldest)
	for range limit.HandshakesMax - 1 {
		h.begin(other)
	}
	if h.going.Len() != limit.HandshakesMax {
		t.Fatalf("%d are going on", h.going.Len())
	}
	leaveLast := h.begin(other)
	if h.going.Len() != limit.HandshakesMax {
		t.Errorf("%d are going on, the limit is %d", h.going.Len(), limit.HandshakesMax)
	}
	if leaveOldest() {
		t.Error("the oldest was left alone")
	}
	if !leaveLast() {
		t.Error("the newest was ended")
	}
	if _, err := oldest.Read(make([]byte, 1)); !conn.IsTimeout(err) {
		t.Errorf("the oldest still waits: %v", err)
	}
}
