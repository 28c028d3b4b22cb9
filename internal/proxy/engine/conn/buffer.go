package conn

import "sync"

// BufferBytes is the size of pooled buffers: a head of usual size and the
// first part of a body, and one TLS record.
const BufferBytes = 16 << 10

// Buffer is a pooled byte slice.
type Buffer struct{ B []byte }

// Buffers is a pool of buffers of BufferBytes. The zero value is ready. A
// buffer belongs to a request in progress, never to an idle connection.
type Buffers struct{ pool sync.Pool }

// Get returns a buffer with len and cap BufferBytes.
func (p *Buffers) Get() *Buffer {
	if b, ok := p.pool.Get().(*Buffer); ok {
		return b
	}
	return &Buffer{B: make([]byte, BufferBytes)}
}

// Put gives a buffer back. One that was grown is left to the collector.
func (p *Buffers) Put(b *Buffer) {
	if cap(b.B) != BufferBytes {
		return
	}
	b.B = b.B[:BufferBytes]
	p.pool.Put(b)
}
