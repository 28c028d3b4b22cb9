package driver1

import (
	"fmt"
	"io"
	"net"
	"testing"

	"go.uber.org/goleak"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/downstream"
	"github.com/tullemesh/tulle/internal/proxy/engine/exchange"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lasting is a client that goes on sending so many bytes after its answer.
type lasting struct {
	conn.Stream
	left  int
	asked bool // for more than there was
}

func (*lasting) CloseWrite() error { return nil }

func (s *lasting) Read(b []byte) (int, error) {
	n := min(len(b), s.left)
	if s.left -= n; n == 0 {
		s.asked = true
		return 0, io.EOF
	}
	return n, nil
}

// TestLateBytesAreReadUpToTheirLimit: of a client that does not stop sending.
func TestLateBytesAreReadUpToTheirLimit(t *testing.T) {
	const most = limit.LingerBytesMax
	shared := &downstream.Shared{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	sock, err := conn.Dial(t.Context(), conn.AddrPort(l.Addr()), "", conn.DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	for n, want := range map[int]string{most - 1: "0 left, more asked for: true", most: "0 left, more asked for: false", most + 1: "1 left, more asked for: false"} {
		s := &lasting{Stream: sock, left: n}
		x := &http1Exchange{http1State: http1State{
			h: &http1Conn{},
			d: &downstream.Conn{Conn: exchange.Conn{Shared: &shared.Shared}, Shared: shared, Sock: sock, Stream: s},
		}}
		x.linger(false)
		if got := fmt.Sprintf("%d left, more asked for: %v", s.left, s.asked); got != want {
			t.Errorf("a client that sends %d bytes more: %s; want %s", n, got, want)
		}
	}
}
