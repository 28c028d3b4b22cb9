package grpc

import (
	"encoding/binary"
	"sync/atomic"
)

// prefixBytes is the length of what stands before each message: a flag and four
// bytes of length (gRPC over HTTP/2: Length-Prefixed-Message).
const prefixBytes = 5

// frames finds where messages begin and end in one direction's bytes.
type frames struct {
	have   uint8             // bytes of prefix
	prefix [prefixBytes]byte // of the message that is under way, where reads split it
	left   uint32            // of the message's own bytes
}

// next takes the first n bytes of p, which are not empty: all of a prefix, all
// of a message's own bytes, or what is there of them. began: they complete a
// prefix; ended: they complete a message.
func (f *frames) next(p []byte) (n int, began, ended bool) {
	if f.left > 0 {
		n = int(min(uint64(f.left), uint64(len(p))))
		f.left -= uint32(n)
		return n, false, f.left == 0
	}
	n = copy(f.prefix[f.have:], p)
	if f.have += uint8(n); f.have < prefixBytes {
		return n, false, false
	}
	f.have, f.left = 0, binary.BigEndian.Uint32(f.prefix[1:])
	return n, true, f.left == 0
}

// Counter finds the messages in one direction's bytes. One goroutine feeds it,
// any may take what was found.
type Counter struct {
	// On is false when the bytes are no messages, and from the first flag on
	// that gRPC does not know: what follows has no boundaries that could be
	// known.
	On      bool
	frames  frames
	pending atomic.Uint64 // found and not taken
}

// Count reports whether it found messages.
func (c *Counter) Count(p []byte) bool {
	const compressed = 1
	found := uint64(0)
	for len(p) > 0 && c.On {
		n, began, _ := c.frames.next(p)
		p = p[n:]
		switch {
		case !began:
		case c.frames.prefix[0] > compressed:
			c.On = false
		default:
			found++
		}
	}
	if found > 0 {
		c.pending.Add(found)
	}
	return found > 0
}

// Pending is how many were found and not taken.
func (c *Counter) Pending() uint64 { return c.pending.Load() }

// Take returns what Pending counts, once.
func (c *Counter) Take() uint64 { return c.pending.Swap(0) }
