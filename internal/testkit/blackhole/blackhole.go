// Package blackhole makes an address that answers no SYN, for tests: a listening socket whose queue is full. It owns the sockets until the
// test ends.
package blackhole

import (
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// fillMax bounds the connections that fill the queue: the kernel keeps one or two for a backlog of 0.
const fillMax = 16

// Listen returns the address.
func Listen(t testing.TB) netip.AddrPort {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	syscall.CloseOnExec(fd)
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	port := name.(*syscall.SockaddrInet4).Port
	at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port))
	for range fillMax {
		c, err := net.DialTimeout("tcp", at.String(), 200*time.Millisecond)
		if err != nil {
			return at // full
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Fatal("the queue of a socket that nobody accepts from takes everything")
	return at
}
