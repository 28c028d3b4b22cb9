package exchange

import (
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/telemetry"
)

// countRequest counts the finished request.
func (x *Exchange) countRequest() {
	if x.Counted {
		return
	}
	x.Counted = true
	l := x.labels()
	x.d.Meters.Request(&x.d.series, &l, x.End-x.Start, x.WireIn, x.WireOut)
	x.endCall()
}

// labels are what is known of the exchange, for metrics.
func (x *Exchange) labels() telemetry.Labels {
	l := telemetry.Labels{
		Source: x.source, Destination: x.destination, Status: int32(x.Res.Status), Flags: x.flags(),
		Inbound: x.d.Inbound(), Verified: x.d.Facts.Verified,
	}
	if l.Source == nil {
		l.Source = x.d.Peer // it failed before it was asked
	}
	if x.Cluster != nil {
		l.Cluster = x.Cluster.Spec()
	}
	if x.Upstream != nil {
		l.To(x.Upstream)
	}
	if l.GRPC = x.isGRPC(); l.GRPC {
		l.GRPCStatus = x.grpc
		if status, ok := x.Res.Get("grpc-status"); ok {
			l.GRPCStatus = telemetry.GRPCStatus(status)
		}
	}
	return l
}

// takePeer reads Istio's peer metadata headers of a client in the mesh and
// takes them off: they are not the application's business, and from outside
// the mesh they are nobody's.
func (x *Exchange) takePeer() {
	h, d := &x.Req, x.d
	x.source = d.Peer
	encoded, present := telemetry.Metadata(h)
	known := d.Peers
	if present && known.Talk() && d.Spec.Direction == listener.Inbound && d.Facts.Verified {
		x.clientTells = true
		if !d.Peer.Said(encoded) {
			x.source = known.Get(d.Facts.Peer, string(encoded))
			d.Peer = x.source
		}
	}
	telemetry.DropMetadata(h)
}

// takeUpstreamPeer reads them of a response: they tell who served, if the
// endpoint proved its identity.
func (x *Exchange) takeUpstreamPeer() {
	d, known := x.d, x.d.Peers
	if !known.Talk() || d.Spec.Direction != listener.Outbound || !x.Upstream.Mutual() {
		return
	}
	encoded, present := telemetry.Metadata(&x.Res)
	if !present {
		return
	}
	last := d.series.Destination()
	if last != nil && last.Said(encoded) && last.Principal == x.Upstream.Peer() {
		x.destination = last
		return
	}
	x.destination = known.Get(x.Upstream.Peer(), string(encoded))
}
