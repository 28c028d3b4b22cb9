package message

import (
	"maps"
	"slices"
	"strconv"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	originaldstv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	originalsrcv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_src/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/control/translate/plan"
	"github.com/tullemesh/tulle/internal/control/translate/view"
	"github.com/tullemesh/tulle/internal/wire"
)

// inboundCluster leads to the app.
func (w *Writer) inboundCluster(r *view.Reader, name string, target int) *clusterv3.Cluster {
	ports := plan.ServedPorts(r)
	i := slices.IndexFunc(ports, func(p plan.Served) bool { return p.Target == target })
	if i < 0 {
		return nil
	}
	p := ports[i]
	c := &clusterv3.Cluster{
		Name: name, AltStatName: name + ";", ConnectTimeout: w.connectTimeout(),
		Metadata:       &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{istioMetadata: object("services", servicesValue(p.Services))}},
		CommonLbConfig: &clusterv3.Cluster_CommonLbConfig{},
	}
	w.limitInbound(r, c, &p)
	if to := appAddress(&p); to != nil {
		c.ClusterDiscoveryType = kindOf(clusterv3.Cluster_STATIC)
		c.LoadAssignment = &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{{
			LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
				Endpoint: &endpointv3.Endpoint{Address: to},
			}}},
		}}}
		return c
	}
	c.ClusterDiscoveryType, c.LbPolicy = kindOf(clusterv3.Cluster_ORIGINAL_DST), clusterv3.Cluster_CLUSTER_PROVIDED
	c.CleanupInterval = durationpb.New(inboundCleanup)
	c.UpstreamBindConfig = w.inboundBind(r)
	return c
}

func servicesValue(services []*registry.Service) *structpb.Value {
	list := &structpb.ListValue{}
	for _, svc := range services {
		list.Values = append(list.Values, serviceValue(svc))
	}
	return structpb.NewListValue(list)
}

// inboundBind makes calls to the app come from an address that capture rules
// exempt, so that they do not loop.
func (w *Writer) inboundBind(r *view.Reader) *corev3.BindConfig {
	from := "127.0.0.6"
	if f := r.Families(); f.V6 && !f.V4 {
		from = "::6"
	}
	return &corev3.BindConfig{SourceAddress: &corev3.SocketAddress{
		Address: from, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 0},
	}}
}

// inboundMatch is one kind of connection that a served port takes.
type inboundMatch struct {
	alpn      []string
	transport string
	http      bool
	mutual    bool
	own       bool // TLS that the port's own settings end
}

func istioHTTP() []string { return []string{"istio-http/1.0", "istio-http/1.1", "istio-h2"} }
func istioTCP() []string  { return []string{"istio-peer-exchange", "istio"} }
func istioAll() []string  { return append([]string{"istio", "istio-peer-exchange"}, istioHTTP()...) }

// inboundMatches are the kinds of connections that a port of this protocol
// takes in this mode (PeerAuthentication.mtls.mode), as Istio tells them apart.
func inboundMatches(mode model.MTLSMode, p registry.Protocol) []inboundMatch {
	http, sniffed := p.IsHTTP(), p == registry.Unsupported
	mutual := func(alpn []string, http bool) inboundMatch {
		return inboundMatch{alpn: alpn, transport: "tls", http: http, mutual: true}
	}
	plain := func(alpn []string, http bool) inboundMatch {
		return inboundMatch{alpn: alpn, transport: "raw_buffer", http: http}
	}
	switch mode {
	case model.MTLSStrict:
		if sniffed {
			return []inboundMatch{mutual(istioHTTP(), true), mutual(nil, false)}
		}
		return []inboundMatch{mutual(nil, http)}
	case model.MTLSDisable:
		if sniffed {
			return []inboundMatch{plain(plaintextHTTP(), true), plain(nil, false)}
		}
		return []inboundMatch{plain(nil, http)}
	}
	opaque := inboundMatch{transport: "tls"} // TLS of the app's own
	switch {
	case sniffed:
		return []inboundMatch{mutual(istioHTTP(), true), plain(plaintextHTTP(), true), mutual(istioTCP(), false), plain(nil, false), opaque}
	case http:
		return []inboundMatch{mutual(istioAll(), true), plain(nil, true)}
	}
	return []inboundMatch{mutual(istioAll(), false), opaque, plain(nil, false)}
}

