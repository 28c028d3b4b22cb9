package engine

import (
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/telemetry"
)

// countRequest counts the finished request.
func (x *exchange) countRequest() {
	if x.counted {
		return
	}
	x.counted = true
	l := x.labels()
	x.d.meters.Request(&x.d.series, &l, x.end-x.start, x.wireIn, x.wireOut)
	x.endCall()
}

// labels are what is known of the exchange, for metrics.
func (x *exchange) labels() telemetry.Labels {
	l := telemetry.Labels{
		Source: x.source, Destination: x.destination, Status: int32(x.res.Status), Flags: x.flags(),
		Inbound: x.d.inbound(), Verified: x.d.facts.Verified,
	}
	if l.Source == nil {
		l.Source = x.d.peer // it failed before it was asked
	}
	if x.cluster != nil {
		l.Cluster = x.cluster.Spec()
	}
	if x.upstream != nil {
		l.To(x.upstream)
	}
	if l.GRPC = x.isGRPC(); l.GRPC {
		l.GRPCStatus = x.grpc
		if status, ok := x.res.Get("grpc-status"); ok {
			l.GRPCStatus = telemetry.GRPCStatus(status)
		}
	}
	return l
}

// takePeer reads Istio's peer metadata headers of a client in the mesh and
// takes them off: they are not the application's business, and from outside
// the mesh they are nobody's.
func (x *exchange) takePeer() {
	h, d := &x.req, x.d
	x.source = d.peer
	encoded, present := telemetry.Metadata(h)
	known := d.peers
	if present && known.Talk() && d.spec.Direction == listener.Inbound && d.facts.Verified {
		x.clientTells = true
		if !d.peer.Said(encoded) {
			x.source = known.Get(d.facts.Peer, string(encoded))
			d.peer = x.source
		}
	}
	telemetry.DropMetadata(h)
}

// takeUpstreamPeer reads them of a response: they tell who served, if the
// endpoint proved its identity.
func (x *exchange) takeUpstreamPeer() {
	d, known := x.d, x.d.peers
	if !known.Talk() || d.spec.Direction != listener.Outbound || !x.upstream.Mutual() {
		return
	}
	encoded, present := telemetry.Metadata(&x.res)
	if !present {
		return
	}
	last := d.series.Destination()
	if last != nil && last.Said(encoded) && last.Principal == x.upstream.Peer() {
		x.destination = last
		return
	}
	x.destination = known.Get(x.upstream.Peer(), string(encoded))
}
