package conn

import (
	"io"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// pipeBytes is the size that a pipe is asked to have: the most that an
	// unprivileged process may ask for (/proc/sys/fs/pipe-max-size).
	pipeBytes = 1 << 20
	// spliceBytesMax bounds one call, which holds the processor.
	spliceBytesMax = 256 << 10
	// pipesKept bounds the pipes that wait to be used again, two descriptors each.
	pipesKept = 32
)

// Pipes are kernel pipes through which bytes go from socket to socket. The zero
// value is ready. A pipe belongs to bytes on their way, never to a connection
// that waits.
type Pipes struct {
	// Guarded by mu.
	mu     sync.Mutex
	free   []pipe
	closed bool
}

type pipe struct{ r, w int }

func (p *Pipes) get() (pipe, error) {
	p.mu.Lock()
	if n := len(p.free); n > 0 {
		one := p.free[n-1]
		p.free = p.free[:n-1]
		p.mu.Unlock()
		return one, nil
	}
	p.mu.Unlock()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		return pipe{}, err
	}
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeBytes) // a smaller one will do
	return pipe{fds[0], fds[1]}, nil
}

// put takes an empty pipe back.
func (p *Pipes) put(one pipe) {
	p.mu.Lock()
	keep := !p.closed && len(p.free) < pipesKept
	if keep {
		p.free = append(p.free, one)
	}
	p.mu.Unlock()
	if !keep {
		one.close()
	}
}

func (p pipe) close() {
	unix.Close(p.r)
	unix.Close(p.w)
}

// Close closes the pipes that wait; those in use are closed when they are put
// back.
func (p *Pipes) Close() {
	p.mu.Lock()
	p.closed = true
	free := p.free
	p.free = nil
	p.mu.Unlock()
	for _, one := range free {
		one.close()
	}
}

// CanSplice reports whether the kernel can pass bytes from s on by itself: what
// was read before has to go first.
func (s *Socket) CanSplice() bool { return s.TCP() != nil && len(s.pending) == 0 }

// Splice waits for bytes and passes up to some hundred KiB on to dst without
// copying them. It returns io.EOF at the end of s, and ErrNoPipe when the bytes
// have to be copied after all; nothing was taken then.
func (s *Socket) Splice(dst *Socket, pipes *Pipes) (int64, error) {
	var in syscall.Errno
	var got int64
	var through pipe
	var failed error
	err := s.raw.Read(func(fd uintptr) bool {
		if through, failed = pipes.get(); failed != nil {
			return true
		}
		if got, in = splice(int(fd), through.w, spliceBytesMax); in == unix.EAGAIN {
			pipes.put(through)
			return false
		}
		return true
	})
	switch {
	case err != nil:
		return 0, err
	case failed != nil:
		return 0, ErrNoPipe
	case in != 0 || got == 0:
		pipes.put(through)
		if in == unix.EINVAL {
			return 0, ErrNoPipe // not a socket that can
		}
		if in != 0 {
			return 0, in
		}
		return 0, io.EOF
	}
	out, err := dst.drain(through, got)
	if err != nil {
		through.close() // bytes are left in it
		return out, err
	}
	pipes.put(through)
	return out, nil
}

// drain writes n bytes from a pipe.
func (s *Socket) drain(from pipe, n int64) (done int64, err error) {
	var out syscall.Errno
	err = s.raw.Write(func(fd uintptr) bool {
		for done < n {
			var m int64
			if m, out = splice(from.r, int(fd), int(n-done)); out != 0 {
				return out != unix.EAGAIN
			}
			done += m
		}
		return true
	})
	if err == nil && out != 0 {
		err = out
	}
	return done, err
}

// splice is a raw call, as reads and writes are: both ends are non-blocking.
func splice(from, to, n int) (int64, syscall.Errno) {
	for {
		done, _, e := syscall.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n), unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		if e != unix.EINTR {
			return int64(done), e
		}
	}
}
