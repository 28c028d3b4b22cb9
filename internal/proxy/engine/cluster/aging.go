package cluster

import (
	"bytes"
	"math"
	"strconv"
	"sync/atomic"
	"time"
)

// aging is what is known of how long an endpoint keeps idle connections. Its close may cross a request on the way: one that can't be repeated
// would be lost by it, so it goes only over connections that are younger than those that were found closed.
type aging struct {
	// announced is how long the endpoint said that it keeps them, less a margin (Keep-Alive: timeout); 0: it said nothing.
	announced atomic.Int64
	// youngest is the least age at which one was found closed, and when that was; 0: never.
	youngest, seen atomic.Int64
}

const (
	// announcedMargin is what an announced timeout is cut by: the way there, and the endpoint's own idea of when idleness began.
	announcedMargin = 500 * time.Millisecond
	// forgetAfter doubles the least age: an endpoint that ended, and closed all its connections, says nothing of its successor.
	forgetAfter = 10 * time.Second
	// trustedPart of the least age is what requests that can't be repeated rely on.
	trustedPart = 2
)

// closed says that a connection was closed by the peer after it had been idle for age at most.
func (a *aging) closed(age, now int64) {
	age = max(age, 1)
	if known := a.least(now); known == 0 || age <= known {
		a.youngest.Store(age)
		a.seen.Store(now)
	}
}

// least is the least age that is remembered; 0: none.
func (a *aging) least(now int64) int64 {
	y := a.youngest.Load()
	if y == 0 {
		return 0
	}
	doublings := min((now-a.seen.Load())/int64(forgetAfter), 62)
	if y > math.MaxInt64>>max(doublings, 0) {
		return 0 // long ago
	}
	return y << max(doublings, 0)
}

// trusted is how long a connection may have been idle for a request that can't be repeated.
func (a *aging) trusted(now int64) int64 {
	if y := a.least(now); y > 0 {
		return y / trustedPart
	}
	return math.MaxInt64
}

// Lost says that the peer closed the connection instead of answering: it had been idle for too long if requests went over it before.
func (c *Conn) Lost(now int64) {
	if c.Reused {
		c.Upstream.aging.closed(c.since, now)
	}
}

// Announced reads the Keep-Alive field of a response: "timeout=5" is how many seconds the endpoint keeps idle connections
// (draft-thomson-hybi-http-timeout-03 §2; Node.js and Apache send it).
func (c *Conn) Announced(field []byte) {
	for part := range bytes.SplitSeq(field, []byte(",")) {
		name, value, _ := bytes.Cut(bytes.TrimSpace(part), []byte("="))
		if !bytes.EqualFold(name, []byte("timeout")) {
			continue
		}
		if n, err := strconv.ParseUint(string(value), 10, 31); err == nil {
			c.Upstream.aging.announced.Store(int64(max(time.Duration(n)*time.Second-announcedMargin, time.Millisecond)))
		}
	}
}
