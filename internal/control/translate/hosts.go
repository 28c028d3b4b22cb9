package translate

import (
	"cmp"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/match"
	"github.com/tullemesh/tulle/internal/wire"
)

// httpProxyRoutes is the route configuration of the HTTP proxy listener (Istio).
const httpProxyRoutes = "http_proxy"

// routePlan says which virtual hosts a route configuration has, without
// building any of them: names, domains, and where their routes come from. So
// one virtual host can be built alone. It is immutable.
type routePlan struct {
	name string
	// hosts are shared with the plans of other Views that have equal ones; the
	// first sorted ones are sorted by name.
	hosts  []*hostPlan
	sorted int
	// keepPorts: domains have ports, so ports in Host headers count.
	keepPorts bool

	// byDomain finds a virtual host as Envoy would.
	once     sync.Once
	byDomain match.HostTable[*hostPlan]
}

// hostPlan is one virtual host to be.
type hostPlan struct {
	name    string // "reviews.default.svc.cluster.local:9080"
	domains []string
	// listenPort is the port that rules see; port is the service's.
	listenPort, port int
	service          *registry.Service // nil: a host that only rules know
	rules            *model.Rules      // nil: the default route to the service
	catchAll         bool              // allow_any or block_all
	connect          bool              // CONNECT is taken too (HTTP proxy)
}

// routePlanOf returns the plan of a sidecar's route configuration; nil: there
// is none of this name.
func (t *Translator) routePlanOf(outer *reader, v *View, name string) *routePlan {
	p, _ := remember(t, outer, v, tableRoutes, name, func(r *reader) (*routePlan, error) {
		return t.planRoutes(r, name), nil
	})
	if outer != nil {
		outer.planned(name)
	}
	return p
}

func (t *Translator) planRoutes(r *reader, name string) *routePlan {
	switch r.role() {
	case RoleGateway:
		return t.planGatewayRoutes(r, name)
	case RoleGRPC:
		return t.planGRPCRoutes(r, name)
	}
	b := newHostBuilder(r, name)
	if name == httpProxyRoutes {
		if r.httpProxyPort() == 0 {
			return nil
		}
		e := b.scope.egressFor(0)
		if e == nil {
			return nil
		}
		b.listenPort = 0
		b.addAllPorts(e)
		return b.finish(true)
	}
	host, port, sniffed := splitRouteName(name)
	if port == 0 {
		return nil
	}
	e := b.scope.egressFor(port)
	if e == nil {
		return nil
	}
	b.listenPort = port
	if sniffed {
		svc := e.byHost[host]
		if svc == nil {
			return nil
		}
		if _, ok := portOf(svc, port); !ok {
			return nil
		}
		b.only = host
	}
	b.addPort(e, port)
	return b.finish(!sniffed)
}

// splitRouteName reads "80" and "host:80"; the latter belongs to one service.
func splitRouteName(name string) (host string, port int, one bool) {
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
	plan       *routePlan
	mem        *memory
	scope      *scopeIndex
	domain     string
	families   families
	dnsCapture bool
	listenPort int
	only       string // one service's host
	connect    bool

	names   map[string]struct{} // of virtual hosts, taken
	domains map[string]struct{} // lower case, taken
	full    map[string]struct{} // full names of services, which short forms must not take
}

func newHostBuilder(r *reader, name string) *hostBuilder {
	return &hostBuilder{
		plan: &routePlan{name: name}, mem: r.t.mem,
		scope: r.scope(), domain: r.domain(), families: r.families(), dnsCapture: r.dnsCapture(),
		names: make(map[string]struct{}), domains: make(map[string]struct{}), full: make(map[string]struct{}),
	}
}

// addPort adds the virtual hosts of one port: rules first, in order, then the
// services that no rules took. What comes first keeps its names and domains.
func (b *hostBuilder) addPort(e *egressScope, port int) {
	services := make(map[string]*registry.Service)
	var ordered []*registry.Service
	for _, svc := range e.Services {
		if _, ok := portOf(svc, port); ok && services[svc.Hostname] == nil {
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
		p, _ := portOf(svc, port)
		if _, done := taken[svc.Hostname]; done || !httpOrSniffed(p.Protocol) || svc.Resolution == registry.Alias {
			continue
		}
		b.add(&hostPlan{service: svc, port: port}, svc.Hostname)
	}
}

// addRules places one VirtualService: under the services that its hosts name
// on this port, and under hosts that no service has, which exist on port 80 or
// beside such a service.
func (b *hostBuilder) addRules(rules *model.Rules, e *egressScope, services map[string]*registry.Service, port int, taken map[string]struct{}) {
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
			if e.wildcards[svc.Hostname] == rules && !slices.Contains(matched, svc) {
				matched = append(matched, svc)
			}
		}
		if !covers {
			others = append(others, h)
		}
	}
	http := matched[:0:0]
	for _, svc := range matched {
		if p, _ := portOf(svc, port); httpOrSniffed(p.Protocol) {
			http = append(http, svc)
		}
	}
	if len(http) == 0 && port != 80 {
		return
	}
	for _, h := range others {
		b.add(&hostPlan{rules: rules, port: port}, strings.ToLower(h))
	}
	for _, svc := range http {
		taken[svc.Hostname] = struct{}{}
		b.add(&hostPlan{service: svc, rules: rules, port: port}, svc.Hostname)
	}
}

