package validate

import (
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/tullemesh/tulle/internal/match"
)

func (c *checker) serviceEntry(se *networking.ServiceEntry) {
	if se.WorkloadSelector != nil {
		c.selectorLabels("spec.workloadSelector", "labels", se.WorkloadSelector.Labels, "it takes every workload of the namespace")
		if len(se.Endpoints) > 0 {
			c.errorf("spec.endpoints", "remove one of them", "endpoints can't stand beside workloadSelector")
		}
	}
	c.entryHosts(se)
	for i, a := range se.Addresses {
		at := index("spec", "addresses", i)
		c.check(at, subnetRule(a))
		if strings.Contains(a, "/") && se.Resolution != networking.ServiceEntry_NONE && se.Resolution != networking.ServiceEntry_STATIC {
			c.errorf(at, "use resolution NONE or STATIC, or single addresses", "ranges of addresses need resolution NONE or STATIC, found %s", se.Resolution)
		}
	}
	c.entryPorts(se)
	switch se.Resolution {
	case networking.ServiceEntry_NONE:
		if len(se.Endpoints) != 0 {
			c.errorf("spec.endpoints", "use resolution STATIC or DNS", "with resolution NONE connections go where they were going; endpoints have no use")
		}
		if se.WorkloadSelector != nil {
			c.warnf("spec.workloadSelector", "use resolution STATIC", "with resolution NONE the selected workloads have no use")
		}
	case networking.ServiceEntry_STATIC:
		for i, e := range se.Endpoints {
			c.workloadEntry(e, index("spec", "endpoints", i), portNames(se), false)
		}
	case networking.ServiceEntry_DNS, networking.ServiceEntry_DNS_ROUND_ROBIN:
		c.resolvedEndpoints(se)
	case networking.ServiceEntry_DYNAMIC_DNS:
		c.dynamicEntry(se)
	default:
		c.errorf("spec.resolution", "use NONE, STATIC, DNS or DNS_ROUND_ROBIN", "resolution %d is not known", se.Resolution)
	}
	if se.Resolution != networking.ServiceEntry_NONE && len(se.Hosts) > 1 {
		for i, p := range se.Ports {
			if word := protocol(p.GetProtocol()); !isHTTP(word) && !isTLS(word) {
				c.errorf(index("spec", "ports", i)+".protocol", "write one ServiceEntry for each host", "several hosts share a port whose protocol names no host")
				break
			}
		}
	}
	c.exportTo(se.ExportTo, true, false)
}

func (c *checker) entryHosts(se *networking.ServiceEntry) {
	if len(se.Hosts) == 0 {
		c.errorf("spec", "add hosts", "the service entry has no host")
	}
	for i, h := range se.Hosts {
		at := index("spec", "hosts", i)
		if h == "*" {
			c.errorf(at, "name the host", `host "*" would take all traffic`)
			continue
		}
		c.check(at, wildcardDomain(h))
		if partialWildcard(h) != nil && se.Resolution != networking.ServiceEntry_DYNAMIC_DNS {
			c.warnf(at, `write "*.example.com"`, "partial wildcard %q", h)
		}
	}
}

func portNames(se *networking.ServiceEntry) []string {
	names := []string{}
	for _, p := range se.Ports {
		if p != nil && !slices.Contains(names, p.Name) {
			names = append(names, p.Name)
		}
	}
	return names
}

func (c *checker) entryPorts(se *networking.ServiceEntry) {
	allocates := se.Resolution != networking.ServiceEntry_NONE && !strings.EqualFold(c.meta.Labels["networking.istio.io/enable-autoallocate-ip"], "false")
	var names []string
	var numbers []uint32
	for i, p := range se.Ports {
		at := index("spec", "ports", i)
		if p == nil {
			c.errorf(at, "remove it", "the port is empty")
			continue
		}
		if slices.Contains(names, p.Name) {
			c.errorf(at+".name", "rename one of them", "port name %q stands twice", p.Name)
		}
		if slices.Contains(numbers, p.Number) {
			c.errorf(at+".number", "remove one of them", "port %d stands twice", p.Number)
		}
		names, numbers = append(names, p.Name), append(numbers, p.Number)
		if p.TargetPort != 0 {
			c.check(at+".targetPort", portRule(int64(p.TargetPort)))
		}
		if len(se.Addresses) == 0 && !allocates && (p.Protocol == "" || p.Protocol == "TCP") {
			c.warnf(at, "add addresses", "without an address, TCP to this port takes all hosts of the port")
		}
		c.check(at+".name", portNameRule(p.Name))
		c.check(at+".protocol", protocolRule(p.Protocol))
		c.check(at+".number", portRule(int64(p.Number)))
	}
}