// modeOf is the mode of a port: its own where it has one.
func modeOf(pa *model.PeerAuth, target int) model.MTLSMode {
	if m, ok := pa.Ports[target]; ok {
		return m
	}
	return pa.Mode
}

// virtualInbound takes all redirected inbound connections: those to served
// ports by what the services say, all others as they come, within the limits
// of peer authentication.
func (w *Writer) virtualInbound(r *view.Reader) *listenerv3.Listener {
	_, pa := r.Inbound()
	ports := plan.ServedPorts(r)
	chains := []*listenerv3.FilterChain{{
		Name:             "virtualInbound-blackhole",
		FilterChainMatch: &listenerv3.FilterChainMatch{DestinationPort: wrapperspb.UInt32(inboundPort)},
		Filters:          []*listenerv3.Filter{blackHole(wire.BlackHoleCluster)},
	}}
	chains = append(chains, w.passthroughChains(pa, ports)...)
	for _, p := range ports {
		if p.Bound {
			continue
		}
		for _, m := range servedMatches(&p, pa) {
			chains = append(chains, w.inboundChain(p, m, pa, p.Target))
		}
	}
	l := w.inboundListener(r, wire.VirtualInbound, r.Families().Any(), inboundPort, chains)
	l.AdditionalAddresses = w.alsoAt(r, inboundPort)
	l.ListenerFilters = append(originalDestination(r.Intercept()), inspectors(chains)...)
	if r.Intercept() == view.InterceptTPROXY {
		l.Transparent = wrapperspb.Bool(true)
	}
	return l
}

func (w *Writer) inboundListener(r *view.Reader, name, bind string, port int, chains []*listenerv3.FilterChain) *listenerv3.Listener {
	return &listenerv3.Listener{
		Name: name, Address: socketAddress(bind, port), TrafficDirection: corev3.TrafficDirection_INBOUND,
		ContinueOnListenerFiltersTimeout:     true,
		ListenerFiltersTimeout:               durationpb.New(w.snap.Mesh().ProtocolDetectionTimeout),
		MaxConnectionsToAcceptPerSocketEvent: wrapperspb.UInt32(1),
		AccessLog:                            w.listenerAccessLog(),
		FilterChains:                         chains,
	}
}

// boundInbound listens at the workload's own address for one served port,
// where no traffic is redirected.
func (w *Writer) boundInbound(r *view.Reader, name string, p plan.Served) *listenerv3.Listener {
	_, pa := r.Inbound()
	var chains []*listenerv3.FilterChain
	for _, m := range servedMatches(&p, pa) {
		chains = append(chains, w.inboundChain(p, m, pa, 0))
	}
	l := w.inboundListener(r, name, p.Bind, p.Target, chains)
	l.ListenerFilters = inspectors(chains)
	return l
}

// inboundChain builds the chain of one served port for one kind of connection;
// port 0 leaves the destination port out of the match.
func (w *Writer) inboundChain(p plan.Served, m inboundMatch, pa *model.PeerAuth, port int) *listenerv3.FilterChain {
	cluster := wire.ClusterName(wire.Inbound, p.Target, "", "")
	fc := w.inboundShell(m, pa, port)
	fc.Name = plan.ListenerName(p.Bind, p.Target)
	if p.Config != nil {
		fc.Metadata = configMetadata(*p.Config)
	}
	if m.own {
		fc.TransportSocket = w.serverTLS(p.TLS)
	}
	if m.http {
		rc := inboundRoutes(cluster, p.Port, p.Host+":"+strconv.Itoa(p.Port)+"/*", p.Protocol)
		fc.Filters = append(fc.Filters, httpFilter(forProtocol(w.inboundManager("inbound_"+fc.Name, rc), p.Protocol)))
	} else {
		fc.Filters = append(fc.Filters, w.tcpProxy(cluster, p.Pool))
	}
	return fc
}

