package compile

import (
	"fmt"
	"math"
	"net/netip"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	proxysocketv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/proxy_protocol/v3"
	rawv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	upstreamsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"

	"github.com/tullemesh/tulle/internal/match"
	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/tls"
	"github.com/tullemesh/tulle/internal/wire"
)

// Defaults of Envoy's clusters, by the documentation of the field that each
// belongs to.
const (
	connectTimeout   = 5 * time.Second
	dnsRefresh       = 5 * time.Second
	panicThreshold   = 50
	thresholdDefault = 1024
	retriesDefault   = 3
	leastChoices     = 2
)

func (v *conv) cluster(m *clusterv3.Cluster) *cluster.Spec {
	s := &cluster.Spec{
		Name:               m.GetName(),
		ConnectTimeout:     v.duration(m.GetConnectTimeout(), connectTimeout, "connect_timeout"),
		DNSRefresh:         v.duration(m.GetDnsRefreshRate(), dnsRefresh, "dns_refresh_rate"), // deprecated, and still sent
		DNSJitter:          v.duration(m.GetDnsJitter(), 0, "dns_jitter"),                     // as above
		DNSFailure:         v.dnsFailure(m.GetDnsFailureRefreshRate()),                        // as above
		RespectDNSTTL:      m.GetRespectDnsTtl(),                                              // as above
		DNSFamily:          cluster.DNSFamily(m.GetDnsLookupFamily()),
		PanicThreshold:     panicThreshold,
		MaxRequestsPerConn: m.GetMaxRequestsPerConnection().GetValue(), // as above
		LeastChoices:       leastChoices,
		Service:            service(m.GetMetadata()),
		Origin:             origin(m.GetMetadata()),
	}
	if s.Name == "" {
		v.report.invalid("name", "a cluster needs a name")
	}
	v.discovery(s, m)
	v.balancer(s, m)
	v.thresholds(s, m.GetCircuitBreakers())
	v.protocol(s, m)
	v.transport(s, m)
	v.upstreamSocket(s, m)
	if m.GetLoadAssignment() != nil {
		address := literalAddress
		if s.Kind == cluster.StrictDNS || s.Kind == cluster.LogicalDNS {
			address = nameAddress
		}
		s.Endpoints = v.assignment(m.GetLoadAssignment(), "load_assignment", address)
	}
	for i, f := range m.GetFilters() {
		if !v.inert(f.GetTypedConfig()) {
			v.report.refuse(fmt.Sprintf("filters[%d]", i), fmt.Sprintf("%s is not an upstream filter", f.GetName()))
		}
	}
	return s
}

// backoffMax is the largest interval of failures for a base (Envoy: RefreshRate.max_interval).
const backoffMax = 10

func (v *conv) dnsFailure(m *clusterv3.Cluster_RefreshRate) cluster.Backoff {
	const at = "dns_failure_refresh_rate"
	if m == nil {
		return cluster.Backoff{}
	}
	b := cluster.Backoff{Base: v.duration(m.GetBaseInterval(), 0, at+".base_interval")}
	b.Max = v.duration(m.GetMaxInterval(), backoffMax*b.Base, at+".max_interval")
	if b.Base < time.Millisecond || b.Max < b.Base {
		v.report.invalid(at, "base_interval of a millisecond at least, and a max_interval that is not below it, are needed")
	}
	return b
}

