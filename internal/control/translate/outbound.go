package translate

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/registry"
)

// listenerPlans says which outbound listeners a scope has and which service
// ports share each, in the order in which conflicts are resolved: so a listener
// can be built alone. It is immutable.
type listenerPlans struct {
	all    []*listenerPlan
	byName map[string]*listenerPlan
}

// listenerPlan is one outbound listener to be.
type listenerPlan struct {
	name       string
	bind       string
	port       int
	bindToPort bool
	wildcard   bool // binds to the unspecified address
	parts      []listenerPart
	rules      []*model.Rules
	podAddress string // of a headless service's endpoint: not for that endpoint itself
	locked     bool   // declared by a Sidecar: no other service may join
}

// listenerPart is a service port that shares the listener.
type listenerPart struct {
	svc   *registry.Service
	port  registry.Port
	cidrs []netip.Prefix
}

// routeName is the route configuration of the listener's HTTP chain, "" when
// it has none.
func (p *listenerPlan) routeName() string {
	for _, part := range p.parts {
		switch {
		case part.port.Protocol.IsHTTP():
			return strconv.Itoa(p.port)
		case part.port.Protocol == registry.Unsupported:
			if p.wildcard {
				return strconv.Itoa(p.port)
			}
			return part.svc.Hostname + ":" + strconv.Itoa(p.port)
		}
	}
	return ""
}

func (t *Translator) listenerPlansOf(outer *reader, v *View) *listenerPlans {
	p, _ := remember(t, outer, v, tableListen, "", func(r *reader) (*listenerPlans, error) {
		return t.planListeners(r), nil
	})
	return p
}

// planner collects the outbound listeners of one scope.
type planner struct {
	t        *Translator
	families families
	dns      bool
	plans    listenerPlans
}

// planListeners follows Istio's rules: HTTP ports share one listener on all
// addresses, told apart by Host; others listen at the service's address, or,
// without one, on all addresses, told apart by SNI or network.
func (t *Translator) planListeners(r *reader) *listenerPlans {
	b := &planner{t: t, families: r.families(), dns: r.dnsCapture(), plans: listenerPlans{byName: make(map[string]*listenerPlan)}}
	none := r.intercept() == InterceptNone
	for _, e := range r.scope().egress {
		bindToPort := none || e.CaptureNone || strings.HasPrefix(e.Bind, "unix://")
		bind := e.Bind
		if bind == "" && bindToPort {
			bind = b.loopback()
		}
		if e.Port != 0 {
			port := registry.Port{Name: e.PortName, Number: e.Port, Protocol: e.Protocol}
			for _, svc := range e.Services {
				b.add(&e, svc, port, bind, bindToPort)
			}
			continue
		}
		for _, p := range b.plans.all {
			p.locked = true
		}
		if bindToPort {
			// Without interception only what a Sidecar declares is bound: the
			// addresses of all services are not the proxy's to take.
			continue
		}
		for _, svc := range e.Services {
			for _, port := range svc.Ports {
				b.addServicePort(&e, svc, port, bind)
			}
		}
	}
	return &b.plans
}

func (b *planner) loopback() string {
	if b.families.v4 || !b.families.v6 {
		return "127.0.0.1"
	}
	return "::1"
}

func (b *planner) anyAddress() string {
	if b.families.v4 || !b.families.v6 {
		return "0.0.0.0"
	}
	return "::"
}

// addServicePort adds a port of a service in the catch-all scope. A headless
// service's TCP ports get a listener for each endpoint, because their callers
// go to endpoints by address.
func (b *planner) addServicePort(e *egressScope, svc *registry.Service, port registry.Port, bind string) {
	tcp := !port.Protocol.IsHTTP()
	if bind != "" || svc.Resolution != registry.Passthrough || !tcp || len(vips(svc, b.families, b.dns)) > 0 {
		b.add(e, svc, port, bind, false)
		return
	}
	endpoints := b.t.snap.Endpoints(svc, port.Number)
	if len(endpoints) == 0 && !svc.FromKubernetes && svc.Selector == nil {
		b.add(e, svc, port, bind, false)
		return
	}
	for _, ep := range endpoints {
		for _, a := range ep.Addresses {
			if reachable(a, b.families) {
				b.join(e, listenerPart{svc: svc, port: port}, a.String(), false).podAddress = a.String()
			}
		}
	}
}

