package listener

import (
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tullemesh/tulle/internal/limit"
)

// TestAcceptedSocketsHoldLittleUnsent: the kernel gives them what their listener
// has.
func TestAcceptedSocketsHoldLittleUnsent(t *testing.T) {
	got := make(chan int, 1)
	a, err := Listen(netip.MustParseAddrPort("127.0.0.1:0"), 1, func(c net.Conn) {
		defer c.Close()
		n := 0
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err == nil {
			err = raw.Control(func(fd uintptr) { n, _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT) })
		}
		if err != nil {
			t.Error(err)
		}
		got <- n
	}, func() {})
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", a.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if n := <-got; n != limit.UnsentBytesMax {
		t.Errorf("an accepted socket holds %d bytes unsent, want %d", n, limit.UnsentBytesMax)
	}
	c.Close()
	a.Close()
	a.Wait()
}
