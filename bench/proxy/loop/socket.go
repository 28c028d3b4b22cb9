package loop

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

func (l *Loop) dial() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := errors.Join(unix.Connect(fd, sockaddr(l.load.Target)), unix.SetNonblock(fd, true), unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
}

func (l *Loop) add(fd int, h handler) error {
	for len(l.handlers) <= fd {
		l.handlers = append(l.handlers, nil)
	}
	l.handlers[fd] = h
	return unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

// drop closes a descriptor that the loop need not know any longer.
func (l *Loop) drop(fd int) {
	l.handlers[fd] = nil
	_ = unix.Close(fd)
}

// conn is a socket with what the kernel has not taken yet.
type conn struct {
	loop    *Loop
	fd      int
	out     []byte
	blocked bool // EPOLLOUT is asked for
}

// errClosed is what a connection ends with that the proxy closed.
var errClosed = errors.New("the proxy closed a connection")

// read returns what is there, in the loop's scratch buffer; nothing at the
// moment is nil.
func (c *conn) read() ([]byte, error) {
	n, err := unix.Read(c.fd, c.loop.scratch)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return nil, nil
	case err != nil:
		return nil, err
	case n == 0:
		return nil, errClosed
	}
	return c.loop.scratch[:n], nil
}

// write sends p, which must not change until it is sent, when nothing waits
// before it, and else puts it behind that.
func (c *conn) write(p []byte) error {
	if len(c.out) > 0 {
		c.out = append(c.out, p...)
		return nil
	}
	c.out = p[:len(p):len(p)]
	return c.flush()
}

func (c *conn) flush() error {
	for len(c.out) > 0 {
		n, err := unix.Write(c.fd, c.out)
		if errors.Is(err, unix.EAGAIN) {
			return c.want(true)
		}
		if err != nil {
			return err
		}
		c.out = c.out[n:]
	}
	return c.want(false)
}

func (c *conn) want(writable bool) error {
	if c.blocked == writable {
		return nil
	}
	c.blocked = writable
	events := uint32(unix.EPOLLIN)
	if writable {
		events |= unix.EPOLLOUT
	}
	return unix.EpollCtl(c.loop.epoll, unix.EPOLL_CTL_MOD, c.fd, &unix.EpollEvent{Events: events, Fd: int32(c.fd)})
}

// listen binds a backend.
func (l *Loop) listen(ip netip.Addr) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(unix.Bind(fd, sockaddr(netip.AddrPortFrom(ip, 0))), unix.Listen(fd, 4096)); err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("backend at %s: %w", ip, err)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		_ = unix.Close(fd)
		return err
	}
	l.backends = append(l.backends, netip.AddrPortFrom(ip, uint16(bound.(*unix.SockaddrInet4).Port)))
	return l.add(fd, &acceptor{l, fd})
}

// acceptor takes a backend's connections.
type acceptor struct {
	loop *Loop
	fd   int
}

func (a *acceptor) ready(uint32) error {
	for {
		fd, _, err := unix.Accept4(a.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return nil //nolint:nilerr // EAGAIN: the queue is empty
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
			return err
		}
		c := conn{loop: a.loop, fd: fd}
		var h handler
		switch a.loop.load.Protocol {
		case HTTP2:
			h = newH2Server(c)
		case Bulk, Short:
			h = &source{conn: c}
		default:
			h = &h1server{conn: c}
		}
		if err := a.loop.add(fd, h); err != nil {
			return err
		}
	}
}