// resolvedEndpoints checks resolution DNS and DNS_ROUND_ROBIN.
func (c *checker) resolvedEndpoints(se *networking.ServiceEntry) {
	if len(se.Endpoints) == 0 {
		for i, h := range se.Hosts {
			if err := fqdn(h); err != nil {
				c.errorf(index("spec", "hosts", i), "write the full name, or add endpoints", "with resolution %s and no endpoints the host is looked up, but %s", se.Resolution, err)
				break
			}
		}
	}
	if se.Resolution == networking.ServiceEntry_DNS_ROUND_ROBIN && len(se.Endpoints) > 1 {
		c.errorf("spec.endpoints", "keep one, or use resolution DNS", "resolution DNS_ROUND_ROBIN takes one endpoint")
	}
	ports := portNames(se)
	for i, e := range se.Endpoints {
		at := index("spec", "endpoints", i)
		if e == nil {
			c.errorf(at, "remove it", "the endpoint is empty")
			continue
		}
		if !isAddress(e.Address) && fqdn(e.Address) != nil {
			c.errorf(at+".address", "write a DNS name or an address", "%q is neither a DNS name nor an address", e.Address)
		}
		c.labels(at+".labels", e.Labels)
		c.endpointPorts(at, e.Ports, ports)
	}
	if len(se.Addresses) > 0 && len(se.Hosts) > 1 && slices.ContainsFunc(se.Ports, func(p *networking.ServicePort) bool { return isTCP(protocol(p.GetProtocol())) }) {
		c.warnf("spec.hosts", "write one ServiceEntry for each host", "several hosts share an address and a TCP port")
	}
}

// dynamicEntry checks resolution DYNAMIC_DNS.
func (c *checker) dynamicEntry(se *networking.ServiceEntry) {
	for i, h := range se.Hosts {
		if !match.Wildcard(h) {
			c.errorf(index("spec", "hosts", i), `write "*.example.com", or use resolution DNS`, "resolution DYNAMIC_DNS is for wildcards, found %q", h)
		}
	}
	if len(se.Addresses) != 0 {
		c.errorf("spec.addresses", "remove them", "addresses have no use with resolution DYNAMIC_DNS")
	}
	if len(se.Endpoints) != 0 {
		c.errorf("spec.endpoints", "remove them", "endpoints have no use with resolution DYNAMIC_DNS")
	}
	for i, p := range se.Ports {
		if word := protocol(p.GetProtocol()); !slices.Contains([]string{"http", "tls", "grpc", "http2"}, word) {
			c.errorf(index("spec", "ports", i)+".protocol", "use HTTP, HTTP2, GRPC or TLS", "protocol %q carries no host name to look up", p.GetProtocol())
		}
	}
	waypoint := c.meta.Labels["istio.io/use-waypoint"]
	if se.Location == networking.ServiceEntry_MESH_INTERNAL && waypoint != "" && !strings.EqualFold(waypoint, "none") {
		c.errorf("spec.location", "use MESH_EXTERNAL", "MESH_INTERNAL with resolution DYNAMIC_DNS does not go with waypoints")
	}
}

// workloadEntry checks a workload that stands alone or is an endpoint. ports are the names that the service defines; nil: any.
func (c *checker) workloadEntry(we *networking.WorkloadEntry, at string, ports []string, names bool) {
	if we == nil {
		c.errorf(at, "remove it", "the endpoint is empty")
		return
	}
	socket, unix := strings.CutPrefix(we.Address, unixPrefix)
	switch {
	case we.Address == "" && we.Network == "":
		c.errorf(at, "add address", "the workload has no address")
		return
	case we.Address == "":
		c.warnf(at, "add address", "the workload has no address, only network %q", we.Network)
	case unix:
		c.check(at+".address", unixRule(socket))
		if len(we.Ports) != 0 {
			c.errorf(at+".ports", "remove them", "a unix socket has no ports")
		}
		if ports != nil && len(ports) != 1 {
			c.errorf(at+".address", "keep one port of the service", "a unix socket serves exactly one port, the service has %d", len(ports))
		}
	case isAddress(we.Address):
	case !names:
		c.errorf(at+".address", "write an address, or use resolution DNS", "%q is not an IP address, which resolution STATIC needs", we.Address)
	case fqdn(we.Address) != nil:
		c.errorf(at+".address", "write a DNS name or an address", "%q is neither a DNS name nor an address", we.Address)
	}
	c.endpointPorts(at, we.Ports, ports)
	c.labels(at+".labels", we.Labels)
}

func (c *checker) endpointPorts(at string, ports map[string]uint32, defined []string) {
	for _, name := range sortedKeys(ports) {
		path := child(at+".ports", name)
		if defined != nil && !slices.Contains(defined, name) {
			c.errorf(path, "use one of "+strings.Join(defined, ", "), "the service has no port named %q", name)
		}
		c.check(path, portNameRule(name))
		c.check(path, portRule(int64(ports[name])))
	}
}
