package xds

import (
	"cmp"
	"slices"
	"time"

	"github.com/tullemesh/tulle/internal/wire"
)

// ProxyStatus is what the server knows about one stream.
type ProxyStatus struct {
	// Node holds the client's claims, Peer its proven SPIFFE URI.
	Node *wire.Node
	Peer string
	// Stream numbers the streams of this server.
	Stream    uint64
	Delta     bool
	Connected time.Time
	// Generation is the version of the generation that the stream serves.
	Generation string
	// Types are the subscribed types in the order of sending.
	Types []TypeStatus
}

// TypeStatus is one type's subscription on one stream.
type TypeStatus struct {
	TypeURL  string
	Wildcard bool
	// Held counts the resources that the client has, Missing those that it
	// named and that do not exist.
	Held, Missing int

	SentNonce, SentVersion   string
	SentAt                   time.Time
	AckedNonce, AckedVersion string
	AckedAt                  time.Time
	// Rejected is the NACK that still holds; nil when there is none.
	Rejected *NACK

	sotw bool
}

// Synced reports whether the client has accepted all that was sent.
func (t TypeStatus) Synced() bool { return t.Rejected == nil && t.SentNonce == t.AckedNonce }

// NACK is a refused response.
type NACK struct {
	Nonce, Version string
	At             time.Time
	// Message is the client's error detail; Resources is what it says about
	// single resources, less those that were sent anew or removed since.
	Message   string
	Resources []wire.Rejection

	seq uint64
}

// Status describes every open stream, sorted by node id.
func (s *Server) Status() []ProxyStatus {
	s.mu.Lock()
	streams := make([]*stream, 0, len(s.streams))
	for st := range s.streams {
		streams = append(streams, st)
	}
	s.mu.Unlock()
	out := make([]ProxyStatus, 0, len(streams))
	for _, st := range streams {
		out = append(out, st.snapshot())
	}
	slices.SortFunc(out, func(a, b ProxyStatus) int {
		return cmp.Or(cmp.Compare(a.Node.ID, b.Node.ID), cmp.Compare(a.Stream, b.Stream))
	})
	return out
}

func (st *stream) snapshot() ProxyStatus {
	st.mu.Lock()
	defer st.mu.Unlock()
	return ProxyStatus{
		Node: st.client.Node, Peer: st.client.Peer, Stream: st.id, Delta: st.delta,
		Connected: st.connected, Generation: st.generation, Types: slices.Clone(st.types),
	}
}

// report publishes the state of the subscriptions for snapshot.
func (st *stream) report() {
	types := make([]TypeStatus, 0, len(st.order))
	for _, sub := range st.order {
		sub.count()
		types = append(types, sub.status)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.types = types
	if st.gen != nil {
		st.generation = st.gen.Version()
	}
}

// SyncStatus is a row of Istio's /debug/syncz (Istio, pilot/pkg/xds
// SyncStatus), as istioctl and Kiali read it. Sent and acked are nonces.
type SyncStatus struct {
	ClusterID            string `json:"cluster_id,omitempty"`
	ProxyID              string `json:"proxy,omitempty"`
	ProxyType            string `json:"proxy_type,omitempty"`
	ProxyVersion         string `json:"proxy_version,omitempty"`
	IstioVersion         string `json:"istio_version,omitempty"`
	ClusterSent          string `json:"cluster_sent,omitempty"`
	ClusterAcked         string `json:"cluster_acked,omitempty"`
	ListenerSent         string `json:"listener_sent,omitempty"`
	ListenerAcked        string `json:"listener_acked,omitempty"`
	RouteSent            string `json:"route_sent,omitempty"`
	RouteAcked           string `json:"route_acked,omitempty"`
	EndpointSent         string `json:"endpoint_sent,omitempty"`
	EndpointAcked        string `json:"endpoint_acked,omitempty"`
	ExtensionConfigSent  string `json:"extensionconfig_sent,omitempty"`
	ExtensionConfigAcked string `json:"extensionconfig_acked,omitempty"`
}

// Syncz renders Status as Istio does. The proxy is named "NAME.NAMESPACE".
func Syncz(proxies []ProxyStatus) []SyncStatus {
	out := make([]SyncStatus, 0, len(proxies))
	for _, p := range proxies {
		s := SyncStatus{
			ClusterID:    p.Node.Metadata.ClusterID,
			ProxyID:      p.Node.Name + "." + p.Node.Namespace,
			ProxyType:    string(p.Node.Type),
			ProxyVersion: p.Node.Metadata.IstioVersion,
			IstioVersion: p.Node.Metadata.IstioVersion,
		}
		for _, t := range p.Types {
			switch t.TypeURL {
			case wire.ClusterType:
				s.ClusterSent, s.ClusterAcked = t.SentNonce, t.AckedNonce
			case wire.ListenerType:
				s.ListenerSent, s.ListenerAcked = t.SentNonce, t.AckedNonce
			case wire.RouteType:
				s.RouteSent, s.RouteAcked = t.SentNonce, t.AckedNonce
			case wire.EndpointType:
				s.EndpointSent, s.EndpointAcked = t.SentNonce, t.AckedNonce
			case wire.ExtensionType:
				s.ExtensionConfigSent, s.ExtensionConfigAcked = t.SentNonce, t.AckedNonce
			}
		}
		out = append(out, s)
	}
	return out
}
