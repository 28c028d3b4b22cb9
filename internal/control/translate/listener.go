package translate

import (
	"net/netip"
	"strconv"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	httpinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	tlsinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/wire"
)

const (
	virtualOutboundName = wire.VirtualOutbound
	virtualInboundName  = wire.VirtualInbound
	outboundPort        = 15001
	inboundPort         = 15006
	// handshakeTimeout bounds TLS handshakes of callers (Istio, 15 s).
	handshakeTimeout = 15 * time.Second
	// tlsReadBytes is what the TLS inspector reads first (Istio's value).
	tlsReadBytes = 512
)

// listener builds one listener; nil: the proxy has none of this name.
func (t *Translator) listener(r *reader, name string) (*listenerv3.Listener, error) {
	switch r.role() {
	case RoleGateway:
		return t.gatewayListener(r, name)
	case RoleGRPC:
		return t.grpcListener(r, name), nil
	}
	intercepted := r.intercept() != InterceptNone
	switch {
	case name == virtualOutboundName && intercepted:
		return t.virtualOutbound(r), nil
	case name == virtualInboundName && intercepted:
		return t.virtualInbound(r), nil
	case r.httpProxyPort() != 0 && name == listenerName(t.loopbackOf(r), r.httpProxyPort()):
		return t.httpProxyListener(r, name), nil
	}
	for target, address := range r.egress() {
		if ap, err := netip.ParseAddrPort(address); err == nil && listenerName(ap.Addr().String(), int(ap.Port())) == name {
			return t.egressListener(r, name, target, ap), nil
		}
	}
	if p := t.listenerPlansOf(r, r.v).byName[name]; p != nil {
		return t.outboundListener(r, p), nil
	}
	for _, p := range t.boundPorts(r) {
		if listenerName(p.bind, p.target) == name {
			return t.boundInbound(r, name, p), nil
		}
	}
	return nil, nil
}

// outboundListener builds the listener of one or more service ports.
func (t *Translator) outboundListener(r *reader, p *listenerPlan) *listenerv3.Listener {
	if len(p.parts) == 0 || p.podAddress != "" && r.ownAddress(p.podAddress) {
		return nil
	}
	var chains []*chain
	for _, part := range p.parts {
		chains = mergeChains(chains, t.partChains(r, p, part))
	}
	l := &listenerv3.Listener{
		Name:                             p.name,
		Address:                          socketAddress(p.bind, p.port),
		TrafficDirection:                 corev3.TrafficDirection_OUTBOUND,
		ContinueOnListenerFiltersTimeout: true,
	}
	if p.wildcard {
		l.AdditionalAddresses = t.alsoAt(r, p.port)
	}
	if p.bindToPort {
		l.MaxConnectionsToAcceptPerSocketEvent = wrapperspb.UInt32(1)
	} else {
		l.BindToPort = wrapperspb.Bool(false)
	}
	t.inspect(l, chains)
	for _, c := range chains {
		fc := t.filterChain(l, c)
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
			Filters: []*listenerv3.Filter{t.tcpProxy(unknownCluster(r.scope()))},
		}
	}
	return l
}

// alsoAt is the second wildcard address of proxies that have both address
// families: Envoy's wildcard of one takes no traffic of the other.
func (t *Translator) alsoAt(r *reader, port int) []*listenerv3.AdditionalAddress {
	if f := r.families(); !f.v4 || !f.v6 {
		return nil
	}
	return []*listenerv3.AdditionalAddress{{Address: socketAddress("::", port)}}
}

// unknownCluster is where connections go that no service claims
// (outboundTrafficPolicy).
func unknownCluster(x *scopeIndex) string {
	if x.registryOnly {
		return wire.BlackHoleCluster
	}
	return wire.PassthroughCluster
}

