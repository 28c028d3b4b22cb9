//go:build !linux

package conn

import (
	"errors"
	"os"
	"syscall"
	"time"
)

// rawOps is empty where raw calls are not used.
type rawOps struct{}

func (*rawOps) prepare(*Socket) {}

func (s *Socket) read(p []byte) (int, error) { return s.under.Read(p) }

// writeAll returns when all is in the kernel's buffer.
func (s *Socket) writeAll(p []byte) (int, error) { return s.under.Write(p) }

// awaitReadable takes one byte and puts it back.
func (s *Socket) awaitReadable() error {
	one := make([]byte, 1)
	n, err := s.under.Read(one)
	if n > 0 {
		s.pending = one
		return nil
	}
	return err
}

func (s *Socket) readFirst(pool *Buffers) (*Buffer, int, error) {
	if err := s.awaitReadable(); err != nil {
		return nil, 0, err
	}
	b := pool.Get()
	n, err := s.Read(b.B)
	return b, n, err
}

func (s *Socket) roundTrip(question, answer []byte) (wrote, n int, err error) {
	if s.Look() != Quiet {
		return 0, 0, ErrStale
	}
	if wrote, err = s.Write(question); err != nil {
		return wrote, 0, err
	}
	n, err = s.read(answer)
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

// Look tells a socket's state without waiting for more than an instant. It
// must not run beside a reader.
func (s *Socket) Look() State {
	if len(s.pending) > 0 {
		return Readable
	}
	_ = s.under.SetReadDeadline(time.Now().Add(time.Millisecond))
	err := s.awaitReadable()
	_ = s.under.SetReadDeadline(time.Time{})
	switch {
	case err == nil:
		return Readable
	case errors.Is(err, os.ErrDeadlineExceeded):
		return Quiet
	}
	return Ended
}

// AwaitEnd waits until the peer has ended its direction, bytes come, or the
// connection failed. An expired read deadline ends the wait with an error.
func (s *Socket) AwaitEnd() error {
	err := s.awaitReadable()
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return os.ErrDeadlineExceeded // bytes: the end can't be seen behind them
	}
	return nil
}

// tryRead is a read that waits for no more than an instant.
func (s *Socket) tryRead(p []byte) (int, error) {
	_ = s.under.SetReadDeadline(time.Now().Add(time.Millisecond))
	n, err := s.under.Read(p)
	_ = s.under.SetReadDeadline(time.Time{})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = syscall.EAGAIN
	}
	return n, err
}
