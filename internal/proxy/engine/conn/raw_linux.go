package conn

import (
	"io"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// chunkBytesMax bounds one raw write: a raw call holds the processor, so it
// must be short.
const chunkBytesMax = 256 << 10

// rawOps holds the callbacks and their arguments, made once so that a call
// allocates nothing. The r fields belong to the reader, the w fields to the
// writer.
type rawOps struct {
	rbuf []byte
	rn   int
	rerr syscall.Errno
	rfn  func(uintptr) bool

	waitFn func(uintptr) bool
	lookFn func(uintptr)
	looked State

	wbuf []byte
	werr syscall.Errno
	wfn  func(uintptr) bool
}

func (o *rawOps) prepare(*Socket) {
	o.rfn, o.waitFn, o.wfn, o.lookFn = o.doRead, o.doWait, o.doWrite, o.doLook
}

func (o *rawOps) doRead(fd uintptr) bool {
	for {
		n, _, e := syscall.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&o.rbuf[0])), uintptr(len(o.rbuf)))
		if e == unix.EINTR {
			continue
		}
		o.rn, o.rerr = int(n), e
		return e != unix.EAGAIN
	}
}

// doWait peeks one byte: the netpoller reports edges, so a wait without a look
// first could sleep on bytes that are already there.
func (o *rawOps) doWait(fd uintptr) bool {
	n, e := peek(fd)
	o.rn, o.rerr = n, e
	return e != unix.EAGAIN
}

func peek(fd uintptr) (int, syscall.Errno) {
	var one [1]byte
	for {
		n, _, e := syscall.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&one[0])), 1, unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
		if e == unix.EINTR {
			continue
		}
		return int(n), e
	}
}

func (o *rawOps) doWrite(fd uintptr) bool {
	for len(o.wbuf) > 0 {
		n, _, e := syscall.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(&o.wbuf[0])),
			uintptr(min(len(o.wbuf), chunkBytesMax)), unix.MSG_NOSIGNAL, 0, 0)
		switch e {
		case 0:
			o.wbuf = o.wbuf[n:]
		case unix.EINTR:
		case unix.EAGAIN:
			return false
		default:
			o.werr = e
			return true
		}
	}
	return true
}

func (s *Socket) read(p []byte) (int, error) {
	o := &s.ops
	o.rbuf = p
	err := s.raw.Read(o.rfn)
	o.rbuf = nil
	switch {
	case err != nil:
		return 0, err
	case o.rerr != 0:
		return 0, o.rerr
	case o.rn == 0:
		return 0, io.EOF
	}
	return o.rn, nil
}

// Write implements io.Writer; it returns when all is in the kernel's buffer.
func (s *Socket) Write(p []byte) (int, error) {
	o := &s.ops
	o.wbuf, o.werr = p, 0
	err := s.raw.Write(o.wfn)
	n := len(p) - len(o.wbuf)
	o.wbuf = nil
	if err == nil && o.werr != 0 {
		err = o.werr
	}
	return n, err
}

func (s *Socket) awaitReadable() error {
	o := &s.ops
	if err := s.raw.Read(o.waitFn); err != nil {
		return err
	}
	if o.rerr != 0 {
		return o.rerr
	}
	return nil // bytes, or the end, which Read will tell
}

// State is what a socket that nobody reads looks like.
type State uint8

// The states.
const (
	Quiet    State = iota // open, nothing to read
	Readable              // bytes wait
	Ended                 // the peer closed its direction, or all of it
)

// Look tells a socket's state without waiting or consuming. It must not run
// beside a reader.
func (s *Socket) Look() State {
	if len(s.pending) > 0 {
		return Readable
	}
	if err := s.raw.Control(s.ops.lookFn); err != nil {
		return Ended
	}
	return s.ops.looked
}

func (o *rawOps) doLook(fd uintptr) {
	switch n, e := peek(fd); {
	case e == unix.EAGAIN:
		o.looked = Quiet
	case e == 0 && n > 0:
		o.looked = Readable
	default:
		o.looked = Ended
	}
}

// AwaitEnd waits until the peer has ended its direction or the connection
// failed, whether or not bytes wait to be read. An expired read deadline ends
// the wait with an error.
func (s *Socket) AwaitEnd() error {
	return s.raw.Read(func(fd uintptr) bool {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			n, e := peek(fd) // not TCP: unread bytes hide the end
			return e != unix.EAGAIN && n == 0
		}
		return info.State != tcpEstablished && info.State != tcpFinWait1 && info.State != tcpFinWait2
	})
}

// States of a TCP socket in which the peer can still send (linux/tcp_states.h).
const (
	tcpEstablished = 1
	tcpFinWait1    = 4
	tcpFinWait2    = 5
)
