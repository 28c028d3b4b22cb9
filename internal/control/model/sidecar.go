package model

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/control/model/pool"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/match"
)

// sidecar is a Sidecar in our words, not yet applied to services.
type sidecar struct {
	origin       Origin
	created      time.Time
	selector     map[string]string // nil: the namespace's
	registryOnly *bool
	ingress      []IngressListener
	inboundPool  *pool.Settings
	egress       []egress
}

// egress is one egress listener of a Sidecar.
type egress struct {
	listener EgressListener // without Services and Rules
	hosts    []egressHost
}

// egressHost is "namespace/host" of an egress listener, "." not yet resolved,
// because the root namespace's Sidecar means each client's.
type egressHost struct {
	namespace, host string
	exclude         bool
}

func convertSidecar(o *apis.Object, spec *networking.Sidecar) *sidecar {
	s := &sidecar{origin: Origin{Key: o.Key, Path: "spec"}, created: o.Created, ingress: convertIngress(o, spec.Ingress), inboundPool: pool.From(spec.InboundConnectionPool)}
	if spec.WorkloadSelector != nil {
		s.selector = spec.WorkloadSelector.Labels
		if s.selector == nil {
			s.selector = map[string]string{}
		}
	}
	if p := spec.OutboundTrafficPolicy; p != nil {
		only := p.Mode == networking.OutboundTrafficPolicy_REGISTRY_ONLY
		s.registryOnly = &only
	}
	for i, e := range spec.Egress {
		l := EgressListener{
			Port: int(e.GetPort().GetNumber()), PortName: e.GetPort().GetName(), Protocol: registry.ParseProtocol(e.GetPort().GetProtocol()), Bind: e.Bind,
			CaptureNone: e.CaptureMode == networking.CaptureMode_NONE, Origin: Origin{Key: o.Key, Path: fmt.Sprintf("spec.egress[%d]", i)},
		}
		out := egress{listener: l}
		for _, h := range e.Hosts {
			out.hosts = append(out.hosts, parseEgressHost(h))
		}
		s.egress = append(s.egress, out)
	}
	if len(s.egress) == 0 {
		s.egress = []egress{{listener: EgressListener{Origin: s.origin}, hosts: []egressHost{{namespace: "*", host: "*"}}}}
	}
	return s
}

// parseEgressHost reads "ns/host"; "~ns/host" and "~/host" exclude.
func parseEgressHost(s string) egressHost {
	ns, h, _ := strings.Cut(s, "/")
	out := egressHost{namespace: ns, host: strings.ToLower(h)}
	if rest, ok := strings.CutPrefix(ns, "~"); ok {
		out.namespace, out.exclude = rest, true
		if rest == "" {
			out.namespace = "*"
		}
	}
	return out
}

// imports says which services and rules an egress listener takes, for clients of one namespace.
type imports struct {
	named  map[string]*hostSet // by namespace; "*": any
	client string
}

type hostSet struct {
	exact    map[string]bool
	all      []string
	excluded []string
}

func newImports(hosts []egressHost, client string) *imports {
	im := &imports{named: map[string]*hostSet{}, client: client}
	for _, h := range hosts {
		ns := h.namespace
		if ns == "." {
			ns = client
		}
		set := im.named[ns]
		if set == nil {
			set = &hostSet{exact: map[string]bool{}}
			im.named[ns] = set
		}
		switch {
		case h.exclude:
			set.excluded = append(set.excluded, h.host)
			continue
		case !match.Wildcard(h.host):
			set.exact[h.host] = true
		}
		set.all = append(set.all, h.host)
	}
	return im
}

// takes reports whether a service, or with overlap a rule's host, is imported.
func (im *imports) takes(namespace, host string, overlap bool) bool {
	own, any := im.named[namespace], im.named["*"]
	if own.excludes(host) || any.excludes(host) {
		return false
	}
	return own.has(host, overlap) || any.has(host, overlap)
}

func (h *hostSet) excludes(host string) bool {
	return h != nil && slices.ContainsFunc(h.excluded, func(x string) bool { return match.HostWithin(host, x) })
}

func (h *hostSet) has(host string, overlap bool) bool {
	if h == nil {
		return false
	}
	if h.exact[host] {
		return true
	}
	wild := match.Wildcard(host)
	for _, x := range h.all {
		if x == "*" {
			return true
		}
		if !wild && !match.Wildcard(x) {
			continue
		}
		if match.HostWithin(host, x) || overlap && match.HostsOverlap(host, x) {
			return true
		}
	}
	return false
}

// scopeBuilder applies Sidecars to the services and rules of a Snapshot.
type scopeBuilder struct {
	services serviceIndex // without endpoints
	rules    ruleIndex
}

