// Package held keeps ports for programs that a test starts: the kernel gives a port that was asked for, closed and not yet listened at to whoever
// asks next. A socket that is bound and does not listen holds it; who asks for the port by its number, with SO_REUSEADDR as servers do, gets it all
// the same. Who holds one owns its socket: a test until it ends, or who releases it.
package held

import (
	"fmt"
	"net/netip"
	"syscall"
	"testing"
)

// Port holds a port of an IPv4 address until the test ends.
func Port(t testing.TB, ip string) int {
	t.Helper()
	port, release, err := Bind(ip)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return port
}

// Bind holds a port of an IPv4 address until it is released.
func Bind(ip string) (port int, release func(), err error) {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return 0, nil, err
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		return 0, nil, fmt.Errorf("make socket: %w", err)
	}
	syscall.CloseOnExec(fd)
	release = func() { _ = syscall.Close(fd) }
	if port, err = bind(fd, addr); err != nil {
		release()
		return 0, nil, fmt.Errorf("hold a port of %s: %w", ip, err)
	}
	return port, release, nil
}

func bind(fd int, addr netip.Addr) (int, error) {
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return 0, err
	}
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: addr.As4()}); err != nil {
		return 0, err
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		return 0, err
	}
	return name.(*syscall.SockaddrInet4).Port, nil
}
