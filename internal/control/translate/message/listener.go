package message

import (
	"net/netip"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	httpinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	proxyprotocolv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/proxy_protocol/v3"
	tlsinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/translate/plan"
	"github.com/tullemesh/tulle/internal/control/translate/view"
	"github.com/tullemesh/tulle/internal/wire"
)

const (
	outboundPort = 15001
	inboundPort  = 15006
	// handshakeTimeout bounds TLS handshakes of callers (Istio, 15 s).
	handshakeTimeout = 15 * time.Second
	// tlsReadBytes is what the TLS inspector reads first (Istio's value).
	tlsReadBytes = 512
)

// listener builds one listener; nil: the proxy has none of this name.
func (w *Writer) listener(r *view.Reader, name string) *listenerv3.Listener {
	switch r.Role() {
	case view.RoleGateway:
		return w.gatewayListener(r, name)
	case view.RoleGRPC:
		return w.grpcListener(r, name)
	}
	intercepted := r.Intercept() != view.InterceptNone
	switch {
	case name == wire.VirtualOutbound && intercepted:
		return w.virtualOutbound(r)
	case name == wire.VirtualInbound && intercepted:
		return w.virtualInbound(r)
	case r.HTTPProxyPort() != 0 && name == plan.ListenerName(r.Families().Loopback(), r.HTTPProxyPort()):
		return w.httpProxyListener(r, name)
	}
	for target, address := range r.Egress() {
		if ap, err := netip.ParseAddrPort(address); err == nil && plan.ListenerName(ap.Addr().String(), int(ap.Port())) == name {
			return w.egressListener(r, name, target, ap)
		}
	}
	if p := plan.ListenersOf(r).ByName[name]; p != nil {
		return w.outboundListener(r, p)
	}
	for _, p := range plan.BoundPorts(r) {
		if plan.ListenerName(p.Bind, p.Target) == name {
			return w.boundInbound(r, name, p)
		}
	}
	return nil
}

// outboundListener builds the listener of one or more service ports.
func (w *Writer) outboundListener(r *view.Reader, p *plan.Listener) *listenerv3.Listener {
	if len(p.Parts) == 0 || p.PodAddress != "" && r.IsOwn(p.PodAddress) {
		return nil
	}
	var chains []*chain
	for _, part := range p.Parts {
		chains = mergeChains(chains, w.partChains(r, p, part))
	}
	l := &listenerv3.Listener{
		Name:                             p.Name,
		Address:                          socketAddress(p.Bind, p.Port),
		TrafficDirection:                 corev3.TrafficDirection_OUTBOUND,
		ContinueOnListenerFiltersTimeout: true,
	}
	if p.Wildcard {
		l.AdditionalAddresses = w.alsoAt(r, p.Port)
	}
	if p.BindToPort {
		l.MaxConnectionsToAcceptPerSocketEvent = wrapperspb.UInt32(1)
	} else {
		l.BindToPort = wrapperspb.Bool(false)
	}
	w.inspect(l, chains)
	for _, c := range chains {
		fc := w.filterChain(l, c)
		if c.matchesAll() {
			l.DefaultFilterChain = fc
			continue
		}
		fc.FilterChainMatch = c.match()
		l.FilterChains = append(l.FilterChains, fc)
	}
	switch {
	case l.DefaultFilterChain != nil && len(l.FilterChains) == 0:
		l.FilterChains, l.DefaultFilterChain = []*listenerv3.FilterChain{l.DefaultFilterChain}, nil
	case l.DefaultFilterChain == nil:
		l.DefaultFilterChain = &listenerv3.FilterChain{
			FilterChainMatch: &listenerv3.FilterChainMatch{}, Name: "PassthroughFilterChain",
			Filters: []*listenerv3.Filter{w.tcpProxy(unknownCluster(r.Scope()), nil)},
		}
	}
	return l
}

// alsoAt is the second wildcard address of proxies that have both address
// families: Envoy's wildcard of one takes no traffic of the other.
func (w *Writer) alsoAt(r *view.Reader, port int) []*listenerv3.AdditionalAddress {
	if f := r.Families(); !f.V4 || !f.V6 {
		return nil
	}
	return []*listenerv3.AdditionalAddress{{Address: socketAddress("::", port)}}
}

// unknownCluster is where connections go that no service claims
// (outboundTrafficPolicy).
func unknownCluster(x *view.Scope) string {
	if x.RegistryOnly {
		return wire.BlackHoleCluster
	}
	return wire.PassthroughCluster
}

// inspect adds the listener filters that the chains' matches need. Waiting for
// a client to speak would stall protocols in which the server begins, so there
// is no inspector unless a match asks for it.
func (w *Writer) inspect(l *listenerv3.Listener, chains []*chain) {
	var tls, http bool
	for _, c := range chains {
		tls = tls || len(c.sni) > 0
		http = http || len(c.alpn) > 0
	}
	if tls {
		l.ListenerFilters = append(l.ListenerFilters, tlsInspector(nil))
	}
	l.ListenerFiltersTimeout = durationpb.New(0)
	if http {
		l.ListenerFilters = append(l.ListenerFilters, httpInspector(nil))
		l.ListenerFiltersTimeout = durationpb.New(w.snap.Mesh().ProtocolDetectionTimeout)
	}
}

func tlsInspector(disabled *listenerv3.ListenerFilterChainMatchPredicate) *listenerv3.ListenerFilter {
	return &listenerv3.ListenerFilter{
		Name: "envoy.filters.listener.tls_inspector", FilterDisabled: disabled,
		ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: pack(&tlsinspectorv3.TlsInspector{
			InitialReadBufferSize: wrapperspb.UInt32(tlsReadBytes),
		})},
	}
}

