// Package loop is one busy-polling event loop that plays client and backend at
// once, so that neither ever sleeps and a proxy between them pays for no
// wake-up but its own. It speaks HTTP/1.1 (http1.go), HTTP/2 (http2.go) and
// plain TCP (tcp.go). Read loop.go first, then pace.go (when requests are sent) and
// socket.go.
//
// Run drives it at a constant rate or saturated. At a constant rate the loop is
// open: every request has its intended time, latency counts from then, and a
// request that had to wait for its connection waited in the measured time (no
// coordinated omission). Percentiles are exact: every latency is kept.
// Linux only; the goroutine that calls Run should be alone on its processor.
package loop

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Protocol is what the loop speaks, on both sides.
type Protocol int

// The protocols.
const (
	HTTP1 Protocol = iota
	HTTP2          // prior knowledge; gRPC-shaped calls
	Bulk           // TCP: the backend sends as fast as it can
	Short          // TCP: connect, one byte there, 64 back, close
)

// Load says what to send.
type Load struct {
	Protocol Protocol
	// Target is the proxy's listener.
	Target netip.AddrPort
	// Connections are open at once. Streams is how many requests are in flight
	// on each at once: 1 for HTTP/1.1.
	Connections, Streams int
	// Upload and Body are the bytes of a request's and of an answer's body;
	// for HTTP/2 of one gRPC message without its five bytes of framing.
	Upload, Body int
	// Messages is how many messages an HTTP/2 answer has: 1 is unary.
	Messages int
	// Rate is in requests per second over all connections; 0: saturated.
	Rate float64
	For  time.Duration
	// Hosts are the names that requests call, in turn by connection.
	Hosts []string
	// Begin is called when all connections are open and warm, End when the time
	// is over. With Hold the backend answers no request after the warm-up, and
	// End is called when it has seen every connection's streams.
	Begin, End func()
	Hold       bool
}

// Result is what came back between Begin and End.
type Result struct {
	Done, Failed             int
	Bytes                    int64 // of answers' bodies
	Seconds                  float64
	P50, P90, P99, P999, Max time.Duration
}

// Rate is the completed requests per second.
func (r Result) Rate() float64 { return float64(r.Done) / r.Seconds }

// patience is how long the loop waits for what should come at once.
const patience = 10 * time.Second

// handler is one file descriptor's work.
type handler interface{ ready(events uint32) error }

// lane carries one request at a time: an HTTP/1.1 connection, or one of the
// streams that may be open on an HTTP/2 connection.
type lane struct {
	via   interface{ send(*lane) error }
	busy  bool
	start time.Time
	queue []time.Time
}

// Loop is the backend, which lives as long as the proxies do and keeps its
// connections between loads, and the clients of one load.
type Loop struct {
	epoll    int
	handlers []handler // by file descriptor
	backends []netip.AddrPort
	scratch  []byte
	events   []unix.EpollEvent
	dirty    []*h2conn // have something to write at the end of this turn
	spare    []*h2conn

	// Of the load.
	load                  Load
	answer                []byte // HTTP/1.1
	upMessage, answerPart []byte // HTTP/2: one message
	lanes                 []*lane
	bytes                 int64
	latency               []time.Duration
	failed                int
	answered              int // requests that the backend has seen
	measuring             bool
	end                   time.Time
}

