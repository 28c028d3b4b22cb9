package compile

import (
	"fmt"
	"math"
	"net/netip"
	"strings"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	"github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	"github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/proxy_protocol/v3"
	"github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	mongov3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/mongo_proxy/v3"
	rbacfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	rawv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

// sniffTimeout is Envoy's default of listener_filters_timeout.
const sniffTimeout = 15 * time.Second

func (v *conv) listener(m *listenerv3.Listener) *listener.Spec {
	s := &listener.Spec{
		Name:              m.GetName(),
		BindToPort:        m.GetBindToPort() == nil || m.GetBindToPort().GetValue(),
		UseOriginalDst:    m.GetUseOriginalDst().GetValue(),
		Direction:         listener.Direction(m.GetTrafficDirection()),
		ContinueOnTimeout: m.GetContinueOnListenerFiltersTimeout(),
		SniffTimeout:      v.duration(m.GetListenerFiltersTimeout(), sniffTimeout, "listener_filters_timeout"),
		AccessLog:         v.accessLogs(m.GetAccessLog(), "access_log"),
	}
	if s.Name == "" {
		v.report.invalid("name", "a listener needs a name")
	}
	s.Addresses = append(s.Addresses, v.socket(m.GetAddress(), "address"))
	for i, a := range m.GetAdditionalAddresses() {
		s.Addresses = append(s.Addresses, v.socket(a.GetAddress(), fmt.Sprintf("additional_addresses[%d].address", i)))
	}
	for i, f := range m.GetListenerFilters() {
		v.listenerFilter(s, f, fmt.Sprintf("listener_filters[%d]", i))
	}
	if len(m.GetFilterChains()) == 0 && m.GetDefaultFilterChain() == nil {
		v.report.invalid("filter_chains", "a listener needs a filter chain")
	}
	combinations := 0
	for i, c := range m.GetFilterChains() {
		chain := v.chain(c, fmt.Sprintf("filter_chains[%d]", i))
		s.Chains = append(s.Chains, chain)
		combinations += chain.Match.Combinations()
	}
	if combinations > limit.ChainCombinationsMax {
		v.report.refuse("filter_chains", fmt.Sprintf("the matches stand for %d combinations, the limit is %d", combinations, limit.ChainCombinationsMax))
	}
	if d := m.GetDefaultFilterChain(); d != nil {
		s.Default = v.chain(d, "default_filter_chain")
	}
	return s
}

// socket reads a TCP address; a listener needs a literal one.
func (v *conv) socket(a *corev3.Address, path string) netip.AddrPort {
	s := a.GetSocketAddress()
	if s == nil {
		v.report.refuse(path, "only TCP addresses are supported here")
		return netip.AddrPort{}
	}
	return v.socketAddress(s, join(path, "socket_address"))
}

func (v *conv) socketAddress(s *corev3.SocketAddress, path string) netip.AddrPort {
	if s.GetProtocol() != corev3.SocketAddress_TCP {
		v.report.refuse(join(path, "protocol"), "only TCP is supported")
	}
	ip, err := netip.ParseAddr(s.GetAddress())
	if err != nil {
		v.report.invalid(join(path, "address"), fmt.Sprintf("%q is not an IP address", s.GetAddress()))
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ip.Unmap(), v.port(s.GetPortValue(), join(path, "port_value")))
}

func (v *conv) port(n uint32, path string) uint16 {
	if n > math.MaxUint16 {
		v.report.invalid(path, fmt.Sprintf("%d is no port", n))
		return 0
	}
	return uint16(n)
}

func (v *conv) listenerFilter(s *listener.Spec, f *listenerv3.ListenerFilter, path string) {
	switch m := v.unpacked[f.GetTypedConfig()].(type) {
	case *original_dstv3.OriginalDst:
		s.OriginalDst = true
		if s.Proxy != nil {
			v.report.refuse(path, "a connection has the destination of its PROXY header or the one before a redirect, not both")
		}
		if f.GetFilterDisabled() != nil {
			v.report.refuse(join(path, "filter_disabled"), "the original destination is always read")
		}
	case *proxy_protocolv3.ProxyProtocol:
		v.proxyProtocol(s, f, m, path)
	case *tls_inspectorv3.TlsInspector:
		s.InspectTLS = true
		s.InspectTLSExcept = v.portMatch(f.GetFilterDisabled(), join(path, "filter_disabled"))
	case *http_inspectorv3.HttpInspector:
		s.InspectHTTP = true
		s.InspectHTTPExcept = v.portMatch(f.GetFilterDisabled(), join(path, "filter_disabled"))
	default:
		v.report.refuse(join(path, "typed_config"), fmt.Sprintf("%s is not a listener filter", f.GetName()))
	}
}

// proxyProtocol reads the filter that restates a connection's addresses: what
// reads them can't come before it.
func (v *conv) proxyProtocol(s *listener.Spec, f *listenerv3.ListenerFilter, m *proxy_protocolv3.ProxyProtocol, path string) {
	if s.Proxy != nil || s.OriginalDst || s.UseOriginalDst || s.InspectTLS || s.InspectHTTP {
		v.report.refuse(path, "the PROXY header comes once, before all inspectors, and not with redirected connections")
	}
	if f.GetFilterDisabled() != nil {
		v.report.refuse(join(path, "filter_disabled"), "the PROXY header is always read")
	}
	s.Proxy = &listener.ProxyProtocol{Optional: m.GetAllowRequestsWithoutProxyProtocol()}
	for i, version := range m.GetDisallowedVersions() {
		switch version {
		case corev3.ProxyProtocolConfig_V1:
			s.Proxy.WithoutV1 = true
		case corev3.ProxyProtocolConfig_V2:
			s.Proxy.WithoutV2 = true
		default:
			v.report.invalid(fmt.Sprintf("%s.typed_config.disallowed_versions[%d]", path, i), "no such version")
		}
	}
}

// portMatch reads the predicate that Istio sends: a port range, or any of
// several, or not.
func (v *conv) portMatch(p *listenerv3.ListenerFilterChainMatchPredicate, path string) listener.PortMatch {
	var m listener.PortMatch
	switch r := p.GetRule().(type) {
	case nil:
	case *listenerv3.ListenerFilterChainMatchPredicate_AnyMatch:
		m.Not = r.AnyMatch // not within no range at all
	case *listenerv3.ListenerFilterChainMatchPredicate_DestinationPortRange:
		m.Ranges = v.portRange(r.DestinationPortRange.GetStart(), r.DestinationPortRange.GetEnd(), join(path, "destination_port_range"))
	case *listenerv3.ListenerFilterChainMatchPredicate_NotMatch:
		m = v.portMatch(r.NotMatch, join(path, "not_match"))
		m.Not = !m.Not
	case *listenerv3.ListenerFilterChainMatchPredicate_OrMatch:
		for i, sub := range r.OrMatch.GetRules() {
			one := v.portMatch(sub, fmt.Sprintf("%s.or_match.rules[%d]", path, i))
			if one.Not {
				v.report.refuse(path, "a negation within or_match is not supported")
			}
			m.Ranges = append(m.Ranges, one.Ranges...)
		}
	default:
		v.report.refuse(path, "predicate is not supported")
	}
	return m
}

func (v *conv) portRange(start, end int32, path string) []listener.PortRange {
	if start < 0 || end > math.MaxUint16+1 || start >= end {
		v.report.invalid(path, fmt.Sprintf("[%d, %d) is no range of ports", start, end))
		return nil
	}
	return []listener.PortRange{{Start: uint32(start), End: uint32(end)}}
}

func (v *conv) chain(m *listenerv3.FilterChain, path string) *listener.Chain {
	c := &listener.Chain{
		Name:             m.GetName(),
		Match:            v.chainMatch(m.GetFilterChainMatch(), join(path, "filter_chain_match")),
		TransportTimeout: v.duration(m.GetTransportSocketConnectTimeout(), 0, join(path, "transport_socket_connect_timeout")),
	}
	if t := m.GetTransportSocket(); t != nil {
		at := join(path, "transport_socket.typed_config")
		switch ctx := v.unpacked[t.GetTypedConfig()].(type) {
		case *tlsv3.DownstreamTlsContext:
			c.TLS = v.serverTLS(ctx, at)
		case *rawv3.RawBuffer:
		default:
			v.report.refuse(at, fmt.Sprintf("%s is not a downstream transport socket", t.GetName()))
		}
	}
	for i, f := range m.GetFilters() {
		v.networkFilter(c, f, i == len(m.GetFilters())-1, fmt.Sprintf("%s.filters[%d]", path, i))
	}
	if c.HTTP == nil && c.TCP == nil {
		v.report.invalid(join(path, "filters"), "the last filter must be the connection manager or the TCP proxy")
	}
	return c
}

func (v *conv) networkFilter(c *listener.Chain, f *listenerv3.Filter, last bool, path string) {
	at := join(path, "typed_config")
	if v.inert(f.GetTypedConfig()) {
		return
	}
	switch m := v.unpacked[f.GetTypedConfig()].(type) {
	case *hcmv3.HttpConnectionManager:
		c.HTTP = v.manager(m, at)
		v.wantLast(last, path)
	case *tcpv3.TcpProxy:
		c.TCP = v.tcpProxy(m, at)
		v.wantLast(last, path)
	case *rbacfilterv3.RBAC:
		c.L4 = append(c.L4, v.policies(m.GetRules(), m.GetShadowRules(), m.GetShadowRulesStatPrefix(), at))
	case *mongov3.MongoProxy:
	default:
		v.report.refuse(at, fmt.Sprintf("%s is not a network filter", f.GetName()))
	}
}

func (v *conv) wantLast(last bool, path string) {
	if !last {
		v.report.invalid(path, "a terminal filter must be the last")
	}
}

func (v *conv) chainMatch(m *listenerv3.FilterChainMatch, path string) listener.ChainMatch {
	out := listener.ChainMatch{
		DestinationPort:   v.port(m.GetDestinationPort().GetValue(), join(path, "destination_port")),
		Transport:         m.GetTransportProtocol(),
		ApplicationProtos: m.GetApplicationProtocols(),
		SourceType:        listener.SourceType(m.GetSourceType()),
	}
	for i, name := range m.GetServerNames() {
		name = strings.ToLower(name)
		if strings.Contains(strings.TrimPrefix(name, "*."), "*") {
			v.report.invalid(fmt.Sprintf("%s.server_names[%d]", path, i), fmt.Sprintf("%q: a wildcard is a whole first label", name))
		}
		out.ServerNames = append(out.ServerNames, name)
	}
	out.DestinationPrefix = v.prefixes(m.GetPrefixRanges(), join(path, "prefix_ranges"))
	out.DirectSourcePrefix = v.prefixes(m.GetDirectSourcePrefixRanges(), join(path, "direct_source_prefix_ranges"))
	out.SourcePrefix = v.prefixes(m.GetSourcePrefixRanges(), join(path, "source_prefix_ranges"))
	for i, p := range m.GetSourcePorts() {
		out.SourcePorts = append(out.SourcePorts, v.port(p, fmt.Sprintf("%s.source_ports[%d]", path, i)))
	}
	return out
}

func (v *conv) prefixes(ranges []*corev3.CidrRange, path string) []netip.Prefix {
	var out []netip.Prefix
	for i, r := range ranges {
		if p, ok := v.prefix(r, fmt.Sprintf("%s[%d]", path, i)); ok {
			out = append(out, p)
		}
	}
	return out
}

func (v *conv) prefix(r *corev3.CidrRange, path string) (netip.Prefix, bool) {
	ip, err := netip.ParseAddr(r.GetAddressPrefix())
	if err != nil {
		v.report.invalid(join(path, "address_prefix"), fmt.Sprintf("%q is not an IP address", r.GetAddressPrefix()))
		return netip.Prefix{}, false
	}
	p, err := ip.Unmap().WithZone("").Prefix(int(min(r.GetPrefixLen().GetValue(), math.MaxUint8)))
	if err != nil {
		v.report.invalid(join(path, "prefix_len"), fmt.Sprintf("%d bits are too many for %s", r.GetPrefixLen().GetValue(), ip))
		return netip.Prefix{}, false
	}
	return p, true
}

// tcpIdleTimeout is Envoy's default of the TCP proxy's idle_timeout.
const tcpIdleTimeout = time.Hour

func (v *conv) tcpProxy(m *tcpv3.TcpProxy, path string) *listener.TCPProxy {
	p := &listener.TCPProxy{
		IdleTimeout:     v.duration(m.GetIdleTimeout(), tcpIdleTimeout, join(path, "idle_timeout")),
		MaxDuration:     v.duration(m.GetMaxDownstreamConnectionDuration(), 0, join(path, "max_downstream_connection_duration")),
		AccessLog:       v.accessLogs(m.GetAccessLog(), join(path, "access_log")),
		MaxConnectTries: 1,
	}
	if n := m.GetMaxConnectAttempts(); n != nil {
		p.MaxConnectTries = max(n.GetValue(), 1)
	}
	switch s := m.GetClusterSpecifier().(type) {
	case *tcpv3.TcpProxy_Cluster:
		p.Clusters, p.TotalWeight = []router.Weighted{{Cluster: s.Cluster, Weight: 1}}, 1
	case *tcpv3.TcpProxy_WeightedClusters:
		var total uint64
		for _, c := range s.WeightedClusters.GetClusters() {
			p.Clusters = append(p.Clusters, router.Weighted{Cluster: c.GetName(), Weight: c.GetWeight()})
			total += uint64(c.GetWeight())
		}
		p.TotalWeight = v.totalWeight(total, join(path, "weighted_clusters"))
	default:
		v.report.invalid(path, "the TCP proxy needs a cluster")
	}
	return p
}

func (v *conv) totalWeight(total uint64, path string) uint32 {
	if total == 0 || total > math.MaxUint32 {
		v.report.invalid(path, fmt.Sprintf("weights add up to %d; they must to something between 1 and %d", total, uint32(math.MaxUint32)))
		return 0
	}
	return uint32(total)
}

func (v *conv) accessLogs(logs []*accesslogv3.AccessLog, path string) []listener.AccessLog {
	var out []listener.AccessLog
	for i, l := range logs {
		out = append(out, v.accessLog(l, fmt.Sprintf("%s[%d]", path, i)))
	}
	return out
}