// inboundShell is a chain without its last filter: match, TLS, and the refusal
// of everything where a security object could not be read.
func (w *Writer) inboundShell(m inboundMatch, pa *model.PeerAuth, port int) *listenerv3.FilterChain {
	fc := &listenerv3.FilterChain{FilterChainMatch: &listenerv3.FilterChainMatch{
		ApplicationProtocols: m.alpn, TransportProtocol: m.transport,
	}}
	if port != 0 {
		fc.FilterChainMatch.DestinationPort = wrapperspb.UInt32(uint32(port))
	}
	if m.mutual {
		fc.TransportSocket = socket(tlsSocket, w.downstreamMutual())
	}
	if pa.Deny {
		fc.Filters = []*listenerv3.Filter{denyAll(pa.DenyOrigin)}
	}
	return fc
}

// passthroughChains take connections to ports that no service names. Ports
// with a mode of their own get chains of their own.
func (w *Writer) passthroughChains(pa *model.PeerAuth, served []plan.Served) []*listenerv3.FilterChain {
	var out []*listenerv3.FilterChain
	add := func(mode model.MTLSMode, port int) {
		for _, m := range inboundMatches(mode, registry.Unsupported) {
			fc := w.inboundShell(m, pa, port)
			if m.http {
				fc.Name = "virtualInbound-catchall-http"
				rc := inboundRoutes(wire.InboundPassthroughCluster, 0, ":0/*", registry.Unsupported)
				fc.Filters = append(fc.Filters, httpFilter(w.inboundManager(wire.InboundPassthroughCluster, rc)))
			} else {
				fc.Name = wire.VirtualInbound
				fc.Filters = append(fc.Filters, w.tcpProxy(wire.InboundPassthroughCluster, nil))
			}
			out = append(out, fc)
		}
	}
	add(pa.Mode, 0)
	for _, port := range slices.Sorted(maps.Keys(pa.Ports)) {
		if !slices.ContainsFunc(served, func(p plan.Served) bool { return p.Target == port }) {
			add(pa.Ports[port], port)
		}
	}
	return out
}

// inboundRoutes leads every request to the app, without a timeout of ours.
// Requests that were reset before they began are repeated, except for gRPC,
// whose streams such a repetition could break (Istio).
func inboundRoutes(cluster string, port int, operation string, p registry.Protocol) *routev3.RouteConfiguration {
	a := &routev3.RouteAction{
		ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster},
		Timeout:          durationpb.New(0),
		MaxStreamDuration: &routev3.RouteAction_MaxStreamDuration{
			MaxStreamDuration: durationpb.New(0), GrpcTimeoutHeaderMax: durationpb.New(0),
		},
	}
	if p != registry.GRPC && p != registry.GRPCWeb {
		a.RetryPolicy = &routev3.RetryPolicy{RetryOn: "reset-before-request", NumRetries: wrapperspb.UInt32(2)}
	}
	return &routev3.RouteConfiguration{
		Name: cluster, ValidateClusters: wrapperspb.Bool(false),
		VirtualHosts: []*routev3.VirtualHost{{
			Name: "inbound|http|" + strconv.Itoa(port), Domains: []string{"*"},
			Routes: []*routev3.Route{{
				Name: "default", Match: routeMatch(nil), Decorator: &routev3.Decorator{Operation: operation},
				Action: &routev3.Route_Route{Route: a},
			}},
		}},
	}
}

// denyAll refuses every connection; the policy's name says why.
func denyAll(o model.Origin) *listenerv3.Filter {
	return networkFilter("envoy.filters.network.rbac", &rbacv3.RBAC{
		StatPrefix: "tcp.",
		Rules: &rbacconfigv3.RBAC{Action: rbacconfigv3.RBAC_DENY, Policies: map[string]*rbacconfigv3.Policy{
			wireOrigin(o).Encode(): {
				Permissions: []*rbacconfigv3.Permission{{Rule: &rbacconfigv3.Permission_Any{Any: true}}},
				Principals:  []*rbacconfigv3.Principal{{Identifier: &rbacconfigv3.Principal_Any{Any: true}}},
			},
		}},
	})
}