// New binds n backends, at 127.0.0.1 and the addresses that follow, at ports
// that the kernel chooses.
func New(n int) (*Loop, error) {
	l := &Loop{scratch: make([]byte, 256<<10), events: make([]unix.EpollEvent, 512)}
	var err error
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	for i := range n {
		if err := l.listen(netip.AddrFrom4([4]byte{127, 0, 0, byte(1 + i)})); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	return l, nil
}

// Backends are the addresses that the loop answers at.
func (l *Loop) Backends() []netip.AddrPort { return l.backends }

// Close ends the backend and its connections.
func (l *Loop) Close() error {
	for fd, h := range l.handlers {
		if h != nil {
			l.drop(fd)
		}
	}
	return unix.Close(l.epoll)
}

// Run sends the load and returns when its time is over and what is in flight
// has come back, at most two seconds later.
func (l *Loop) Run(load Load) (Result, error) {
	load.Streams, load.Messages = max(load.Streams, 1), max(load.Messages, 1)
	if len(load.Hosts) == 0 {
		load.Hosts = []string{"svc.default.svc.cluster.local"}
	}
	l.load, l.answer, l.upMessage, l.answerPart = load, h1answer(load.Body), grpcMessage(load.Upload), grpcMessage(load.Body)
	l.lanes, l.bytes, l.latency, l.failed, l.answered, l.measuring = nil, 0, nil, 0, 0, false
	defer l.hangUp()
	for i := range load.Connections {
		if err := l.client(i); err != nil {
			return Result{}, fmt.Errorf("connect %s: %w", load.Target, err)
		}
	}
	if err := l.warm(); err != nil {
		return Result{}, fmt.Errorf("warm-up: %w", err)
	}
	return l.measure()
}

func (l *Loop) client(i int) error {
	host := l.load.Hosts[i%len(l.load.Hosts)]
	if l.load.Protocol == Short {
		l.lanes = append(l.lanes, &lane{via: (*dialer)(l)})
		return nil
	}
	fd, err := l.dial()
	if err != nil {
		return err
	}
	c := conn{loop: l, fd: fd}
	switch l.load.Protocol {
	case HTTP2:
		h := newH2Client(c, host)
		for range l.load.Streams {
			l.lanes = append(l.lanes, &lane{via: h})
		}
		return l.add(fd, h)
	case Bulk:
		h := &sink{conn: c}
		l.lanes = append(l.lanes, &lane{via: h})
		return l.add(fd, h)
	default:
		h := &h1client{conn: c, request: h1request(host, l.load.Upload)}
		lane := &lane{via: h}
		h.lane = lane
		l.lanes = append(l.lanes, lane)
		return l.add(fd, h)
	}
}

// hangUp lets what is in flight come back and closes the clients' connections.
func (l *Loop) hangUp() {
	l.measuring = false
	busy := func(c *lane) bool { return c.busy }
	for deadline := time.Now().Add(time.Second); !l.load.Hold && l.load.Protocol != Bulk && slices.ContainsFunc(l.lanes, busy) && time.Now().Before(deadline); {
		if l.turn() != nil {
			break
		}
	}
	for fd, h := range l.handlers {
		switch h := h.(type) {
		case *h1client, *sink, *shortClient:
			l.drop(fd)
		case *h2conn:
			if h.client != nil {
				l.drop(fd)
			}
		}
	}
}

// warm sends one request on every lane, so that every connection on the way is
// open and every buffer has its size; one on every connection with Hold, which
// is about what the streams need.
func (l *Loop) warm() error {
	if l.load.Protocol == Bulk {
		return nil
	}
	step := 1
	if l.load.Hold {
		step = l.load.Streams
	}
	want := 0
	for i := 0; i < len(l.lanes); i += step {
		want++
		if err := l.send(l.lanes[i], time.Now()); err != nil {
			return err
		}
	}
	for deadline := time.Now().Add(patience); len(l.latency)+l.failed < want; {
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d requests were answered in %s", len(l.latency), want, patience)
		}
		if err := l.turn(); err != nil {
			return err
		}
	}
	if l.failed > 0 {
		return fmt.Errorf("%d of %d requests failed", l.failed, want)
	}
	return nil
}

// turn handles what is ready and then writes what that asked for.
func (l *Loop) turn() error {
	n, err := unix.EpollWait(l.epoll, l.events, 0)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return err
	}
	for _, e := range l.events[:max(n, 0)] {
		if h := l.handlers[e.Fd]; h != nil {
			if err := h.ready(e.Events); err != nil {
				return err
			}
		}
	}
	due := l.dirty
	l.dirty, l.spare = l.spare[:0], due
	for _, c := range due {
		c.dirty = false
		if l.handlers[c.fd] != handler(c) {
			continue // closed meanwhile
		}
		if err := c.pump(); err != nil {
			return err
		}
	}
	return nil
}

func (l *Loop) send(c *lane, due time.Time) error {
	c.start, c.busy = due, true
	return c.via.send(c)
}

// finish records an answer and sends what waited for the lane.
func (l *Loop) finish(c *lane, ok bool) error {
	now := time.Now()
	if ok {
		l.latency = append(l.latency, now.Sub(c.start))
	} else {
		l.failed++
	}
	c.busy = false
	switch {
	case !l.measuring || l.load.Hold:
		return nil
	case l.load.Rate == 0:
		if now.Before(l.end) {
			return l.send(c, now)
		}
	case len(c.queue) > 0:
		due := c.queue[0]
		c.queue = c.queue[:copy(c.queue, c.queue[1:])]
		return l.send(c, due)
	}
	return nil
}
