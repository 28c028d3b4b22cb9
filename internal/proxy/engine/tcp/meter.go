package tcp

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
)

// count is how much has gone in one direction so far. While the kernel
// splices, only the kernel knows.
type count struct {
	from    *conn.Socket
	base    uint64 // what was read from it before
	moved   atomic.Int64
	spliced atomic.Bool
}

func newCount(from conn.Stream) *count {
	return &count{from: from.Socket(), base: from.Socket().Taken()}
}

func (c *count) now() int64 {
	n := c.moved.Load()
	if c.spliced.Load() {
		if all := c.from.Received(); all > c.base {
			n += int64(all - c.base)
		}
	}
	return n
}

// meter tells somebody regularly what has gone.
type meter struct {
	tell      func(sent, received int64)
	out, back *count

	// Guarded by mu.
	mu             sync.Mutex
	timer          *time.Timer
	sent, received int64 // told so far
	ended          bool
}

func startMeter(tell func(sent, received int64), out, back *count) *meter {
	m := &meter{tell: tell, out: out, back: back}
	if tell != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.timer = time.AfterFunc(ReportEvery, m.look)
	}
	return m
}

func (m *meter) look() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		return
	}
	m.tellLocked(m.out.now(), m.back.now())
	m.timer.Reset(ReportEvery)
}

// tellLocked tells the differences; what the kernel had received and could not
// pass on any more is not taken back.
func (m *meter) tellLocked(sent, received int64) {
	s, r := max(sent-m.sent, 0), max(received-m.received, 0)
	m.sent, m.received = m.sent+s, m.received+r
	if s+r > 0 {
		m.tell(s, r)
	}
}

// end tells the rest.
func (m *meter) end(sent, received int64) {
	if m.tell == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended = true
	m.timer.Stop()
	m.tellLocked(sent, received)
}
