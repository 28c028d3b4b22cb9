package telemetry

import (
	"maps"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// Names of the headers by which sidecars tell each other who they are (Istio:
// the "peer_metadata" filter).
const (
	peerHeader   = "x-envoy-peer-metadata"
	peerIDHeader = "x-envoy-peer-metadata-id"
)

// PeerCodec is Istio's peer metadata in headers (x-envoy-peer-metadata).
// Protobuf is not the engine's business, so the composition root gives it.
type PeerCodec interface {
	// Self is this workload's id and encoded metadata.
	Self() (id, encoded string)
	// Decode reads a peer's.
	Decode(encoded string) (Workload, bool)
}

// Peer is who stands at the other end, and the metadata that told it: empty
// when only the certificate did. It is immutable, and shared by connections.
type Peer struct {
	Workload
	encoded string
}

// Peers are the known ones: many connections lead to few workloads. Reading
// takes no lock.
type Peers struct {
	codec PeerCodec // nil: peers are known by their certificates alone
	known atomic.Pointer[map[peerKey]*Peer]
	mu    sync.Mutex // of adding
}

// peerKey is what a peer is made of.
type peerKey struct{ principal, encoded string }

// NewPeers knows nobody; c may be nil.
func NewPeers(c PeerCodec) *Peers {
	p := &Peers{codec: c}
	p.known.Store(&map[peerKey]*Peer{{}: {}})
	return p
}

// Talk reports whether metadata is exchanged in headers.
func (p *Peers) Talk() bool { return p.codec != nil }

// Said reports whether a peer is who an encoded metadata told.
func (p *Peer) Said(encoded []byte) bool { return p.encoded == string(encoded) }

// Get makes a peer of the identity that its certificate proves and of its
// metadata. Metadata that does not decode counts as none. The namespace is the
// certificate's.
func (p *Peers) Get(principal, encoded string) *Peer {
	known := *p.known.Load()
	if found := known[peerKey{principal, encoded}]; found != nil {
		return found
	}
	made := &Peer{encoded: strings.Clone(encoded)}
	if encoded != "" {
		w, ok := p.codec.Decode(encoded)
		if !ok {
			return p.Get(principal, "")
		}
		made.Workload = w
	}
	made.Principal = principal
	if namespace := namespaceOf(principal); namespace != "" {
		made.Namespace = namespace
	}
	p.add(peerKey{principal, made.encoded}, made)
	return made
}

func (p *Peers) add(key peerKey, made *Peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := maps.Clone(*p.known.Load())
	if len(next) >= limit.PeersMax {
		next = map[peerKey]*Peer{{}: {}} // those in use come again
	}
	next[key] = made
	p.known.Store(&next)
}

// Of is what a client's certificate tells.
func (p *Peers) Of(f *fact.Conn) *Peer {
	if !f.Verified {
		return p.Get("", "")
	}
	return p.Get(f.Peer, "")
}

// namespaceOf is the namespace in Istio's form of a SPIFFE ID, or empty.
func namespaceOf(principal string) string {
	parts := strings.Split(strings.TrimPrefix(principal, "spiffe://"), "/")
	if len(parts) == 5 && parts[1] == "ns" && parts[3] == "sa" {
		return parts[2]
	}
	return ""
}

// Tell says in a head who we are.
func (p *Peers) Tell(h *message.Head) {
	id, encoded := p.codec.Self()
	h.SetString(peerIDHeader, id)
	h.SetString(peerHeader, encoded)
}

// Metadata is what a head says of its sender.
func Metadata(h *message.Head) (encoded []byte, present bool) { return h.Get(peerHeader) }

// DropMetadata takes off what proxies tell one another.
func DropMetadata(h *message.Head) {
	h.Remove(peerHeader)
	h.Remove(peerIDHeader)
}
