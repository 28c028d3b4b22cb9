package message

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/model/pool"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/control/translate/plan"
	"github.com/tullemesh/tulle/internal/control/translate/view"
	"github.com/tullemesh/tulle/internal/match"
	"github.com/tullemesh/tulle/internal/wire"
)

// chain is a filter chain of an outbound or gateway listener before it becomes
// protobuf: what it matches, and either routes (HTTP) or clusters (bytes).
type chain struct {
	// What it matches; all empty: everything.
	sni       []string
	cidrs     []netip.Prefix
	alpn      []string
	transport string

	// HTTP: the route configuration by name.
	routes string
	// Bytes: the clusters with weights, and the name for statistics.
	clusters []weightedCluster
	stat     string
	pool     *pool.Settings
	config   *model.Origin // of the rules, for Istio's metadata
	tls      *corev3.TransportSocket
}

type weightedCluster struct {
	name   string
	weight int
}

func (c *chain) matchesAll() bool {
	return (len(c.sni) == 0 || slices.Contains(c.sni, "*")) && len(c.alpn) == 0 && c.transport == "" && len(c.cidrs) == 0
}

// conflicts reports whether Envoy would find two chains with one match and
// refuse the listener.
func (c *chain) conflicts(o *chain) bool {
	return c.transport == o.transport && slices.Equal(c.alpn, o.alpn) && c.sniKey() == o.sniKey() && c.cidrKey() == o.cidrKey()
}

func (c *chain) sniKey() string {
	s := slices.DeleteFunc(slices.Clone(c.sni), func(n string) bool { return n == "*" })
	slices.Sort(s)
	return strings.Join(slices.Compact(s), ",")
}

func (c *chain) cidrKey() string {
	var s []string
	for _, p := range c.cidrs {
		if !p.Addr().IsUnspecified() {
			s = append(s, p.Masked().String())
		}
	}
	slices.Sort(s)
	return strings.Join(slices.Compact(s), ",")
}

// match writes the chain's match; nil matches everything.
func (c *chain) match() *listenerv3.FilterChainMatch {
	if c.matchesAll() {
		return nil
	}
	m := &listenerv3.FilterChainMatch{ApplicationProtocols: c.alpn, TransportProtocol: c.transport}
	if !slices.Contains(c.sni, "*") {
		m.ServerNames = slices.Clone(c.sni)
		slices.Sort(m.ServerNames)
	}
	cidrs := slices.Clone(c.cidrs)
	slices.SortFunc(cidrs, func(a, b netip.Prefix) int { return strings.Compare(a.String(), b.String()) })
	for _, p := range cidrs {
		if p.Addr().IsUnspecified() {
			continue
		}
		m.PrefixRanges = append(m.PrefixRanges, &corev3.CidrRange{
			AddressPrefix: p.Addr().String(), PrefixLen: wrapperspb.UInt32(uint32(p.Bits())),
		})
	}
	return m
}

// plaintextHTTP are what Envoy's HTTP inspector says of a connection that is
// HTTP without TLS.
func plaintextHTTP() []string { return []string{"http/1.1", "h2c"} }

// mergeChains adds chains whose match nobody has yet: the older keeps it.
func mergeChains(have, more []*chain) []*chain {
	for _, m := range more {
		if !slices.ContainsFunc(have, m.conflicts) {
			have = append(have, m)
		}
	}
	return have
}

// partChains makes the chains of one service port on a listener.
func (w *Writer) partChains(r *view.Reader, p *plan.Listener, part plan.Part) []*chain {
	http := func(routes string, inspected bool) *chain {
		c := &chain{routes: routes}
		if inspected {
			c.alpn, c.transport = plaintextHTTP(), "raw_buffer"
		}
		return c
	}
	number := strconv.Itoa(p.Port)
	switch {
	case part.Port.Protocol == registry.HTTPProxy:
		return []*chain{http(number, false)}
	case part.Port.Protocol.IsHTTP():
		return []*chain{http(number, p.Wildcard)}
	case part.Port.Protocol == registry.Unsupported:
		routes := number
		if !p.Wildcard {
			routes = part.Service.Hostname + ":" + number
		}
		return append(w.byteChains(r, p, part), http(routes, true))
	}
	return w.byteChains(r, p, part)
}

// byteChains makes the chains of a port whose bytes are forwarded as they are:
// by the tls or tcp rules of the service's host, else to the service.
func (w *Writer) byteChains(r *view.Reader, p *plan.Listener, part plan.Part) []*chain {
	var rules []*model.Rules
	for _, x := range p.Rules {
		if slices.ContainsFunc(x.Hosts, func(h string) bool { return match.HostsOverlap(h, part.Service.Hostname) }) {
			rules = append(rules, x)
		}
	}
	c := &l4Context{r: r, port: p.Port, gateway: meshGateway}
	if part.Port.Protocol.IsTLS() {
		return c.tlsChains(rules, p, part)
	}
	return c.tcpChains(rules, part)
}

