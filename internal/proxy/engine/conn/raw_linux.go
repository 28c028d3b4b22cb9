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
// allocates nothing. The reader's fields and the writer's belong to one
// goroutine each.
type rawOps struct {
	// The reader's.
	rfn  func(uintptr) bool
	op   readOp
	rbuf []byte
	rn   int
	rerr syscall.Errno
	pool *Buffers
	got  *Buffer
	ask  []byte // what of the question is not written yet

	// The writer's.
	wbuf []byte
	werr syscall.Errno
	wfn  func(uintptr) bool
}

// readOp is what the reader's callback does.
type readOp uint8

const (
	opRead  readOp = iota
	opWait         // for something to read, without taking it
	opFirst        // read into a buffer that is taken only when there is something
	opCheck        // nothing may be there to read; then write, then opRead
	opTry          // read without waiting
	opLook         // peek and do not wait
)

func (o *rawOps) prepare(*Socket) {
	o.rfn, o.wfn = o.doRead, o.doWrite
}

// doRead is the reader's callback; false waits in the netpoller. The netpoller
// reports edges and forgets the earlier ones when a call begins, so each call
// tries before it waits.
func (o *rawOps) doRead(fd uintptr) bool {
	switch o.op {
	case opWait:
		o.rn, o.rerr = peek(fd)
		return o.rerr != unix.EAGAIN
	case opLook:
		o.rn, o.rerr = peek(fd)
		return true
	case opFirst:
		b := o.pool.Get()
		o.rn, o.rerr = read(fd, b.B)
		if o.rerr == unix.EAGAIN {
			o.pool.Put(b)
			return false
		}
		o.got = b
		return true
	case opCheck:
		if o.rn, o.rerr = read(fd, o.rbuf); o.rerr != unix.EAGAIN {
			return true
		}
		o.op, o.rn = opRead, 0
		o.ask, o.rerr = write(fd, o.ask)
		return o.rerr != 0 // all is written: wait
	case opTry:
		o.rn, o.rerr = read(fd, o.rbuf)
		return true
	case opRead:
	}
	o.rn, o.rerr = read(fd, o.rbuf)
	return o.rerr != unix.EAGAIN
}

func read(fd uintptr, p []byte) (int, syscall.Errno) {
	for {
		n, _, e := syscall.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
		if e != unix.EINTR {
			return int(n), e
		}
	}
}

// write writes what the kernel takes and returns the rest.
func write(fd uintptr, p []byte) ([]byte, syscall.Errno) {
	for len(p) > 0 {
		n, _, e := syscall.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(&p[0])),
			uintptr(min(len(p), chunkBytesMax)), unix.MSG_NOSIGNAL, 0, 0)
		switch e {
		case 0:
			p = p[n:]
		case unix.EINTR:
		default:
			return p, e
		}
	}
	return p, 0
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
	o.wbuf, o.werr = write(fd, o.wbuf)
	return o.werr != unix.EAGAIN
}

func (s *Socket) read(p []byte) (int, error) {
	o := &s.ops
	o.op, o.rbuf = opRead, p
	err := s.raw.Read(o.rfn)
	o.rbuf = nil
	return o.result(err)
}

// tryRead is read that fails with EAGAIN, a temporary error that crypto/tls
// survives, where read would wait.
func (s *Socket) tryRead(p []byte) (int, error) {
	o := &s.ops
	o.op, o.rbuf = opTry, p
	err := s.raw.Read(o.rfn)
	o.rbuf = nil
	return o.result(err)
}

// result is what a reading callback found.
func (o *rawOps) result(err error) (int, error) {
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

// writeAll returns when all is in the kernel's buffer.
func (s *Socket) writeAll(p []byte) (int, error) {
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
	o.op = opWait
	if err := s.raw.Read(o.rfn); err != nil {
		return err
	}
	if o.rerr != 0 {
		return o.rerr
	}
	return nil // bytes, or the end, which Read will tell
}

func (s *Socket) readFirst(pool *Buffers) (*Buffer, int, error) {
	o := &s.ops
	o.op, o.pool = opFirst, pool
	n, err := o.result(s.raw.Read(o.rfn))
	b := o.got
	o.got = nil
	if b != nil && n == 0 {
		pool.Put(b)
		b = nil
	}
	return b, n, err
}

// roundTrip is RoundTrip; with ErrStale n bytes that nobody asked for are in
// answer.
func (s *Socket) roundTrip(question, answer []byte) (wrote, n int, err error) {
	o := &s.ops
	o.op, o.rbuf, o.ask = opCheck, answer, question
	err = s.raw.Read(o.rfn)
	wrote = len(question) - len(o.ask)
	checked := o.op == opRead
	o.rbuf, o.ask = nil, nil
	switch {
	case err != nil:
		return wrote, 0, err
	case !checked:
		return 0, max(o.rn, 0), ErrStale
	case wrote < len(question) && o.rerr == unix.EAGAIN:
		return wrote, 0, nil // the kernel's buffer is full
	}
	n, err = o.result(nil)
	return wrote, n, err
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
	o := &s.ops
	o.op = opLook
	err := s.raw.Read(o.rfn)
	if IsTimeout(err) { // a deadline of the past does not hinder looking
		err = s.raw.Control(func(fd uintptr) { o.doRead(fd) })
	}
	switch {
	case err == nil && o.rerr == unix.EAGAIN:
		return Quiet
	case err == nil && o.rerr == 0 && o.rn > 0:
		return Readable
	}
	return Ended
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
