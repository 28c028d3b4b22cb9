package load

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestQuantileIsWithinAnEighth holds the histogram to sorting all values.
func TestQuantileIsWithinAnEighth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Int64Range(0, int64(time.Hour/time.Microsecond)), 1, 300).Draw(t, "microseconds")
		q := rapid.Float64Range(0.01, 1).Draw(t, "quantile")
		var h histogram
		for _, v := range values {
			h.add(time.Duration(v) * time.Microsecond)
		}
		slices.Sort(values)
		rank := 0
		for rank < len(values)-1 && float64(rank+1) < q*float64(len(values)) {
			rank++
		}
		want, got := time.Duration(values[rank])*time.Microsecond, h.quantile(q)
		if got < want || float64(got) > float64(want)*1.125 {
			t.Fatalf("quantile %v of %v: got %v, want %v to an eighth more", q, values, got, want)
		}
	})
}

func TestBucketsCoverEveryDuration(t *testing.T) {
	var h histogram
	h.add(-time.Second) // a clock that went back counts as no time
	h.add(1<<63 - 1)
	if h.count != 2 || h.buckets[0] != 1 {
		t.Errorf("count %d, zero bucket %d", h.count, h.buckets[0])
	}
	for i := range 58 * 8 {
		if got := bucket(upper(i)); got != i {
			t.Fatalf("largest value of bucket %d falls into %d", i, got)
		}
	}
}
