package validate

import (
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/tullemesh/tulle/internal/match"
)

const (
	kilobyte       = 1024
	bodyBytesMax   = 1024 * kilobyte // Istio's limit of a direct response
	bodyBytesGreat = 100 * kilobyte  // Istio warns above
)

func (c *checker) virtualService(vs *networking.VirtualService) {
	gatewayRoute := c.meta.Annotations["internal.istio.io/route-semantics"] == "gateway"
	if len(vs.Hosts) == 0 {
		c.delegateShape(vs)
	}
	onGateway := len(vs.Gateways) > 0 && !slices.Contains(vs.Gateways, meshGateway)
	if len(vs.Gateways) > 0 {
		c.gatewayNames("spec", vs.Gateways, gatewayRoute)
	}
	if !onGateway {
		c.claimsNeedGateway(vs)
	}
	c.hosts(vs, onGateway)
	if len(vs.Http) == 0 && len(vs.Tcp) == 0 && len(vs.Tls) == 0 {
		c.errorf("spec", "add an http, tls or tcp section", "the virtual service has no route")
	}
	for i, r := range vs.Http {
		c.httpRoute(index("spec", "http", i), r, len(vs.Hosts) == 0, gatewayRoute)
	}
	for i, r := range vs.Tls {
		c.tlsRoute(index("spec", "tls", i), r, vs, onGateway, gatewayRoute)
	}
	for i, r := range vs.Tcp {
		c.tcpRoute(index("spec", "tcp", i), r, gatewayRoute)
	}
	c.exportTo(vs.ExportTo, false, false)
	c.unreachable(vs)
}

// delegateShape checks a virtual service without hosts, which another one delegates to.
func (c *checker) delegateShape(vs *networking.VirtualService) {
	const hint = "remove it, or add hosts"
	if len(vs.Gateways) != 0 {
		c.errorf("spec.gateways", hint, "a virtual service without hosts is a delegate and has no gateways")
	}
	if len(vs.Tls) != 0 {
		c.errorf("spec.tls", hint, "a virtual service without hosts is a delegate and has no tls routes")
	}
	if len(vs.Tcp) != 0 {
		c.errorf("spec.tcp", hint, "a virtual service without hosts is a delegate and has no tcp routes")
	}
}

func (c *checker) claimsNeedGateway(vs *networking.VirtualService) {
	for i, r := range vs.Http {
		for j, m := range r.GetMatch() {
			at := index(index("spec", "http", i), "match", j)
			for field, headers := range map[string]map[string]*networking.StringMatch{"headers": m.GetHeaders(), "withoutHeaders": m.GetWithoutHeaders()} {
				for _, name := range sortedKeys(headers) {
					if claimHeader(name) {
						c.errorf(child(at+"."+field, name), "bind the virtual service to a gateway", "routing by JWT claims works at gateways only")
					}
				}
			}
		}
	}
}

func (c *checker) hosts(vs *networking.VirtualService, onGateway bool) {
	valid, bySNI := true, false
	for _, t := range vs.Tls {
		bySNI = bySNI || slices.ContainsFunc(t.GetMatch(), func(m *networking.TLSMatchAttributes) bool { return len(m.GetSniHosts()) > 0 })
	}
	for i, h := range vs.Hosts {
		at, err := index("spec", "hosts", i), wildcardDomain(h)
		if onGateway {
			err = gatewayDomain(bySNI, h)
		}
		switch {
		case err != nil && !isAddress(h):
			c.check(at, err)
			valid = false
		case err == nil && !onGateway && h == "*":
			c.errorf(at, `name the host, or bind the virtual service to a gateway`, `host "*" would take all traffic of the mesh`)
			valid = false
		}
	}
	if !valid {
		return
	}
	for i, a := range vs.Hosts {
		for j := i + 1; j < len(vs.Hosts); j++ {
			if match.HostsOverlap(a, vs.Hosts[j]) {
				c.errorf(index("spec", "hosts", j), "remove one of them", "hosts %q and %q overlap", a, vs.Hosts[j])
			}
		}
	}
}

