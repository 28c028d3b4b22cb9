//go:build !linux

package conn

import (
	"errors"
	"net/netip"
	"syscall"
	"time"
)

// OriginalDst is not known on this platform.
func (s *Socket) OriginalDst() (netip.AddrPort, error) {
	return netip.AddrPort{}, errors.ErrUnsupported
}

func lateBind(_, _ string, _ syscall.RawConn) error { return nil }

// QuietFor is not known on this platform: every look finds the connection in
// use, so only its owner's deadlines end it.
func (s *Socket) QuietFor() time.Duration { return 0 }

// Taken is not known on this platform.
func (s *Socket) Taken() uint64 { return 0 }

// Received is not known on this platform.
func (s *Socket) Received() uint64 { return 0 }
