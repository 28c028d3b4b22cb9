package engine

import (
	"maps"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
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

// peer is who stands at the other end, and the metadata that told it: empty
// when only the certificate did. It is immutable, and shared by connections.
type peer struct {
	Workload
	encoded string
}

// peers are the known ones: many connections lead to few workloads. Reading
// takes no lock.
type peers struct {
	codec PeerCodec // nil: peers are known by their certificates alone
	known atomic.Pointer[map[peerKey]*peer]
	mu    sync.Mutex // of adding
}

// peerKey is what a peer is made of.
type peerKey struct{ principal, encoded string }

func (p *peers) init(c PeerCodec) {
	p.codec = c
	p.known.Store(&map[peerKey]*peer{{}: {}})
}

// get makes a peer of the identity that its certificate proves and of its
// metadata. Metadata that does not decode counts as none. The namespace is the
// certificate's.
func (p *peers) get(principal, encoded string) *peer {
	known := *p.known.Load()
	if found := known[peerKey{principal, encoded}]; found != nil {
		return found
	}
	made := &peer{encoded: strings.Clone(encoded)}
	if encoded != "" {
		w, ok := p.codec.Decode(encoded)
		if !ok {
			return p.get(principal, "")
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

func (p *peers) add(key peerKey, made *peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := maps.Clone(*p.known.Load())
	if len(next) >= limit.PeersMax {
		next = map[peerKey]*peer{{}: {}} // those in use come again
	}
	next[key] = made
	p.known.Store(&next)
}

// of is what a client's certificate tells.
func (p *peers) of(f *fact.Conn) *peer {
	if !f.Verified {
		return p.get("", "")
	}
	return p.get(f.Peer, "")
}

// namespaceOf is the namespace in Istio's form of a SPIFFE ID, or empty.
func namespaceOf(principal string) string {
	parts := strings.Split(strings.TrimPrefix(principal, "spiffe://"), "/")
	if len(parts) == 5 && parts[1] == "ns" && parts[3] == "sa" {
		return parts[2]
	}
	return ""
}

// takePeer reads Istio's peer metadata headers of a client in the mesh and
// takes them off: they are not the application's business, and from outside
// the mesh they are nobody's.
func (x *exchange) takePeer() {
	h, d := &x.req, x.d
	x.source = d.peer
	encoded, present := h.Get(peerHeader)
	known := &d.e.telemetry.peers
	if present && known.codec != nil && d.spec.Direction == listener.Inbound && d.facts.Verified {
		x.clientTells = true
		if d.peer.encoded != string(encoded) {
			x.source = known.get(d.facts.Peer, string(encoded))
			d.peer = x.source
		}
	}
	x.dropPeer(h)
}

// takeUpstreamPeer reads them of a response: they tell who served, if the
// endpoint proved its identity.
func (x *exchange) takeUpstreamPeer() {
	d, known := x.d, &x.d.e.telemetry.peers
	if known.codec == nil || d.spec.Direction != listener.Outbound || !x.upstream.Mutual() {
		return
	}
	encoded, present := x.res.Get(peerHeader)
	if !present {
		return
	}
	last := d.series.at.destination
	if last != nil && last.encoded == string(encoded) && last.Principal == x.upstream.Peer() {
		x.destination = last
		return
	}
	x.destination = known.get(x.upstream.Peer(), string(encoded))
}

// tell says in a head who we are.
func (p *peers) tell(h *message.Head) {
	id, encoded := p.codec.Self()
	h.SetString(peerIDHeader, id)
	h.SetString(peerHeader, encoded)
}
