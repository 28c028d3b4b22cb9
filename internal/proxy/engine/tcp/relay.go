// Package tcp passes bytes between two connections until both directions have
// ended: TCP proxying, upgraded connections and tunnels.
//
// In come two streams that the caller owns and closes; out come byte counts.
// A direction's end is passed on as a half-close. Nothing is sniffed and
// nothing waits for the client to speak first.
//
// Sketch of a short connection: two goroutines, one timer; for each message one
// read and one write through a pooled buffer that is held only while there are
// bytes. Between bare TCP connections a direction that fills its buffers time
// and again is left to the kernel (splice) for as long as it does. Read
// relay.go first, then watch.go for the limits.
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
	// Pipes for bytes that the kernel passes on; nil: all are copied.
	Pipes *conn.Pipes
	// Moved is told every ReportEvery, while there is something to tell, and at
	// the end how many bytes went since the last time; nil: nobody wants to know.
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
	w := &watch{client: client, upstream: upstream, o: o, begun: time.Now()}
	w.start()
	defer w.stop()
	out := direction{dst: upstream, src: client, w: w, moved: &w.sent}
	back := direction{dst: client, src: upstream, w: w, moved: &w.received}
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.SendErr = out.pass()
	}()
	r.ReceiveErr = back.pass()
	<-done
	w.stop()
	r.Sent, r.Received = w.sent.Load(), w.received.Load()
	r.Idle, r.TooOld = w.wasIdle.Load(), w.wasOld.Load()
	return r
}

// direction is one of a relay's two.
type direction struct {
	dst, src conn.Stream
	w        *watch
	moved    *atomic.Int64
}

// pass copies src to dst up to src's end and half-closes dst. A failure ends
// the other direction too.
func (d *direction) pass() error {
	err := d.move()
	if err == nil && d.w.ended.Add(1) < 2 { // who closes both ends the last one
		if err = d.dst.CloseWrite(); errors.Is(err, net.ErrClosed) {
			err = nil
		}
	}
	if err != nil {
		d.w.end()
	}
	return err
}

// spliceAfter is how many buffers in a row have to be full before the kernel is
// asked to pass the bytes on: a bulk transfer, not a message.
const spliceAfter = 4

// move copies until src ends.
func (d *direction) move() error {
	ss, bare := d.src.(*conn.Socket)
	ds, alike := d.dst.(*conn.Socket)
	if !bare {
		return d.copyAll()
	}
	kernel := alike && d.w.o.Pipes != nil && ds.TCP() != nil
	for full := 0; ; {
		if kernel && full >= spliceAfter && ss.CanSplice() {
			err := d.splice(ss, ds)
			if !errors.Is(err, conn.ErrNoPipe) {
				return err
			}
			kernel = false
		}
		b, n, err := ss.ReadFirst(d.w.o.Buffers)
		if n > 0 {
			full++
			if n < len(b.B) {
				full = 0
			}
			err = errors.Join(err, d.write(b.B[:n]))
			d.w.o.Buffers.Put(b)
		}
		if err != nil {
			return orderly(err)
		}
	}
}

// splice leaves the bytes to the kernel until src ends.
func (d *direction) splice(src, dst *conn.Socket) error {
	for {
		n, err := src.Splice(dst, d.w.o.Pipes)
		d.w.count(d.moved, n)
		if err != nil {
			if errors.Is(err, conn.ErrNoPipe) {
				return err
			}
			return orderly(err)
		}
	}
}

// copyAll is for streams that hold bytes of their own, as TLS does: what it
// waits for can't be seen from outside.
func (d *direction) copyAll() error {
	for {
		if err := d.src.AwaitReadable(); err != nil {
			return orderly(err)
		}
		b := d.w.o.Buffers.Get()
		n, err := d.src.Read(b.B)
		if n > 0 {
			err = errors.Join(err, d.write(b.B[:n]))
		}
		d.w.o.Buffers.Put(b)
		if err != nil {
			return orderly(err)
		}
	}
}

func (d *direction) write(p []byte) error {
	n, err := d.dst.Write(p)
	d.w.count(d.moved, int64(n))
	return err
}

// orderly makes an end of the bytes no failure.
func orderly(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
