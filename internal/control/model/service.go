package model

import (
	"slices"
	"sort"
	"strings"

	"github.com/tullemesh/tulle/internal/control/registry"
)

// serviceIndex finds services by host and by who may see them.
type serviceIndex struct {
	byHost map[string][]*registry.Service // oldest first
	views  map[string]*serviceView        // by client namespace; "": every other one
	list   []*registry.Service            // the Set's order
	index  map[ServiceKey]int             // within list
	// ends[i] are the endpoints of list[i]; nil in scopes, which outlive them.
	ends [][]*registry.Endpoint
}

// serviceView is what clients of one namespace see.
type serviceView struct {
	seen   []*registry.Service // exported ones, then public ones, by age
	list   []*registry.Service // of seen, one for each host
	byHost map[string]*registry.Service
}

// buildServices indexes the Set's services; old is reused when no service changed.
func buildServices(set *registry.Set, mesh *Mesh, old *serviceIndex, same bool) serviceIndex {
	x := serviceIndex{list: set.Services, ends: endpointRanges(set)}
	if same {
		x.byHost, x.views, x.index = old.byHost, old.views, old.index
		return x
	}
	x.index = make(map[ServiceKey]int, len(set.Services))
	for i, s := range set.Services {
		x.index[s.ID()] = i
	}
	aged := slices.Clone(set.Services)
	slices.SortStableFunc(aged, compareServices)
	x.byHost = make(map[string][]*registry.Service, len(aged))
	for _, s := range aged {
		x.byHost[s.Hostname] = append(x.byHost[s.Hostname], s)
	}
	x.views = buildViews(aged, x.byHost, mesh)
	if old != nil {
		for ns, v := range x.views {
			if was := old.views[ns]; was != nil && slices.Equal(was.seen, v.seen) {
				x.views[ns] = was
			}
		}
	}
	return x
}

// compareServices is Istio's order: creation, name, namespace.
func compareServices(a, b *registry.Service) int {
	if n := a.Created.Compare(b.Created); n != 0 {
		return n
	}
	if n := strings.Compare(a.Name, b.Name); n != 0 {
		return n
	}
	return strings.Compare(a.Namespace, b.Namespace)
}

// endpointRanges finds each service's part of the Set's endpoints, which stand
// in the order of the services.
func endpointRanges(set *registry.Set) [][]*registry.Endpoint {
	ends := make([][]*registry.Endpoint, len(set.Services))
	rest := set.Endpoints
	for i, s := range set.Services {
		n := 0
		for n < len(rest) && rest[n].Service == s.Hostname && rest[n].Namespace == s.Namespace {
			n++
		}
		ends[i], rest = rest[:n:n], rest[n:]
	}
	return ends
}

// all lists the endpoints of a service.
func (x *serviceIndex) all(id ServiceKey) []*registry.Endpoint {
	if i, ok := x.index[id]; ok {
		return x.ends[i]
	}
	return nil
}

// inNamespace is the range of the services of a namespace within list.
func (x *serviceIndex) inNamespace(ns string) (from, to int) {
	from = sort.Search(len(x.list), func(i int) bool { return x.list[i].Namespace >= ns })
	to = from + sort.Search(len(x.list)-from, func(i int) bool { return x.list[from+i].Namespace > ns })
	return from, to
}

// buildViews makes a view for each namespace that sees something of its own:
// services exported to it, or its own service for a host that others have too.
// All others share one.
func buildViews(aged []*registry.Service, byHost map[string][]*registry.Service, mesh *Mesh) map[string]*serviceView {
	var public []*registry.Service
	exported := map[string][]*registry.Service{}
	special := map[string]bool{"": true}
	for _, s := range aged {
		to := s.ExportTo
		if len(to) == 0 {
			to = mesh.ServiceExportTo
		}
		switch {
		case slices.Contains(to, "*"):
			public = append(public, s)
		case slices.Contains(to, "~"):
		default:
			for _, ns := range resolveExportTo(to, nil, s.Namespace) {
				exported[ns] = append(exported[ns], s)
				special[ns] = true
			}
		}
		if len(byHost[s.Hostname]) > 1 {
			special[s.Namespace] = true
		}
	}
	views := make(map[string]*serviceView, len(special))
	for ns := range special {
		views[ns] = newView(slices.Concat(exported[ns], public), ns)
	}
	return views
}

// newView chooses one service for each host: the namespace's own, else a
// Kubernetes one, else the first.
func newView(list []*registry.Service, ns string) *serviceView {
	v := &serviceView{seen: list, byHost: make(map[string]*registry.Service, len(list))}
	for _, s := range list {
		have := v.byHost[s.Hostname]
		if have == nil || s.Namespace == ns && have.Namespace != ns || have.Namespace != ns && s.FromKubernetes && !have.FromKubernetes {
			v.byHost[s.Hostname] = s
		}
	}
	v.list = make([]*registry.Service, 0, len(v.byHost))
	for _, s := range list {
		if v.byHost[s.Hostname] == s {
			v.list = append(v.list, s)
		}
	}
	return v
}

func (x *serviceIndex) view(ns string) *serviceView {
	if v := x.views[ns]; v != nil {
		return v
	}
	return x.views[""]
}

// special reports whether a namespace sees services of its own.
func (x *serviceIndex) special(ns string) bool { return ns != "" && x.views[ns] != nil }

func (x *serviceIndex) visible(ns string) []*registry.Service { return x.view(ns).list }

// choose prefers a namespace, then Kubernetes, then age.
func (x *serviceIndex) choose(host, prefer string) *registry.Service {
	var best *registry.Service
	for _, s := range x.byHost[host] {
		if s.Namespace == prefer {
			return s
		}
		if best == nil || s.FromKubernetes && !best.FromKubernetes {
			best = s
		}
	}
	return best
}

// chooseVisible is the service that clients of a namespace reach under a host.
func (x *serviceIndex) chooseVisible(host, ns string) *registry.Service {
	return x.view(ns).byHost[host]
}

func (x *serviceIndex) endpoints(svc *registry.Service, port int) []*registry.Endpoint {
	if svc == nil {
		return nil
	}
	all := x.all(svc.ID())
	from := sort.Search(len(all), func(i int) bool { return all[i].Port >= port })
	to := from
	for to < len(all) && all[to].Port == port {
		to++
	}
	return all[from:to:to]
}
