package listener

import (
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/tullemesh/tulle/internal/limit"
)

// FirstSpeakers remembers destinations where servers speak first. The zero
// value is ready.
type FirstSpeakers struct {
	any atomic.Bool

	// Guarded by mu.
	mu    sync.Mutex
	known map[netip.AddrPort]FirstSpeaker
}

// FirstSpeaker is who was found to speak first.
type FirstSpeaker uint8

// The findings.
const (
	NobodyKnown FirstSpeaker = iota
	ServerFirst
	BothFirst // clients were heard first as well: TLS of a mesh beside plaintext
)

// At is who speaks first at a destination.
func (f *FirstSpeakers) At(to netip.AddrPort) FirstSpeaker {
	if !f.any.Load() {
		return NobodyKnown
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.known[to]
}

// Server notes that a server spoke first.
func (f *FirstSpeakers) Server(to netip.AddrPort) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known[to] != NobodyKnown {
		return
	}
	if f.known == nil || len(f.known) >= limit.FirstSpeakersMax {
		f.known = map[netip.AddrPort]FirstSpeaker{} // learned again by who still comes
	}
	f.known[to] = ServerFirst
	f.any.Store(true)
}

// Client notes that a client spoke first where a server is known to.
func (f *FirstSpeakers) Client(to netip.AddrPort) {
	if !f.any.Load() {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known[to] == ServerFirst {
		f.known[to] = BothFirst
	}
}
