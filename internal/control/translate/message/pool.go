package message

import (
	"cmp"
	"math"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	upstreamsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/model/pool"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/control/translate/plan"
	"github.com/tullemesh/tulle/internal/control/translate/view"
)

// limitConnections gives a cluster a destination's connection pool settings, as Istio does: thresholds lift Envoy's default of 1024 to no
// limit unless the pool has one. Its HTTP options are protocolOptions' business.
func (w *Writer) limitConnections(c *clusterv3.Cluster, pool *pool.Settings) {
	pool = pool.OrNone()
	c.CircuitBreakers = &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
		MaxConnections: threshold(pool.MaxConnections), MaxPendingRequests: threshold(pool.MaxPending),
		MaxRequests: threshold(pool.MaxRequests), MaxRetries: threshold(pool.MaxRetries),
	}}}
	if pool.ConnectTimeout != nil {
		c.ConnectTimeout = durationpb.New(*pool.ConnectTimeout)
	}
	if k := keepalive(pool.Keepalive, w.snap.Mesh().Keepalive); k != nil {
		c.UpstreamConnectionOptions = &clusterv3.UpstreamConnectionOptions{TcpKeepalive: k}
	}
}

// keepalive takes each value from the first that has it; nil: neither is there. One without values asks for what the system has.
func keepalive(own, mesh *pool.Keepalive) *corev3.TcpKeepalive {
	if own == nil && mesh == nil {
		return nil
	}
	own, mesh = cmp.Or(own, &pool.Keepalive{}), cmp.Or(mesh, &pool.Keepalive{})
	return &corev3.TcpKeepalive{
		KeepaliveProbes: positive(cmp.Or(own.Probes, mesh.Probes)), KeepaliveTime: seconds(cmp.Or(own.Time, mesh.Time)),
		KeepaliveInterval: seconds(cmp.Or(own.Interval, mesh.Interval)),
	}
}

// called is the protocol in which callers speak to a port: HTTP/2 where the pool says so, and where the mesh says so of a port that
// declares HTTP, unless the pool stays with what is declared (h2UpgradePolicy).
func called(p registry.Protocol, pool *pool.Settings, mesh *model.Mesh) registry.Protocol {
	pool = pool.OrNone()
	if pool.Upgrade || mesh.H2Upgrade && p == registry.HTTP && !pool.Stay && !pool.KeepProtocol {
		return registry.HTTP2
	}
	return p
}

func threshold(n uint32) *wrapperspb.UInt32Value {
	return wrapperspb.UInt32(cmp.Or(n, math.MaxUint32))
}

// positive leaves 0 out: the reader's default.
func positive(n uint32) *wrapperspb.UInt32Value {
	if n == 0 {
		return nil
	}
	return wrapperspb.UInt32(n)
}

// seconds are whole ones, one at least; 0 is left out.
func seconds(d time.Duration) *wrapperspb.UInt32Value {
	if d > 0 {
		d = max(d, time.Second)
	}
	return positive(uint32(d / time.Second))
}

func optional(d *time.Duration) *durationpb.Duration {
	if d == nil {
		return nil
	}
	return durationpb.New(*d)
}

const protocolOptionsName = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

// protocolOptions says which HTTP version a port speaks, HTTP/2 where it is declared, the caller's where nothing is
// declared or the pool keeps it, else Envoy's default, HTTP/1.1; and what the pool says of the HTTP connections.
func protocolOptions(p registry.Protocol, pool *pool.Settings) map[string]*anypb.Any {
	pool = pool.OrNone()
	o := &upstreamsv3.HttpProtocolOptions{CommonHttpProtocolOptions: commonOptions(pool)}
	h2 := &corev3.Http2ProtocolOptions{MaxConcurrentStreams: positive(pool.MaxStreams)}
	if pool.Ping != nil {
		h2.ConnectionKeepalive = &corev3.KeepaliveSettings{Interval: durationpb.New(pool.Ping.Interval), Timeout: durationpb.New(pool.Ping.Timeout)}
	}
	switch {
	case pool.KeepProtocol, p == registry.Unsupported:
		o.UpstreamProtocolOptions = downstreamProtocol(h2)
	case p.IsHTTP2():
		o.UpstreamProtocolOptions = &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: h2},
		}}
	case o.GetCommonHttpProtocolOptions() != nil:
		o.UpstreamProtocolOptions = &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{HttpProtocolOptions: &corev3.Http1ProtocolOptions{}},
		}}
	default:
		return nil
	}
	return map[string]*anypb.Any{protocolOptionsName: pack(o)}
}

// commonOptions are the pool's settings for connections of any HTTP version, nil for none. The idle timeout of HTTP goes before that of TCP.
func commonOptions(pool *pool.Settings) *corev3.HttpProtocolOptions {
	idle := cmp.Or(pool.HTTPIdle, pool.TCPIdle)
	if idle == nil && pool.MaxDuration == nil && pool.MaxRequestsPerConn == 0 {
		return nil
	}
	return &corev3.HttpProtocolOptions{
		IdleTimeout: optional(idle), MaxConnectionDuration: optional(pool.MaxDuration), MaxRequestsPerConnection: positive(pool.MaxRequestsPerConn),
	}
}

func downstreamProtocol(h2 *corev3.Http2ProtocolOptions) *upstreamsv3.HttpProtocolOptions_UseDownstreamProtocolConfig {
	return &upstreamsv3.HttpProtocolOptions_UseDownstreamProtocolConfig{UseDownstreamProtocolConfig: &upstreamsv3.HttpProtocolOptions_UseDownstreamHttpConfig{
		HttpProtocolOptions: &corev3.Http1ProtocolOptions{}, Http2ProtocolOptions: h2,
	}}
}

// limitTime bounds the connections of a chain that forwards bytes: a listener's business, so the first of weighted destinations decides (Istio).
func limitTime(p *tcpproxyv3.TcpProxy, pool *pool.Settings) {
	if pool.Timed() {
		p.IdleTimeout, p.MaxDownstreamConnectionDuration = optional(pool.TCPIdle), optional(pool.MaxDuration)
	}
}

// limitInbound gives an inbound cluster the pool that a Sidecar has for the port, else that of what a served port's callers are told: the
// app behind it must take what they may send, so the service's own settings hold there too, but for those of its subsets. Which HTTP version
// callers use says nothing of the app (Istio).
func (w *Writer) limitInbound(r *view.Reader, c *clusterv3.Cluster, p *plan.Served) {
	var pool *pool.Settings
	if dr := servedRule(r, p); dr != nil {
		g := plan.Target{Rule: dr, Port: registry.Port{Number: p.Port}}
		pool = g.Policy().Pool
		c.GetMetadata().GetFilterMetadata()[istioMetadata].Fields["config"] = structpb.NewStringValue(configPath(dr.Origin))
	}
	pool = cmp.Or(p.Pool, pool)
	w.limitConnections(c, pool)
	c.TypedExtensionProtocolOptions = protocolOptions(p.Protocol, pool)
}

// servedRule is the rule with a policy for callers of a served port; nil: none. Rules with a workloadSelector are those of
// some callers, and the workload's own labels choose none of them here (Istio).
func servedRule(r *view.Reader, p *plan.Served) *model.DestinationRule {
	if len(p.Services) == 0 {
		return nil
	}
	if dr := r.Offered(p.Services[0].Hostname); dr != nil && dr.Policy != nil {
		return dr
	}
	return nil
}
