package plan

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/control/translate/view"
)

// Listeners says which outbound listeners a scope has and which service
// ports share each, in the order in which conflicts are resolved: so a listener
// can be built alone. It is immutable.
type Listeners struct {
	All    []*Listener
	ByName map[string]*Listener
}

// Listener is one outbound listener to be.
type Listener struct {
	Name       string
	Bind       string
	Port       int
	BindToPort bool
	Wildcard   bool // binds to the unspecified address
	Parts      []Part
	Rules      []*model.Rules
	PodAddress string // of a headless service's endpoint: not for that endpoint itself
	locked     bool   // declared by a Sidecar: no other service may join
}

// Part is a service port that shares the listener.
type Part struct {
	Service *registry.Service
	Port    registry.Port
	CIDRs   []netip.Prefix // of the service, where it has no single address
}

// routeName is the route configuration of the listener's HTTP chain, "" when
// it has none.
func (p *Listener) routeName() string {
	for _, part := range p.Parts {
		switch {
		case part.Port.Protocol.IsHTTP():
			return strconv.Itoa(p.Port)
		case part.Port.Protocol == registry.Unsupported:
			if p.Wildcard {
				return strconv.Itoa(p.Port)
			}
			return part.Service.Hostname + ":" + strconv.Itoa(p.Port)
		}
	}
	return ""
}

// ListenersOf returns the plan of a sidecar's outbound listeners.
func ListenersOf(r *view.Reader) *Listeners {
	p, _ := view.Within(r, view.TableListen, "", func(r *view.Reader) (*Listeners, error) {
		return planListeners(r), nil
	})
	return p
}

// planner collects the outbound listeners of one scope.
type planner struct {
	snap     *model.Snapshot
	families view.Families
	dns      bool
	plans    Listeners
}

// planListeners follows Istio's rules: HTTP ports share one listener on all
// addresses, told apart by Host; others listen at the service's address, or,
// without one, on all addresses, told apart by SNI or network.
func planListeners(r *view.Reader) *Listeners {
	b := &planner{snap: r.Snapshot(), families: r.Families(), dns: r.DNSCapture(), plans: Listeners{ByName: make(map[string]*Listener)}}
	none := r.Intercept() == view.InterceptNone
	for _, e := range r.Scope().Egress {
		bindToPort := none || e.CaptureNone || strings.HasPrefix(e.Bind, "unix://")
		bind := e.Bind
		if bind == "" && bindToPort {
			bind = b.families.Loopback()
		}
		if e.Port != 0 {
			port := registry.Port{Name: e.PortName, Number: e.Port, Protocol: e.Protocol}
			for _, svc := range e.Services {
				b.add(&e, svc, port, bind, bindToPort)
			}
			continue
		}
		for _, p := range b.plans.All {
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

// addServicePort adds a port of a service in the catch-all scope. A headless
// service's TCP ports get a listener for each endpoint, because their callers
// go to endpoints by address.
func (b *planner) addServicePort(e *view.Egress, svc *registry.Service, port registry.Port, bind string) {
	tcp := !port.Protocol.IsHTTP()
	if bind != "" || svc.Resolution != registry.Passthrough || !tcp || len(VIPs(svc, b.families, b.dns)) > 0 {
		b.add(e, svc, port, bind, false)
		return
	}
	endpoints := b.snap.Endpoints(svc, port.Number)
	if len(endpoints) == 0 && !svc.FromKubernetes && svc.Selector == nil {
		b.add(e, svc, port, bind, false)
		return
	}
	for _, ep := range endpoints {
		for _, a := range ep.Addresses {
			if b.families.Has(a) {
				b.join(e, Part{Service: svc, Port: port}, a.String(), false).PodAddress = a.String()
			}
		}
	}
}

// add places a service port on its listeners.
func (b *planner) add(e *view.Egress, svc *registry.Service, port registry.Port, bind string, bindToPort bool) {
	if port.Protocol == registry.UDP || svc.Resolution == registry.Alias {
		return
	}
	part := Part{Service: svc, Port: port}
	switch {
	case bind != "":
		b.join(e, part, bind, bindToPort)
	case port.Protocol.IsHTTP():
		b.join(e, part, b.families.Any(), bindToPort)
	default:
		addresses := VIPs(svc, b.families, b.dns)
		for _, a := range addresses {
			if a.IsSingleIP() {
				b.join(e, part, a.Addr().String(), bindToPort)
			} else {
				part.CIDRs = append(part.CIDRs, a)
			}
		}
		if len(part.CIDRs) > 0 || len(addresses) == 0 {
			b.join(e, part, b.families.Any(), bindToPort)
		}
	}
}

// join puts a part on the listener at an address, made if there is none.
func (b *planner) join(e *view.Egress, part Part, bind string, bindToPort bool) *Listener {
	name := ListenerName(bind, part.Port.Number)
	p := b.plans.ByName[name]
	if p == nil {
		p = &Listener{
			Name: name, Bind: bind, Port: part.Port.Number, BindToPort: bindToPort,
			Wildcard: bind == b.families.Any(), Rules: e.Rules,
		}
		b.plans.ByName[name] = p
		b.plans.All = append(b.plans.All, p)
	}
	if p.locked || !p.takes(part.Port.Protocol) {
		return p
	}
	p.Parts = append(p.Parts, part)
	return p
}

// takes reports whether one more port of this protocol changes the listener:
// HTTP ports share one chain, and server-first protocols share with no other,
// since telling protocols apart means waiting for the client to speak.
func (p *Listener) takes(protocol registry.Protocol) bool {
	for _, part := range p.Parts {
		have := part.Port.Protocol
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

// ListenerName is how the listener at an address is called (Istio).
func ListenerName(bind string, port int) string { return bind + "_" + strconv.Itoa(port) }
