// Package blackhole makes addresses that take no connection, for tests: one that answers no SYN, a listening socket whose queue is full, and one
// that refuses. It owns the sockets until the test ends, so that nobody else gets the address.
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

// Refuse returns an address of 127.0.0.1 where nobody listens and nobody can.
func Refuse(t testing.TB) netip.AddrPort {
	t.Helper()
	_, at := bind(t)
	return at
}

// bind returns a socket that is bound to a port of its own.
func bind(t testing.TB) (fd int, at netip.AddrPort) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	syscall.CloseOnExec(fd)
	t.Cleanup(func() { _ = syscall.Close(fd) })
	loopback := [4]byte{127, 0, 0, 1}
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: loopback}); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fd, netip.AddrPortFrom(netip.AddrFrom4(loopback), uint16(name.(*syscall.SockaddrInet4).Port))
}

// Listen returns an address that answers no SYN.
func Listen(t testing.TB) netip.AddrPort {
	t.Helper()
	fd, at := bind(t)
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
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
