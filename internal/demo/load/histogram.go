package load

import (
	"math"
	"math/bits"
	"time"
)

// histogram counts durations in microseconds, in buckets of at most 1/8 of their value: 8 linear buckets within each power of two.
// Its size is fixed (4 KiB), and so is its error: a quantile is at most 12.5 % too high.
type histogram struct {
	buckets [64 * 8]uint64
	count   uint64
	max     time.Duration
}

func (h *histogram) add(d time.Duration) {
	d = max(d, 0)
	h.buckets[bucket(uint64(d/time.Microsecond))]++
	h.count++
	h.max = max(h.max, d)
}

// bucket is the index of v: exact below 8, then the three bits after the leading one.
func bucket(v uint64) int {
	if v < 8 {
		return int(v)
	}
	shift := bits.Len64(v) - 4
	return (shift+1)*8 + int(v>>shift)&7
}

// upper is the largest value in bucket i.
func upper(i int) uint64 {
	if i < 8 {
		return uint64(i)
	}
	shift := i/8 - 1
	return (uint64(8+i%8)+1)<<shift - 1
}

// quantile returns the upper bound of the bucket that holds the q-th part of all durations, never more than the longest; 0 of none.
func (h *histogram) quantile(q float64) time.Duration {
	if h.count == 0 {
		return 0
	}
	rank := max(1, uint64(math.Ceil(q*float64(h.count))))
	for i, seen := 0, uint64(0); i < len(h.buckets); i++ {
		if seen += h.buckets[i]; seen >= rank {
			return min(time.Duration(upper(i))*time.Microsecond, h.max)
		}
	}
	return h.max
}
