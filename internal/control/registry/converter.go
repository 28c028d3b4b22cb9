package registry

import (
	"reflect"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"
	corev1 "k8s.io/api/core/v1"

	"github.com/tullemesh/tulle/internal/apis"
)

// Options are the facts that conversion needs and no object states.
type Options struct {
	DomainSuffix string // of Kubernetes services; "" means cluster.local
	Cluster      string // ID of the cluster that the objects belong to; "" means Kubernetes
}

func (o Options) withDefaults() Options {
	if o.DomainSuffix == "" {
		o.DomainSuffix = "cluster.local"
	}
	if o.Cluster == "" {
		o.Cluster = "Kubernetes"
	}
	return o
}

// ServiceKey names a service: a host may exist in several namespaces.
type ServiceKey struct{ Namespace, Hostname string }

// ID names the service.
func (s *Service) ID() ServiceKey { return ServiceKey{s.Namespace, s.Hostname} }

// change is one object that came (old nil), went (new nil) or was edited.
type change struct {
	key      apis.Key
	old, new *apis.Object
}

// unit is all that is known of one service.
type unit struct {
	key           ServiceKey
	contributions []*contribution // in order of precedence
	base          *Service        // without allocated address and aliases
	service       *Service        // as published
	published     *Service        // the base that service was made of
	endpoints     []*Endpoint
	problems      []conflict
	slots         int // contributions when addresses were allocated last
}

// converter turns objects into services, endpoints and workloads. It keeps what
// it has made, so that a change costs what it touches. Owned by its Store.
type converter struct {
	opts       Options
	namespaces map[string]*namespace
	units      map[ServiceKey]*unit
	made       map[apis.Key][]ServiceKey // units that an object contributes to

	// What the last apply must still publish.
	dirty         map[ServiceKey]struct{}
	servicesDirty bool
	workloads     map[apis.Key]struct{}

	// Published, sorted.
	order     []*unit
	instances []*Workload
}

func newConverter(opts Options) *converter {
	return &converter{
		opts: opts, namespaces: map[string]*namespace{}, units: map[ServiceKey]*unit{}, made: map[apis.Key][]ServiceKey{},
		dirty: map[ServiceKey]struct{}{}, workloads: map[apis.Key]struct{}{},
	}
}

func (c *converter) namespace(name string) *namespace {
	ns := c.namespaces[name]
	if ns == nil {
		ns = newNamespace()
		c.namespaces[name] = ns
	}
	return ns
}

// apply takes changed objects in and brings units and instances up to date.
// Templates come first, because WorkloadEntries read them.
func (c *converter) apply(changes []change) {
	entries := map[apis.Key]*apis.Object{}
	for _, ch := range changes {
		if isTemplate(ch.key.Kind) {
			ns := c.namespace(ch.key.Namespace)
			ns.setTemplate(ch.key, ch.new)
			key := apis.Key{Kind: "WorkloadEntry", Namespace: ch.key.Namespace, Name: ch.key.Name}
			if o := ns.entries[key]; o != nil {
				entries[key] = o
			}
		}
	}
	for _, ch := range changes {
		switch ch.key.Kind {
		case "Pod", "WorkloadEntry":
			delete(entries, ch.key)
			c.setInstance(ch.key, ch.new)
		case "EndpointSlice", "Endpoints":
			c.setBackings(ch)
		case "Service", "ServiceEntry":
			c.setService(ch)
		}
	}
	for key, o := range entries {
		c.setInstance(key, o)
	}
	for key := range c.dirty {
		c.rebuild(key)
	}
	clear(c.dirty)
}

func isTemplate(kind string) bool {
	switch kind {
	case "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet":
		return true
	}
	return false
}

// setInstance replaces a Pod or WorkloadEntry; o nil removes it.
func (c *converter) setInstance(key apis.Key, o *apis.Object) {
	ns := c.namespace(key.Namespace)
	var next *instance
	if o != nil {
		next = instanceOf(o, ns.template(key.Name), c.opts)
	}
	if key.Kind == "WorkloadEntry" {
		if o == nil {
			delete(ns.entries, key)
		} else {
			ns.entries[key] = o
		}
	}
	old := ns.instances[key]
	if old == nil && next == nil || old != nil && next != nil && old.equal(next) {
		return
	}
	c.workloads[key] = struct{}{}
	for _, i := range []*instance{old, next} {
		if i == nil {
			continue
		}
		for hostname, interest := range ns.interested {
			if interest.in(i) {
				c.dirty[ServiceKey{key.Namespace, hostname}] = struct{}{}
			}
		}
	}
	ns.setInstance(key, old, next)
}

