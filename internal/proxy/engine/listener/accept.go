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

	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
)

// Acceptor accepts at one address and gives each connection a goroutine.
type Acceptor struct {
	// Fixed at creation.
	listener net.Listener
	handle   func(net.Conn)
	refused  func()
	max      chan struct{}
	end      func() // closes the socket, once

	ended chan struct{}  // closed with the socket
	loop  sync.WaitGroup // the accepting goroutine
	conns sync.WaitGroup // the connections' goroutines
}

// Listen binds an address and starts to accept. handle runs on the
// connection's own goroutine and closes it; refused is told of connections
// beyond most.
func Listen(at netip.AddrPort, most int, handle func(net.Conn), refused func()) (*Acceptor, error) {
	a, err := bind(at, most, handle, refused)
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", at, err)
	}
	a.loop.Go(a.accept)
	return a, nil
}

// bind is Listen without accepting.
func bind(at netip.AddrPort, most int, handle func(net.Conn), refused func()) (*Acceptor, error) {
	var c net.ListenConfig
	c.KeepAlive = -1 // Envoy's default: off
	c.Control = conn.BoundUnsent
	c.SetMultipathTCP(false) // Go's default; its sockets take no filter (refuse_linux.go) and cost more
	// One family each: a wildcard of IPv6 leaves IPv4 to another socket, as
	// Envoy's does without ipv4_compat.
	network := "tcp6"
	if at.Addr().Unmap().Is4() {
		network = "tcp4"
	}
	l, err := c.Listen(context.Background(), network, at.String())
	if err != nil {
		return nil, err
	}
	a := &Acceptor{listener: l, handle: handle, refused: refused, max: make(chan struct{}, most), ended: make(chan struct{})}
	a.end = sync.OnceFunc(func() {
		l.Close()
		close(a.ended)
	})
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

// retireTime is how long connections that have begun may take to be complete
// when nobody new is accepted: a handshake with one lost packet on a local
// network. Without one it takes a round trip.
const retireTime = 250 * time.Millisecond

// retireRounds bounds how often retireTime is waited for while complete
// connections wait to be accepted, on a machine that is short of time.
const retireRounds = 20

// Retire takes nobody new and closes the socket when all that have begun to
// connect are accepted: a client that was let in is not reset. It does not wait.
func (a *Acceptor) Retire() {
	if err := refuseNew(a.listener); err != nil {
		a.end() // what can't be refused by the kernel must not come in for longer
		return
	}
	a.loop.Go(func() {
		t := time.NewTimer(retireTime)
		defer t.Stop()
		for range retireRounds {
			select {
			case <-t.C:
			case <-a.ended:
				return
			}
			if waiting(a.listener) == 0 {
				break
			}
			t.Reset(retireTime)
		}
		a.end()
	})
}

// Close stops accepting at once; open connections go on.
func (a *Acceptor) Close() {
	a.end()
	a.loop.Wait()
}

// Done reports whether the socket is closed and no connection is open.
func (a *Acceptor) Done() bool {
	select {
	case <-a.ended:
		return len(a.max) == 0
	default:
		return false
	}
}

// WaitRetired waits until the socket is closed.
func (a *Acceptor) WaitRetired() { <-a.ended }

// Wait waits until all connections have ended. Close comes first.
func (a *Acceptor) Wait() {
	a.loop.Wait()
	a.conns.Wait()
}

// Open is the number of open connections.
func (a *Acceptor) Open() int { return len(a.max) }
