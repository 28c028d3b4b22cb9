package observe

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
)

// shardsMax bounds the shards of a value: beyond, memory costs more than the
// contention that is left.
const shardsMax = 8

// cacheLine keeps two shards out of one line of the processor's cache.
const cacheLine = 64

// shardCount returns a power of two near the number of processors in use.
func shardCount() int {
	n := min(runtime.GOMAXPROCS(0), shardsMax)
	return 1 << bits.Len(uint(n-1))
}

type shard struct {
	n atomic.Uint64
	_ [cacheLine - 8]byte
}

// Counter only grows. It is safe for concurrent use.
type Counter struct{ shards []shard }

func newCounter() *Counter { return &Counter{shards: make([]shard, shardCount())} }

// Inc adds one.
func (c *Counter) Inc() { c.Add(1) }

// Add adds n.
func (c *Counter) Add(n uint64) { c.shards[pick(len(c.shards))].n.Add(n) }

// Value returns the sum; concurrent additions may or may not be in it.
func (c *Counter) Value() uint64 {
	var sum uint64
	for i := range c.shards {
		sum += c.shards[i].n.Load()
	}
	return sum
}

// pick chooses a shard. There is no portable way to ask for the processor;
// the runtime's generator is per thread and costs about as much as the
// addition itself.
func pick(n int) int {
	if n == 1 {
		return 0
	}
	return int(rand.Uint32()) & (n - 1)
}

// Gauge goes up and down. It is safe for concurrent use.
type Gauge struct{ bits atomic.Uint64 }

// Set replaces the value.
func (g *Gauge) Set(v float64) { g.bits.Store(math.Float64bits(v)) }

// Add adds a difference, which may be negative.
func (g *Gauge) Add(d float64) {
	for {
		old := g.bits.Load()
		if g.bits.CompareAndSwap(old, math.Float64bits(math.Float64frombits(old)+d)) {
			return
		}
	}
}

// Value returns the value.
func (g *Gauge) Value() float64 { return math.Float64frombits(g.bits.Load()) }

// Histogram counts observations in buckets. It is safe for concurrent use.
type Histogram struct {
	bounds []float64
	shards []histogramShard
}

type histogramShard struct {
	counts []atomic.Uint64 // one for each bound, and +Inf
	sum    Gauge
	_      [cacheLine - 32]byte
}

func newHistogram(bounds []float64) *Histogram {
	h := &Histogram{bounds: bounds, shards: make([]histogramShard, shardCount())}
	for i := range h.shards {
		h.shards[i].counts = make([]atomic.Uint64, len(bounds)+1)
	}
	return h
}

// Observe counts one observation.
func (h *Histogram) Observe(v float64) {
	lo, hi := 0, len(h.bounds)
	for lo < hi {
		mid := (lo + hi) / 2
		if h.bounds[mid] < v {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	s := &h.shards[pick(len(h.shards))]
	s.counts[lo].Add(1)
	s.sum.Add(v)
}

// Snapshot returns the observations per bucket (not cumulative; the last is
// +Inf), their sum and their number.
func (h *Histogram) Snapshot() (counts []uint64, sum float64, n uint64) {
	counts = make([]uint64, len(h.bounds)+1)
	for i := range h.shards {
		for j := range counts {
			c := h.shards[i].counts[j].Load()
			counts[j] += c
			n += c
		}
		sum += h.shards[i].sum.Value()
	}
	return counts, sum, n
}