func httpInspector(disabled *listenerv3.ListenerFilterChainMatchPredicate) *listenerv3.ListenerFilter {
	return &listenerv3.ListenerFilter{
		Name: "envoy.filters.listener.http_inspector", FilterDisabled: disabled,
		ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: pack(&httpinspectorv3.HttpInspector{})},
	}
}

// proxyHeader takes connections that begin with a header of the PROXY protocol, and no others.
func proxyHeader() *listenerv3.ListenerFilter {
	return &listenerv3.ListenerFilter{
		Name:       "envoy.filters.listener.proxy_protocol",
		ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: pack(&proxyprotocolv3.ProxyProtocol{})},
	}
}

func (w *Writer) filterChain(l *listenerv3.Listener, c *chain) *listenerv3.FilterChain {
	fc := &listenerv3.FilterChain{TransportSocketConnectTimeout: durationpb.New(handshakeTimeout), TransportSocket: c.tls}
	if c.config != nil {
		fc.Metadata = configMetadata(*c.config)
	}
	if c.routes == "" {
		fc.Filters = w.chainFilters(c)
		return fc
	}
	fc.Filters = []*listenerv3.Filter{httpFilter(byRDS(w.manager("outbound_"+l.Name), c.routes))}
	return fc
}

// configMetadata is Istio's reference alone: our origin never stands on a
// listener, because a changed listener drains its connections.
func configMetadata(o model.Origin) *corev3.Metadata {
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
		istioMetadata: object("config", structpb.NewStringValue(configPath(o))),
	}}
}

// virtualOutbound takes all redirected outbound connections and hands them to
// the listener of their destination; what is left goes by the traffic policy.
func (w *Writer) virtualOutbound(r *view.Reader) *listenerv3.Listener {
	any4 := r.Families().Any()
	l := &listenerv3.Listener{
		Name:                                 wire.VirtualOutbound,
		Address:                              socketAddress(any4, outboundPort),
		AdditionalAddresses:                  w.alsoAt(r, outboundPort),
		TrafficDirection:                     corev3.TrafficDirection_OUTBOUND,
		UseOriginalDst:                       wrapperspb.Bool(true),
		MaxConnectionsToAcceptPerSocketEvent: wrapperspb.UInt32(1),
		AccessLog:                            w.listenerAccessLog(),
		FilterChains: []*listenerv3.FilterChain{
			{
				Name:             "virtualOutbound-blackhole",
				FilterChainMatch: &listenerv3.FilterChainMatch{DestinationPort: wrapperspb.UInt32(outboundPort)},
				Filters:          []*listenerv3.Filter{blackHole(wire.BlackHoleCluster)},
			},
			{
				Name:    "virtualOutbound-catchall-tcp",
				Filters: []*listenerv3.Filter{w.tcpProxy(unknownCluster(r.Scope()), nil)},
			},
		},
	}
	if r.Intercept() == view.InterceptTPROXY {
		l.Transparent = wrapperspb.Bool(true)
	}
	return l
}

// httpProxyListener takes requests in the form that HTTP_PROXY makes
// (MeshConfig.proxyHttpPort).
func (w *Writer) httpProxyListener(r *view.Reader, name string) *listenerv3.Listener {
	return &listenerv3.Listener{
		Name:                                 name,
		Address:                              socketAddress(r.Families().Loopback(), r.HTTPProxyPort()),
		TrafficDirection:                     corev3.TrafficDirection_OUTBOUND,
		ContinueOnListenerFiltersTimeout:     true,
		ListenerFiltersTimeout:               durationpb.New(0),
		MaxConnectionsToAcceptPerSocketEvent: wrapperspb.UInt32(1),
		FilterChains: []*listenerv3.FilterChain{{
			TransportSocketConnectTimeout: durationpb.New(handshakeTimeout),
			Filters:                       []*listenerv3.Filter{httpFilter(w.httpProxyManager("outbound_" + name))},
		}},
	}
}

// egressListener stands for one service port at an address of the loopback:
// what it takes goes on as if the service had been called.
func (w *Writer) egressListener(r *view.Reader, name, hostPort string, at netip.AddrPort) *listenerv3.Listener {
	e, ok := plan.EgressPortOf(r, hostPort)
	if !ok {
		return nil
	}
	l := &listenerv3.Listener{
		Name:                                 name,
		Address:                              socketAddress(at.Addr().String(), int(at.Port())),
		TrafficDirection:                     corev3.TrafficDirection_OUTBOUND,
		ContinueOnListenerFiltersTimeout:     true,
		MaxConnectionsToAcceptPerSocketEvent: wrapperspb.UInt32(1),
	}
	scope := r.Scope().EgressFor(e.Port.Number)
	p := &plan.Listener{Name: name, Bind: at.Addr().String(), Port: e.Port.Number, Rules: scope.Rules}
	chains := w.partChains(r, p, plan.Part{Service: e.Service, Port: e.Port})
	for _, c := range chains {
		if c.routes != "" {
			// The app calls an address, not the service's name: the route
			// configuration of this service alone takes any Host.
			c.routes = e.Routes
		}
	}
	w.inspect(l, chains)
	for _, c := range chains {
		fc := w.filterChain(l, c)
		fc.FilterChainMatch = c.match()
		if c.matchesAll() && len(chains) > 1 {
			// Beside a chain of plaintext HTTP, one without a match would not get
			// other plaintext: Envoy finds the transport first.
			l.DefaultFilterChain = fc
			continue
		}
		l.FilterChains = append(l.FilterChains, fc)
	}
	return l
}
