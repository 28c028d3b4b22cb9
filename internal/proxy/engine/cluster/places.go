package cluster

import (
	"context"
	"fmt"
	"slices"

	"github.com/tullemesh/tulle/internal/limit"
)

// A cluster bounds its connections, the requests that wait for one, and the requests and repetitions in flight (Envoy: "Circuit breaking").
// All are counters that are compared when something begins; who waits for a connection's place stands in a queue.

// Begin counts a request against the threshold; End takes it off. Those that wait for a connection are not active yet.
func (c *Cluster) Begin() error {
	c.requests.Add(1)
	if c.crowded() {
		c.requests.Add(-1)
		c.stats.overflow(pendingOverflow, c.Name)
		return ErrOverflow
	}
	return nil
}

// crowded reports whether more requests are active than may be.
func (c *Cluster) crowded() bool {
	return exceeds(c.requests.Load()-c.pending.Load(), c.spec.Load().MaxRequests)
}

// End ends what Begin began.
func (c *Cluster) End() { c.requests.Add(-1) }

// BeginRetry counts a repetition against the threshold (Envoy: max_retries); false: there are too many. EndRetry takes it off when the
// request that is repeated has ended.
func (c *Cluster) BeginRetry() bool {
	if exceeds(c.retries.Add(1), c.spec.Load().MaxRetries) {
		c.retries.Add(-1)
		c.stats.overflow(retryOverflow, c.Name)
		return false
	}
	return true
}

// EndRetry ends what BeginRetry began.
func (c *Cluster) EndRetry() { c.retries.Add(-1) }

// exceeds compares with a threshold; 0 means none was configured, for which
// Envoy's default of 1,024 would refuse what Istio's own default (2^32-1)
// lets pass.
func exceeds(n int64, threshold uint32) bool { return threshold > 0 && n > int64(threshold) }

// full reports whether the cluster may not connect any more.
func (c *Cluster) full() bool {
	return exceeds(c.connections.Load()+1, c.spec.Load().MaxConnections)
}

// beginWait counts a request that waits for a connection, be it dialed, against the threshold (Envoy: max_pending_requests).
func (c *Cluster) beginWait() error {
	most := c.spec.Load().MaxPending
	if most == 0 {
		most = limit.UpstreamPendingMax
	}
	if exceeds(c.pending.Add(1), most) {
		c.pending.Add(-1)
		c.stats.overflow(pendingOverflow, c.Name)
		return ErrOverflow
	}
	return nil
}

// Waiting is how many requests wait for a connection.
func (c *Cluster) Waiting() int64 { return c.pending.Load() }

func (c *Cluster) endWait() { c.pending.Add(-1) }

// waiter is a request that waits for a place among the cluster's connections.
type waiter struct {
	upstream *Upstream
	reuse    bool // a connection that another request releases will do
	got      chan *Conn
}

// reserve takes a place for a new connection. When all are taken it waits: then it returns a connection that another request released, or
// nil with a place to dial. An endpoint without any connection gets one beyond the threshold, for otherwise the others' could shut it
// out for ever (Envoy does so as well).
func (u *Upstream) reserve(ctx context.Context, reuse bool) (*Conn, error) {
	if u.takePlace() {
		return nil, nil
	}
	c := u.cluster
	w := &waiter{upstream: u, reuse: reuse, got: make(chan *Conn, 1)}
	c.mu.Lock()
	c.waiters = append(c.waiters, w)
	c.queued.Add(1)
	c.mu.Unlock()
	c.makeRoom()
	c.grant() // a place may have become free before we stood in the queue
	select {
	case got := <-w.got:
		return got, nil
	case <-ctx.Done():
	}
	if !c.withdraw(w) {
		if got := <-w.got; got != nil {
			got.Release(c.live.opts.Clock.Now())
		} else {
			u.unreserve()
		}
	}
	return nil, fmt.Errorf("%w: %w", ErrConnect, ctx.Err())
}

// takePlace takes a place for a new connection if there is one.
func (u *Upstream) takePlace() bool {
	c := u.cluster
	first := u.places.Add(1) == 1
	if n := c.connections.Add(1); first || !exceeds(n, c.spec.Load().MaxConnections) {
		return true
	}
	u.places.Add(-1)
	c.connections.Add(-1)
	c.stats.overflow(connOverflow, c.Name)
	c.grant() // who freed a place meanwhile found it taken by us
	return false
}

// grant gives a free place to the one who waits longest. Whoever frees a place
// looks for those who wait afterwards, and who waits looks for a place after
// standing in the queue: one of them sees the other.
func (c *Cluster) grant() {
	for c.queued.Load() > 0 && !c.full() {
		if exceeds(c.connections.Add(1), c.spec.Load().MaxConnections) {
			c.connections.Add(-1)
			continue
		}
		c.mu.Lock()
		if len(c.waiters) == 0 {
			c.mu.Unlock()
			c.connections.Add(-1)
			continue
		}
		w := c.dequeueLocked(0)
		c.mu.Unlock()
		w.upstream.places.Add(1)
		w.got <- nil
	}
}

// makeRoom closes an idle connection of any endpoint, so that it does not keep
// a place that somebody waits for.
func (c *Cluster) makeRoom() {
	for _, u := range c.all() {
		if idle := u.takeIdle(); idle != nil {
			idle.Close()
			return
		}
	}
}

// all lists the endpoints.
func (c *Cluster) all() []*Upstream {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]*Upstream, 0, len(c.upstreams))
	for _, u := range c.upstreams {
		out = append(out, u)
	}
	return out
}

func (c *Cluster) withdraw(w *waiter) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.Index(c.waiters, w)
	if i < 0 {
		return false
	}
	c.dequeueLocked(i)
	return true
}

func (c *Cluster) dequeueLocked(i int) *waiter {
	w := c.waiters[i]
	c.waiters = slices.Delete(c.waiters, i, i+1)
	c.queued.Add(-1)
	return w
}

// handOver gives a released connection to a request that waits for one to the
// same endpoint, or else makes room for one that waits to dial.
func (c *Cluster) handOver(released *Conn) bool {
	c.mu.Lock()
	i := slices.IndexFunc(c.waiters, func(w *waiter) bool { return w.reuse && w.upstream == released.Upstream })
	if i < 0 {
		waiting := len(c.waiters) > 0
		c.mu.Unlock()
		if waiting {
			released.Close()
		}
		return waiting
	}
	w := c.dequeueLocked(i)
	c.mu.Unlock()
	released.Reused = true
	w.got <- released
	return true
}

// unreserve frees a connection's place, or gives it to the one who waits
// longest.
func (u *Upstream) unreserve() {
	c := u.cluster
	u.places.Add(-1)
	if c.queued.Load() > 0 {
		c.mu.Lock()
		if len(c.waiters) > 0 {
			w := c.dequeueLocked(0)
			c.mu.Unlock()
			w.upstream.places.Add(1)
			w.got <- nil
			return
		}
		c.mu.Unlock()
	}
	c.connections.Add(-1)
	c.grant()
}
