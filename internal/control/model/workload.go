package model

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/control/registry"
)

// workloadIndex finds workloads. By name the Set's sorted list is searched.
type workloadIndex struct {
	list   []*registry.Workload
	byAddr map[netip.Addr]*registry.Workload // the first of those that share an address
}

// buildWorkloads indexes the Set's workloads; what did not change is taken from old.
func buildWorkloads(list []*registry.Workload, old *workloadIndex) workloadIndex {
	if slices.Equal(list, old.list) {
		return workloadIndex{list, old.byAddr}
	}
	x := workloadIndex{list: list, byAddr: maps.Clone(old.byAddr)}
	if x.byAddr == nil {
		x.byAddr = make(map[netip.Addr]*registry.Workload, len(list))
	}
	touched := map[netip.Addr]bool{}
	walk(old.list, list, compareWorkloads, func(a, b *registry.Workload) bool { return a == b }, func(w *registry.Workload) {
		for _, a := range w.Addresses {
			touched[a] = true
			delete(x.byAddr, a)
		}
	})
	for _, w := range list {
		for _, a := range w.Addresses {
			if touched[a] && x.byAddr[a] == nil {
				x.byAddr[a] = w
			}
		}
	}
	return x
}

// find is the first workload with this name: there may be a Pod and a WorkloadEntry.
func (x *workloadIndex) find(namespace, name string) *registry.Workload {
	i, _ := slices.BinarySearchFunc(x.list, &registry.Workload{Namespace: namespace, Name: name}, compareWorkloads)
	if i < len(x.list) && x.list[i].Namespace == namespace && x.list[i].Name == name {
		return x.list[i]
	}
	return nil
}

// instances lists what a workload serves. Services select within their
// namespace only, so only that is searched.
func (s *Snapshot) instances(namespace string, serves func(*registry.Endpoint) bool) []Instance {
	var out []Instance
	from, to := s.services.inNamespace(namespace)
	for i := from; i < to; i++ {
		svc := s.services.list[i]
		for _, e := range s.services.ends[i] {
			if !serves(e) {
				continue
			}
			for _, p := range svc.Ports {
				if p.Number == e.Port {
					out = append(out, Instance{Service: svc, Port: p, TargetPort: e.TargetPort, Endpoint: e})
				}
			}
		}
	}
	return out
}

// loose reports whether an endpoint of no known workload is at one of the
// addresses. Many workloads of one machine share a loopback address, so such
// an endpoint is nobody's.
func loose(e *registry.Endpoint, addrs []netip.Addr) bool {
	return e.WorkloadKey == (apis.Key{}) && slices.ContainsFunc(e.Addresses, func(a netip.Addr) bool { return !a.IsLoopback() && slices.Contains(addrs, a) })
}
