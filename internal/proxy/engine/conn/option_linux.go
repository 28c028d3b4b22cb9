package conn

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tullemesh/tulle/internal/limit"
)

// soOriginalDst is SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST
// (linux/netfilter_ipv4.h, linux/netfilter_ipv6/ip6_tables.h).
const soOriginalDst = 80

// OriginalDst returns the destination that a redirected connection had before
// netfilter changed it. It is an error when the connection was not redirected.
func (s *Socket) OriginalDst() (netip.AddrPort, error) {
	var out netip.AddrPort
	var failed error
	v6 := AddrPort(s.LocalAddr()).Addr().Is6()
	err := s.raw.Control(func(fd uintptr) {
		if v6 {
			out, failed = originalDst6(int(fd))
		} else {
			out, failed = originalDst4(int(fd))
		}
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("read original destination: %w", err)
	}
	return out, nil
}

// originalDst4 reads a struct sockaddr_in through a structure of x/sys that is
// large enough for it.
func originalDst4(fd int) (netip.AddrPort, error) {
	m, err := unix.GetsockoptIPv6Mreq(fd, unix.IPPROTO_IP, soOriginalDst)
	if err != nil {
		return netip.AddrPort{}, err
	}
	port := binary.BigEndian.Uint16(m.Multiaddr[2:4])
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(m.Multiaddr[4:8])), port), nil
}

// originalDst6 reads a struct sockaddr_in6.
func originalDst6(fd int) (netip.AddrPort, error) {
	m, err := unix.GetsockoptIPv6MTUInfo(fd, unix.IPPROTO_IPV6, soOriginalDst)
	if err != nil {
		return netip.AddrPort{}, err
	}
	var port [2]byte
	binary.NativeEndian.PutUint16(port[:], m.Addr.Port) // the field holds network order
	return netip.AddrPortFrom(netip.AddrFrom16(m.Addr.Addr).Unmap(), binary.BigEndian.Uint16(port[:])), nil
}

// lateBind lets the kernel choose the source port at connect, when it knows
// the destination: so one source address serves more than 64 k connections.
func lateBind(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	})
	if err != nil {
		return err
	}
	if failed == unix.EOPNOTSUPP || failed == unix.ENOPROTOOPT {
		return nil // an old kernel: the port is chosen early
	}
	return failed
}

// BoundUnsent bounds what the kernel takes of us beyond what the peer's window lets it send: else a send buffer grows to net.ipv4.tcp_wmem's
// maximum, 4 MiB, for a peer that reads nothing, and some hundred of those take all memory that the kernel has for TCP. Bytes on their way do not
// count, so a peer that reads is sent as much as before. It is the Control of a net.ListenConfig: accepted sockets have what their listener has, unless
// it speaks Multipath TCP. The error is nil, as without the bound peers are served all the same.
func BoundUnsent(_, _ string, raw syscall.RawConn) error {
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, limit.UnsentBytesMax)
	})
	return nil
}
