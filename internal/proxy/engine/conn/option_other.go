//go:build !linux

package conn

import (
	"errors"
	"net/netip"
	"syscall"
)

// OriginalDst is not known on this platform.
func (s *Socket) OriginalDst() (netip.AddrPort, error) {
	return netip.AddrPort{}, errors.ErrUnsupported
}

func lateBind(_, _ string, _ syscall.RawConn) error { return nil }

// BoundUnsent does nothing on this platform.
func BoundUnsent(_, _ string, _ syscall.RawConn) error { return nil }
