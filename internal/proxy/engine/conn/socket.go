// Package conn owns sockets: reads and writes that never enter the
// scheduler's system call state, waiting without a buffer, original
// destinations, dialing, half-close, and lazily armed deadlines.
//
// In come accepted or dialed connections; out goes Stream, which the codecs'
// drivers use for plaintext and TLS alike. A Stream belongs to one reader and
// one writer goroutine at a time; whoever closes it may be a third.
//
// Why raw calls: after an idle moment every ordinary system call of Go wakes
// the monitor thread, which doubles the cost of a request at low rates. A
// socket is non-blocking, so its read and write can run inside the RawConn
// callbacks as raw calls and still park in the netpoller
// (docs/adr/0004-raw-socket-calls.md). Sketch of a kept-alive request, at each
// end: one read, one write, one try before the wait, no allocation, no timer.
// Buffers belong to a request in progress: an idle connection waits in ReadFirst
// or AwaitReadable without one.
//
// Read socket.go first, then guard.go and alarm.go for deadlines.
package conn

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// Stream is a byte stream to a peer.
type Stream interface {
	net.Conn
	// AwaitReadable waits until Read has something to give: bytes, the end or
	// an error. It holds no buffer.
	AwaitReadable() error
	// CloseWrite ends our direction and keeps reading.
	CloseWrite() error
	// Look tells the state of a stream that nobody reads, without waiting or
	// consuming.
	Look() State
	// RoundTrip asks on an idle stream: it finds out whether the peer has sent
	// something or ended (ErrStale), writes the question, and reads the first
	// bytes of the answer. It returns early, with n 0 and no error, when not all
	// of the question could be written at once, or nothing be read: wrote bytes
	// are with the kernel.
	RoundTrip(question, answer []byte) (wrote, n int, err error)
	// Socket is the socket below.
	Socket() *Socket
}

// ErrNotSocket means that a connection is not a stream socket of the kernel.
var ErrNotSocket = errors.New("not a socket")

// ErrNoPipe means that the kernel can't pass bytes on by itself.
var ErrNoPipe = errors.New("no pipe to pass bytes through")

// ErrStale means that a connection on which nothing was expected has bytes or
// its end to read: it can't be asked anything. Nothing was written.
var ErrStale = errors.New("unexpected bytes or end on an idle connection")

// kernelConn is what *net.TCPConn and *net.UnixConn have in common.
type kernelConn interface {
	net.Conn
	syscall.Conn
	CloseWrite() error
}

// Socket is a plaintext Stream on a kernel socket.
type Socket struct {
	// Fixed at creation.
	under kernelConn
	raw   syscall.RawConn
	ops   rawOps
	// gather is a Flusher's, for TLS above; nil: none.
	gather *gather

	// Owned by the reader.
	pending []byte // read before, to be read again
	tries   bool   // reads don't wait
}

// New wraps a TCP or Unix stream connection and takes it over.
func New(c net.Conn) (*Socket, error) {
	k, ok := c.(kernelConn)
	if !ok {
		return nil, ErrNotSocket
	}
	raw, err := k.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &Socket{under: k, raw: raw}
	s.ops.prepare(s)
	return s, nil
}

// Socket implements Stream.
func (s *Socket) Socket() *Socket { return s }

// TCP returns the TCP connection below, so that the kernel can splice, or nil.
// Pending bytes are the caller's to move first.
func (s *Socket) TCP() *net.TCPConn {
	t, _ := s.under.(*net.TCPConn)
	return t
}

// Unread puts bytes in front of what the socket will give; Read returns them
// first. The socket keeps b.
func (s *Socket) Unread(b []byte) {
	if len(s.pending) > 0 {
		b = append(b[:len(b):len(b)], s.pending...)
	}
	s.pending = b
}

// Pending returns and forgets the bytes put back by Unread.
func (s *Socket) Pending() []byte {
	b := s.pending
	s.pending = nil
	return b
}

// Read implements io.Reader.
func (s *Socket) Read(p []byte) (int, error) {
	if len(s.pending) > 0 {
		n := copy(p, s.pending)
		s.pending = s.pending[n:]
		if len(s.pending) == 0 {
			s.pending = nil
		}
		return n, nil
	}
	if len(p) == 0 {
		return 0, nil
	}
	if s.tries {
		return s.tryRead(p)
	}
	return s.read(p)
}

// Write implements io.Writer; it returns when all is in the kernel's buffer.
func (s *Socket) Write(p []byte) (int, error) {
	if s.gather != nil && s.gather.take(p) {
		return len(p), nil
	}
	return s.writeAll(p)
}

// AwaitReadable implements Stream.
func (s *Socket) AwaitReadable() error {
	if len(s.pending) > 0 {
		return nil
	}
	return s.awaitReadable()
}

// ReadFirst is AwaitReadable and Read in one: it takes a buffer from the pool
// when there is something to read, which saves looking first. With n bytes the
// buffer is the caller's; with an error there is none.
func (s *Socket) ReadFirst(pool *Buffers) (b *Buffer, n int, err error) {
	if len(s.pending) > 0 {
		b = pool.Get()
		n, err = s.Read(b.B)
		return b, n, err
	}
	return s.readFirst(pool)
}

// RoundTrip implements Stream.
//
// Look, write and read are one call because the look is then the try before the
// wait that the netpoller's edges require, so it costs nothing.
func (s *Socket) RoundTrip(question, answer []byte) (wrote, n int, err error) {
	if len(s.pending) > 0 {
		return 0, 0, ErrStale
	}
	if wrote, n, err = s.roundTrip(question, answer); errors.Is(err, ErrStale) {
		n = 0
	}
	return wrote, n, err
}

// CloseWrite implements Stream.
func (s *Socket) CloseWrite() error { return s.under.CloseWrite() }

// Close implements io.Closer.
func (s *Socket) Close() error { return s.under.Close() }

// Abort closes with a reset, so that the peer does not take what it has for
// complete.
func (s *Socket) Abort() error {
	if t := s.TCP(); t != nil {
		_ = t.SetLinger(0) // a socket that is gone needs no reset
	}
	return s.under.Close()
}

// LocalAddr implements net.Conn.
func (s *Socket) LocalAddr() net.Addr { return s.under.LocalAddr() }

// RemoteAddr implements net.Conn.
func (s *Socket) RemoteAddr() net.Addr { return s.under.RemoteAddr() }

// SetDeadline implements net.Conn.
func (s *Socket) SetDeadline(t time.Time) error { return s.under.SetDeadline(t) }

// SetReadDeadline implements net.Conn.
func (s *Socket) SetReadDeadline(t time.Time) error { return s.under.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (s *Socket) SetWriteDeadline(t time.Time) error { return s.under.SetWriteDeadline(t) }

// AddrPort returns a TCP address as a netip value without an IPv4-in-IPv6
// form; other addresses give the zero value.
func AddrPort(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := t.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// IsTimeout reports whether an error is an expired deadline.
func IsTimeout(err error) bool {
	if err == nil {
		return false // without an allocation
	}
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// IsEnd reports whether an error is an orderly end of the peer's direction.
func IsEnd(err error) bool { return errors.Is(err, io.EOF) }