// gatewayNames checks references to gateways. A name without a namespace must be the last that is looked at, as in Istio.
func (c *checker) gatewayNames(base string, names []string, gatewayRoute bool) {
	for i, name := range names {
		at := index(base, "gateways", i)
		namespace, gateway, found := strings.Cut(name, "/")
		if !found {
			if strings.Contains(name, ".") {
				p := strings.Split(name, ".")
				c.warnf(at, `write "`+p[1]+"/"+p[0]+`"`, "%q is the old form of a gateway's name", name)
			}
			c.check(at, fqdn(name))
			return
		}
		switch {
		case namespace == "" || gateway == "":
			c.errorf(at, `the form is "namespace/name"`, "%q lacks the namespace or the name", name)
		case !isLabel(namespace):
			c.errorf(at, `the form is "namespace/name"`, "%q is not a namespace", namespace)
		case !isLabel(gateway) && !gatewayRoute:
			c.errorf(at, `the form is "namespace/name"`, "%q is not the name of a gateway", gateway)
		}
	}
}

func (c *checker) tlsRoute(at string, r *networking.TLSRoute, vs *networking.VirtualService, onGateway, gatewayRoute bool) {
	if r == nil {
		return
	}
	if len(r.Match) == 0 {
		c.errorf(at, "add match with sniHosts", "a tls route needs a match")
	}
	for i, m := range r.Match {
		c.tlsMatch(index(at, "match", i), m, vs, onGateway)
	}
	if len(r.Route) == 0 {
		c.errorf(at, "add route", "the route has no destination")
	}
	c.routeDestinations(at, r.Route, gatewayRoute)
}

func (c *checker) tlsMatch(at string, m *networking.TLSMatchAttributes, vs *networking.VirtualService, onGateway bool) {
	if m == nil {
		c.errorf(at, "remove it", "the match is empty")
		return
	}
	if len(m.SniHosts) == 0 {
		c.errorf(at, "add sniHosts", "a tls match needs a server name")
	}
	for i, sni := range m.SniHosts {
		c.sniHost(index(at, "sniHosts", i), sni, vs.Hosts, onGateway)
	}
	for i, s := range m.DestinationSubnets {
		c.check(index(at, "destinationSubnets", i), subnetRule(s))
	}
	if m.Port != 0 {
		c.check(at+".port", portRule(int64(m.Port)))
	}
	c.labels(at+".sourceLabels", m.SourceLabels)
	c.gatewayNames(at, m.Gateways, false)
}

func (c *checker) sniHost(at, sni string, hosts []string, onGateway bool) {
	err := wildcardDomain(sni)
	if onGateway {
		err = gatewayDomain(true, sni)
	}
	switch {
	case err != nil && isAddress(sni):
		c.warnf(at, "use the host's name", "%q is an address, which clients do not send as a server name", sni)
	case err != nil:
		c.check(at, err)
	case !slices.ContainsFunc(hosts, func(h string) bool { return match.HostWithin(sni, h) }):
		c.errorf(at, "add it to hosts", "%q is not covered by the virtual service's hosts %s", sni, quoteList(hosts))
	}
}

func (c *checker) tcpRoute(at string, r *networking.TCPRoute, gatewayRoute bool) {
	if r == nil {
		return
	}
	for i, m := range r.Match {
		path := index(at, "match", i)
		if m == nil {
			c.errorf(path, "remove it", "the match is empty")
			continue
		}
		for j, s := range m.DestinationSubnets {
			c.check(index(path, "destinationSubnets", j), subnetRule(s))
		}
		if m.Port != 0 {
			c.check(path+".port", portRule(int64(m.Port)))
		}
		c.labels(path+".sourceLabels", m.SourceLabels)
		c.gatewayNames(path, m.Gateways, false)
	}
	if len(r.Route) == 0 {
		c.errorf(at, "add route", "the route has no destination")
	}
	c.routeDestinations(at, r.Route, gatewayRoute)
}

func (c *checker) routeDestinations(at string, routes []*networking.RouteDestination, gatewayRoute bool) {
	total := int64(0)
	for i, r := range routes {
		path := index(at, "route", i)
		c.weighted(path, r.GetDestination(), r.GetWeight(), gatewayRoute)
		total += int64(r.GetWeight())
	}
	c.weights(at, len(routes), total)
}

func (c *checker) weighted(at string, d *networking.Destination, weight int32, gatewayRoute bool) {
	if d == nil {
		c.errorf(at, "add destination with a host", "the route has no destination")
	}
	if !gatewayRoute {
		c.destination(at+".destination", d)
	}
	if weight < 0 {
		c.errorf(at+".weight", "write 0 or more", "weight %d is negative", weight)
	}
}

func (c *checker) weights(at string, routes int, total int64) {
	if routes > 1 && total == 0 {
		c.errorf(at+".route", "give one of them a weight", "the weights of all destinations are 0")
	}
}
