package conn

import "sync"

// Flusher writes to a stream without waiting: what the kernel does not take at
// once is kept, and Rest waits for it. It has one user at a time.
type Flusher struct {
	// Fixed at creation.
	stream Stream
	sock   *Socket
	try    tryWrite

	rest []byte // of plaintext: what Flush left
}

// NewFlusher makes a flusher. From here on the stream is written through it
// alone; what TLS writes by itself (alerts, key updates) keeps its place.
func NewFlusher(s Stream) *Flusher {
	f := &Flusher{stream: s, sock: s.Socket()}
	f.try.prepare()
	if _, plain := s.(*Socket); !plain {
		f.sock.gather = &gather{}
	}
	return f
}

// Flush writes p. full says that the rest waits for the peer: then Rest must
// end before the next Flush, and p stays as it is until then.
func (f *Flusher) Flush(p []byte) (full bool, err error) {
	g := f.sock.gather
	if g == nil {
		f.rest, err = f.try.write(f.sock, p)
		return len(f.rest) > 0, err
	}
	g.begin()
	if _, err := f.stream.Write(p); err != nil {
		return false, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	rest, err := f.try.write(f.sock, g.buf[g.from:])
	if err != nil || len(rest) == 0 {
		g.endLocked()
		return false, err
	}
	g.from = len(g.buf) - len(rest)
	return true, nil
}

// Rest waits until what Flush left is written.
func (f *Flusher) Rest() error {
	g := f.sock.gather
	if g == nil {
		rest := f.rest
		f.rest = nil
		_, err := f.sock.Write(rest)
		return err
	}
	for {
		p := g.next()
		if p == nil {
			return nil
		}
		if _, err := f.sock.writeAll(p); err != nil {
			return err
		}
	}
}

// Release gives memory back that an idle stream does not need.
func (f *Flusher) Release() {
	if g := f.sock.gather; g != nil {
		g.mu.Lock()
		if !g.on {
			g.buf = nil
		}
		g.mu.Unlock()
	}
}

// gather collects the records that TLS writes while a Flusher is at work, so
// that they go out in few calls and none waits.
type gather struct {
	mu   sync.Mutex
	on   bool
	buf  []byte
	from int // what is before it went out
}

// gatherBytesMax is the largest buffer that is kept for the next flush.
const gatherBytesMax = 128 << 10

func (g *gather) begin() {
	g.mu.Lock()
	g.on = true
	g.mu.Unlock()
}

func (g *gather) endLocked() {
	g.on, g.from = false, 0
	if g.buf = g.buf[:0]; cap(g.buf) > gatherBytesMax {
		g.buf = nil
	}
}

// take keeps p when records are being gathered.
func (g *gather) take(p []byte) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.on {
		g.buf = append(g.buf, p...)
	}
	return g.on
}

// next hands the rest out to be written; nil: there is none, and gathering
// ends.
func (g *gather) next() []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.from == len(g.buf) {
		g.endLocked()
		return nil
	}
	p := g.buf[g.from:]
	g.buf, g.from = nil, 0
	return p
}

// ReadTurns reads a stream turn by turn as Socket.ReadTurns does.
func ReadTurns(s Stream, t Turns) error {
	if sock, plain := s.(*Socket); plain {
		return sock.ReadTurns(t)
	}
	return readTurns(s, t)
}

func readTurns(s Stream, t Turns) error {
	for {
		// Where records hold the bytes, waiting takes one, and reading then asks for
		// more: a single byte may end a message, but not begin and end it.
		if t.Wait() {
			if err := s.AwaitReadable(); err != nil {
				return err
			}
		}
		n, err := s.Read(t.Room())
		if n > 0 && !t.Took(n) {
			return nil
		}
		if n == 0 && err != nil {
			return err
		}
	}
}

// Turns is who reads a stream turn by turn.
type Turns interface {
	// Room is where to read; it is asked for right before a read.
	Room() []byte
	// Took gets what was read at the beginning of Room; false: reading ends.
	Took(n int) (goesOn bool)
	// Wait says that nothing is there: Room's memory is not needed meanwhile. It
	// reports whether no part of a message is held.
	Wait() (between bool)
}
