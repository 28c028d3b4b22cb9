package plan

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/control/translate/view"
	"github.com/tullemesh/tulle/internal/match"
)

// Gateway is all Gateways that select a workload, merged by port: which
// listeners there are, and which servers share each listener and each route
// configuration. It is immutable.
type Gateway struct {
	Listeners map[string]*GatewayListener // by name
	Routes    map[string]*GatewayRoutes   // by name of the route configuration
	Lost      []Lost
}

// Lost is a server that has no place beside its Holder: both want one port in
// different protocols or, where Host is given, one name.
type Lost struct {
	Server, Holder *model.Server
	Host           string
}

// GatewayListener is one listener.
type GatewayListener struct {
	Name     string
	Bind     string
	Port     int // that the proxy binds
	Protocol registry.Protocol
	Servers  []*GatewayServer
	hosts    map[string]struct{} // of servers with TLS, as "namespace/host": taken
}

// GatewayServer is a server with what merging made of it.
type GatewayServer struct {
	*model.Server
	Gateway string // "namespace/name"
	// SNI are the hosts without namespaces; Routes is the route configuration.
	SNI    []string
	Routes string
}

// GatewayRoutes is one route configuration.
type GatewayRoutes struct {
	Servers []*GatewayServer
}

// GatewayOf returns the plan of a gateway.
func GatewayOf(r *view.Reader) *Gateway {
	p, _ := view.Within(r, view.TableGateway, "", func(r *view.Reader) (*Gateway, error) {
		return planGateways(r), nil
	})
	return p
}

// planGateways merges. HTTP servers of a port share one route configuration;
// servers with TLS are told apart by server name, and a name belongs to the
// oldest server that has it. A port is plain HTTP, bytes or TLS: what the
// oldest server says.
func planGateways(r *view.Reader) *Gateway {
	plan := &Gateway{Listeners: make(map[string]*GatewayListener), Routes: make(map[string]*GatewayRoutes)}
	gateways, instances := r.Gateways()
	for _, gw := range gateways {
		for _, s := range gw.Servers {
			for _, port := range gatewayPorts(instances, gw, s) {
				bind := cmp.Or(s.Bind, r.Families().Any())
				plan.add(gw, s, bind, port)
			}
		}
	}
	for name, l := range plan.Listeners {
		if len(l.Servers) == 0 {
			delete(plan.Listeners, name)
		}
	}
	return plan
}

// add places a server on the listener of a port.
func (p *Gateway) add(gw *model.Gateway, s *model.Server, bind string, port int) {
	name := ListenerName(bind, port)
	l := p.Listeners[name]
	if l == nil {
		l = &GatewayListener{Name: name, Bind: bind, Port: port, Protocol: s.Protocol, hosts: make(map[string]struct{})}
		p.Listeners[name] = l
	}
	if !mergeable(l, s) {
		p.Lost = append(p.Lost, Lost{Server: s, Holder: l.Servers[0].Server})
		return
	}
	gs := &GatewayServer{Server: s, Gateway: gw.Namespace + "/" + gw.Name}
	var hosts []string
	for _, h := range s.Hosts {
		gs.SNI = append(gs.SNI, strings.ToLower(h.Host))
		hosts = append(hosts, h.Namespace+"/"+strings.ToLower(h.Host))
	}
	slices.Sort(gs.SNI)
	gs.SNI = slices.Compact(gs.SNI)
	if s.TLS != nil && !s.Protocol.IsHTTP() && !Claim(l.hosts, hosts) {
		holder, host := l.holder(hosts)
		p.Lost = append(p.Lost, Lost{Server: s, Holder: holder, Host: host})
		return
	}
	l.Servers = append(l.Servers, gs)
	p.addRoutes(l, gs, gw)
}

// holder is the first server that has one of the hosts, which are "namespace/name".
func (l *GatewayListener) holder(hosts []string) (*model.Server, string) {
	for _, have := range l.Servers {
		for _, h := range have.Hosts {
			if name := strings.ToLower(h.Host); slices.Contains(hosts, h.Namespace+"/"+name) {
				return have.Server, name
			}
		}
	}
	return l.Servers[0].Server, hosts[0]
}

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
		if in.Port.Number != s.Port || in.TargetPort == 0 || !gw.Fronts(in) || !named && view.Untranslated(in) {
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

// mergeable reports whether a server can share a listener with those before.
func mergeable(l *GatewayListener, s *model.Server) bool {
	if len(l.Servers) == 0 {
		l.Protocol = s.Protocol
		return true
	}
	switch {
	case l.Protocol.IsHTTP() || s.Protocol.IsHTTP():
		return l.Protocol.IsHTTP() && s.Protocol.IsHTTP()
	case l.Protocol.IsTLS() || s.Protocol.IsTLS() || s.TLS != nil:
		return l.Protocol.IsTLS() && s.Protocol.IsTLS() || l.Servers[0].TLS != nil && s.TLS != nil
	}
	return false // bytes without TLS: nothing tells servers apart
}

// Claim takes names for one owner, all or none: of two that want one name the
// first has it, and the second nothing (Istio).
func Claim(taken map[string]struct{}, names []string) bool {
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
func (p *Gateway) addRoutes(l *GatewayListener, gs *GatewayServer, gw *model.Gateway) {
	switch {
	case gs.Protocol.IsHTTP():
		gs.Routes = "http." + strconv.Itoa(l.Port)
	case gs.Protocol == registry.HTTPS && Terminates(gs.TLS):
		gs.Routes = "https." + strconv.Itoa(gs.Port) + "." + gs.PortName + "." + gw.Name + "." + gw.Namespace
	default:
		return
	}
	if gs.Bind != "" {
		gs.Routes += "." + gs.Bind
	}
	rc := p.Routes[gs.Routes]
	if rc == nil {
		rc = &GatewayRoutes{}
		p.Routes[gs.Routes] = rc
	}
	rc.Servers = append(rc.Servers, gs)
}

// Terminates reports whether a server ends TLS, which others pass on.
func Terminates(tls *model.ServerTLS) bool {
	return tls != nil && tls.Mode != "PASSTHROUGH" && tls.Mode != "AUTO_PASSTHROUGH"
}

func (p *Gateway) listenerNames() []string { return slices.Sorted(maps.Keys(p.Listeners)) }
func (p *Gateway) routeNames() []string    { return slices.Sorted(maps.Keys(p.Routes)) }

// Intersect are the hosts of rules that a server serves: of two that overlap
// the narrower (Istio: host.Names.Intersection), in order, each once.
func Intersect(hosts []model.GatewayHost, x *model.Rules) []string {
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
