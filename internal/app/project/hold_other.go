//go:build !linux

package project

import (
	"context"
	"net"
	"net/netip"
)

// hold listens on a port that the kernel chooses. Only one socket can have the port here, so it must be released before its user starts.
func hold(ctx context.Context, ip netip.Addr) (held, error) {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", netip.AddrPortFrom(ip, 0).String())
	if err != nil {
		return held{}, err
	}
	return held{at: ln.Addr().(*net.TCPAddr).AddrPort(), closer: ln}, nil
}
