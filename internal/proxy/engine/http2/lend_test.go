package http2

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tullemesh/tulle/internal/limit"
)

func TestBuffersGrowFromWhatWasGivenBack(t *testing.T) {
	const largest = limit.HTTP2StreamWindow + 8<<10
	for name, c := range map[string]struct{ has, more, free, want, most int }{
		"a few bytes":                          {0, 64, 0, 512, largest},
		"a message":                            {0, 1 << 10, 0, bodyBytesKept, largest},
		"messages":                             {bodyBytesKept, 1 << 10, 0, 16 << 10, largest},
		"messages, a wide buffer is free":      {bodyBytesKept, 1 << 10, lentWide, lentWide, largest},
		"messages in a narrow window":          {bodyBytesKept, 1 << 10, lentWide, 16 << 10, limit.HTTP2StreamWindowNarrow},
		"room enough":                          {100, 400, lentWide, 512, largest},
		"all that may wait to be written":      {16 << 10, 48<<10 + frameHeadBytes, 0, lentWide, largest},
		"all that may wait of a body":          {lentWide, limit.HTTP2StreamWindow - lentWide, 0, largest, largest},
		"more, because limits have exceptions": {largest, 1, 0, largest + 1, largest},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLender()
			if c.free > 0 {
				l.give(make([]byte, 0, c.free))
			}
			var b []byte
			if c.has > 0 {
				b = append(l.get(c.has, c.most), bytes.Repeat([]byte("x"), c.has)...)
			}
			got := l.grow(b, c.more, c.most)
			if cap(got) != c.want || len(got) != c.has || !bytes.Equal(got, b) {
				t.Errorf("%d bytes in %d, want %d in %d", len(got), cap(got), c.has, c.want)
			}
			if cap(b) > 0 && cap(b) != cap(got) {
				if again := l.get(c.has, c.most); &again[:1][0] != &b[0] {
					t.Error("the smaller buffer is lost")
				}
			}
		})
	}
}

// TestBuffersThatNobodyTakesAreLetGo: those in use stay, and a burst's do not.
func TestBuffersThatNobodyTakesAreLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLender()
		waits := func() (n int) {
			l.mu.Lock()
			defer l.mu.Unlock()
			for i := range l.shelves {
				n += len(l.shelves[i].free)
			}
			return n
		}
		var burst [][]byte
		for range 20 {
			burst = append(burst, l.get(600, 600), l.get(lentWide, lentWide))
		}
		for _, b := range burst {
			l.give(b)
		}
		use := func(n int) {
			var used [][]byte
			for range n {
				used = append(used, l.get(600, 600))
			}
			for _, b := range used {
				l.give(b)
			}
		}
		for _, want := range []int{40, 3, 3} {
			use(3)
			<-time.After(lentAge)
			synctest.Wait()
			if got := waits(); got != want {
				t.Errorf("%d buffers wait, want %d", got, want)
			}
		}
		<-time.After(2 * lentAge)
		synctest.Wait()
		if got := waits(); got != 0 || l.aging {
			t.Errorf("%d buffers wait when nobody uses any, a timer %v", got, l.aging)
		}
	})
}

func TestBuffersThatWaitAreBounded(t *testing.T) {
	l := newLender()
	held := 0
	for i := range l.shelves {
		s := &l.shelves[i]
		for range 2 * s.kept {
			l.give(make([]byte, 0, s.bytes))
		}
		l.give(make([]byte, 0, s.bytes-1))
		if len(s.free) != s.kept {
			t.Errorf("%d buffers of %d bytes wait, want %d", len(s.free), s.bytes, s.kept)
		}
		held += s.kept * s.bytes
	}
	if held > 9<<19 {
		t.Errorf("%d bytes may wait", held)
	}
}
