package conn

import (
	"sync"
	"sync/atomic"

	"github.com/tullemesh/tulle/internal/limit"
)

const (
	// BufferBytes is the size of pooled buffers: a head of usual size and the
	// first part of a body, and one TLS record.
	BufferBytes = 16 << 10
	// WideBytes is the size of buffers for bodies that keep coming: fewer
	// system calls. There is room for 64 KiB with what frames them, and no
	// buffer that was grown has this size.
	WideBytes = 64<<10 + 64
)

// Buffer is a pooled byte slice.
type Buffer struct{ B []byte }

// Buffers is a pool of buffers. The zero value is ready. A buffer belongs to a
// request in progress, never to an idle connection.
type Buffers struct {
	pool, wide sync.Pool
	wideOut    atomic.Int64
}

// Get returns a buffer with len and cap BufferBytes.
func (p *Buffers) Get() *Buffer {
	if b, ok := p.pool.Get().(*Buffer); ok {
		return b
	}
	return &Buffer{B: make([]byte, BufferBytes)}
}

// GetFor returns a buffer for so many bytes, which may not come at once: one of
// WideBytes if they need it and fewer than limit.WideBuffersMax are in use,
// else one of BufferBytes.
func (p *Buffers) GetFor(bytes int64) *Buffer {
	if bytes <= BufferBytes {
		return p.Get()
	}
	if p.wideOut.Add(1) > limit.WideBuffersMax {
		p.wideOut.Add(-1)
		return p.Get()
	}
	if b, ok := p.wide.Get().(*Buffer); ok {
		return b
	}
	return &Buffer{B: make([]byte, WideBytes)}
}

// Put gives a buffer back. One that was grown is left to the collector.
func (p *Buffers) Put(b *Buffer) {
	switch cap(b.B) {
	case BufferBytes:
		b.B = b.B[:BufferBytes]
		p.pool.Put(b)
	case WideBytes:
		p.wideOut.Add(-1)
		b.B = b.B[:WideBytes]
		p.wide.Put(b)
	}
}
