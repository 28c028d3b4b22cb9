package registry

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/tullemesh/tulle/internal/apis"
)

type labelPair struct{ name, value string }

// namespace is what one namespace holds: selectors and targets never reach
// beyond it (Kubernetes; Istio, ServiceEntry.workloadSelector).
type namespace struct {
	instances map[apis.Key]*instance
	entries   map[apis.Key]*apis.Object // WorkloadEntries, to read again when their template changes
	byLabel   map[labelPair]map[apis.Key]*instance
	byAddress map[netip.Addr]map[apis.Key]*instance // Pods
	templates map[string]map[apis.Key]*template     // by name of the workload
	slices    map[string]map[apis.Key][]backing     // by name of the Kubernetes Service
	sliceOf   map[apis.Key]string
	// interested are the services whose endpoints depend on instances, by host.
	interested map[string]interest
}

// interest says which instances a service depends on: those that a selector
// takes, and the Pods behind its EndpointSlices.
type interest struct {
	selectors []map[string]string
	backed    bool
}

func (n interest) in(i *instance) bool {
	if n.backed && i.Key.Kind == "Pod" {
		return true
	}
	return slices.ContainsFunc(n.selectors, func(s map[string]string) bool { return selects(s, i.Labels) })
}

func newNamespace() *namespace {
	return &namespace{
		instances: map[apis.Key]*instance{}, entries: map[apis.Key]*apis.Object{}, byLabel: map[labelPair]map[apis.Key]*instance{},
		byAddress: map[netip.Addr]map[apis.Key]*instance{}, templates: map[string]map[apis.Key]*template{},
		slices: map[string]map[apis.Key][]backing{}, sliceOf: map[apis.Key]string{}, interested: map[string]interest{},
	}
}

func (n *namespace) setInterest(hostname string, u *unit) {
	i := interest{}
	for _, c := range u.contributions {
		if len(c.service.Selector) > 0 {
			i.selectors = append(i.selectors, c.service.Selector)
		}
		if c.service.FromKubernetes && len(n.slices[c.service.Name]) > 0 {
			i.backed = true
		}
	}
	n.interested[hostname] = i
}

func (n *namespace) setTemplate(key apis.Key, o *apis.Object) {
	if o == nil {
		delete(n.templates[key.Name], key)
		return
	}
	if n.templates[key.Name] == nil {
		n.templates[key.Name] = map[apis.Key]*template{}
	}
	n.templates[key.Name][key] = templateOf(o)
}

// template is the pod template of this name; of several kinds, the first by kind.
func (n *namespace) template(name string) *template {
	var first apis.Key
	var t *template
	for key, candidate := range n.templates[name] {
		if t == nil || key.Compare(first) < 0 {
			first, t = key, candidate
		}
	}
	return t
}

// setInstance replaces an instance in the indexes.
func (n *namespace) setInstance(key apis.Key, old, next *instance) {
	if old != nil {
		delete(n.instances, key)
		for k, v := range old.Labels {
			drop(n.byLabel, labelPair{k, v}, key)
		}
		for _, a := range old.Addresses {
			drop(n.byAddress, a, key)
		}
	}
	if next != nil {
		n.instances[key] = next
		for k, v := range next.Labels {
			enter(n.byLabel, labelPair{k, v}, key, next)
		}
		if key.Kind == "Pod" {
			for _, a := range next.Addresses {
				enter(n.byAddress, a, key, next)
			}
		}
	}
}

func enter[K comparable](m map[K]map[apis.Key]*instance, at K, key apis.Key, i *instance) {
	if m[at] == nil {
		m[at] = map[apis.Key]*instance{}
	}
	m[at][key] = i
}

func drop[K comparable](m map[K]map[apis.Key]*instance, at K, key apis.Key) {
	delete(m[at], key)
	if len(m[at]) == 0 {
		delete(m, at)
	}
}

// selected lists the instances with all labels of the selector, by key. It
// looks only at those with the rarest of its labels.
func (n *namespace) selected(selector map[string]string) []*instance {
	var candidates map[apis.Key]*instance
	rarest := -1
	for k, v := range selector {
		if m := n.byLabel[labelPair{k, v}]; rarest < 0 || len(m) < rarest {
			candidates, rarest = m, len(m)
		}
	}
	var out []*instance
	for _, i := range candidates {
		if selects(selector, i.Labels) {
			out = append(out, i)
		}
	}
	slices.SortFunc(out, func(a, b *instance) int { return a.Key.Compare(b.Key) })
	return out
}

// setBackings replaces an EndpointSlice; it returns the services affected.
func (n *namespace) setBackings(key apis.Key, o *apis.Object) (services []string) {
	if name, ok := n.sliceOf[key]; ok {
		delete(n.slices[name], key)
		if len(n.slices[name]) == 0 {
			delete(n.slices, name)
		}
		delete(n.sliceOf, key)
		services = append(services, name)
	}
	if o == nil {
		return services
	}
	name, list := backingsOf(o)
	if name == "" {
		return services
	}
	if n.slices[name] == nil {
		n.slices[name] = map[apis.Key][]backing{}
	}
	n.slices[name][key] = list
	n.sliceOf[key] = name
	return append(services, name)
}

// backings lists those of a Kubernetes Service in order of their keys.
// EndpointSlices replace an Endpoints object of the same service, because
// Kubernetes mirrors one into the other.
func (n *namespace) backings(service string) []backing {
	objects := n.slices[service]
	keys := slices.SortedFunc(maps.Keys(objects), apis.Key.Compare)
	var out []backing
	for _, key := range keys {
		if key.Kind == "Endpoints" && slices.ContainsFunc(keys, func(k apis.Key) bool { return k.Kind == "EndpointSlice" }) {
			continue
		}
		out = append(out, objects[key]...)
	}
	return out
}

// podAt is the Pod behind an address: by name, else by IP; nil: not known.
func (n *namespace) podAt(a address) *instance {
	for key, i := range n.byAddress[a.ips[0]] {
		if a.pod == "" && len(n.byAddress[a.ips[0]]) == 1 || key.Name == a.pod {
			return i
		}
	}
	return nil
}
