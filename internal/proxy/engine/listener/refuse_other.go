//go:build !linux

package listener

import "net"

// refuseNew needs a kernel that filters sockets.
func refuseNew(net.Listener) error { return nil }

// waiting needs a kernel that tells.
func waiting(net.Listener) uint32 { return 0 }
