package view

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/registry"
)

// kind is what may be asked of a View. A build asks nothing else, so that the
// questions it asked are all that its result depends on.
type kind uint8

const (
	askRole        kind = iota // Role
	askNamespace               // string
	askDomain                  // string
	askScope                   // any: the SidecarScope, or the namespace for its default scope, "" for the shared one
	askService                 // *registry.Service that a host means, nil: not in scope
	askDestination             // *model.DestinationRule in effect for a host
	askOffered                 // *model.DestinationRule of a host for clients of any labels
	askClient                  // string: what destination rules look at
	askSelected                // bool: do the labels satisfy a selector
	askIsNamespace             // bool
	askOwnAddress              // bool: is it one of the workload's addresses
	askFamilies                // Families
	askIntercept               // Interception
	askProxyPort               // int
	askDNSCapture              // bool
	askVHDS                    // bool
	askBinds                   // bool: does it listen at inbound ports itself
	askInbound                 // string: everything the inbound side depends on
	askEgress                  // string: canonical egress addresses
	askGateways                // string: the selected gateways' names
	askIdentity                // string
	askAppAddress              // string: the app's address behind a workload port
	askNames                   // *string: the first of the shared list of names of a type
	askHost                    // the plan of a virtual host (Builder.Host)
)

// narrow reports whether a question has another answer for most workloads, so
// that what depends on it is not worth keeping for many at once.
func (k kind) narrow() bool {
	switch k {
	case askOwnAddress, askInbound, askGateways, askIdentity, askAppAddress:
		return true
	}
	return false
}

// question is one accessor of a View with its argument.
type question struct {
	kind kind
	arg  string
}

// Families are the address families that a proxy has.
type Families struct{ V4, V6 bool }

// Has reports whether a proxy of these families can call an address.
func (f Families) Has(a netip.Addr) bool { return a.Is4() && f.V4 || a.Is6() && f.V6 }

// Loopback is the loopback address at which the proxy listens.
func (f Families) Loopback() string {
	if f.V4 || !f.V6 {
		return "127.0.0.1"
	}
	return "::1"
}

// Any is the unspecified address at which the proxy listens.
func (f Families) Any() string {
	if f.V4 || !f.V6 {
		return "0.0.0.0"
	}
	return "::"
}

// Builder gives the answers that are themselves built, and so known only above
// this package.
type Builder interface {
	// Names lists the resources of a type; equal lists are one.
	Names(v *View, typeURL string) []string
	// Host is the plan of a virtual host resource, a pointer of one type.
	Host(v *View, name string) any
}

// answer is the one place where a View is read. Answers are comparable.
func (m *Memory) answer(v *View, q question) any {
	switch q.kind {
	case askRole:
		return v.role
	case askNamespace:
		return v.namespace
	case askDomain:
		return v.domain
	case askScope:
		return v.scopeKey()
	case askService:
		return m.scopeOf(v).ByHost[q.arg] // nil is an answer too
	case askDestination:
		return m.snap.DestinationRule(q.arg, v.namespace, v.labels)
	case askOffered:
		return m.snap.DestinationRuleOfAll(q.arg, v.namespace)
	case askClient:
		if m.selectsClients {
			return v.namespace + "|" + v.labelsText
		}
		return v.namespace
	case askSelected:
		return selectedBy(q.arg, v.labels)
	case askIsNamespace:
		return v.namespace == q.arg
	case askOwnAddress:
		return v.isOwn(q.arg)
	case askFamilies:
		return v.families()
	case askIntercept:
		return v.intercept
	case askProxyPort:
		return v.httpProxyPort
	case askDNSCapture:
		return v.dnsCapture
	case askVHDS:
		return v.vhds
	case askBinds:
		return v.intercept == InterceptNone || slices.ContainsFunc(v.scope.Ingress, func(l model.IngressListener) bool { return l.Capture == model.CaptureNone })
	case askInbound:
		return v.inboundText
	case askEgress:
		return v.egressText
	case askGateways:
		return v.gatewayText
	case askIdentity:
		return v.identity
	case askAppAddress:
		return v.appPorts[q.arg]
	case askNames:
		return first(m.builder.Names(v, q.arg))
	case askHost:
		return m.builder.Host(v, q.arg)
	}
	panic("unknown question " + strconv.Itoa(int(q.kind)))
}