// l4Context is where tls and tcp rules become chains.
type l4Context struct {
	r       *view.Reader
	port    int
	gateway string
}

func (c *l4Context) applies(m *model.L4Match) bool {
	if len(m.Gateways) > 0 && !slices.Contains(m.Gateways, c.gateway) {
		return false
	}
	return (m.Port == 0 || m.Port == c.port) && sourceApplies(c.r, m.SourceLabels, m.SourceNamespace)
}

func (c *l4Context) tlsChains(rules []*model.Rules, p *plan.Listener, part plan.Part) []*chain {
	var out []*chain
	handled := make(map[string]struct{})
	for _, x := range rules {
		for _, rule := range x.TLS {
			for i := range rule.Matches {
				m := &rule.Matches[i]
				if !c.applies(m) {
					continue
				}
				key := strings.Join(m.SNIHosts, ",") + "|" + prefixText(m.DestinationSubnets)
				if _, dup := handled[key]; dup {
					continue
				}
				handled[key] = struct{}{}
				ch := c.forward(rule.Destinations, x)
				ch.sni, ch.cidrs, ch.config = m.SNIHosts, part.CIDRs, &x.Origin
				if len(m.DestinationSubnets) > 0 {
					ch.cidrs = m.DestinationSubnets
				}
				out = append(out, ch)
			}
		}
	}
	if len(out) > 0 {
		return out
	}
	ch := c.toService(part)
	ch.cidrs = part.CIDRs
	if len(part.CIDRs) > 0 || p.Wildcard {
		// Several services share the address: the name in the ClientHello
		// tells them apart.
		ch.sni = []string{part.Service.Hostname}
	}
	return []*chain{ch}
}

func (c *l4Context) tcpChains(rules []*model.Rules, part plan.Part) []*chain {
	var out []*chain
	for _, x := range rules {
		for _, rule := range x.TCP {
			subnets, all := c.tcpConditions(rule)
			if all {
				ch := c.forward(rule.Destinations, x)
				ch.cidrs, ch.config = part.CIDRs, &x.Origin
				return append(out, ch)
			}
			if len(subnets) == 0 {
				continue
			}
			ch := c.forward(rule.Destinations, x)
			ch.cidrs = subnets
			out = append(out, ch)
		}
	}
	ch := c.toService(part)
	ch.cidrs = part.CIDRs
	return mergeChains(out, []*chain{ch})
}

// tcpConditions evaluates a tcp rule: all says that it takes every connection,
// otherwise it takes those to the subnets.
func (c *l4Context) tcpConditions(rule *model.L4Route) (subnets []netip.Prefix, all bool) {
	if len(rule.Matches) == 0 {
		return nil, true
	}
	for i := range rule.Matches {
		m := &rule.Matches[i]
		if !c.applies(m) {
			continue
		}
		if len(m.DestinationSubnets) == 0 {
			return nil, true
		}
		subnets = append(subnets, m.DestinationSubnets...)
	}
	return subnets, false
}

// forward leads to the destinations of a rule.
func (c *l4Context) forward(ds []model.Destination, x *model.Rules) *chain {
	out := &chain{stat: x.Origin.Key.Name + "." + x.Origin.Key.Namespace}
	for i := range ds {
		d := &ds[i]
		if d.Weight == 0 && len(ds) > 1 {
			continue
		}
		port := d.Port
		if port == 0 {
			port = c.port
			if only := onlyPort(c.r.Service(d.Host)); only != 0 {
				port = only
			}
		}
		out.clusters = append(out.clusters, weightedCluster{wire.ClusterName(wire.Outbound, port, d.Subset, d.Host), d.Weight})
	}
	if len(out.clusters) == 1 {
		out.stat = out.clusters[0].name
	}
	if len(out.clusters) > 0 {
		out.pool = plan.PoolOf(c.r, out.clusters[0].name)
	}
	return out
}

// toService leads to the service itself, at the port called or at its only one.
func (c *l4Context) toService(part plan.Part) *chain {
	port := c.port
	if only := onlyPort(part.Service); only != 0 {
		port = only
	}
	name := wire.ClusterName(wire.Outbound, port, "", part.Service.Hostname)
	return &chain{clusters: []weightedCluster{{name: name}}, stat: name, pool: plan.PoolOf(c.r, name)}
}

func prefixText(ps []netip.Prefix) string {
	s := make([]string, len(ps))
	for i, p := range ps {
		s[i] = p.String()
	}
	return strings.Join(s, ",")
}

func autoPassthrough(r *view.Reader, s *plan.GatewayServer) []*chain {
	var out []*chain
	for _, name := range plan.SNINames(r, s) {
		out = append(out, &chain{sni: []string{name}, alpn: istioAll(), clusters: []weightedCluster{{name: name}}, stat: name, pool: plan.PoolOf(r, name)})
	}
	return out
}
