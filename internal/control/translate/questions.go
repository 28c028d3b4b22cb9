package translate

import (
	"fmt"
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
	askClient                  // string: what destination rules look at
	askSelected                // bool: do the labels satisfy a selector
	askIsNamespace             // bool
	askOwnAddress              // bool: is it one of the workload's addresses
	askFamilies                // families
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
	askHost                    // *hostPlan: the virtual host of a name; nil: none
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

// families are the address families that a proxy has.
type families struct{ v4, v6 bool }

// answer is the one place where a View is read. Answers are comparable.
func (t *Translator) answer(v *View, q question) any {
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
		return t.scopeOf(v).byHost[q.arg] // nil is an answer too
	case askDestination:
		return t.snap.DestinationRule(q.arg, v.namespace, v.labels)
	case askClient:
		if t.selectsByDR {
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
		return first(t.Names(v, q.arg))
	case askHost:
		return t.plannedHost(v, q.arg)
	}
	panic("unknown question " + strconv.Itoa(int(q.kind)))
}

func (r *reader) role() Role                 { return r.ask(askRole, "").(Role) }
func (r *reader) namespace() string          { return r.ask(askNamespace, "").(string) }
func (r *reader) domain() string             { return r.ask(askDomain, "").(string) }
func (r *reader) selected(sel string) bool   { return r.ask(askSelected, sel).(bool) }
func (r *reader) isNamespace(ns string) bool { return r.ask(askIsNamespace, ns).(bool) }
func (r *reader) ownAddress(a string) bool   { return r.ask(askOwnAddress, a).(bool) }
func (r *reader) families() families         { return r.ask(askFamilies, "").(families) }
func (r *reader) intercept() Interception    { return r.ask(askIntercept, "").(Interception) }
func (r *reader) httpProxyPort() int         { return r.ask(askProxyPort, "").(int) }
func (r *reader) dnsCapture() bool           { return r.ask(askDNSCapture, "").(bool) }
func (r *reader) takesVHDS() bool            { return r.ask(askVHDS, "").(bool) }
func (r *reader) appAddress(p string) string { return r.ask(askAppAddress, p).(string) }

// scope returns the index of everything that the proxy may call.
func (r *reader) scope() *scopeIndex {
	r.ask(askScope, "")
	return r.t.scopeOf(r.v)
}

// service is what a host means to the proxy; nil: not in its scope.
func (r *reader) service(host string) *registry.Service {
	return r.ask(askService, host).(*registry.Service)
}

// destination is the destination rule in effect for a host; nil: none.
func (r *reader) destination(host string) *model.DestinationRule {
	return r.ask(askDestination, host).(*model.DestinationRule)
}

// egress are the listening addresses asked for by "host:port".
func (r *reader) egress() map[string]string {
	r.ask(askEgress, "")
	return r.v.egress
}

func (r *reader) gateways() []*model.Gateway {
	r.ask(askGateways, "")
	return r.v.gateways
}

// inbound returns what the workload serves.
func (r *reader) inbound() ([]model.Instance, *model.PeerAuth) {
	r.ask(askInbound, "")
	return r.v.instances, r.v.peerAuth
}

// ingress are the ports that a Sidecar declares for the workload.
func (r *reader) ingress() (*model.SidecarScope, []model.IngressListener) {
	r.ask(askInbound, "")
	return r.v.scope, r.v.scope.Ingress
}

// host is the plan of a virtual host resource; nil: there is none.
func (r *reader) host(name string) *hostPlan { return r.ask(askHost, name).(*hostPlan) }

// names is Names, of which the answer is the list itself: it is shared.
func (r *reader) names(typeURL string) []string {
	r.ask(askNames, typeURL)
	return r.t.Names(r.v, typeURL)
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

func (v *View) families() families {
	return families{v4: v.hasFamily(netip.IPv4Unspecified()), v6: v.hasFamily(netip.IPv6Unspecified())}
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
		if !noTranslation(in) {
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
	for _, p := range sortedKeys(pa.Ports) {
		b.WriteString("," + strconv.Itoa(p) + "=" + strconv.Itoa(int(pa.Ports[p])))
	}
	b.WriteString("|" + selectorText(v.appPorts))
	if len(v.scope.Ingress) > 0 {
		fmt.Fprintf(&b, "|%s/%s", v.scope.Origin.Key.Namespace, v.scope.Origin.Key.Name)
		for _, in := range v.scope.Ingress {
			fmt.Fprintf(&b, ";%d/%s/%s/%d/%s/%s", in.Port, in.Protocol, in.Bind, in.Capture, in.Endpoint, in.Pipe)
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
