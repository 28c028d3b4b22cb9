package http2

import (
	"bytes"
	"testing"

	"github.com/tullemesh/tulle/internal/limit"
)

func TestBuffersGrowFromWhatWasGivenBack(t *testing.T) {
	const largest = limit.HTTP2StreamWindow + 8<<10
	for name, c := range map[string]struct{ has, more, free, want int }{
		"a few bytes":                          {0, 64, 0, 512},
		"a message":                            {0, 1 << 10, 0, bodyBytesKept},
		"messages":                             {bodyBytesKept, 1 << 10, 0, 16 << 10},
		"messages, a wide buffer is free":      {bodyBytesKept, 1 << 10, lentWide, lentWide},
		"room enough":                          {100, 400, lentWide, 512},
		"all that may wait to be written":      {16 << 10, 48<<10 + frameHeadBytes, 0, lentWide},
		"all that may wait of a body":          {lentWide, limit.HTTP2StreamWindow - lentWide, 0, largest},
		"more, because limits have exceptions": {largest, 1, 0, largest + 1},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLender()
			if c.free > 0 {
				l.give(make([]byte, 0, c.free))
			}
			var b []byte
			if c.has > 0 {
				b = append(l.get(c.has), bytes.Repeat([]byte("x"), c.has)...)
			}
			got := l.grow(b, c.more)
			if cap(got) != c.want || len(got) != c.has || !bytes.Equal(got, b) {
				t.Errorf("%d bytes in %d, want %d in %d", len(got), cap(got), c.has, c.want)
			}
			if cap(b) > 0 && cap(b) != cap(got) {
				if again := l.get(c.has); &again[:1][0] != &b[0] {
					t.Error("the smaller buffer is lost")
				}
			}
		})
	}
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
