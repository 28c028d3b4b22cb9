package listener

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// Acceptor accepts at one address and gives each connection a goroutine.
type Acceptor struct {
	// Fixed at creation.
	listener net.Listener
	handle   func(net.Conn)
	refused  func()
	max      chan struct{}

	loop  sync.WaitGroup // the accepting goroutine
	conns sync.WaitGroup // the connections' goroutines
}

// Listen binds an address and starts to accept. handle runs on the
// connection's own goroutine and closes it; refused is told of connections
// beyond most.
func Listen(at netip.AddrPort, most int, handle func(net.Conn), refused func()) (*Acceptor, error) {
	var c net.ListenConfig
	c.KeepAlive = -1 // Envoy's default: off
	// One family each: a wildcard of IPv6 leaves IPv4 to another socket, as
	// Envoy's does without ipv4_compat.
	network := "tcp6"
	if at.Addr().Unmap().Is4() {
		network = "tcp4"
	}
	l, err := c.Listen(context.Background(), network, at.String())
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", at, err)
	}
	a := &Acceptor{listener: l, handle: handle, refused: refused, max: make(chan struct{}, most)}
	a.loop.Go(a.accept)
	return a, nil
}

// Addr is the bound address.
func (a *Acceptor) Addr() netip.AddrPort {
	ap := a.listener.Addr().(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// acceptPause is how long to wait when the process is out of file descriptors:
// connections end meanwhile.
const acceptPause = 20 * time.Millisecond

func (a *Acceptor) accept() {
	for {
		c, err := a.listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOBUFS) {
				<-time.After(acceptPause)
			}
			continue
		}
		select {
		case a.max <- struct{}{}:
			a.conns.Go(func() {
				defer func() { <-a.max }()
				a.handle(c)
			})
		default:
			a.refused()
			c.Close()
		}
	}
}

// Close stops accepting; open connections go on.
func (a *Acceptor) Close() {
	a.listener.Close()
	a.loop.Wait()
}

// Wait waits until all connections have ended. Close comes first.
func (a *Acceptor) Wait() { a.conns.Wait() }

// Open is the number of open connections.
func (a *Acceptor) Open() int { return len(a.max) }
