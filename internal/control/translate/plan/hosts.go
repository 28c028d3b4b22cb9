package plan

import (
	"cmp"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/control/translate/view"
	"github.com/tullemesh/tulle/internal/match"
	"github.com/tullemesh/tulle/internal/wire"
)

// HTTPProxyRoutes is the route configuration of the HTTP proxy listener (Istio).
const HTTPProxyRoutes = "http_proxy"

// Routes says which virtual hosts a route configuration has, without
// building any of them: names, domains, and where their routes come from. So
// one virtual host can be built alone. It is immutable.
type Routes struct {
	Name string
	// Hosts are shared with the plans of other Views that have equal ones; the
	// first sorted ones are sorted by name.
	Hosts  []*Host
	sorted int
	// KeepPorts: domains have ports, so ports in Host headers count.
	KeepPorts bool

	// byDomain finds a virtual host as Envoy would.
	once     sync.Once
	byDomain match.HostTable[*Host]
}

// Host is one virtual host to be.
type Host struct {
	Name    string // "reviews.default.svc.cluster.local:9080"
	Domains []string
	// ListenPort is the port that rules see; Port is the service's.
	ListenPort, Port int
	Service          *registry.Service // nil: a host that only rules know
	Rules            *model.Rules      // nil: the default route to the service
	CatchAll         bool              // allow_any or block_all
	Connect          bool              // CONNECT is taken too (HTTP proxy)
}

// RoutesOf returns the plan of a route configuration as a View has it; nil:
// there is none of this name. outer, which may be nil, is the build that reads
// the plan.
func RoutesOf(m *view.Memory, outer *view.Reader, v *view.View, name string) *Routes {
	p, _ := view.Remember(m, outer, v, view.TableRoutes, name, func(r *view.Reader) (*Routes, error) {
		return planRoutes(r, name), nil
	})
	if outer != nil {
		outer.Planned(name)
	}
	return p
}

func planRoutes(r *view.Reader, name string) *Routes {
	switch r.Role() {
	case view.RoleGateway:
		return planGatewayRoutes(r, name)
	case view.RoleGRPC:
		return planGRPCRoutes(r, name)
	}
	b := newHostBuilder(r, name)
	if name == HTTPProxyRoutes {
		if r.HTTPProxyPort() == 0 {
			return nil
		}
		e := b.scope.EgressFor(0)
		if e == nil {
			return nil
		}
		b.listenPort = 0
		b.addAllPorts(e)
		return b.finish(true)
	}
	host, port, sniffed := SplitRouteName(name)
	if port == 0 {
		return nil
	}
	e := b.scope.EgressFor(port)
	if e == nil {
		return nil
	}
	b.listenPort = port
	if sniffed {
		svc := e.ByHost[host]
		if svc == nil {
			return nil
		}
		if _, ok := PortOf(svc, port); !ok {
			return nil
		}
		b.only = host
	}
	b.addPort(e, port)
	return b.finish(!sniffed)
}

// SplitRouteName reads "80" and "host:80"; the latter belongs to one service.
func SplitRouteName(name string) (host string, port int, one bool) {
	if h, p, err := net.SplitHostPort(name); err == nil {
		host, name, one = h, p, true
	}
	port, err := strconv.Atoi(name)
	if err != nil || port < 1 || port > 65535 {
		return "", 0, false
	}
	return host, port, one
}

// hostBuilder collects the virtual hosts of one route configuration.
type hostBuilder struct {
	plan       *Routes
	mem        *view.Memory
	scope      *view.Scope
	domain     string
	families   view.Families
	dnsCapture bool
	listenPort int
	only       string // one service's host
	connect    bool

	names   map[string]struct{} // of virtual hosts, taken
	domains map[string]struct{} // lower case, taken
	full    map[string]struct{} // full names of services, which short forms must not take
}

func newHostBuilder(r *view.Reader, name string) *hostBuilder {
	return &hostBuilder{
		plan: &Routes{Name: name}, mem: r.Memory(),
		scope: r.Scope(), domain: r.Domain(), families: r.Families(), dnsCapture: r.DNSCapture(),
		names: make(map[string]struct{}), domains: make(map[string]struct{}), full: make(map[string]struct{}),
	}
}