func (v *conv) discovery(s *cluster.Spec, m *clusterv3.Cluster) {
	if _, custom := m.GetClusterDiscoveryType().(*clusterv3.Cluster_ClusterType); custom {
		v.report.refuse("cluster_type", "custom clusters are not supported")
		return
	}
	switch m.GetType() {
	case clusterv3.Cluster_STATIC:
		s.Kind = cluster.Static
	case clusterv3.Cluster_STRICT_DNS:
		s.Kind = cluster.StrictDNS
	case clusterv3.Cluster_LOGICAL_DNS:
		s.Kind = cluster.LogicalDNS
		if m.GetLoadAssignment() == nil || countEndpoints(m) != 1 {
			v.report.invalid("load_assignment", "LOGICAL_DNS takes exactly one endpoint")
		}
	case clusterv3.Cluster_EDS:
		s.Kind = cluster.EDS
		s.EDSName = m.GetEdsClusterConfig().GetServiceName()
		v.wantADS(m.GetEdsClusterConfig().GetEdsConfig(), "eds_cluster_config.eds_config")
	case clusterv3.Cluster_ORIGINAL_DST:
		s.Kind = cluster.OriginalDst
		_, _, _, _, known := wire.ParseClusterName(s.Name)
		s.Catchall = !known
		if m.GetLbPolicy() != clusterv3.Cluster_CLUSTER_PROVIDED {
			v.report.invalid("lb_policy", "ORIGINAL_DST goes with CLUSTER_PROVIDED")
		}
		port := m.GetOriginalDstLbConfig().GetUpstreamPortOverride().GetValue()
		if port > math.MaxUint16 {
			v.report.invalid("original_dst_lb_config.upstream_port_override", fmt.Sprintf("%d is not a port", port))
		}
		s.OriginalPort = uint16(port)
	default:
		v.report.invalid("type", "no such type")
	}
	if m.GetOriginalDstLbConfig() != nil && s.Kind != cluster.OriginalDst {
		v.report.invalid("original_dst_lb_config", "not with this type of cluster")
	}
	if (s.Kind == cluster.EDS || s.Kind == cluster.OriginalDst) && m.GetLoadAssignment() != nil {
		v.report.invalid("load_assignment", "not with this type of cluster")
	}
}

func countEndpoints(m *clusterv3.Cluster) int {
	n := 0
	for _, l := range m.GetLoadAssignment().GetEndpoints() {
		n += len(l.GetLbEndpoints())
	}
	return n
}

func (v *conv) balancer(s *cluster.Spec, m *clusterv3.Cluster) {
	switch m.GetLbPolicy() {
	case clusterv3.Cluster_ROUND_ROBIN:
		s.Balancer = cluster.RoundRobin
	case clusterv3.Cluster_LEAST_REQUEST:
		s.Balancer = cluster.LeastRequest
		if n := m.GetLeastRequestLbConfig().GetChoiceCount(); n != nil {
			s.LeastChoices = n.GetValue()
			if n.GetValue() < leastChoices || n.GetValue() > leastChoicesMax {
				v.report.invalid("least_request_lb_config.choice_count", fmt.Sprintf("%d is not between %d and %d", n.GetValue(), leastChoices, leastChoicesMax))
			}
		}
	case clusterv3.Cluster_RANDOM:
		s.Balancer = cluster.Random
	case clusterv3.Cluster_CLUSTER_PROVIDED:
		s.Balancer = cluster.ClusterProvided
		if s.Kind != cluster.OriginalDst {
			v.report.invalid("lb_policy", "CLUSTER_PROVIDED goes with ORIGINAL_DST")
		}
	case clusterv3.Cluster_RING_HASH, clusterv3.Cluster_MAGLEV:
		v.report.refuse("lb_policy", fmt.Sprintf("%s: consistent hashing is not built yet", m.GetLbPolicy()))
	default:
		v.report.refuse("lb_policy", fmt.Sprintf("%s is not supported", m.GetLbPolicy()))
	}
	c := m.GetCommonLbConfig()
	if t := c.GetHealthyPanicThreshold(); t != nil {
		s.PanicThreshold = uint32(min(max(t.GetValue(), 0), 100))
	}
	s.LocalityWeighted = c.GetLocalityWeightedLbConfig() != nil
}

// leastChoicesMax bounds the hosts that one pick compares.
const leastChoicesMax = 100

func (v *conv) thresholds(s *cluster.Spec, m *clusterv3.CircuitBreakers) {
	s.MaxConnections, s.MaxPending, s.MaxRequests, s.MaxRetries = thresholdDefault, thresholdDefault, thresholdDefault, retriesDefault
	for _, t := range m.GetThresholds() {
		if t.GetPriority() != corev3.RoutingPriority_DEFAULT {
			continue // no route can ask for the other priority: RouteAction.priority is refused
		}
		if n := t.GetMaxConnections(); n != nil {
			s.MaxConnections = n.GetValue()
		}
		if n := t.GetMaxPendingRequests(); n != nil {
			s.MaxPending = n.GetValue()
		}
		if n := t.GetMaxRequests(); n != nil {
			s.MaxRequests = n.GetValue()
		}
		if n := t.GetMaxRetries(); n != nil {
			s.MaxRetries = n.GetValue()
		}
	}
}

