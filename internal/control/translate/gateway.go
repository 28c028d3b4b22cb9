package translate

import (
	"cmp"
	"net/netip"
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
	hosts    map[string]struct{} // of servers with TLS, as "namespace/host": taken
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
	servers []*gatewayServer
}

// gatewayAddress is where a port is served: where the node says that it binds
// it (TULLE_APP_PORTS, on a machine that the gateway shares), else at the port
// itself.
func (r *reader) gatewayAddress(p *gatewayPort) *corev3.Address {
	if at, err := netip.ParseAddrPort(r.appAddress(strconv.Itoa(p.port))); err == nil {
		return socketAddress(at.Addr().String(), int(at.Port()))
	}
	return socketAddress(p.bind, p.port)
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
	for _, gw := range r.gateways() {
		for _, s := range gw.Servers {
			for _, port := range gatewayPorts(r.v.instances, gw, s) {
				bind := cmp.Or(s.Bind, (&planner{families: r.families()}).anyAddress())
				plan.add(gw, s, bind, port)
			}
		}
	}
	for name, l := range plan.listeners {
		if len(l.servers) == 0 {
			delete(plan.listeners, name)
		}
	}
	return plan
}

// add places a server on the listener of a port.
func (p *gatewayPlan) add(gw *model.Gateway, s *model.Server, bind string, port int) {
	name := listenerName(bind, port)
	l := p.listeners[name]
	if l == nil {
		l = &gatewayPort{name: name, bind: bind, port: port, protocol: s.Protocol, hosts: make(map[string]struct{})}
		p.listeners[name] = l
	}
	if !mergeable(l, s) {
		return
	}
	gs := &gatewayServer{Server: s, gateway: gw.Namespace + "/" + gw.Name}
	var hosts []string
	for _, h := range s.Hosts {
		gs.sni = append(gs.sni, strings.ToLower(h.Host))
		hosts = append(hosts, h.Namespace+"/"+strings.ToLower(h.Host))
	}
	slices.Sort(gs.sni)
	gs.sni = slices.Compact(gs.sni)
	if s.TLS != nil && !s.Protocol.IsHTTP() && !claim(l.hosts, hosts) {
		return
	}
	l.servers = append(l.servers, gs)
	p.addRoutes(l, gs, gw)
}

// labelNoTranslation on a service says that its ports are none of a Gateway's:
// a server means the port that the proxy binds (Istio, for Knative).
const labelNoTranslation = "experimental.istio.io/disable-gateway-port-translation"

// gatewayPorts are the ports that the proxy binds for a server. A port of the
// gateway's own service stands for its target port; of several services the
// first decides, as Istio does, unless the Gateway itself names its services,
// which then all count, and have to have the port.
func gatewayPorts(instances []model.Instance, gw *model.Gateway, s *model.Server) []int {
	if s.TargetPort != 0 {
		return []int{s.TargetPort}
	}
	named := len(gw.Services) > 0
	var ports []int
	for _, in := range instances {
		if in.Port.Number != s.Port || in.TargetPort == 0 || !gw.Fronts(in) || !named && noTranslation(in) {
			continue
		}
		if !named {
			return []int{in.TargetPort}
		}
		if !slices.Contains(ports, in.TargetPort) {
			ports = append(ports, in.TargetPort)
		}
	}
	if !named {
		return []int{s.Port}
	}
	return ports
}

func noTranslation(in model.Instance) bool {
	_, off := in.Service.Labels[labelNoTranslation]
	return off
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

// claim takes names for one owner, all or none: of two that want one name the
// first has it, and the second nothing (Istio).
func claim(taken map[string]struct{}, names []string) bool {
	for _, n := range names {
		if _, dup := taken[n]; dup {
			return false
		}
	}
	for _, n := range names {
		taken[n] = struct{}{}
	}
	return true
}

// addRoutes puts a server into its route configuration: http.PORT for HTTP, by
// the bound port, https.PORT.NAME.GATEWAY.NAMESPACE for HTTPS that is
// terminated, by the server's own port, each with the address where it is bound
// to one (Istio).
func (p *gatewayPlan) addRoutes(l *gatewayPort, gs *gatewayServer, gw *model.Gateway) {
	switch {
	case gs.Protocol.IsHTTP():
		gs.routes = "http." + strconv.Itoa(l.port)
	case gs.Protocol == registry.HTTPS && terminates(gs.TLS):
		gs.routes = "https." + strconv.Itoa(gs.Port) + "." + gs.PortName + "." + gw.Name + "." + gw.Namespace
	default:
		return
	}
	if gs.Bind != "" {
		gs.routes += "." + gs.Bind
	}
	rc := p.routes[gs.routes]
	if rc == nil {
		rc = &gatewayRoutes{}
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
		Name: name, Address: r.gatewayAddress(p), TrafficDirection: corev3.TrafficDirection_OUTBOUND,
		ContinueOnListenerFiltersTimeout:     true,
		ListenerFiltersTimeout:               durationpb.New(0),
		MaxConnectionsToAcceptPerSocketEvent: wrapperspb.UInt32(1),
		AccessLog:                            t.listenerAccessLog(),
	}
	var chains []*chain
	if p.protocol.IsHTTP() {
		chains = []*chain{{routes: p.servers[0].routes}}
	} else {
		sni := make(map[string]struct{})
		for _, s := range p.servers {
			chains = mergeChains(chains, t.serverChains(r, s, sni))
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

// serverChains makes the chains of a server that is not plain HTTP. taken are
// the server names that tls rules of earlier servers of the listener have.
func (t *Translator) serverChains(r *reader, s *gatewayServer, taken map[string]struct{}) []*chain {
	if s.routes != "" {
		return []*chain{{routes: s.routes, sni: s.sni, tls: t.serverTLS(s.TLS, true)}}
	}
	c := &l4Context{r: r, port: s.Port, gateway: s.gateway}
	rules := t.snap.GatewayRules(s.gateway, r.namespace())
	if s.TLS != nil && !terminates(s.TLS) {
		if s.TLS.Mode == "AUTO_PASSTHROUGH" {
			return autoPassthrough(r, s)
		}
		return passthroughServer(c, s, rules, taken)
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
				ch.sni, ch.tls = s.sni, t.serverTLS(s.TLS, s.Protocol == registry.HTTPS)
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
func passthroughServer(c *l4Context, s *gatewayServer, rules []*model.Rules, taken map[string]struct{}) []*chain {
	var out []*chain
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
				if !claim(taken, m.SNIHosts) {
					continue // Envoy refuses two chains with one match
				}
				ch := c.forward(rule.Destinations, x)
				ch.sni, ch.config = m.SNIHosts, &x.Origin
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
