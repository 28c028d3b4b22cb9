package http2

import (
	"slices"
	"sync"
	"time"

	"github.com/tullemesh/tulle/internal/limit"
)

// lentWide is the size that bytes which keep coming get at once when there is
// such a buffer, so that they are not copied from size to size.
const lentWide = limit.HTTP2OutBytesMax + 8<<10

// lentAge is after how long a buffer that nobody took is left to the collector,
// twice that at most.
const lentAge = time.Minute

// lender keeps buffers for body bytes and for what is written, 4.5 MiB at most,
// until nobody has needed them for a while: a sync.Pool forgets at every
// collection, and streams of messages on a heap this small make one every few MB.
// A buffer belongs to bytes that wait, not to a stream that waits for bytes.
type lender struct {
	mu      sync.Mutex
	shelves [5]shelf // by size
	aging   bool     // guarded by mu: a timer will look for buffers that nobody took
}

// wideShelf has the buffers of lentWide.
const wideShelf = 3

// shelf has the buffers of one size.
type shelf struct {
	bytes, kept int // fixed: the size, and how many wait at most

	// Guarded by mu.
	free  [][]byte // the last one given is taken first
	least int      // how few have waited since age looked
}

func newLender() *lender {
	return &lender{shelves: [...]shelf{
		{bytes: 512, kept: 256},
		{bytes: bodyBytesKept, kept: 128},
		{bytes: 16 << 10, kept: 32},
		{bytes: lentWide, kept: 32},
		{bytes: limit.HTTP2StreamWindow + 8<<10, kept: 4},
	}}
}

// grow returns b with room for n more bytes; most is how many it may be in all.
func (l *lender) grow(b []byte, n, most int) []byte {
	if cap(b)-len(b) >= n {
		return b
	}
	more := append(l.get(len(b)+n, most), b...)
	l.give(b)
	return more
}

// get returns an empty buffer for n bytes, which may become most. A stream that
// may have few of them waiting must not hold a wide buffer for them.
func (l *lender) get(n, most int) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n > bodyBytesKept && n <= lentWide && most > l.shelves[wideShelf-1].bytes {
		if b := l.shelves[wideShelf].take(); b != nil {
			return b
		}
	}
	for i := range l.shelves {
		if s := &l.shelves[i]; n <= s.bytes {
			if b := s.take(); b != nil {
				return b
			}
			return make([]byte, 0, s.bytes)
		}
	}
	return make([]byte, 0, n)
}

// take returns a buffer that waits, or nil.
func (s *shelf) take() []byte {
	last := len(s.free) - 1
	if last < 0 {
		return nil
	}
	b := s.free[last]
	s.free[last] = nil
	s.free = s.free[:last]
	s.least = min(s.least, last)
	return b
}

// age lets go of buffers that waited all the time since it ran before. It runs
// on a timer, which ends when none are left.
func (l *lender) age() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.aging = false
	for i := range l.shelves {
		s := &l.shelves[i]
		s.free = slices.Delete(s.free, 0, s.least)
		s.least = len(s.free)
		if s.least > 0 {
			l.ageLaterLocked()
		}
	}
}

func (l *lender) ageLaterLocked() {
	if !l.aging {
		l.aging = true
		time.AfterFunc(lentAge, l.age)
	}
}

// give takes a buffer whose bytes are not needed any more; one of another size
// is left to the collector.
func (l *lender) give(b []byte) {
	for i := range l.shelves {
		s := &l.shelves[i]
		if cap(b) != s.bytes {
			continue
		}
		l.mu.Lock()
		if len(s.free) < s.kept {
			s.free = append(s.free, b[:0])
			l.ageLaterLocked()
		}
		l.mu.Unlock()
		return
	}
}

// Settle takes a buffer whose bytes have left and returns what is kept in its
// place: a small one stays, others are for who has bytes.
func (m *Memory) Settle(b []byte) []byte {
	if cap(b) > bodyBytesKept {
		m.lender.give(b)
		return nil
	}
	return b[:0]
}