// addPort adds the virtual hosts of one port: rules first, in order, then the
// services that no rules took. What comes first keeps its names and domains.
func (b *hostBuilder) addPort(e *view.Egress, port int) {
	services := make(map[string]*registry.Service)
	var ordered []*registry.Service
	for _, svc := range e.Services {
		if _, ok := PortOf(svc, port); ok && services[svc.Hostname] == nil {
			services[svc.Hostname] = svc
			ordered = append(ordered, svc)
			b.full[svc.Hostname] = struct{}{}
			b.full[svc.Hostname+":"+strconv.Itoa(port)] = struct{}{}
		}
	}
	taken := make(map[string]struct{})
	for _, rules := range e.Rules {
		b.addRules(rules, e, services, port, taken)
	}
	for _, svc := range ordered {
		p, _ := PortOf(svc, port)
		if _, done := taken[svc.Hostname]; done || !HTTPOrSniffed(p.Protocol) || svc.Resolution == registry.Alias {
			continue
		}
		b.add(&Host{Service: svc, Port: port}, svc.Hostname)
	}
}

// addRules places one VirtualService: under the services that its hosts name
// on this port, and under hosts that no service has, which exist on port 80 or
// beside such a service.
func (b *hostBuilder) addRules(rules *model.Rules, e *view.Egress, services map[string]*registry.Service, port int, taken map[string]struct{}) {
	if len(rules.HTTP) == 0 {
		return
	}
	var matched []*registry.Service
	var others []string
	for _, h := range rules.Hosts {
		if svc := services[h]; svc != nil {
			matched = append(matched, svc)
			continue
		}
		if !match.Wildcard(h) {
			others = append(others, h)
			continue
		}
		covers := false
		for _, svc := range e.Services {
			if services[svc.Hostname] != svc || !match.HostsOverlap(svc.Hostname, h) {
				continue
			}
			covers = true
			if e.Wildcards[svc.Hostname] == rules && !slices.Contains(matched, svc) {
				matched = append(matched, svc)
			}
		}
		if !covers {
			others = append(others, h)
		}
	}
	http := matched[:0:0]
	for _, svc := range matched {
		if p, _ := PortOf(svc, port); HTTPOrSniffed(p.Protocol) {
			http = append(http, svc)
		}
	}
	if len(http) == 0 && port != 80 {
		return
	}
	for _, h := range others {
		b.add(&Host{Rules: rules, Port: port}, strings.ToLower(h))
	}
	for _, svc := range http {
		taken[svc.Hostname] = struct{}{}
		b.add(&Host{Service: svc, Rules: rules, Port: port}, svc.Hostname)
	}
}

// addAllPorts adds the virtual hosts of the HTTP proxy listener: every service
// by "host:port", and by the host alone for port 80. TCP ports are reached by
// CONNECT only.
func (b *hostBuilder) addAllPorts(e *view.Egress) {
	b.plan.KeepPorts = true
	b.connect = true
	ports := make(map[int]struct{})
	for _, svc := range e.Services {
		for _, p := range svc.Ports {
			ports[p.Number] = struct{}{}
		}
	}
	ports[80] = struct{}{} // hosts that only rules know
	for _, port := range slices.Sorted(maps.Keys(ports)) {
		b.addPort(e, port)
		for _, svc := range e.Services {
			if p, ok := PortOf(svc, port); ok && !HTTPOrSniffed(p.Protocol) && p.Protocol != registry.UDP && svc.Resolution != registry.Alias {
				b.add(&Host{Service: svc, Port: port}, svc.Hostname)
			}
		}
	}
}

// add gives a virtual host its name and those of its domains that are free.
func (b *hostBuilder) add(h *Host, host string) {
	if b.only != "" && host != b.only {
		return
	}
	h.Name = host + ":" + strconv.Itoa(h.Port)
	if _, dup := b.names[h.Name]; dup {
		return
	}
	b.names[h.Name] = struct{}{}
	h.ListenPort = cmp.Or(b.listenPort, h.Port)
	h.Connect = b.connect
	suffix := 0
	if b.plan.KeepPorts {
		suffix = h.Port
	}
	var domains, alt []string
	if h.Service == nil {
		domains = withPort(nil, host, suffix)
	} else {
		domains, alt = serviceDomains(h.Service, suffix, b.domain, b.families, b.dnsCapture)
	}
	for _, d := range domains {
		if b.connect && h.Port != 80 && !strings.Contains(d, ":") {
			continue // without a port, port 80 is meant
		}
		if _, known := b.full[d]; known && slices.Contains(alt, d) {
			continue // a short form must not hide another service's full name
		}
		key := strings.ToLower(d)
		if _, dup := b.domains[key]; dup {
			continue
		}
		b.domains[key] = struct{}{}
		h.Domains = append(h.Domains, d)
	}
	if len(h.Domains) > 0 {
		b.plan.Hosts = append(b.plan.Hosts, h)
	}
}

