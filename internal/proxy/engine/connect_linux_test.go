package engine

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

// unanswering is an address whose queue of connections is full: the kernel
// drops further ones without an answer.
func unanswering(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(name.(*unix.SockaddrInet4).Port))
	for range 8 {
		c, err := net.DialTimeout("tcp", at.String(), 100*time.Millisecond)
		if err != nil {
			return at
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Skip("this kernel's queues are never full")
	return at
}

func TestConnectTimeoutIsTold(t *testing.T) {
	spec := static("cart", unanswering(t))
	spec.ConnectTimeout = 2 * short
	p := start(t, &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{spec}})
	if got := p.talk(t, get); !strings.HasPrefix(got, "HTTP/1.1 503 ") || !strings.HasSuffix(got, "reset reason: connection timeout") {
		t.Errorf("got %q", got)
	}
	if log := p.logged(); !strings.Contains(log, " 503 UF ") {
		t.Errorf("log %q", log)
	}
}
