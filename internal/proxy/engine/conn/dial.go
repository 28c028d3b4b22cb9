package conn

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// DialOptions say how an upstream connection is made.
type DialOptions struct {
	// Timeout bounds the connect; 0: only ctx does.
	Timeout time.Duration
	// Bind is the source address (127.0.0.6 for inbound passthrough); the zero
	// value leaves it to the kernel.
	Bind netip.Addr
	// Keepalive of the socket; all zero: off, as Envoy's default is.
	KeepaliveIdle, KeepaliveInterval time.Duration
	KeepaliveProbes                  int
}

// Dial connects to a TCP address, or to a Unix socket when pipe is not empty.
func Dial(ctx context.Context, to netip.AddrPort, pipe string, o DialOptions) (*Socket, error) {
	d := net.Dialer{Timeout: o.Timeout, KeepAliveConfig: net.KeepAliveConfig{
		Enable:   o.KeepaliveIdle > 0 || o.KeepaliveInterval > 0 || o.KeepaliveProbes > 0,
		Idle:     o.KeepaliveIdle,
		Interval: o.KeepaliveInterval,
		Count:    o.KeepaliveProbes,
	}, KeepAlive: -1}
	if d.KeepAliveConfig.Enable {
		d.KeepAlive = 0
	}
	network, address := "tcp", to.String()
	if pipe != "" {
		network, address = "unix", pipe
	} else if o.Bind.IsValid() && o.Bind.Is4() == to.Addr().Unmap().Is4() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(o.Bind, 0))
		d.Control = lateBind
	}
	c, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	s, err := New(c)
	if err == nil && s.TCP() != nil {
		err = BoundUnsent(network, address, s.raw)
	}
	return s, err
}
