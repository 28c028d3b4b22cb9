package model

import (
	"net/netip"
	"slices"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/control/registry"
)

type workloadName struct{ namespace, name string }

// workloadIndex finds workloads, and what they serve.
type workloadIndex struct {
	byName map[workloadName]*registry.Workload
	byAddr map[netip.Addr]*registry.Workload
	// served are the endpoints of each workload; loose those of no known one.
	served map[apis.Key][]*registry.Endpoint
	loose  map[netip.Addr][]*registry.Endpoint
	// services is to resolve an endpoint's service.
	services map[ServiceKey]*registry.Service
}

// buildWorkloads indexes the Set; what did not change is taken from old.
func buildWorkloads(set *registry.Set, old *workloadIndex, sameWorkloads, sameEndpoints, sameServices bool) workloadIndex {
	x := workloadIndex{}
	if sameWorkloads {
		x.byName, x.byAddr = old.byName, old.byAddr
	} else {
		x.byName = make(map[workloadName]*registry.Workload, len(set.Workloads))
		x.byAddr = make(map[netip.Addr]*registry.Workload, len(set.Workloads))
		for _, w := range slices.Backward(set.Workloads) { // the first wins
			x.byName[workloadName{w.Namespace, w.Name}] = w
			for _, a := range w.Addresses {
				x.byAddr[a] = w
			}
		}
	}
	if sameServices {
		x.services = old.services
	} else {
		x.services = make(map[ServiceKey]*registry.Service, len(set.Services))
		for _, s := range set.Services {
			x.services[s.ID()] = s
		}
	}
	if sameEndpoints {
		x.served, x.loose = old.served, old.loose
		return x
	}
	x.served = make(map[apis.Key][]*registry.Endpoint, len(set.Workloads))
	x.loose = map[netip.Addr][]*registry.Endpoint{}
	for _, e := range set.Endpoints {
		if e.WorkloadKey != (apis.Key{}) {
			x.served[e.WorkloadKey] = append(x.served[e.WorkloadKey], e)
			continue
		}
		for _, a := range e.Addresses {
			// Many workloads of one machine share a loopback address.
			if !a.IsLoopback() {
				x.loose[a] = append(x.loose[a], e)
			}
		}
	}
	return x
}

func (x *workloadIndex) instances(w *registry.Workload) []Instance {
	if w == nil {
		return nil
	}
	out := x.resolve(nil, x.served[w.Key])
	return append(out, x.at(w.Namespace, w.Addresses)...)
}

func (x *workloadIndex) at(namespace string, addrs []netip.Addr) []Instance {
	var out []Instance
	for _, a := range addrs {
		for _, e := range x.loose[a] {
			if e.Namespace == namespace {
				out = x.resolve(out, []*registry.Endpoint{e})
			}
		}
	}
	return out
}

func (x *workloadIndex) resolve(out []Instance, list []*registry.Endpoint) []Instance {
	for _, e := range list {
		svc := x.services[ServiceKey{Namespace: e.Namespace, Hostname: e.Service}]
		if svc == nil {
			continue
		}
		for _, p := range svc.Ports {
			if p.Number == e.Port {
				out = append(out, Instance{Service: svc, Port: p, TargetPort: e.TargetPort, Endpoint: e})
			}
		}
	}
	return out
}