// addAllPorts adds the virtual hosts of the HTTP proxy listener: every service
// by "host:port", and by the host alone for port 80. TCP ports are reached by
// CONNECT only.
func (b *hostBuilder) addAllPorts(e *egressScope) {
	b.plan.keepPorts = true
	b.connect = true
	ports := make(map[int]struct{})
	for _, svc := range e.Services {
		for _, p := range svc.Ports {
			ports[p.Number] = struct{}{}
		}
	}
	ports[80] = struct{}{} // hosts that only rules know
	for _, port := range sortedKeys(ports) {
		b.addPort(e, port)
		for _, svc := range e.Services {
			if p, ok := portOf(svc, port); ok && !httpOrSniffed(p.Protocol) && p.Protocol != registry.UDP && svc.Resolution != registry.Alias {
				b.add(&hostPlan{service: svc, port: port}, svc.Hostname)
			}
		}
	}
}

// add gives a virtual host its name and those of its domains that are free.
func (b *hostBuilder) add(h *hostPlan, host string) {
	if b.only != "" && host != b.only {
		return
	}
	h.name = host + ":" + strconv.Itoa(h.port)
	if _, dup := b.names[h.name]; dup {
		return
	}
	b.names[h.name] = struct{}{}
	h.listenPort = cmp.Or(b.listenPort, h.port)
	h.connect = b.connect
	suffix := 0
	if b.plan.keepPorts {
		suffix = h.port
	}
	var domains, alt []string
	if h.service == nil {
		domains = withPort(nil, host, suffix)
	} else {
		domains, alt = serviceDomains(h.service, suffix, b.domain, b.families, b.dnsCapture)
	}
	for _, d := range domains {
		if b.connect && h.port != 80 && !strings.Contains(d, ":") {
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
		h.domains = append(h.domains, d)
	}
	if len(h.domains) > 0 {
		b.plan.hosts = append(b.plan.hosts, h)
	}
}

// finish sorts the virtual hosts by name, as Istio does, and adds the one for
// every other host where the configuration serves more than one service.
func (b *hostBuilder) finish(shared bool) *routePlan {
	p := b.plan
	slices.SortStableFunc(p.hosts, func(a, c *hostPlan) int { return cmp.Compare(a.name, c.name) })
	if !shared {
		if len(p.hosts) == 1 {
			p.hosts[0].domains = []string{"*"}
		}
		return p.indexed(b.mem)
	}
	rest := &hostPlan{name: wire.AllowAny, domains: []string{"*"}, catchAll: true, connect: b.connect}
	if b.scope.registryOnly {
		rest.name = wire.BlockAll
	}
	p.hosts = append(p.hosts, rest)
	return p.indexed(b.mem)
}

// unique drops domains that an earlier virtual host has, for plans whose
// builder does not watch over them.
func (p *routePlan) unique() {
	taken := make(map[string]struct{})
	for _, h := range p.hosts {
		h.domains = slices.DeleteFunc(h.domains, func(d string) bool {
			key := strings.ToLower(d)
			_, dup := taken[key]
			taken[key] = struct{}{}
			return dup
		})
	}
}

// indexed makes the virtual hosts findable, and replaces each by the equal one
// that memory has. Domains are unique by now.
func (p *routePlan) indexed(m *memory) *routePlan {
	hosts := p.hosts[:0]
	for _, h := range p.hosts {
		// A domain that Envoy would refuse ("a*b") must not cost the whole
		// route configuration.
		h.domains = slices.Clip(slices.DeleteFunc(h.domains, func(d string) bool { return !validDomain(d) }))
		if len(h.domains) > 0 {
			hosts = append(hosts, m.get(tableHost, wire.VirtualHostResourceName(p.name, h.name)).variant(h))
		}
	}
	p.hosts = slices.Clip(hosts)
	for p.sorted = min(1, len(hosts)); p.sorted < len(hosts) && hosts[p.sorted-1].name <= hosts[p.sorted].name; {
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

// equal reports whether two plans of one name give the same virtual host.
func (h *hostPlan) equal(o *hostPlan) bool {
	return h.name == o.name && h.listenPort == o.listenPort && h.port == o.port && h.service == o.service && h.rules == o.rules &&
		h.catchAll == o.catchAll && h.connect == o.connect && slices.Equal(h.domains, o.domains)
}

// named returns the virtual host of a name. Few or none stand behind those
// that are sorted.
func (p *routePlan) named(name string) *hostPlan {
	for _, h := range p.hosts[p.sorted:] {
		if h.name == name {
			return h
		}
	}
	if i, ok := slices.BinarySearchFunc(p.hosts[:p.sorted], name, func(h *hostPlan, n string) int { return cmp.Compare(h.name, n) }); ok {
		return p.hosts[i]
	}
	return nil
}

// domainTable is made when a client first asks by host: most ask by name.
func (p *routePlan) domainTable() *match.HostTable[*hostPlan] {
	p.once.Do(func() {
		for _, h := range p.hosts {
			for _, d := range h.domains {
				_ = p.byDomain.Add(d, h) // indexed has dropped what it refuses
			}
		}
	})
	return &p.byDomain
}

// find returns the virtual host of a name, or the one that a request for this
// host would meet.
func (p *routePlan) find(host string) *hostPlan {
	if h := p.named(host); h != nil {
		return h
	}
	table := p.domainTable()
	if h, ok := table.Find([]byte(strings.ToLower(host))); ok {
		return h
	}
	if p.keepPorts {
		return nil
	}
	if h, _, err := net.SplitHostPort(host); err == nil {
		if found, ok := table.Find([]byte(strings.ToLower(h))); ok {
			return found
		}
	}
	return nil
}
