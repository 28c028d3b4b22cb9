package translate

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/match"
)

// gatewayPlan is all Gateways that select a workload, merged by port: which
// listeners there are, and which servers share each listener and each route
// configuration. It is immutable.
type gatewayPlan struct {
	listeners map[string]*gatewayPort
	routes    map[string]*gatewayRoutes
}

// gatewayPort is one listener.
type gatewayPort struct {
	name     string
	bind     string
	port     int // that the proxy binds
	protocol registry.Protocol
	servers  []*gatewayServer
}

// gatewayServer is a server with what merging made of it.
type gatewayServer struct {
	*model.Server
	gateway string // "namespace/name"
	// sni are the hosts without namespaces; routes the route configuration.
	sni    []string
	routes string
}

// gatewayRoutes is one route configuration.
type gatewayRoutes struct {
	port    int // of the servers, as the Gateway says it
	tls     bool
	servers []*gatewayServer
}

func (t *Translator) gatewayPlanOf(outer *reader, v *View) *gatewayPlan {
	p, _ := remember(t, outer, v, tableGateway, "", func(r *reader) (*gatewayPlan, error) {
		return planGateways(r), nil
	})
	return p
}

// planGateways merges. HTTP servers of a port share one route configuration;
// servers with TLS are told apart by server name, and a name belongs to the
// oldest server that has it. A port is plain HTTP, bytes or TLS: what the
// oldest server says.
func planGateways(r *reader) *gatewayPlan {
	plan := &gatewayPlan{listeners: make(map[string]*gatewayPort), routes: make(map[string]*gatewayRoutes)}
	names := make(map[string]map[string]struct{}) // by listener: server names taken
	for _, gw := range r.gateways() {
		for _, s := range gw.Servers {
			port := gatewayTarget(r.v.instances, s)
			bind := cmp.Or(s.Bind, (&planner{families: r.families()}).anyAddress())
			name := listenerName(bind, port)
			l := plan.listeners[name]
			if l == nil {
				l = &gatewayPort{name: name, bind: bind, port: port, protocol: s.Protocol}
				plan.listeners[name] = l
				names[name] = make(map[string]struct{})
			}
			if !mergeable(l, s) {
				continue
			}
			gs := &gatewayServer{Server: s, gateway: gw.Namespace + "/" + gw.Name}
			for _, h := range s.Hosts {
				gs.sni = append(gs.sni, strings.ToLower(h.Host))
			}
			gs.sni = slices.Compact(gs.sni)
			if s.TLS != nil && !s.Protocol.IsHTTP() && s.TLS.Mode != "PASSTHROUGH" && s.TLS.Mode != "AUTO_PASSTHROUGH" {
				if gs.sni = claim(names[name], gs.sni); len(gs.sni) == 0 {
					continue
				}
			}
			l.servers = append(l.servers, gs)
			plan.addRoutes(l, gs, gw)
		}
	}
	for name, l := range plan.listeners {
		if len(l.servers) == 0 {
			delete(plan.listeners, name)
		}
	}
	return plan
}

// gatewayTarget is the port that the proxy binds for a server: its own target
// port, else the target of the gateway's service for that port, else the port.
func gatewayTarget(instances []model.Instance, s *model.Server) int {
	if s.TargetPort != 0 {
		return s.TargetPort
	}
	for _, in := range instances {
		if in.Port.Number == s.Port && in.TargetPort != 0 {
			return in.TargetPort
		}
	}
	return s.Port
}

// mergeable reports whether a server can share a listener with those before.
func mergeable(l *gatewayPort, s *model.Server) bool {
	if len(l.servers) == 0 {
		l.protocol = s.Protocol
		return true
	}
	switch {
	case l.protocol.IsHTTP() || s.Protocol.IsHTTP():
		return l.protocol.IsHTTP() && s.Protocol.IsHTTP()
	case l.protocol.IsTLS() || s.Protocol.IsTLS() || s.TLS != nil:
		return l.protocol.IsTLS() && s.Protocol.IsTLS() || l.servers[0].TLS != nil && s.TLS != nil
	}
	return false // bytes without TLS: nothing tells servers apart
}

// claim takes the names that nobody has.
func claim(taken map[string]struct{}, names []string) []string {
	var out []string
	for _, n := range names {
		if _, dup := taken[n]; !dup {
			taken[n] = struct{}{}
			out = append(out, n)
		}
	}
	return out
}

// addRoutes puts a server into its route configuration: http.PORT for HTTP,
// https.PORT.NAME.GATEWAY.NAMESPACE for HTTPS that is terminated (Istio).
func (p *gatewayPlan) addRoutes(l *gatewayPort, gs *gatewayServer, gw *model.Gateway) {
	switch {
	case gs.Protocol.IsHTTP():
		gs.routes = "http." + strconv.Itoa(gs.Port)
	case gs.Protocol == registry.HTTPS && terminates(gs.TLS):
		gs.routes = "https." + strconv.Itoa(gs.Port) + "." + gs.PortName + "." + gw.Name + "." + gw.Namespace
	default:
		return
	}
	rc := p.routes[gs.routes]
	if rc == nil {
		rc = &gatewayRoutes{port: gs.Port, tls: gs.TLS != nil}
		p.routes[gs.routes] = rc
	}
	rc.servers = append(rc.servers, gs)
}

