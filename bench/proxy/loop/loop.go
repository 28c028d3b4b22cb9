// Package loop is one busy-polling event loop that plays HTTP/1.1 client and
// backend at once, so that neither ever sleeps and a proxy between them pays
// for no wake-up but its own. Run drives it at a constant rate (open loop:
// latency counts from the intended time) or saturated. Linux only; the
// goroutine that calls Run should be alone on its processor.
package loop

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Load says what to send.
type Load struct {
	// Target is the proxy's listener, Backend the address at which the loop
	// itself answers every request with Body bytes.
	Target, Backend netip.AddrPort
	Body            int
	Connections     int
	// Rate is in requests per second over all connections; 0: saturated, one
	// request in flight on each connection.
	Rate float64
	For  time.Duration
	// Head is the request, complete with its empty line.
	Head []byte
}

// Result is what came back.
type Result struct {
	Done, Failed             int
	Seconds                  float64
	P50, P90, P99, P999, Max time.Duration
}

// Rate is the completed requests per second.
func (r Result) Rate() float64 { return float64(r.Done) / r.Seconds }

type client struct {
	fd    int
	busy  bool
	start time.Time
	head  []byte
	need  int // body bytes outstanding; -1: the head is not complete
	queue []time.Time
}

type server struct {
	fd   int
	have []byte
}

type loop struct {
	load      Load
	epoll     int
	listen    int
	clients   map[int]*client
	order     []*client
	servers   map[int]*server
	answer    []byte
	latency   []time.Duration
	failed    int
	scratch   []byte
	saturated bool
}

// Run sends the load and returns when its time is over and what is in flight
// has come back, at most two seconds later.
func Run(load Load) (Result, error) {
	l := &loop{load: load, clients: map[int]*client{}, servers: map[int]*server{}, scratch: make([]byte, 64<<10), saturated: load.Rate == 0}
	head := "HTTP/1.1 200 OK\r\nserver: tiny\r\ncontent-type: text/plain\r\ndate: Sat, 21 Nov 2026 12:00:00 GMT\r\ncontent-length: " + strconv.Itoa(load.Body) + "\r\n\r\n"
	l.answer = append([]byte(head), bytes.Repeat([]byte{'x'}, load.Body)...)
	if err := l.open(); err != nil {
		l.close()
		return Result{}, err
	}
	defer l.close()
	begin := time.Now()
	if err := l.drive(begin); err != nil {
		return Result{}, err
	}
	return l.result(time.Since(begin)), nil
}

func (l *loop) open() error {
	var err error
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	if l.listen, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(l.listen, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	if err := errors.Join(unix.Bind(l.listen, sockaddr(l.load.Backend)), unix.Listen(l.listen, 4096), l.watch(l.listen)); err != nil {
		return fmt.Errorf("backend at %s: %w", l.load.Backend, err)
	}
	for range l.load.Connections {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		c := &client{fd: fd}
		l.clients[fd] = c
		l.order = append(l.order, c)
		if err := unix.Connect(fd, sockaddr(l.load.Target)); err != nil {
			return fmt.Errorf("connect %s: %w", l.load.Target, err)
		}
		if err := errors.Join(unix.SetNonblock(fd, true), unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1), l.watch(fd)); err != nil {
			return err
		}
	}
	return nil
}

func (l *loop) close() {
	for fd := range l.clients {
		_ = unix.Close(fd)
	}
	for fd := range l.servers {
		_ = unix.Close(fd)
	}
	_ = unix.Close(l.listen)
	_ = unix.Close(l.epoll)
}

func (l *loop) watch(fd int) error {
	return unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
}

