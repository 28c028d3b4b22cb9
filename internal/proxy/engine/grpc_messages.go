package engine

import (
	"encoding/binary"
	"net/http"
	"sync/atomic"

	"github.com/tullemesh/tulle/internal/proxy/engine/telemetry"
)

// messageCounts counts the messages of a call of gRPC, both ways, as its bodies
// pass. They are reported when they come, because a stream may last for days;
// what comes before it is known who answers waits until then.
type messageCounts struct {
	call          bool // the request is one of gRPC
	asks, answers messageCounter
	series        atomic.Pointer[telemetry.Messages] // nil: not known yet
}

// messageCounter finds the messages in one direction's bytes: each has a prefix
// of a flag and four bytes of length (gRPC over HTTP/2: Length-Prefixed-Message).
// One goroutine feeds it.
type messageCounter struct {
	on      bool // false: the bytes are no messages
	have    uint8
	prefix  [messagePrefix]byte // have bytes of it, where reads split it
	left    uint32              // of the message's own bytes
	pending atomic.Uint64       // found and not reported
}

const messagePrefix = 5

// count reports whether it found messages. A flag that gRPC does not know ends
// the counting: what follows has no boundaries that could be known.
func (c *messageCounter) count(p []byte) bool {
	found := uint64(0)
	for len(p) > 0 && c.on {
		if c.left > 0 {
			n := min(uint64(c.left), uint64(len(p)))
			c.left -= uint32(n)
			p = p[n:]
			continue
		}
		n := copy(c.prefix[c.have:], p)
		c.have += uint8(n)
		p = p[n:]
		const compressed = 1
		switch {
		case c.prefix[0] > compressed:
			c.on = false
		case c.have == messagePrefix:
			found++
			c.have, c.left = 0, binary.BigEndian.Uint32(c.prefix[1:])
		}
	}
	if found > 0 {
		c.pending.Add(found)
	}
	return found > 0
}

// tookBody counts body bytes of the client.
func (x *exchange) tookBody(p []byte) {
	x.bytesIn += int64(len(p))
	if c := &x.messages; c.asks.on && c.asks.count(p) {
		c.report()
	}
}

// gaveBody counts body bytes for the client.
func (x *exchange) gaveBody(p []byte) {
	x.bytesOut += int64(len(p))
	if c := &x.messages; c.answers.on && c.answers.count(p) {
		c.report()
	}
}

// report adds what was found, if it is known where to. Who finds and who learns
// that may meet: each does its own part before it reports.
func (c *messageCounts) report() {
	s := c.series.Load()
	if s == nil {
		return
	}
	if n := c.asks.pending.Swap(0); n > 0 {
		s.Asks.Add(n)
	}
	if n := c.answers.pending.Swap(0); n > 0 {
		s.Answers.Add(n)
	}
}

// beginCall is called when the request is admitted.
func (x *exchange) beginCall() {
	call := x.isGRPC()
	x.messages.call, x.messages.asks.on = call, call
}

// answersCall is called when the response's head is turned into the client's:
// from here on both ends are known, and whether the response has messages.
func (x *exchange) answersCall() {
	if !x.messages.call {
		return
	}
	ct, _ := x.res.Get("content-type")
	x.messages.answers.on = x.res.Status == http.StatusOK && isGRPCType(ct)
	x.messages.series.Store(x.messageSeries())
	x.messages.report()
}

// endCall reports what no response's head came for.
func (x *exchange) endCall() {
	c := &x.messages
	if c.asks.pending.Load()+c.answers.pending.Load() == 0 {
		return
	}
	if c.series.Load() == nil {
		c.series.Store(x.messageSeries())
	}
	c.report()
}

func (x *exchange) messageSeries() *telemetry.Messages {
	return x.d.e.meters.Messages(&x.d.series, x.labels())
}
