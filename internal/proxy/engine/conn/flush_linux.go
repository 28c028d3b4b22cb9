package conn

import (
	"io"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tryWrite is a raw write that returns where an ordinary one would wait.
type tryWrite struct {
	buf []byte
	err syscall.Errno
	fn  func(uintptr) bool
}

func (t *tryWrite) prepare() { t.fn = t.do }

func (t *tryWrite) do(fd uintptr) bool {
	for len(t.buf) > 0 {
		n, _, e := syscall.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(&t.buf[0])),
			uintptr(min(len(t.buf), chunkBytesMax)), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, 0, 0)
		switch e {
		case 0:
			t.buf = t.buf[n:]
		case unix.EINTR:
		case unix.EAGAIN:
			return true
		default:
			t.err = e
			return true
		}
	}
	return true
}

func (t *tryWrite) write(s *Socket, p []byte) (rest []byte, err error) {
	t.buf, t.err = p, 0
	err = s.raw.Write(t.fn)
	rest, t.buf = t.buf, nil
	if err == nil && t.err != 0 {
		err = t.err
	}
	return rest, err
}

// ReadTurns reads until the stream's end, an error, or Took says so (nil). A
// socket that waits costs no buffer and no call beside the read itself.
func (s *Socket) ReadTurns(t Turns) error {
	for len(s.pending) > 0 {
		n, _ := s.Read(t.Room())
		if !t.Took(n) {
			return nil
		}
	}
	var failed error
	err := s.raw.Read(func(fd uintptr) bool {
		for {
			b := t.Room()
			n, _, e := syscall.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
			switch {
			case e == unix.EINTR:
			case e == unix.EAGAIN:
				t.Wait()
				return false
			case e != 0:
				failed = e
				return true
			case n == 0:
				failed = io.EOF
				return true
			case !t.Took(int(n)):
				return true
			}
		}
	})
	if err != nil {
		return err
	}
	return failed
}