func (v *conv) protocol(s *cluster.Spec, m *clusterv3.Cluster) {
	s.IdleTimeout = idleTimeout
	if o := m.GetHttp2ProtocolOptions(); o != nil { // deprecated, and still sent
		s.Protocol, s.MaxConcurrentStreams = cluster.HTTP2, o.GetMaxConcurrentStreams().GetValue()
		s.PingInterval, s.PingTimeout = v.keepalive(o.GetConnectionKeepalive(), "http2_protocol_options.connection_keepalive")
	}
	for key, a := range m.GetTypedExtensionProtocolOptions() {
		at := fmt.Sprintf("typed_extension_protocol_options[%q]", key)
		o, ok := v.unpacked[a].(*upstreamsv3.HttpProtocolOptions)
		if !ok {
			v.report.refuse(at, "these options are not supported")
			continue
		}
		var h2 *corev3.Http2ProtocolOptions
		switch p := o.GetUpstreamProtocolOptions().(type) {
		case *upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_:
			if h2 = p.ExplicitHttpConfig.GetHttp2ProtocolOptions(); h2 != nil {
				s.Protocol = cluster.HTTP2
			}
		case *upstreamsv3.HttpProtocolOptions_UseDownstreamProtocolConfig:
			s.Protocol, h2 = cluster.Downstream, p.UseDownstreamProtocolConfig.GetHttp2ProtocolOptions()
		case *upstreamsv3.HttpProtocolOptions_AutoConfig:
			s.Protocol, h2 = cluster.Auto, p.AutoConfig.GetHttp2ProtocolOptions()
		default:
			v.report.invalid(at, "a protocol is needed")
		}
		s.MaxConcurrentStreams = h2.GetMaxConcurrentStreams().GetValue()
		s.PingInterval, s.PingTimeout = v.keepalive(h2.GetConnectionKeepalive(), join(at, "http2_protocol_options.connection_keepalive"))
		s.AutoSNI = o.GetUpstreamHttpProtocolOptions().GetAutoSni()
		c := o.GetCommonHttpProtocolOptions()
		s.IdleTimeout = v.idle(c, join(at, "common_http_protocol_options.idle_timeout"))
		s.MaxConnDuration = v.duration(c.GetMaxConnectionDuration(), 0, join(at, "common_http_protocol_options.max_connection_duration"))
		if n := c.GetMaxRequestsPerConnection(); n != nil {
			s.MaxRequestsPerConn = n.GetValue()
		}
		if c.GetMaxHeadersCount() != nil || c.GetMaxStreamDuration() != nil {
			v.report.refuse(join(at, "common_http_protocol_options"), "max_headers_count and max_stream_duration are not supported for upstreams")
		}
	}
}

// keepalive is how often a peer of HTTP/2 is asked whether it is there, and how
// long its answer may take (Envoy: KeepaliveSettings).
func (v *conv) keepalive(k *corev3.KeepaliveSettings, path string) (interval, timeout time.Duration) {
	if k == nil {
		return 0, 0
	}
	interval = v.duration(k.GetInterval(), 0, join(path, "interval"))
	timeout = v.duration(k.GetTimeout(), 0, join(path, "timeout"))
	if interval > 0 && timeout <= 0 {
		v.report.invalid(join(path, "timeout"), "an interval needs a timeout")
	}
	return interval, timeout
}

// forever is longer than a proxy runs.
const forever = 100 * 365 * 24 * time.Hour

// idle is how long a connection may be idle; an explicit 0 is no bound (Envoy: HttpProtocolOptions.idle_timeout).
func (v *conv) idle(m *corev3.HttpProtocolOptions, path string) time.Duration {
	if d := v.duration(m.GetIdleTimeout(), idleTimeout, path); d > 0 {
		return d
	}
	return forever
}

