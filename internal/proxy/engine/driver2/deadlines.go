package driver2

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
)

// The deadlines of an exchange whose client speaks HTTP/2.
const (
	dueResponse = iota // the route's timeout, or an attempt's
	dueIdle            // nothing moved
	dueRequest         // the request is not complete
	dueLife            // the exchange lived as long as it may
	dueCall            // the caller of gRPC does not wait any longer
	dueCount
)

// deadlines watches all exchanges of a connection with one lazily armed timer:
// setting a deadline that is not the next one is an atomic store, so that a
// request with deadlines of seconds touches no timer.
type deadlines struct {
	clock  conn.Clock
	expire func(due []*http2Exchange)
	armed  atomic.Int64 // when the timer fires; 0: it is not armed
	firing sync.Mutex   // held while expire runs

	// Guarded by mu.
	mu      sync.Mutex
	timer   *time.Timer
	all     []*http2Exchange
	stopped bool
}

func (d *deadlines) add(x *http2Exchange) {
	d.mu.Lock()
	x.place = len(d.all)
	d.all = append(d.all, x)
	d.mu.Unlock()
}

func (d *deadlines) remove(x *http2Exchange) {
	d.mu.Lock()
	last := len(d.all) - 1
	moved := d.all[last]
	d.all[x.place], moved.place = moved, x.place
	d.all[last] = nil
	d.all = d.all[:last]
	d.mu.Unlock()
}

// set makes a deadline of x expire at a time of the clock; 0: never.
func (d *deadlines) set(x *http2Exchange, which int, at int64) {
	x.due[which].Store(at)
	if at == 0 {
		return
	}
	if armed := d.armed.Load(); armed != 0 && armed <= at {
		return // the timer will look at all when it fires
	}
	d.mu.Lock()
	d.armLocked(at)
	d.mu.Unlock()
}

func (d *deadlines) armLocked(at int64) {
	if armed := d.armed.Load(); d.stopped || armed != 0 && armed <= at {
		return
	}
	d.armed.Store(at)
	wait := time.Duration(at - d.clock.Now())
	if d.timer == nil {
		d.timer = time.AfterFunc(wait, d.fire)
		return
	}
	d.timer.Reset(wait)
}

// fire finds what is due.
func (d *deadlines) fire() {
	d.firing.Lock()
	defer d.firing.Unlock()
	d.mu.Lock()
	// A set from here on finds the timer not armed and waits for mu, or what it
	// stored is seen below.
	d.armed.Store(0)
	now, next := d.clock.Now(), int64(0)
	var due []*http2Exchange
	for _, x := range d.all {
		if at := x.nextDue(); at > 0 && at <= now {
			due = append(due, x)
		} else if at > 0 && (next == 0 || at < next) {
			next = at
		}
	}
	if next > 0 {
		d.armLocked(next)
	}
	d.mu.Unlock()
	if len(due) > 0 {
		d.expire(due)
	}
}

// stop ends the timer; when it returns, expire does not run any more.
func (d *deadlines) stop() {
	d.mu.Lock()
	d.stopped = true
	if d.timer != nil {
		d.timer.Stop()
	}
	d.mu.Unlock()
	d.firing.Lock()
	defer d.firing.Unlock()
}

// nextDue is the earliest deadline; 0: there is none.
func (x *http2Exchange) nextDue() int64 {
	next := int64(0)
	for i := range x.due {
		if at := x.due[i].Load(); at > 0 && (next == 0 || at < next) {
			next = at
		}
	}
	return next
}

// overdue takes the expired deadlines off and tells what the first one means;
// nil: none has expired.
func (x *http2Exchange) overdue(now int64) *failure.Failure {
	var f *failure.Failure
	for i, kind := range [dueCount]failure.Kind{failure.RouteTimeout, failure.StreamIdle, failure.RequestTimeout, failure.DurationTimeout, failure.CallDeadline} {
		if at := x.due[i].Load(); at > 0 && at <= now && x.due[i].CompareAndSwap(at, 0) && f == nil {
			f = &failure.Failure{Kind: kind}
		}
	}
	return f
}

func (x *http2Exchange) setDeadlines(complete bool) {
	m := x.Manager
	if m.RequestTimeout > 0 && !complete && len(x.Upgrade) == 0 {
		x.h.deadlines.set(x, dueRequest, x.Start+int64(m.RequestTimeout))
	}
	if limit := x.StreamMax(); limit > 0 {
		x.h.deadlines.set(x, dueLife, x.Start+int64(limit))
	}
	if x.BoundCall() > 0 {
		x.h.deadlines.set(x, dueCall, x.CallEnd)
	}
	x.touch(x.Start)
}

// touch says that something moved on the stream.
func (x *http2Exchange) touch(now int64) {
	if idle := x.IdleTimeout(); idle > 0 {
		x.h.deadlines.set(x, dueIdle, now+int64(idle))
	}
}
