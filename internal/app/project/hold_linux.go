package project

import (
	"context"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// hold binds a socket to a port that the kernel chooses, and does not listen. With SO_REUSEADDR on both sides the port's user can listen
// all the same (every Go program sets it), while the kernel gives the port to nobody who asks for any port or dials.
func hold(_ context.Context, ip netip.Addr) (held, error) {
	family := unix.AF_INET
	var at unix.Sockaddr = &unix.SockaddrInet4{Addr: ip.Unmap().As4()}
	if !ip.Unmap().Is4() {
		family, at = unix.AF_INET6, &unix.SockaddrInet6{Addr: ip.As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return held{}, os.NewSyscallError("socket", err)
	}
	file := os.NewFile(uintptr(fd), "held port")
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		_ = file.Close()
		return held{}, os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Bind(fd, at); err != nil {
		_ = file.Close()
		return held{}, os.NewSyscallError("bind", err)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		_ = file.Close()
		return held{}, os.NewSyscallError("getsockname", err)
	}
	switch a := bound.(type) {
	case *unix.SockaddrInet4:
		return held{at: netip.AddrPortFrom(ip, uint16(a.Port)), closer: file, lasting: true}, nil
	case *unix.SockaddrInet6:
		return held{at: netip.AddrPortFrom(ip, uint16(a.Port)), closer: file, lasting: true}, nil
	}
	_ = file.Close()
	return held{}, fmt.Errorf("bound to an address of another family: %T", bound)
}