// setBackings replaces an EndpointSlice or Endpoints object.
func (c *converter) setBackings(ch change) {
	ns := c.namespace(ch.key.Namespace)
	for _, name := range ns.setBackings(ch.key, ch.new) {
		c.dirty[ServiceKey{ch.key.Namespace, c.kubernetesHost(name, ch.key.Namespace)}] = struct{}{}
	}
}

func (c *converter) kubernetesHost(name, namespace string) string {
	return name + "." + namespace + ".svc." + c.opts.DomainSuffix
}

// setService replaces a Service or ServiceEntry.
func (c *converter) setService(ch change) {
	for _, key := range c.made[ch.key] {
		u := c.units[key]
		u.contributions = slices.DeleteFunc(slices.Clone(u.contributions), func(x *contribution) bool { return x.object.Key == ch.key })
		c.dirty[key] = struct{}{}
	}
	delete(c.made, ch.key)
	if ch.new == nil {
		return
	}
	var list []*contribution
	switch spec := ch.new.Spec.(type) {
	case *corev1.Service:
		list = []*contribution{kubernetesService(ch.new, spec, c.opts)}
	case *networking.ServiceEntry:
		list = entryServices(ch.new, spec, c.opts)
	}
	for _, x := range list {
		key := x.service.ID()
		u := c.units[key]
		if u == nil {
			u = &unit{key: key}
			c.units[key] = u
		}
		u.contributions = append(slices.Clone(u.contributions), x)
		slices.SortFunc(u.contributions, comparePrecedence)
		c.made[ch.key] = append(c.made[ch.key], key)
		c.dirty[key] = struct{}{}
	}
}

// rebuild brings one unit up to date. Equal parts keep their pointers.
func (c *converter) rebuild(key ServiceKey) {
	u := c.units[key]
	if u == nil {
		return
	}
	ns := c.namespace(key.Namespace)
	if len(u.contributions) == 0 {
		delete(c.units, key)
		delete(ns.interested, key.Hostname)
		c.servicesDirty = true
		return
	}
	base, problems := merge(u.contributions)
	if u.base == nil || !reflect.DeepEqual(u.base, base) || u.slots != len(u.contributions) {
		u.base, u.slots = base, len(u.contributions)
		c.servicesDirty = true
	}
	u.problems = problems
	u.endpoints = share(endpointsOf(base, u.contributions, ns, c.opts), u.endpoints)
	ns.setInterest(key.Hostname, u)
}

// publish gives the sorted lists of everything. Slices that did not change are
// the same as before.
func (c *converter) publish() (services []*Service, endpoints []*Endpoint, workloads []*Workload) {
	if c.servicesDirty {
		c.order = make([]*unit, 0, len(c.units))
		for _, u := range c.units {
			c.order = append(c.order, u)
		}
		slices.SortFunc(c.order, func(a, b *unit) int {
			if n := strings.Compare(a.key.Namespace, b.key.Namespace); n != 0 {
				return n
			}
			return strings.Compare(a.key.Hostname, b.key.Hostname)
		})
		complete(c.order)
		c.servicesDirty = false
	}
	total := 0
	for _, u := range c.order {
		total += len(u.endpoints)
	}
	services = make([]*Service, 0, len(c.order))
	endpoints = make([]*Endpoint, 0, total)
	for _, u := range c.order {
		services = append(services, u.service)
		endpoints = append(endpoints, u.endpoints...)
	}
	if len(c.workloads) > 0 {
		c.instances = c.patchWorkloads()
		clear(c.workloads)
	}
	return services, endpoints, c.instances
}

// patchWorkloads replaces the changed workloads in the sorted list.
func (c *converter) patchWorkloads() []*Workload {
	if len(c.workloads) > len(c.instances)/4 {
		var all []*Workload
		for _, ns := range c.namespaces {
			for _, i := range ns.instances {
				all = append(all, i.Workload)
			}
		}
		slices.SortFunc(all, compareWorkloads)
		return all
	}
	out := slices.Clone(c.instances)
	for key := range c.workloads {
		n, found := slices.BinarySearchFunc(out, &Workload{Namespace: key.Namespace, Name: key.Name, Key: key}, compareWorkloads)
		switch i := c.namespace(key.Namespace).instances[key]; {
		case found && i != nil:
			out[n] = i.Workload
		case found:
			out = slices.Delete(out, n, n+1)
		case i != nil:
			out = slices.Insert(out, n, i.Workload)
		}
	}
	return out
}

func compareWorkloads(a, b *Workload) int {
	if n := strings.Compare(a.Namespace, b.Namespace); n != 0 {
		return n
	}
	if n := strings.Compare(a.Name, b.Name); n != 0 {
		return n
	}
	return a.Key.Compare(b.Key)
}
