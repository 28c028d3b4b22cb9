// Package tcp passes bytes between two connections until both directions have
// ended: TCP proxying, upgraded connections and tunnels.
//
// In come two streams that the caller owns and closes; out come byte counts.
// A direction's end is passed on as a half-close. When both are bare TCP the
// kernel moves the bytes (splice). Nothing is sniffed and nothing waits for
// the client to speak first. Read relay.go.
package tcp

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
)

// Options of a relay.
type Options struct {
	// Idle ends the relay when neither connection carried anything for so
	// long; 0: never.
	Idle time.Duration
	// MaxDuration ends it in any case; 0: never.
	MaxDuration time.Duration
	Buffers     *conn.Buffers
	// Moved is told every ReportEvery and at the end how many bytes went since
	// the last time; nil: nobody wants to know.
	Moved func(sent, received int64)
}

// ReportEvery is how often Options.Moved is told (Istio:
// tcp_reporting_duration, 5 s).
const ReportEvery = 5 * time.Second

// Result is what a relay did.
type Result struct {
	// Sent went from client to upstream, Received the other way, in bytes.
	Sent, Received int64
	// SendErr and ReceiveErr ended the directions; nil is an orderly end.
	SendErr, ReceiveErr error
	// Idle and TooOld: Options.Idle or Options.MaxDuration ended the relay.
	Idle, TooOld bool
}

// Relay passes bytes both ways until both directions have ended or one has
// failed. It does not close the streams.
func Relay(client, upstream conn.Stream, o Options) Result {
	var r Result
	w := &watchdog{client: client, upstream: upstream, idle: o.Idle}
	w.start(o.MaxDuration)
	defer w.stop()
	out, back := newCount(client), newCount(upstream)
	m := startMeter(o.Moved, out, back)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		r.Sent, r.SendErr = pass(upstream, client, o.Buffers, out)
		if r.SendErr != nil {
			w.end()
		}
	}()
	r.Received, r.ReceiveErr = pass(client, upstream, o.Buffers, back)
	if r.ReceiveErr != nil {
		w.end()
	}
	<-sent
	m.end(r.Sent, r.Received)
	r.Idle, r.TooOld = w.wasIdle.Load(), w.wasOld.Load()
	return r
}

// pass copies src to dst up to src's end and half-closes dst.
func pass(dst, src conn.Stream, buffers *conn.Buffers, c *count) (int64, error) {
	n, err := move(dst, src, buffers, c)
	if err != nil {
		return n, err
	}
	if err := dst.CloseWrite(); err != nil && !errors.Is(err, net.ErrClosed) {
		return n, err
	}
	return n, nil
}

func move(dst, src conn.Stream, buffers *conn.Buffers, c *count) (int64, error) {
	ds, plainDst := dst.(*conn.Socket)
	ss, plainSrc := src.(*conn.Socket)
	if plainDst && plainSrc && ds.TCP() != nil && ss.TCP() != nil {
		first := ss.Pending()
		n, err := dst.Write(first)
		c.moved.Add(int64(n))
		if err != nil {
			return int64(n), err
		}
		c.spliced.Store(true)
		rest, err := ds.TCP().ReadFrom(ss.TCP())
		return int64(n) + rest, err
	}
	b := buffers.Get()
	defer buffers.Put(b)
	var total int64
	for {
		// Without bytes there is no reason to hold on to a part of a record.
		n, err := src.Read(b.B)
		if n > 0 {
			w, werr := dst.Write(b.B[:n])
			total += int64(w)
			c.moved.Add(int64(w))
			if werr != nil {
				return total, werr
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				return total, nil
			}
			return total, err
		}
	}
}

// watchdog ends a relay that is idle or too old. It asks the kernel when data
// last moved, so that spliced bytes count too.
type watchdog struct {
	client, upstream conn.Stream
	idle             time.Duration
	timer, age       *time.Timer
	wasIdle, wasOld  atomic.Bool
}

func (w *watchdog) start(most time.Duration) {
	if w.idle > 0 {
		armed := make(chan struct{})
		w.timer = time.AfterFunc(w.idle, func() { <-armed; w.look() })
		close(armed)
	}
	if most > 0 {
		w.age = time.AfterFunc(most, func() { w.wasOld.Store(true); w.end() })
	}
}

func (w *watchdog) look() {
	quiet := min(w.client.Socket().QuietFor(), w.upstream.Socket().QuietFor())
	if quiet < w.idle {
		w.timer.Reset(w.idle - quiet)
		return
	}
	w.wasIdle.Store(true)
	w.end()
}

// end wakes both directions.
func (w *watchdog) end() {
	past := time.Unix(1, 0)
	_ = w.client.Socket().SetDeadline(past) // a closed socket is awake already
	_ = w.upstream.Socket().SetDeadline(past)
}

func (w *watchdog) stop() {
	if w.timer != nil {
		w.timer.Stop()
	}
	if w.age != nil {
		w.age.Stop()
	}
}