// drive is the loop itself.
func (l *loop) drive(begin time.Time) error {
	end := begin.Add(l.load.For)
	total := int(l.load.Rate * l.load.For.Seconds())
	sent := 0
	if l.saturated {
		for _, c := range l.order {
			if err := l.send(c, begin); err != nil {
				return err
			}
		}
	}
	events := make([]unix.EpollEvent, 512)
	for {
		now := time.Now()
		for !l.saturated && sent < total {
			due := begin.Add(time.Duration(float64(sent) / l.load.Rate * 1e9))
			if due.After(now) {
				break
			}
			c := l.order[sent%len(l.order)]
			sent++
			if c.busy {
				c.queue = append(c.queue, due)
			} else if err := l.send(c, due); err != nil {
				return err
			}
		}
		switch {
		case l.saturated && now.After(end), now.After(end.Add(2 * time.Second)):
			return nil
		case !l.saturated && len(l.latency)+l.failed >= total:
			return nil
		}
		n, err := unix.EpollWait(l.epoll, events, 0)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		for _, e := range events[:max(n, 0)] {
			if err := l.ready(int(e.Fd), end); err != nil {
				return err
			}
		}
	}
}

func (l *loop) ready(fd int, end time.Time) error {
	if fd == l.listen {
		return l.accept()
	}
	if s, ok := l.servers[fd]; ok {
		return l.serve(s)
	}
	c := l.clients[fd]
	done, err := l.receive(c)
	if err != nil || !done {
		return err
	}
	now := time.Now()
	l.latency = append(l.latency, now.Sub(c.start))
	c.busy = false
	if l.saturated {
		if now.Before(end) {
			return l.send(c, now)
		}
		return nil
	}
	if len(c.queue) > 0 {
		due := c.queue[0]
		c.queue = c.queue[1:]
		return l.send(c, due)
	}
	return nil
}

func (l *loop) send(c *client, due time.Time) error {
	c.start, c.busy, c.need, c.head = due, true, -1, c.head[:0]
	_, err := unix.Write(c.fd, l.load.Head)
	return err
}

func (l *loop) receive(c *client) (bool, error) {
	n, err := unix.Read(c.fd, l.scratch)
	if errors.Is(err, unix.EAGAIN) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if n == 0 {
		return false, errors.New("the proxy closed a connection")
	}
	if c.need >= 0 {
		c.need -= n
		return c.need <= 0, nil
	}
	c.head = append(c.head, l.scratch[:n]...)
	i := bytes.Index(c.head, []byte("\r\n\r\n"))
	if i < 0 {
		return false, nil
	}
	if !bytes.HasPrefix(c.head, []byte("HTTP/1.1 200")) {
		return false, fmt.Errorf("answer %q", c.head[:min(len(c.head), 40)])
	}
	length, err := contentLength(c.head[:i])
	if err != nil {
		return false, err
	}
	c.need = length - (len(c.head) - i - 4)
	return c.need <= 0, nil
}

func contentLength(head []byte) (int, error) {
	_, rest, ok := bytes.Cut(bytes.ToLower(head), []byte("\r\ncontent-length:"))
	if !ok {
		return 0, errors.New("answer without content-length")
	}
	value, _, _ := bytes.Cut(rest, []byte("\r\n"))
	return strconv.Atoi(string(bytes.TrimSpace(value)))
}

func (l *loop) accept() error {
	for {
		fd, _, err := unix.Accept4(l.listen, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return nil //nolint:nilerr // EAGAIN: the queue is empty
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
			return err
		}
		l.servers[fd] = &server{fd: fd}
		if err := l.watch(fd); err != nil {
			return err
		}
	}
}

func (l *loop) serve(s *server) error {
	n, err := unix.Read(s.fd, l.scratch)
	if errors.Is(err, unix.EAGAIN) {
		return nil
	}
	if n <= 0 {
		delete(l.servers, s.fd)
		return unix.Close(s.fd)
	}
	s.have = append(s.have, l.scratch[:n]...)
	for {
		i := bytes.Index(s.have, []byte("\r\n\r\n"))
		if i < 0 {
			return nil
		}
		if _, err := unix.Write(s.fd, l.answer); err != nil {
			return err
		}
		s.have = s.have[:copy(s.have, s.have[i+4:])]
	}
}

func (l *loop) result(took time.Duration) Result {
	slices.Sort(l.latency)
	at := func(q float64) time.Duration {
		if len(l.latency) == 0 {
			return 0
		}
		return l.latency[min(int(q*float64(len(l.latency))), len(l.latency)-1)]
	}
	return Result{Done: len(l.latency), Failed: l.failed, Seconds: took.Seconds(), P50: at(.5), P90: at(.9), P99: at(.99), P999: at(.999), Max: at(1)}
}
