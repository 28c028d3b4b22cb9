package registry

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"
)

// endpoint makes an endpoint of an instance for one service port; the target
// port is the caller's to set.
func (i *instance) endpoint(s *Service, port int) *Endpoint {
	return &Endpoint{
		Service: s.Hostname, Namespace: s.Namespace, Port: port, Addresses: i.Addresses, Host: i.host, Pipe: i.pipe, Labels: i.Labels,
		Locality: i.Locality, Network: i.Network, Cluster: i.Cluster, Weight: i.weight, Account: i.Account, WorkloadNamespace: i.Namespace,
		Workload: i.Owner, Ready: i.Ready, TLSMode: i.tlsMode, Key: i.Key, WorkloadKey: i.Key,
	}
}

// endpointsOf makes all endpoints of a service from what its objects say and
// from the instances of its namespace. Those of a ServiceEntry that lost the
// host to a Kubernetes Service count too, for ports of the same name: that is
// how Istio lets virtual machines join a Kubernetes service.
func endpointsOf(s *Service, contributions []*contribution, ns *namespace, opts Options) []*Endpoint {
	var out []*Endpoint
	for _, c := range contributions {
		var list []*Endpoint
		if entry, ok := c.object.Spec.(*networking.ServiceEntry); ok {
			list = c.entryEndpoints(entry, opts)
			if entry.WorkloadSelector != nil {
				dns := c.service.Resolution == DNS || c.service.Resolution == DNSRoundRobin
				for _, i := range ns.selected(c.service.Selector) {
					if dns || !i.dnsOnly() {
						list = append(list, c.entryInstance(entry, i)...)
					}
				}
			}
		} else if s.Resolution != Alias {
			list = c.kubernetesEndpoints(ns, opts)
		}
		for _, e := range list {
			if s.has(c.service, e.Port) {
				out = append(out, e)
			}
		}
	}
	return finish(s, out)
}

// has reports whether the service has the port of a contribution, by number and name.
func (s *Service) has(c *Service, port int) bool {
	if s == c {
		return true
	}
	for _, p := range s.Ports {
		if p.Number == port {
			return slices.ContainsFunc(c.Ports, func(q Port) bool { return q.Number == port && q.Name == p.Name })
		}
	}
	return false
}

// kubernetesEndpoints are those of EndpointSlices where there are any, else of
// the selected Pods; WorkloadEntries that the selector takes come on top.
func (c *contribution) kubernetesEndpoints(ns *namespace, opts Options) []*Endpoint {
	var out []*Endpoint
	backings := ns.backings(c.service.Name)
	for _, b := range backings {
		out = append(out, c.backed(b, ns, opts)...)
	}
	if len(c.service.Selector) == 0 {
		return out
	}
	for _, i := range ns.selected(c.service.Selector) {
		if i.Key.Kind == "Pod" && len(backings) > 0 || i.dnsOnly() || len(i.Addresses) == 0 {
			continue
		}
		for _, p := range c.service.Ports {
			e := i.endpoint(c.service, p.Number)
			e.Ready = e.Ready || c.notReady
			if e.TargetPort = c.target(p, i); e.TargetPort > 0 {
				out = append(out, e)
			}
		}
	}
	return out
}

// target is the port of an instance: a WorkloadEntry may map the service
// port's name; a named target port is looked up; 0: the instance lacks it.
func (c *contribution) target(p Port, i *instance) int {
	if i.Key.Kind == "WorkloadEntry" {
		if n := i.Ports[p.Name]; n > 0 {
			return n
		}
	}
	if name := c.targets[p.Number]; name != "" {
		return i.Ports[name]
	}
	return p.Target
}

// backed makes the endpoints of one EndpointSlice. What is known of the Pod
// behind an address (labels, identity, locality) comes from the Pod.
func (c *contribution) backed(b backing, ns *namespace, opts Options) []*Endpoint {
	var out []*Endpoint
	for _, p := range c.service.Ports {
		number, ok := b.ports[p.Name]
		if !ok {
			continue
		}
		for _, a := range b.addresses {
			e := &Endpoint{
				Service: c.service.Hostname, Namespace: c.service.Namespace, Port: p.Number, Addresses: a.ips, TargetPort: number, Cluster: opts.Cluster,
				Weight: 1, WorkloadNamespace: c.service.Namespace, Locality: Locality{Zone: a.zone}, TLSMode: TLSModeDisabled,
			}
			if pod := ns.podAt(a); pod != nil {
				e = pod.endpoint(c.service, p.Number)
				e.Addresses, e.TargetPort = a.ips, number
				if e.Locality == (Locality{}) {
					e.Locality.Zone = a.zone
				}
			}
			e.Ready, e.Draining = a.ready || c.notReady, a.draining
			e.Key, e.Path = b.key, a.path
			out = append(out, e)
		}
	}
	return out
}

// finish sorts endpoints and drops repeated ones. A DNS_ROUND_ROBIN service
// has one endpoint for each port (Istio, ServiceEntry.resolution): the first.
func finish(s *Service, list []*Endpoint) []*Endpoint {
	if s.Resolution == DNSRoundRobin {
		seen := map[int]bool{}
		list = slices.DeleteFunc(list, func(e *Endpoint) bool {
			was := seen[e.Port]
			seen[e.Port] = true
			return was
		})
	}
	slices.SortStableFunc(list, compareEndpoints)
	return slices.CompactFunc(list, func(a, b *Endpoint) bool { return comparePlaces(a, b) == 0 })
}

// comparePlaces orders by what makes two endpoints the same one.
func comparePlaces(a, b *Endpoint) int {
	return cmp.Or(
		cmp.Compare(a.Port, b.Port),
		slices.CompareFunc(a.Addresses, b.Addresses, netip.Addr.Compare),
		strings.Compare(a.Host, b.Host),
		strings.Compare(a.Pipe, b.Pipe),
		cmp.Compare(a.TargetPort, b.TargetPort),
	)
}

func compareEndpoints(a, b *Endpoint) int {
	return cmp.Or(comparePlaces(a, b), a.Key.Compare(b.Key), strings.Compare(a.Path, b.Path))
}

// equal compares all fields.
func (e *Endpoint) equal(o *Endpoint) bool {
	return comparePlaces(e, o) == 0 && e.Service == o.Service && e.Namespace == o.Namespace && maps.Equal(e.Labels, o.Labels) &&
		e.Locality == o.Locality && e.Network == o.Network && e.Cluster == o.Cluster && e.Weight == o.Weight && e.Account == o.Account &&
		e.WorkloadNamespace == o.WorkloadNamespace && e.Workload == o.Workload && e.Ready == o.Ready && e.Draining == o.Draining &&
		e.TLSMode == o.TLSMode && e.Key == o.Key && e.Path == o.Path && e.WorkloadKey == o.WorkloadKey
}

// share replaces endpoints of list by equal ones of old, both sorted, so that
// unchanged endpoints keep their pointers. Old itself comes back when all are equal.
func share(list, old []*Endpoint) []*Endpoint {
	same := len(list) == len(old)
	for i, j := 0, 0; i < len(list) && j < len(old); {
		switch c := compareEndpoints(list[i], old[j]); {
		case c < 0:
			same = false
			i++
		case c > 0:
			same = false
			j++
		default:
			if list[i].equal(old[j]) {
				list[i] = old[j]
			} else {
				same = false
			}
			i++
			j++
		}
	}
	if same {
		return old
	}
	return list
}