// inspect adds the listener filters that the chains' matches need. Waiting for
// a client to speak would stall protocols in which the server begins, so there
// is no inspector unless a match asks for it.
func (t *Translator) inspect(l *listenerv3.Listener, chains []*chain) {
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
		l.ListenerFiltersTimeout = durationpb.New(t.snap.Mesh().ProtocolDetectionTimeout)
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

func (t *Translator) filterChain(l *listenerv3.Listener, c *chain) *listenerv3.FilterChain {
	fc := &listenerv3.FilterChain{TransportSocketConnectTimeout: durationpb.New(handshakeTimeout), TransportSocket: c.tls}
	if c.config != nil {
		fc.Metadata = configMetadata(*c.config)
	}
	if c.routes == "" {
		fc.Filters = t.chainFilters(c)
		return fc
	}
	fc.Filters = []*listenerv3.Filter{httpFilter(byRDS(t.manager("outbound_"+l.Name), c.routes))}
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
func (t *Translator) virtualOutbound(r *reader) *listenerv3.Listener {
	any4 := (&planner{families: r.families()}).anyAddress()
	l := &listenerv3.Listener{
		Name:                                 virtualOutboundName,
		Address:                              socketAddress(any4, outboundPort),
		AdditionalAddresses:                  t.alsoAt(r, outboundPort),
		TrafficDirection:                     corev3.TrafficDirection_OUTBOUND,
		UseOriginalDst:                       wrapperspb.Bool(true),
		MaxConnectionsToAcceptPerSocketEvent: wrapperspb.UInt32(1),
		AccessLog:                            t.listenerAccessLog(),
		FilterChains: []*listenerv3.FilterChain{
			{
				Name:             "virtualOutbound-blackhole",
				FilterChainMatch: &listenerv3.FilterChainMatch{DestinationPort: wrapperspb.UInt32(outboundPort)},
				Filters:          []*listenerv3.Filter{blackHole(wire.BlackHoleCluster)},
			},
			{
				Name:    "virtualOutbound-catchall-tcp",
				Filters: []*listenerv3.Filter{t.tcpProxy(unknownCluster(r.scope()))},
			},
		},
	}
	if r.intercept() == InterceptTPROXY {
		l.Transparent = wrapperspb.Bool(true)
	}
	return l
}

// httpProxyListener takes requests in the form that HTTP_PROXY makes
// (MeshConfig.proxyHttpPort).
func (t *Translator) httpProxyListener(r *reader, name string) *listenerv3.Listener {
	return &listenerv3.Listener{
		Name:                                 name,
		Address:                              socketAddress(t.loopbackOf(r), r.httpProxyPort()),
		TrafficDirection:                     corev3.TrafficDirection_OUTBOUND,
		ContinueOnListenerFiltersTimeout:     true,
		ListenerFiltersTimeout:               durationpb.New(0),
		MaxConnectionsToAcceptPerSocketEvent: wrapperspb.UInt32(1),
		FilterChains: []*listenerv3.FilterChain{{
			TransportSocketConnectTimeout: durationpb.New(handshakeTimeout),
			Filters:                       []*listenerv3.Filter{httpFilter(t.httpProxyManager("outbound_" + name))},
		}},
	}
}

// egressTarget is what a "host:port" of the node's TULLE_EGRESS means.
type egressTarget struct {
	svc    *registry.Service
	port   registry.Port
	routes string
	http   bool
	ok     bool
}

func (t *Translator) egressTarget(r *reader, hostPort string) egressTarget {
	host, number, one := splitRouteName(hostPort)
	if !one {
		return egressTarget{}
	}
	// What the workload's Sidecar leaves out has no routes, and gets no listener.
	scope := r.scope().egressFor(number)
	if scope == nil {
		return egressTarget{}
	}
	svc := scope.byHost[host]
	if svc == nil {
		return egressTarget{}
	}
	p, ok := portOf(svc, number)
	if !ok || p.Protocol == registry.UDP {
		return egressTarget{}
	}
	return egressTarget{svc: svc, port: p, routes: host + ":" + strconv.Itoa(number), http: httpOrSniffed(p.Protocol), ok: true}
}

// egressListener stands for one service port at an address of the loopback:
// what it takes goes on as if the service had been called.
func (t *Translator) egressListener(r *reader, name, hostPort string, at netip.AddrPort) *listenerv3.Listener {
	e := t.egressTarget(r, hostPort)
	if !e.ok {
		return nil
	}
	l := &listenerv3.Listener{
		Name:                                 name,
		Address:                              socketAddress(at.Addr().String(), int(at.Port())),
		TrafficDirection:                     corev3.TrafficDirection_OUTBOUND,
		ContinueOnListenerFiltersTimeout:     true,
		MaxConnectionsToAcceptPerSocketEvent: wrapperspb.UInt32(1),
	}
	scope := r.scope().egressFor(e.port.Number)
	p := &listenerPlan{name: name, bind: at.Addr().String(), port: e.port.Number, rules: scope.Rules}
	chains := t.partChains(r, p, listenerPart{svc: e.svc, port: e.port})
	for _, c := range chains {
		if c.routes != "" {
			// The app calls an address, not the service's name: the route
			// configuration of this service alone takes any Host.
			c.routes = e.routes
		}
	}
	t.inspect(l, chains)
	for _, c := range chains {
		fc := t.filterChain(l, c)
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