// scope is a Sidecar as clients of a namespace see it; nil: none applies.
func (b *scopeBuilder) scope(sc *sidecar, client string) *SidecarScope {
	visible := b.services.view(client)
	bound := b.rules.bound(MeshGateway, client)
	if sc == nil {
		return &SidecarScope{Default: true, Services: visible.list, Egress: []EgressListener{{Services: visible.list, Rules: bound}}}
	}
	out := &SidecarScope{Origin: sc.origin, RegistryOnly: sc.registryOnly, Ingress: sc.ingress, InboundPool: sc.inboundPool}
	for _, e := range sc.egress {
		im := newImports(e.hosts, client)
		l := e.listener
		// One is chosen for each host after the imports, because a Sidecar may
		// name a namespace that would not win the host.
		for _, s := range visible.seen {
			if im.takes(s.Namespace, s.Hostname, false) {
				if s = atPort(s, &l); s != nil {
					l.Services = append(l.Services, s)
				}
			}
		}
		l.Services = newView(l.Services, client).list
		for _, r := range bound {
			if slices.ContainsFunc(r.Hosts, func(h string) bool { return im.takes(r.Origin.Key.Namespace, h, true) }) {
				l.Rules = append(l.Rules, r)
			}
		}
		out.Egress = append(out.Egress, l)
	}
	out.Services = b.reachable(out.Egress, client)
	return out
}

// atPort is the service with the listener's port only; nil: it lacks the port.
// A listener without a port, or one that is an HTTP proxy, takes all ports.
func atPort(s *registry.Service, l *EgressListener) *registry.Service {
	if l.Port == 0 || l.Protocol == registry.HTTPProxy {
		return s
	}
	return withPorts(s, map[int]bool{l.Port: true})
}

func withPorts(s *registry.Service, ports map[int]bool) *registry.Service {
	var kept []registry.Port
	for _, p := range s.Ports {
		if ports[p.Number] {
			kept = append(kept, p)
		}
	}
	switch len(kept) {
	case 0:
		return nil
	case len(s.Ports):
		return s
	}
	copied := *s
	copied.Ports = kept
	return &copied
}

// reachable joins the services of all listeners with the destinations of their
// rules, as Istio infers them; the former win.
func (b *scopeBuilder) reachable(listeners []EgressListener, client string) []*registry.Service {
	var out []*registry.Service
	at := map[string]int{}
	add := func(s *registry.Service) {
		if s == nil {
			return
		}
		i, ok := at[s.Hostname]
		if !ok {
			at[s.Hostname] = len(out)
			out = append(out, s)
			return
		}
		if have := out[i]; have != s && have.Key == s.Key && have.Namespace == s.Namespace {
			out[i] = joinPorts(have, s, b.services.choose(s.Hostname, s.Namespace))
		}
	}
	for i := range listeners {
		l := &listeners[i]
		for _, s := range l.Services {
			add(s)
		}
		for _, r := range l.Rules {
			for _, d := range ruleDestinations(r, client) {
				s := b.services.chooseVisible(d.host, client)
				if s == nil {
					continue
				}
				if l.Port != 0 && l.Protocol != registry.HTTPProxy {
					s = atPort(s, l)
				} else if !d.ports[0] {
					s = withPorts(s, d.ports)
				}
				add(s)
			}
		}
	}
	return out
}

// joinPorts is whole with the ports that a or b has.
func joinPorts(a, b, whole *registry.Service) *registry.Service {
	ports := map[int]bool{}
	for _, p := range slices.Concat(a.Ports, b.Ports) {
		ports[p.Number] = true
	}
	if len(ports) == len(a.Ports) {
		return a
	}
	if whole == nil || whole.Namespace != a.Namespace {
		return a
	}
	return withPorts(whole, ports)
}

// target is a destination host with its ports; port 0: all.
type target struct {
	host  string
	ports map[int]bool
}

// ruleDestinations lists the hosts that rules lead clients of a namespace to, sorted.
func ruleDestinations(r *Rules, client string) []target {
	found := map[string]map[int]bool{}
	add := func(list []Destination) {
		for _, d := range list {
			if found[d.Host] == nil {
				found[d.Host] = map[int]bool{}
			}
			found[d.Host][d.Port] = true
		}
	}
	for _, h := range r.HTTP {
		if len(h.Matches) == 0 || slices.ContainsFunc(h.Matches, func(m *Match) bool { return m.SourceNamespace == "" || m.SourceNamespace == client }) {
			add(h.Destinations)
		}
	}
	for _, l := range slices.Concat(r.TLS, r.TCP) {
		if len(l.Matches) == 0 || slices.ContainsFunc(l.Matches, func(m L4Match) bool { return m.SourceNamespace == "" || m.SourceNamespace == client }) {
			add(l.Destinations)
		}
	}
	out := make([]target, 0, len(found))
	for _, host := range slices.Sorted(maps.Keys(found)) {
		out = append(out, target{host, found[host]})
	}
	return out
}
