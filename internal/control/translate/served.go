package translate

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/registry"
)

// servedPort is a port of the workload that services, or a Sidecar, lead to.
type servedPort struct {
	target   int // port of the workload
	port     int // of the service
	protocol registry.Protocol
	host     string // of the service, "SIDECAR.NAMESPACE" where there is none (Istio)
	services []*registry.Service
	// bind is the address in the name of the port's chains; bound says that
	// the proxy listens there itself: nothing is redirected to it.
	bind  string
	bound bool
	// The app's own address; neither: where the connection went.
	app  netip.AddrPort
	pipe string
	// Of a Sidecar's ingress listener.
	tls    *model.ServerTLS
	config *model.Origin
}

// inboundPorts lists the ports that the workload serves, by number: those that
// a Sidecar declares, else those of its services. Where several services share
// one, the first decides on the protocol (Istio: the oldest). Without
// interception only ports whose app address is known count.
func (t *Translator) inboundPorts(r *reader) []servedPort {
	if scope, list := r.ingress(); len(list) > 0 {
		return t.ingressPorts(r, scope, list)
	}
	instances, _ := r.inbound()
	intercept := r.intercept()
	byTarget := make(map[int]*servedPort)
	for _, in := range oldestInstances(instances) {
		if in.Port.Protocol == registry.UDP || in.Service.Resolution == registry.Alias {
			continue
		}
		if p := byTarget[in.TargetPort]; p != nil {
			if !slices.Contains(p.services, in.Service) {
				p.services = append(p.services, in.Service)
			}
			continue
		}
		p := &servedPort{
			target: in.TargetPort, port: in.Port.Number, protocol: in.Port.Protocol,
			host: in.Service.Hostname, services: []*registry.Service{in.Service}, bind: "0.0.0.0",
		}
		if intercept == InterceptNone {
			app, err := netip.ParseAddrPort(r.appAddress(strconv.Itoa(in.TargetPort)))
			if err != nil || len(r.v.addrs) == 0 {
				continue
			}
			// The workload's address is part of askInbound here.
			p.app, p.bind, p.bound = app, r.v.addrs[0].String(), true
		}
		byTarget[in.TargetPort] = p
	}
	out := make([]servedPort, 0, len(byTarget))
	for _, n := range sortedKeys(byTarget) {
		out = append(out, *byTarget[n])
	}
	return out
}

// boundPorts are the ports at which the proxy listens itself. Most proxies have
// none, and do not differ in it.
func (t *Translator) boundPorts(r *reader) []servedPort {
	if !r.ask(askBinds, "").(bool) {
		return nil
	}
	return slices.DeleteFunc(t.inboundPorts(r), func(p servedPort) bool { return !p.bound })
}

// ingressPorts are the ports of a Sidecar's ingress listeners. The workload's
// addresses are part of askInbound where there are any.
func (t *Translator) ingressPorts(r *reader, scope *model.SidecarScope, list []model.IngressListener) []servedPort {
	instances, _ := r.inbound()
	none := r.intercept() == InterceptNone
	var out []servedPort
	for i := range list {
		l := &list[i]
		p := servedPort{
			target: l.Port, port: l.Port, protocol: l.Protocol, host: scope.Origin.Key.Name + "." + scope.Origin.Key.Namespace,
			bind: l.Bind, bound: l.Capture == model.CaptureNone || none && l.Capture == model.CaptureDefault,
			app: l.Endpoint, pipe: l.Pipe, tls: l.TLS, config: &l.Origin,
		}
		if p.bind == "" {
			p.bind = t.ownAddress(r, netip.IPv4Unspecified()).String()
		}
		if l.Endpoint.IsValid() {
			p.app = netip.AddrPortFrom(t.ownAddress(r, l.Endpoint.Addr()), l.Endpoint.Port())
			// On a machine that it shares, the app listens elsewhere.
			if at, err := netip.ParseAddrPort(r.appAddress(strconv.Itoa(int(l.Endpoint.Port())))); err == nil {
				p.app = at
			}
		}
		for _, in := range oldestInstances(instances) {
			if in.TargetPort == l.Port && !slices.Contains(p.services, in.Service) {
				p.services = append(p.services, in.Service)
			}
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b servedPort) int { return cmp.Compare(a.target, b.target) })
	return out
}

// ownAddress is what an address of a Sidecar's listener means: an unspecified
// one is the workload's first of that family, else its loopback; a loopback is
// that of the family that the workload has (Istio).
func (t *Translator) ownAddress(r *reader, a netip.Addr) netip.Addr {
	if a.IsUnspecified() {
		for _, own := range r.v.addrs {
			if own.Is4() == a.Is4() {
				return own
			}
		}
	}
	if f := r.families(); a.Is4() && !f.v4 || a.Is6() && f.v6 {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

func oldestInstances(in []model.Instance) []model.Instance {
	out := slices.Clone(in)
	slices.SortStableFunc(out, func(a, b model.Instance) int {
		return cmp.Or(a.Service.Created.Compare(b.Service.Created), cmp.Compare(a.Service.Hostname, b.Service.Hostname),
			cmp.Compare(a.Service.Namespace, b.Service.Namespace), cmp.Compare(a.Port.Number, b.Port.Number))
	})
	return out
}

// appAddress is where the app listens; nil: where the connection went.
func (p *servedPort) appAddress() *corev3.Address {
	switch {
	case p.pipe != "":
		return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: p.pipe}}}
	case p.app.IsValid():
		return socketAddress(p.app.Addr().String(), int(p.app.Port()))
	}
	return nil
}

// matches are the kinds of connections that the port takes. TLS settings of its
// own count where mutual TLS is off, because a ClientHello cannot have both
// answers.
func (p *servedPort) matches(pa *model.PeerAuth) []inboundMatch {
	mode := modeOf(pa, p.target)
	if p.tls != nil && mode == model.MTLSDisable {
		return []inboundMatch{{transport: "tls", http: p.protocol.IsHTTP(), own: true}}
	}
	return inboundMatches(mode, p.protocol)
}
