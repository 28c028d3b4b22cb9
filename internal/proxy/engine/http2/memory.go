package http2

import (
	"sync"

	"github.com/tullemesh/tulle/internal/proxy/engine/http2/hpack"
)

// Memory is what connections share: fixed tables, and memory that is lent while
// there is work. One serves any number of connections.
type Memory struct {
	// OnFlood is told of each connection that exceeded a limit of frames, and
	// which (ConnError.Flood); nil: nobody is. It is set before use.
	OnFlood func(name string)

	tables  *hpack.Tables
	lender  *lender
	streams sync.Pool // *Stream
	turns   sync.Pool // *Turn
}

// readBytes is how much one read takes at most: several frames of every size
// that we allow.
const readBytes = 64 << 10

// NewMemory returns memory for connections.
func NewMemory() *Memory { return &Memory{tables: hpack.NewTables(), lender: newLender()} }

// buffer returns one to read into, which the lender takes back.
func (m *Memory) buffer() []byte { return m.lender.get(readBytes, readBytes)[:readBytes] }

func (m *Memory) turn() *Turn {
	if t, ok := m.turns.Get().(*Turn); ok {
		return t
	}
	return &Turn{}
}

// bodyBytesKept is the largest body buffer that an ended stream keeps for the
// one that will use its memory next.
const bodyBytesKept = 4 << 10

// stream returns a stream in its first state; its memory may have been another
// one's.
func (m *Memory) stream(s *Session, id uint32) *Stream {
	st, ok := m.streams.Get().(*Stream)
	if !ok {
		st = &Stream{}
	}
	st.begin(s, id)
	return st
}

// Watcher is who acts for a stream without a goroutine.
type Watcher interface {
	// StreamReady says that something may have happened to the stream: what
	// TakeHead, TakeBody or Put could not do before may go on now, or the stream
	// failed. It may come for nothing, and for a stream that the watcher is done
	// with. It must not wait.
	StreamReady(t *Turn, st *Stream)
}

// Turn is what follows from one read: streams to be told, and connections to be
// flushed once, when all that has something to say has said it. It belongs to
// one goroutine.
type Turn struct {
	// Now is the clock's time at the beginning.
	Now int64

	dirty []*Conn
	ready []readied
}

type readied struct {
	by Watcher
	st *Stream
}

// run tells the watchers and flushes. Nothing of it waits; no lock is held.
func (t *Turn) run() {
	for told := 0; ; {
		for ; told < len(t.ready); told++ {
			r := t.ready[told]
			t.ready[told] = readied{}
			r.by.StreamReady(t, r.st)
		}
		t.ready, told = t.ready[:0], 0
		n := len(t.dirty) - 1
		if n < 0 {
			return
		}
		c := t.dirty[n]
		t.dirty[n], t.dirty = nil, t.dirty[:n]
		c.mu.Lock()
		c.marked = false
		c.flushLocked(t)
		c.mu.Unlock()
	}
}

// Begin begins a turn outside of any connection's reading: End must follow
// before its goroutine waits.
func (m *Memory) Begin(now int64) *Turn {
	t := m.turn()
	t.Now = now
	return t
}

// End ends a turn that Begin began.
func (m *Memory) End(t *Turn) {
	t.run()
	m.turns.Put(t)
}
