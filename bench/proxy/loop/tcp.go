package loop

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// What the first byte of a TCP connection asks the backend for.
const (
	wantBulk  = 'B'
	wantShort = 'S'

	shortAnswer = 64
	bulkWrite   = 256 << 10
)

// source is the backend of plain TCP.
type source struct {
	conn
	bulk bool
}

func (s *source) ready(events uint32) error {
	if events&unix.EPOLLIN != 0 {
		data, err := s.read()
		if err != nil {
			s.loop.drop(s.fd)
			return nil //nolint:nilerr // the proxy is done with it
		}
		if len(data) > 0 && data[0] == wantShort {
			s.loop.answered++
			return s.write(s.loop.scratch[:shortAnswer])
		}
		if len(data) > 0 && data[0] == wantBulk {
			s.bulk = true
			return s.want(true)
		}
	}
	if s.bulk && events&unix.EPOLLOUT != 0 {
		if _, err := unix.Write(s.fd, s.loop.scratch[:bulkWrite]); err != nil && !errors.Is(err, unix.EAGAIN) {
			s.loop.drop(s.fd)
		}
	}
	return nil
}

// sink reads what a bulk source sends; the kernel throws the bytes away, so
// that the reader costs little beside the proxy.
type sink struct{ conn }

func (s *sink) send(*lane) error { return s.write([]byte{wantBulk}) }

func (s *sink) ready(uint32) error {
	n, _, err := unix.Recvfrom(s.fd, s.loop.scratch, unix.MSG_TRUNC)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return nil
	case err != nil:
		return err
	case n == 0:
		return errClosed
	}
	s.loop.bytes += int64(n)
	return nil
}

// dialer opens a connection for every request.
type dialer Loop

func (d *dialer) send(lane *lane) error {
	l := (*Loop)(d)
	fd, err := l.dial()
	if err != nil {
		return err
	}
	c := &shortClient{conn: conn{loop: l, fd: fd}, lane: lane}
	if err := l.add(fd, c); err != nil {
		return err
	}
	return c.write([]byte{wantShort})
}

type shortClient struct {
	conn
	lane *lane
	got  int
}

func (c *shortClient) ready(uint32) error {
	data, err := c.read()
	if err != nil {
		return fmt.Errorf("after %d of %d bytes: %w", c.got, shortAnswer, err)
	}
	if c.got += len(data); c.got < shortAnswer {
		return nil
	}
	c.loop.bytes += int64(c.got)
	c.loop.drop(c.fd)
	return c.loop.finish(c.lane, true)
}