// transport compiles the transport sockets: the matches in order, then the
// default; plaintext when there is none.
func (v *conv) transport(s *cluster.Spec, m *clusterv3.Cluster) {
	for i, t := range m.GetTransportSocketMatches() {
		at := fmt.Sprintf("transport_socket_matches[%d]", i)
		entry := v.transportSocket(t.GetTransportSocket(), join(at, "transport_socket.typed_config"), s.AutoSNI)
		entry.Name = t.GetName()
		for key, value := range t.GetMatch().GetFields() {
			if entry.Match == nil {
				entry.Match = map[string]match.String{}
			}
			entry.Match[key] = match.Exact(value.GetStringValue(), match.CaseSensitive)
		}
		s.TLS = append(s.TLS, entry)
	}
	if t := m.GetTransportSocket(); t != nil {
		s.TLS = append(s.TLS, v.transportSocket(t, "transport_socket.typed_config", s.AutoSNI))
	}
}

// transportSocket compiles a transport socket of connections that may begin with a PROXY
// header.
func (v *conv) transportSocket(t *corev3.TransportSocket, path string, autoSNI bool) cluster.TLSMatch {
	out := cluster.TLSMatch{Name: t.GetName()}
	m, ok := v.unpacked[t.GetTypedConfig()].(*proxysocketv3.ProxyProtocolUpstreamTransport)
	if !ok {
		out.Spec = v.clientTLS(t, path, autoSNI)
		return out
	}
	switch m.GetConfig().GetVersion() {
	case corev3.ProxyProtocolConfig_V1:
		out.Proxy = 1
	case corev3.ProxyProtocolConfig_V2:
		out.Proxy = 2
	default:
		v.report.invalid(join(path, "config.version"), "no such version")
	}
	if m.GetTransportSocket() == nil {
		v.report.invalid(join(path, "transport_socket"), "the transport socket behind the header is needed")
		return out
	}
	out.Spec = v.clientTLS(m.GetTransportSocket(), join(path, "transport_socket.typed_config"), autoSNI)
	return out
}

func (v *conv) clientTLS(t *corev3.TransportSocket, path string, autoSNI bool) *tls.ClientSpec {
	switch ctx := v.unpacked[t.GetTypedConfig()].(type) {
	case *tlsv3.UpstreamTlsContext:
		spec := v.upstreamTLS(ctx, path)
		spec.AutoSNI = autoSNI && spec.SNI == ""
		return spec
	case *rawv3.RawBuffer:
		return nil
	}
	v.report.refuse(path, fmt.Sprintf("%s is not an upstream transport socket", t.GetName()))
	return nil
}

func (v *conv) upstreamSocket(s *cluster.Spec, m *clusterv3.Cluster) {
	if a := m.GetUpstreamBindConfig().GetSourceAddress(); a != nil {
		ip, err := netip.ParseAddr(a.GetAddress())
		if err != nil || a.GetPortValue() != 0 {
			v.report.refuse("upstream_bind_config.source_address", fmt.Sprintf("%s:%d: an address without a port is needed", a.GetAddress(), a.GetPortValue()))
		}
		s.BindAddress = ip
	}
	if k := m.GetUpstreamConnectionOptions().GetTcpKeepalive(); k != nil {
		// Linux's own defaults stand for what is not said (tcp(7)).
		s.KeepaliveProbes, s.KeepaliveTime, s.KeepaliveInterval = 9, 7200, 75
		if n := k.GetKeepaliveProbes(); n != nil {
			s.KeepaliveProbes = n.GetValue()
		}
		if n := k.GetKeepaliveTime(); n != nil {
			s.KeepaliveTime = n.GetValue()
		}
		if n := k.GetKeepaliveInterval(); n != nil {
			s.KeepaliveInterval = n.GetValue()
		}
	}
}

// service reads the destination service from Istio's metadata.
func service(m *corev3.Metadata) cluster.Service {
	for _, s := range m.GetFilterMetadata()["istio"].GetFields()["services"].GetListValue().GetValues() {
		f := s.GetStructValue().GetFields()
		return cluster.Service{Host: f["host"].GetStringValue(), Name: f["name"].GetStringValue(), Namespace: f["namespace"].GetStringValue()}
	}
	return cluster.Service{}
}