func terminates(tls *model.ServerTLS) bool {
	return tls != nil && tls.Mode != "PASSTHROUGH" && tls.Mode != "AUTO_PASSTHROUGH"
}

func (p *gatewayPlan) listenerNames() []string { return sortedKeys(p.listeners) }
func (p *gatewayPlan) routeNames() []string    { return sortedKeys(p.routes) }

// gatewayListener builds one listener of a gateway.
func (t *Translator) gatewayListener(r *reader, name string) (*listenerv3.Listener, error) {
	p := t.gatewayPlanOf(r, r.v).listeners[name]
	if p == nil {
		return nil, nil
	}
	l := &listenerv3.Listener{
		Name: name, Address: socketAddress(p.bind, p.port), TrafficDirection: corev3.TrafficDirection_OUTBOUND,
		ContinueOnListenerFiltersTimeout:     true,
		ListenerFiltersTimeout:               durationpb.New(0),
		MaxConnectionsToAcceptPerSocketEvent: wrapperspb.UInt32(1),
		AccessLog:                            t.listenerAccessLog(),
	}
	var chains []*chain
	if p.protocol.IsHTTP() {
		chains = []*chain{{routes: p.servers[0].routes}}
	} else {
		for _, s := range p.servers {
			chains = mergeChains(chains, t.serverChains(r, s))
		}
	}
	inspect := false
	for _, c := range chains {
		fc := &listenerv3.FilterChain{
			FilterChainMatch: c.match(), TransportSocket: c.tls, TransportSocketConnectTimeout: durationpb.New(handshakeTimeout),
		}
		if c.config != nil {
			fc.Metadata = configMetadata(*c.config)
		}
		if c.routes != "" {
			fc.Filters = []*listenerv3.Filter{httpFilter(byRDS(t.gatewayManager("outbound_"+name), c.routes))}
		} else {
			fc.Filters = t.chainFilters(c)
		}
		inspect = inspect || len(c.sni) > 0 || c.tls != nil
		l.FilterChains = append(l.FilterChains, fc)
	}
	if inspect {
		l.ListenerFilters = []*listenerv3.ListenerFilter{tlsInspector(nil)}
	}
	if len(l.FilterChains) == 0 {
		return nil, nil // Envoy refuses a listener that takes nothing
	}
	return l, nil
}

// serverChains makes the chains of a server that is not plain HTTP.
func (t *Translator) serverChains(r *reader, s *gatewayServer) []*chain {
	if s.routes != "" {
		return []*chain{{routes: s.routes, sni: s.sni, tls: t.serverTLS(s)}}
	}
	c := &l4Context{r: r, port: s.Port, gateway: s.gateway}
	rules := t.snap.GatewayRules(s.gateway, r.namespace())
	if s.TLS != nil && !terminates(s.TLS) {
		if s.TLS.Mode == "AUTO_PASSTHROUGH" {
			return autoPassthrough(r, s)
		}
		return passthroughServer(c, s, rules)
	}
	for _, x := range rules {
		if len(intersect(s.Hosts, x)) == 0 {
			continue
		}
		for _, rule := range x.TCP {
			if !c.takes(rule) {
				continue
			}
			ch := c.forward(rule.Destinations, x)
			ch.config = &x.Origin
			if s.TLS != nil {
				ch.sni, ch.tls = s.sni, t.serverTLS(s)
			}
			return []*chain{ch}
		}
	}
	return nil
}

// takes reports whether a tcp rule applies on a gateway: sources and subnets
// are those of sidecars and do not count there (Istio).
func (c *l4Context) takes(rule *model.L4Route) bool {
	for i := range rule.Matches {
		m := &rule.Matches[i]
		if (m.Port == 0 || m.Port == c.port) && (len(m.Gateways) == 0 || slices.Contains(m.Gateways, c.gateway)) {
			return true
		}
	}
	return len(rule.Matches) == 0
}

// passthroughServer leads TLS connections on by the name in the ClientHello.
func passthroughServer(c *l4Context, s *gatewayServer, rules []*model.Rules) []*chain {
	var out []*chain
	taken := make(map[string]struct{})
	for _, x := range rules {
		if len(intersect(s.Hosts, x)) == 0 {
			continue
		}
		for _, rule := range x.TLS {
			for i := range rule.Matches {
				m := &rule.Matches[i]
				if m.Port != 0 && m.Port != s.Port || len(m.Gateways) > 0 && !slices.Contains(m.Gateways, c.gateway) {
					continue
				}
				sni := claim(taken, m.SNIHosts)
				if len(sni) == 0 {
					continue
				}
				ch := c.forward(rule.Destinations, x)
				ch.sni, ch.config = sni, &x.Origin
				out = append(out, ch)
			}
		}
	}
	return out
}

// intersect are the hosts of rules that a server serves: of two that overlap
// the narrower (Istio: host.Names.Intersection), in order, each once.
func intersect(hosts []model.GatewayHost, x *model.Rules) []string {
	var out []string
	for _, h := range hosts {
		if h.Namespace != "*" && h.Namespace != x.Origin.Key.Namespace {
			continue
		}
		for _, rh := range x.Hosts {
			narrow := ""
			switch {
			case match.HostWithin(rh, h.Host):
				narrow = rh
			case match.HostWithin(h.Host, rh):
				narrow = h.Host
			default:
				continue
			}
			if narrow = strings.ToLower(narrow); !slices.Contains(out, narrow) {
				out = append(out, narrow)
			}
		}
	}
	return out
}
