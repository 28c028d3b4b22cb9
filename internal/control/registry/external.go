package registry

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/tullemesh/tulle/internal/apis"
)

// entryServices reads a ServiceEntry: one service for each host.
func entryServices(o *apis.Object, spec *networking.ServiceEntry, opts Options) []*contribution {
	var out []*contribution
	for _, host := range spec.Hosts {
		host = strings.ToLower(host)
		if slices.ContainsFunc(out, func(c *contribution) bool { return c.service.Hostname == host }) {
			continue
		}
		s := &Service{
			Hostname: host, Name: host, Namespace: o.Key.Namespace, Labels: o.Labels, Created: o.Created, Cluster: opts.Cluster, Key: o.Key,
			External: spec.Location == networking.ServiceEntry_MESH_EXTERNAL, ExportTo: sortedCopy(spec.ExportTo),
			Accounts: spec.SubjectAltNames, Addresses: entryAddresses(spec.Addresses), Resolution: entryResolution(spec.Resolution),
		}
		if spec.WorkloadSelector != nil {
			s.Selector = spec.WorkloadSelector.Labels
		}
		for _, p := range spec.Ports {
			s.Ports = append(s.Ports, Port{Name: p.Name, Number: int(p.Number), Protocol: ParseProtocol(p.Protocol), Target: int(p.TargetPort)})
		}
		out = append(out, &contribution{service: s, object: o})
	}
	return out
}

func entryResolution(r networking.ServiceEntry_Resolution) Resolution {
	switch r {
	case networking.ServiceEntry_STATIC:
		return Static
	case networking.ServiceEntry_DNS:
		return DNS
	case networking.ServiceEntry_DNS_ROUND_ROBIN:
		return DNSRoundRobin
	}
	return Passthrough
}

func entryAddresses(list []string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		if a, err := netip.ParseAddr(s); err == nil {
			out = append(out, netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()))
		} else if p, err := netip.ParsePrefix(s); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out
}

// entryEndpoints makes the endpoints that a ServiceEntry itself names: inline
// ones, or the host name where it is to be resolved.
func (c *contribution) entryEndpoints(spec *networking.ServiceEntry, opts Options) []*Endpoint {
	s := c.service
	if len(spec.Endpoints) == 0 {
		if spec.WorkloadSelector != nil || s.Resolution != DNS && s.Resolution != DNSRoundRobin {
			return nil
		}
		var out []*Endpoint
		for i, p := range spec.Ports {
			out = append(out, &Endpoint{
				Service: s.Hostname, Namespace: s.Namespace, Port: int(p.Number), Host: s.Hostname, TargetPort: entryPort(p), Cluster: opts.Cluster,
				Weight: 1, WorkloadNamespace: s.Namespace, Workload: c.object.Key.Name, Ready: true, TLSMode: TLSModeDisabled,
				Key: c.object.Key, Path: "spec.ports[" + strconv.Itoa(i) + "]",
			})
		}
		return out
	}
	var out []*Endpoint
	for i, e := range spec.Endpoints {
		w := &instance{weight: max(1, e.Weight), tlsMode: entryTLSMode(e.Labels, e.ServiceAccount), Workload: &Workload{
			Namespace: s.Namespace, Owner: c.object.Key.Name + "-" + strconv.Itoa(i), Labels: e.Labels, Account: e.ServiceAccount,
			Locality: localityOf(e.Labels, e.Locality), Network: e.Network, Cluster: opts.Cluster, Ready: true,
		}}
		if w.Network == "" {
			w.Network = e.Labels[labelNetwork]
		}
		w.setAddress(e.Address)
		w.Ports = make(map[string]int, len(e.Ports))
		for name, n := range e.Ports {
			w.Ports[name] = int(n)
		}
		for _, ep := range c.entryInstance(spec, w) {
			ep.Key, ep.Path = c.object.Key, "spec.endpoints["+strconv.Itoa(i)+"]"
			out = append(out, ep)
		}
	}
	return out
}

// entryInstance makes the endpoints of one instance for every port: a socket
// has no port; else the instance's port of that name, the target port, the
// service port, in this order (Istio, ServiceEntry.endpoints.ports).
func (c *contribution) entryInstance(spec *networking.ServiceEntry, w *instance) []*Endpoint {
	var out []*Endpoint
	for _, p := range spec.Ports {
		e := w.endpoint(c.service, int(p.Number))
		switch n := w.Ports[p.Name]; {
		case w.pipe != "":
		case n > 0:
			e.TargetPort = n
		default:
			e.TargetPort = entryPort(p)
		}
		out = append(out, e)
	}
	return out
}

func entryPort(p *networking.ServicePort) int {
	if p.TargetPort > 0 {
		return int(p.TargetPort)
	}
	return int(p.Number)
}

func sortedCopy(list []string) []string {
	out := slices.Clone(list)
	slices.Sort(out)
	return slices.Compact(out)
}