// Role is what the proxy is for.
func (r *Reader) Role() Role { return r.ask(askRole, "").(Role) }

// Namespace is that of the workload.
func (r *Reader) Namespace() string { return r.ask(askNamespace, "").(string) }

// Domain is the DNS search domain of the workload.
func (r *Reader) Domain() string { return r.ask(askDomain, "").(string) }

// Selected reports whether the workload has all of these labels.
func (r *Reader) Selected(labels map[string]string) bool {
	return r.ask(askSelected, selectorText(labels)).(bool)
}

// IsNamespace reports whether the workload is in a namespace.
func (r *Reader) IsNamespace(ns string) bool { return r.ask(askIsNamespace, ns).(bool) }

// IsOwn reports whether an address is one of the workload's.
func (r *Reader) IsOwn(address string) bool { return r.ask(askOwnAddress, address).(bool) }

// Families are the address families that the proxy has.
func (r *Reader) Families() Families { return r.ask(askFamilies, "").(Families) }

// Intercept is how traffic reaches a sidecar.
func (r *Reader) Intercept() Interception { return r.ask(askIntercept, "").(Interception) }

// HTTPProxyPort is where the proxy takes requests of HTTP_PROXY; 0: nowhere.
func (r *Reader) HTTPProxyPort() int { return r.ask(askProxyPort, "").(int) }

// DNSCapture reports whether the proxy answers the app's DNS.
func (r *Reader) DNSCapture() bool { return r.ask(askDNSCapture, "").(bool) }

// TakesVHDS reports whether the proxy takes virtual hosts one by one.
func (r *Reader) TakesVHDS() bool { return r.ask(askVHDS, "").(bool) }

// Binds reports whether the proxy listens at inbound ports itself.
func (r *Reader) Binds() bool { return r.ask(askBinds, "").(bool) }

// Identity is the SPIFFE URI that the proxy has proved; empty: none.
func (r *Reader) Identity() string { return r.ask(askIdentity, "").(string) }

// AppAddress is where the app listens behind a port of the workload, in decimal;
// empty: at the port itself.
func (r *Reader) AppAddress(port string) string { return r.ask(askAppAddress, port).(string) }

// AskClient asks at once for all that destination rules look at, so that
// Destination is no question any more.
func (r *Reader) AskClient() { r.ask(askClient, "") }

// Scope returns the index of everything that the proxy may call.
func (r *Reader) Scope() *Scope {
	r.ask(askScope, "")
	return r.m.scopeOf(r.v)
}

// Service is what a host means to the proxy; nil: not in its scope.
func (r *Reader) Service(host string) *registry.Service {
	return r.ask(askService, host).(*registry.Service)
}

// Destination is the destination rule in effect for a host; nil: none.
func (r *Reader) Destination(host string) *model.DestinationRule {
	return r.ask(askDestination, host).(*model.DestinationRule)
}

// Offered is the destination rule for clients of the proxy's namespace whatever
// their labels; nil: none.
func (r *Reader) Offered(host string) *model.DestinationRule {
	return r.ask(askOffered, host).(*model.DestinationRule)
}

// Egress are the listening addresses asked for by "host:port".
func (r *Reader) Egress() map[string]string {
	r.ask(askEgress, "")
	return r.v.egress
}

// Gateways are the Gateways that select the workload, and what it serves.
func (r *Reader) Gateways() ([]*model.Gateway, []model.Instance) {
	r.ask(askGateways, "")
	return r.v.gateways, r.v.instances
}

// Inbound returns what the workload serves.
func (r *Reader) Inbound() ([]model.Instance, *model.PeerAuth) {
	r.ask(askInbound, "")
	return r.v.instances, r.v.peerAuth
}

// Ingress are the ports that a Sidecar declares for the workload.
func (r *Reader) Ingress() (*model.SidecarScope, []model.IngressListener) {
	r.ask(askInbound, "")
	return r.v.scope, r.v.scope.Ingress
}

// Addresses are the workload's own. They are part of what Inbound depends on
// where there is no interception, or there are Ingress listeners: nobody else
// may ask.
func (r *Reader) Addresses() []netip.Addr {
	r.ask(askInbound, "")
	return r.v.addrs
}