func originalDestination(i view.Interception) []*listenerv3.ListenerFilter {
	out := []*listenerv3.ListenerFilter{{
		Name:       "envoy.filters.listener.original_dst",
		ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: pack(&originaldstv3.OriginalDst{})},
	}}
	if i == view.InterceptTPROXY {
		const mark = 1337 // Istio's packet mark of inbound connections
		out = append(out, &listenerv3.ListenerFilter{
			Name:       "envoy.filters.listener.original_src",
			ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: pack(&originalsrcv3.OriginalSrc{Mark: mark})},
		})
	}
	return out
}

// inspectors are the listener filters that the chains need, switched off for
// the ports on which no chain asks: waiting for bytes there would stall
// protocols in which the server begins.
func inspectors(chains []*listenerv3.FilterChain) []*listenerv3.ListenerFilter {
	type need struct{ tls, http bool }
	needs := make(map[int]need)
	for _, fc := range chains {
		m := fc.GetFilterChainMatch()
		port := int(m.GetDestinationPort().GetValue())
		n := needs[port]
		n.tls = n.tls || m.GetTransportProtocol() == "tls"
		n.http = n.http || slices.Contains(m.GetApplicationProtocols(), "http/1.1")
		needs[port] = n
	}
	// on reports for each port whether an inspector is needed; port 0 is all
	// ports without a chain of their own.
	build := func(on func(need) bool, make func(*listenerv3.ListenerFilterChainMatchPredicate) *listenerv3.ListenerFilter) []*listenerv3.ListenerFilter {
		var with, without []int
		for _, port := range slices.Sorted(maps.Keys(needs)) {
			switch {
			case port == 0:
			case on(needs[port]):
				with = append(with, port)
			default:
				without = append(without, port)
			}
		}
		switch {
		case on(needs[0]):
			return []*listenerv3.ListenerFilter{make(portsPredicate(without))}
		case len(with) > 0:
			p := portsPredicate(with)
			return []*listenerv3.ListenerFilter{make(&listenerv3.ListenerFilterChainMatchPredicate{
				Rule: &listenerv3.ListenerFilterChainMatchPredicate_NotMatch{NotMatch: p},
			})}
		}
		return nil
	}
	out := build(func(n need) bool { return n.tls }, tlsInspector)
	return append(out, build(func(n need) bool { return n.http }, httpInspector)...)
}

// portsPredicate holds for connections to one of the ports; nil for none.
func portsPredicate(ports []int) *listenerv3.ListenerFilterChainMatchPredicate {
	var rules []*listenerv3.ListenerFilterChainMatchPredicate
	for _, p := range ports {
		rules = append(rules, &listenerv3.ListenerFilterChainMatchPredicate{
			Rule: &listenerv3.ListenerFilterChainMatchPredicate_DestinationPortRange{
				DestinationPortRange: &typev3.Int32Range{Start: int32(p), End: int32(p) + 1},
			},
		})
	}
	switch len(rules) {
	case 0:
		return nil
	case 1:
		return rules[0]
	}
	return &listenerv3.ListenerFilterChainMatchPredicate{Rule: &listenerv3.ListenerFilterChainMatchPredicate_OrMatch{
		OrMatch: &listenerv3.ListenerFilterChainMatchPredicate_MatchSet{Rules: rules},
	}}
}

// appAddress is where the app listens; nil: where the connection went.
func appAddress(p *plan.Served) *corev3.Address {
	switch {
	case p.Pipe != "":
		return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: p.Pipe}}}
	case p.App.IsValid():
		return socketAddress(p.App.Addr().String(), int(p.App.Port()))
	}
	return nil
}

// servedMatches are the kinds of connections that the port takes. TLS settings of its
// own count where mutual TLS is off, because a ClientHello cannot have both
// answers.
func servedMatches(p *plan.Served, pa *model.PeerAuth) []inboundMatch {
	mode := modeOf(pa, p.Target)
	if p.TLS != nil && mode == model.MTLSDisable {
		return []inboundMatch{{transport: "tls", http: p.Protocol.IsHTTP(), own: true}}
	}
	return inboundMatches(mode, p.Protocol)
}
