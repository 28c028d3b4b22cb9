package meshrun

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// answerTime bounds one request of a load.
const answerTime = 10 * time.Second

// Request is one request of a load: its path and header fields.
type Request struct {
	Host, Path string
	Header     http.Header
}

// Answer is what came back: with an Err nothing did.
type Answer struct {
	Request Request
	// Began and Ended are when the request was written and its answer was read.
	Began, Ended time.Time
	Status       int
	Header       http.Header
	Body         []byte
	Err          error
}

// Load sends GET requests over a fixed number of HTTP/1.1 connections, each of
// which is kept as long as the server keeps it, and counts what is lost.
type Load struct {
	// Address is host:port.
	Address string
	// Connections are open at a time, and share Rate requests per second.
	Connections int
	Rate        float64
	// Request makes request number n of one connection.
	Request func(connection, n int) Request
	// Once: a connection that has ended is not replaced.
	Once bool
	// Seen, when set, gets every answer, from many goroutines.
	Seen func(Answer)
}

// Counts are what a load saw.
type Counts struct {
	// Requests were sent; Failed of them had no answer, or not status 200.
	Requests, Failed int
	// Closed are connections that the server ended or broke.
	Closed int
	// Errors are the first few failures.
	Errors []string
	// P50, P99 and Max are of the time from writing a request to its answer's end.
	P50, P99, Max time.Duration
}

// errorsMax bounds Counts.Errors.
const errorsMax = 10

// String says it in one line.
func (c Counts) String() string {
	return fmt.Sprintf("%d requests, %d failed, %d connections closed, p50 %v, p99 %v, max %v", c.Requests, c.Failed, c.Closed,
		c.P50.Round(10*time.Microsecond), c.P99.Round(10*time.Microsecond), c.Max.Round(10*time.Microsecond))
}

// counter collects counts from all connections.
type counter struct {
	mu     sync.Mutex
	counts Counts
	times  []time.Duration
}

// Run sends until ctx ends. Requests on their way are finished.
func (l Load) Run(ctx context.Context) Counts {
	var c counter
	var all sync.WaitGroup
	every := time.Duration(float64(l.Connections) / l.Rate * float64(time.Second))
	for i := range l.Connections {
		all.Go(func() { l.connection(ctx, i, every, &c) })
	}
	all.Wait()
	slices.Sort(c.times)
	if n := len(c.times); n > 0 {
		c.counts.P50, c.counts.P99, c.counts.Max = c.times[n/2], c.times[n*99/100], c.times[n-1]
	}
	return c.counts
}

// connection sends the requests of one connection at its times.
func (l Load) connection(ctx context.Context, number int, every time.Duration, c *counter) {
	var conn net.Conn
	var reader *bufio.Reader
	defer func() {
		if conn != nil {
			_ = conn.Close()
		}
	}()
	due := time.Now().Add(every * time.Duration(number) / time.Duration(l.Connections))
	timer := time.NewTimer(time.Until(due))
	defer timer.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		var a Answer
		if conn == nil {
			var err error
			if conn, err = net.DialTimeout("tcp", l.Address, answerTime); err != nil { //nolint:noctx // its own deadline
				a = Answer{Err: err}
			} else {
				reader = bufio.NewReader(conn)
			}
		}
		closed := false
		if conn != nil {
			a, closed = exchange(conn, reader, l.Request(number, n))
		}
		if closed {
			_ = conn.Close()
			conn = nil
		}
		c.add(a, closed)
		if l.Seen != nil {
			l.Seen(a)
		}
		if closed && l.Once {
			return
		}
		due = due.Add(every)
		if behind := time.Since(due); behind > time.Second {
			due = time.Now() // the machine stood still: no burst after it
		}
		timer.Reset(time.Until(due))
	}
}

// exchange sends one request and reads its answer; closed: the connection is
// not usable any more.
func exchange(conn net.Conn, reader *bufio.Reader, r Request) (a Answer, closed bool) {
	a = Answer{Request: r, Began: time.Now()}
	host := r.Host
	if host == "" {
		host = "soak.example"
	}
	var head bytes.Buffer
	fmt.Fprintf(&head, "GET %s HTTP/1.1\r\nHost: %s\r\n", r.Path, host)
	_ = r.Header.Write(&head)
	head.WriteString("\r\n")
	a.Err = conn.SetDeadline(a.Began.Add(answerTime))
	if a.Err == nil {
		_, a.Err = conn.Write(head.Bytes())
	}
	if a.Err != nil {
		return a, true
	}
	resp, err := http.ReadResponse(reader, nil)
	if err != nil {
		a.Err = err
		return a, true
	}
	a.Status, a.Header = resp.StatusCode, resp.Header
	a.Body, err = io.ReadAll(resp.Body)
	a.Err = errors.Join(err, resp.Body.Close())
	a.Ended = time.Now()
	return a, a.Err != nil || resp.Close
}

func (c *counter) add(a Answer, closed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts.Requests++
	if closed {
		c.counts.Closed++
	}
	if a.Err == nil {
		c.times = append(c.times, a.Ended.Sub(a.Began))
	}
	if a.Err == nil && a.Status == http.StatusOK {
		return
	}
	c.counts.Failed++
	if len(c.counts.Errors) < errorsMax {
		c.counts.Errors = append(c.counts.Errors, fmt.Sprintf("%s %s: status %d %s %v", time.Now().Format("15:04:05.000"), a.Request.Path, a.Status, a.Body, a.Err))
	}
}
