// Package held keeps ports for programs that a test starts: the kernel gives a port that was asked for, closed and not yet listened at to whoever
// asks next. A socket that is bound and does not listen holds it; who asks for the port by its number, with SO_REUSEADDR as servers do, gets it all
// the same. It owns the sockets until the test ends.
package held

import (
	"net/netip"
	"syscall"
	"testing"
)

// Port holds a port of an IPv4 address.
func Port(t testing.TB, ip string) int {
	t.Helper()
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	syscall.CloseOnExec(fd)
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: addr.As4()}); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return name.(*syscall.SockaddrInet4).Port
}