// add places a service port on its listeners.
func (b *planner) add(e *egressScope, svc *registry.Service, port registry.Port, bind string, bindToPort bool) {
	if port.Protocol == registry.UDP || svc.Resolution == registry.Alias {
		return
	}
	part := listenerPart{svc: svc, port: port}
	switch {
	case bind != "":
		b.join(e, part, bind, bindToPort)
	case port.Protocol.IsHTTP():
		b.join(e, part, b.anyAddress(), bindToPort)
	default:
		addresses := vips(svc, b.families, b.dns)
		for _, a := range addresses {
			if a.IsSingleIP() {
				b.join(e, part, a.Addr().String(), bindToPort)
			} else {
				part.cidrs = append(part.cidrs, a)
			}
		}
		if len(part.cidrs) > 0 || len(addresses) == 0 {
			b.join(e, part, b.anyAddress(), bindToPort)
		}
	}
}

// join puts a part on the listener at an address, made if there is none.
func (b *planner) join(e *egressScope, part listenerPart, bind string, bindToPort bool) *listenerPlan {
	name := listenerName(bind, part.port.Number)
	p := b.plans.byName[name]
	if p == nil {
		p = &listenerPlan{
			name: name, bind: bind, port: part.port.Number, bindToPort: bindToPort,
			wildcard: bind == b.anyAddress(), rules: e.Rules,
		}
		b.plans.byName[name] = p
		b.plans.all = append(b.plans.all, p)
	}
	if p.locked || !p.takes(part.port.Protocol) {
		return p
	}
	p.parts = append(p.parts, part)
	return p
}

// takes reports whether one more port of this protocol changes the listener:
// HTTP ports share one chain, and server-first protocols share with no other,
// since telling protocols apart means waiting for the client to speak.
func (p *listenerPlan) takes(protocol registry.Protocol) bool {
	for _, part := range p.parts {
		have := part.port.Protocol
		if have != protocol && (serverFirst(have) || serverFirst(protocol)) {
			return false
		}
		if protocol.IsHTTP() && (have.IsHTTP() || have == registry.Unsupported) {
			return false
		}
	}
	return true
}

// serverFirst reports whether the server speaks before the client does.
func serverFirst(p registry.Protocol) bool { return p == registry.Mongo || p == registry.MySQL }

func listenerName(bind string, port int) string { return bind + "_" + strconv.Itoa(port) }

// listenerNames lists the listeners of a proxy.
func (t *Translator) listenerNames(r *reader) []string {
	switch r.role() {
	case RoleGateway:
		return t.gatewayPlanOf(r, r.v).listenerNames()
	case RoleGRPC:
		return t.grpcListenerNames(r)
	}
	names := make(map[string]struct{})
	for _, p := range t.listenerPlansOf(r, r.v).all {
		if len(p.parts) > 0 && (p.podAddress == "" || !r.ownAddress(p.podAddress)) {
			names[p.name] = struct{}{}
		}
	}
	for host, address := range r.egress() {
		if t.egressTarget(r, host).ok {
			if ap, err := netip.ParseAddrPort(address); err == nil {
				names[listenerName(ap.Addr().String(), int(ap.Port()))] = struct{}{}
			}
		}
	}
	if port := r.httpProxyPort(); port != 0 {
		names[listenerName(t.loopbackOf(r), port)] = struct{}{}
	}
	for _, p := range t.boundPorts(r) {
		names[listenerName(p.bind, p.target)] = struct{}{}
	}
	if r.intercept() == InterceptNone {
		return sortedKeys(names)
	}
	names[virtualOutboundName], names[virtualInboundName] = struct{}{}, struct{}{}
	return sortedKeys(names)
}

func (t *Translator) loopbackOf(r *reader) string {
	return (&planner{families: r.families()}).loopback()
}
