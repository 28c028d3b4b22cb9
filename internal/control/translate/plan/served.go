package plan

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/model/pool"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/control/translate/view"
)

// Served is a port of the workload that services, or a Sidecar, lead to.
type Served struct {
	Target   int // port of the workload
	Port     int // of the service
	Protocol registry.Protocol
	Host     string // of the service, "SIDECAR.NAMESPACE" where there is none (Istio)
	Services []*registry.Service
	// Bind is the address in the name of the port's chains; Bound says that
	// the proxy listens there itself: nothing is redirected to it.
	Bind  string
	Bound bool
	// The app's own address; neither: where the connection went.
	App  netip.AddrPort
	Pipe string
	// Of a Sidecar's ingress listener.
	TLS    *model.ServerTLS
	Config *model.Origin
	// Pool is a Sidecar's; nil: it has none.
	Pool *pool.Settings
}

// ServedPorts lists the ports that the workload serves, by number: those that
// a Sidecar declares, else those of its services. Where several services share
// one, the first decides on the protocol (Istio: the oldest). Without
// interception only ports whose app address is known count.
func ServedPorts(r *view.Reader) []Served {
	scope, list := r.Ingress()
	if len(list) > 0 {
		return ingressPorts(r, scope, list)
	}
	instances, _ := r.Inbound()
	intercept := r.Intercept()
	byTarget := make(map[int]*Served)
	for _, in := range oldestInstances(instances) {
		if in.Port.Protocol == registry.UDP || in.Service.Resolution == registry.Alias {
			continue
		}
		if p := byTarget[in.TargetPort]; p != nil {
			if !slices.Contains(p.Services, in.Service) {
				p.Services = append(p.Services, in.Service)
			}
			continue
		}
		p := &Served{
			Target: in.TargetPort, Port: in.Port.Number, Protocol: in.Port.Protocol,
			Host: in.Service.Hostname, Services: []*registry.Service{in.Service}, Bind: "0.0.0.0",
			Pool: scope.InboundPool,
		}
		if intercept == view.InterceptNone {
			app, err := netip.ParseAddrPort(r.AppAddress(strconv.Itoa(in.TargetPort)))
			if err != nil || len(r.Addresses()) == 0 {
				continue
			}
			p.App, p.Bind, p.Bound = app, r.Addresses()[0].String(), true
		}
		byTarget[in.TargetPort] = p
	}
	out := make([]Served, 0, len(byTarget))
	for _, n := range slices.Sorted(maps.Keys(byTarget)) {
		out = append(out, *byTarget[n])
	}
	return out
}

// BoundPorts are the ports at which the proxy listens itself. Most proxies have
// none, and do not differ in it.
func BoundPorts(r *view.Reader) []Served {
	if !r.Binds() {
		return nil
	}
	return slices.DeleteFunc(ServedPorts(r), func(p Served) bool { return !p.Bound })
}

// ingressPorts are the ports of a Sidecar's ingress listeners.
func ingressPorts(r *view.Reader, scope *model.SidecarScope, list []model.IngressListener) []Served {
	instances, _ := r.Inbound()
	none := r.Intercept() == view.InterceptNone
	var out []Served
	for i := range list {
		l := &list[i]
		p := Served{
			Target: l.Port, Port: l.Port, Protocol: l.Protocol, Host: scope.Origin.Key.Name + "." + scope.Origin.Key.Namespace,
			Bind: l.Bind, Bound: l.Capture == model.CaptureNone || none && l.Capture == model.CaptureDefault,
			App: l.Endpoint, Pipe: l.Pipe, TLS: l.TLS, Config: &l.Origin, Pool: cmp.Or(l.Pool, scope.InboundPool),
		}
		if p.Bind == "" {
			p.Bind = ownAddress(r, netip.IPv4Unspecified()).String()
		}
		if l.Endpoint.IsValid() {
			p.App = netip.AddrPortFrom(ownAddress(r, l.Endpoint.Addr()), l.Endpoint.Port())
			// On a machine that it shares, the app listens elsewhere.
			if at, err := netip.ParseAddrPort(r.AppAddress(strconv.Itoa(int(l.Endpoint.Port())))); err == nil {
				p.App = at
			}
		}
		for _, in := range oldestInstances(instances) {
			if in.TargetPort == l.Port && !slices.Contains(p.Services, in.Service) {
				p.Services = append(p.Services, in.Service)
			}
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b Served) int { return cmp.Compare(a.Target, b.Target) })
	return out
}

// ownAddress is what an address of a Sidecar's listener means: an unspecified
// one is the workload's first of that family, else its loopback; a loopback is
// that of the family that the workload has (Istio).
func ownAddress(r *view.Reader, a netip.Addr) netip.Addr {
	if a.IsUnspecified() {
		for _, own := range r.Addresses() {
			if own.Is4() == a.Is4() {
				return own
			}
		}
	}
	if f := r.Families(); a.Is4() && !f.V4 || a.Is6() && f.V6 {
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