// Host is the plan of a virtual host resource (Builder.Host).
func (r *Reader) Host(name string) any { return r.ask(askHost, name) }

// Names lists the resources of a type; the answer is the list itself.
func (r *Reader) Names(typeURL string) []string {
	r.ask(askNames, typeURL)
	return r.m.builder.Names(r.v, typeURL)
}

func first(list []string) *string {
	if len(list) == 0 {
		return nil
	}
	return &list[0]
}

func (v *View) scopeKey() any {
	switch {
	case v.scope.Shared:
		return ""
	case v.scope.Default:
		return v.namespace
	}
	return v.scope
}

func (v *View) isOwn(addr string) bool {
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return false
	}
	for _, own := range v.addrs {
		if own == a {
			return true
		}
	}
	return false
}

func (v *View) families() Families {
	return Families{V4: v.hasFamily(netip.IPv4Unspecified()), V6: v.hasFamily(netip.IPv6Unspecified())}
}

// labelNoTranslation on a service says that its ports are none of a Gateway's:
// a server means the port that the proxy binds (Istio, for Knative).
const labelNoTranslation = "experimental.istio.io/disable-gateway-port-translation"

// Untranslated reports whether the ports of an instance's service stand for
// none of the ports that a Gateway's servers name.
func Untranslated(in model.Instance) bool {
	_, off := in.Service.Labels[labelNoTranslation]
	return off
}

func (v *View) gatewayKey() string {
	var b strings.Builder
	for _, g := range v.gateways {
		b.WriteString(g.Namespace)
		b.WriteByte('/')
		b.WriteString(g.Name)
		b.WriteByte(',')
	}
	for _, in := range v.instances {
		b.WriteString(in.Service.Hostname)
		b.WriteByte('/')
		b.WriteString(in.Service.Namespace)
		b.WriteByte(':')
		b.WriteString(strconv.Itoa(in.Port.Number))
		if !Untranslated(in) {
			b.WriteByte('>')
		}
		b.WriteString(strconv.Itoa(in.TargetPort))
		b.WriteByte(',')
	}
	return b.String()
}

// inboundKey writes down what the inbound side is made of: the served ports
// with their services, the peer authentication, and the app's addresses.
func (v *View) inboundKey() string {
	var b strings.Builder
	for _, in := range v.instances {
		b.WriteString(in.Service.Hostname)
		b.WriteByte('/')
		b.WriteString(in.Service.Namespace)
		b.WriteByte(':')
		b.WriteString(strconv.Itoa(in.Port.Number))
		b.WriteByte('/')
		b.WriteString(string(in.Port.Protocol))
		b.WriteByte('>')
		b.WriteString(strconv.Itoa(in.TargetPort))
		b.WriteByte(',')
	}
	pa := v.peerAuth
	b.WriteString("|" + pa.Origin.Key.String() + pa.Origin.Path + "=" + strconv.Itoa(int(pa.Mode)))
	if pa.Deny {
		b.WriteString("!" + pa.DenyOrigin.Key.String())
	}
	for _, p := range slices.Sorted(maps.Keys(pa.Ports)) {
		b.WriteString("," + strconv.Itoa(p) + "=" + strconv.Itoa(int(pa.Ports[p])))
	}
	b.WriteString("|" + selectorText(v.appPorts))
	b.WriteString("|" + v.scope.InboundPool.Text())
	if len(v.scope.Ingress) > 0 {
		fmt.Fprintf(&b, "|%s/%s", v.scope.Origin.Key.Namespace, v.scope.Origin.Key.Name)
		for _, in := range v.scope.Ingress {
			fmt.Fprintf(&b, ";%d/%s/%s/%d/%s/%s/%s", in.Port, in.Protocol, in.Bind, in.Capture, in.Endpoint, in.Pipe, in.Pool.Text())
			if in.TLS != nil {
				fmt.Fprintf(&b, "/%+v", *in.TLS)
			}
		}
	}
	if v.intercept == InterceptNone || len(v.scope.Ingress) > 0 {
		for _, a := range v.addrs {
			b.WriteString("," + a.String())
		}
	}
	return b.String()
}