// finish sorts the virtual hosts by name, as Istio does, and adds the one for
// every other host where the configuration serves more than one service.
func (b *hostBuilder) finish(shared bool) *Routes {
	p := b.plan
	slices.SortStableFunc(p.Hosts, func(a, c *Host) int { return cmp.Compare(a.Name, c.Name) })
	if !shared {
		if len(p.Hosts) == 1 {
			p.Hosts[0].Domains = []string{"*"}
		}
		return p.indexed(b.mem)
	}
	rest := &Host{Name: wire.AllowAny, Domains: []string{"*"}, CatchAll: true, Connect: b.connect}
	if b.scope.RegistryOnly {
		rest.Name = wire.BlockAll
	}
	p.Hosts = append(p.Hosts, rest)
	return p.indexed(b.mem)
}

// unique drops domains that an earlier virtual host has, for plans whose
// builder does not watch over them.
func (p *Routes) unique() {
	taken := make(map[string]struct{})
	for _, h := range p.Hosts {
		h.Domains = slices.DeleteFunc(h.Domains, func(d string) bool {
			key := strings.ToLower(d)
			_, dup := taken[key]
			taken[key] = struct{}{}
			return dup
		})
	}
}

// indexed makes the virtual hosts findable, and replaces each by the equal one
// that memory has. Domains are unique by now.
func (p *Routes) indexed(m *view.Memory) *Routes {
	hosts := p.Hosts[:0]
	for _, h := range p.Hosts {
		// A domain that Envoy would refuse ("a*b") must not cost the whole
		// route configuration.
		h.Domains = slices.Clip(slices.DeleteFunc(h.Domains, func(d string) bool { return !validDomain(d) }))
		if len(h.Domains) > 0 {
			hosts = append(hosts, view.Shared(m, view.TableHost, wire.VirtualHostResourceName(p.Name, h.Name), h))
		}
	}
	p.Hosts = slices.Clip(hosts)
	for p.sorted = min(1, len(hosts)); p.sorted < len(hosts) && hosts[p.sorted-1].Name <= hosts[p.sorted].Name; {
		p.sorted++
	}
	return p
}

// validDomain reports whether Envoy takes a domain of a virtual host.
func validDomain(d string) bool {
	if d != "" && !strings.Contains(d, "*") {
		return true
	}
	var t match.HostTable[struct{}]
	return t.Add(d, struct{}{}) == nil
}

// Equal reports whether two plans of one name give the same virtual host.
func (h *Host) Equal(o *Host) bool {
	return h.Name == o.Name && h.ListenPort == o.ListenPort && h.Port == o.Port && h.Service == o.Service && h.Rules == o.Rules &&
		h.CatchAll == o.CatchAll && h.Connect == o.Connect && slices.Equal(h.Domains, o.Domains)
}

// Named returns the virtual host of a name. Few or none stand behind those
// that are sorted.
func (p *Routes) Named(name string) *Host {
	for _, h := range p.Hosts[p.sorted:] {
		if h.Name == name {
			return h
		}
	}
	if i, ok := slices.BinarySearchFunc(p.Hosts[:p.sorted], name, func(h *Host, n string) int { return cmp.Compare(h.Name, n) }); ok {
		return p.Hosts[i]
	}
	return nil
}

// domainTable is made when a client first asks by host: most ask by name.
func (p *Routes) domainTable() *match.HostTable[*Host] {
	p.once.Do(func() {
		for _, h := range p.Hosts {
			for _, d := range h.Domains {
				_ = p.byDomain.Add(d, h) // indexed has dropped what it refuses
			}
		}
	})
	return &p.byDomain
}

// Find returns the virtual host of a name, or the one that a request for this
// host would meet.
func (p *Routes) Find(host string) *Host {
	if h := p.Named(host); h != nil {
		return h
	}
	table := p.domainTable()
	if h, ok := table.Find([]byte(strings.ToLower(host))); ok {
		return h
	}
	if p.KeepPorts {
		return nil
	}
	if h, _, err := net.SplitHostPort(host); err == nil {
		if found, ok := table.Find([]byte(strings.ToLower(h))); ok {
			return found
		}
	}
	return nil
}
