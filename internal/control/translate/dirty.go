package translate

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/control/translate/message"
	"github.com/tullemesh/tulle/internal/control/translate/plan"
	"github.com/tullemesh/tulle/internal/control/translate/view"
	"github.com/tullemesh/tulle/internal/match"
	"github.com/tullemesh/tulle/internal/wire"
)

// dirtyServicesMax is how many services of one change are looked at one by
// one; beyond it a whole type is dirty, which costs each stream one pass.
const dirtyServicesMax = 100

// Dirty says which resources may differ from those of the Snapshot that the
// predecessor translated, by type URL and name; "*" among the names stands for
// the whole type. all is true when nothing is known, as for any other Snapshot.
// It may name too much, never too little; a View that changed needs no mention.
func (t *Translator) Dirty(prev *model.Snapshot) (all bool, byType map[string]map[string]struct{}) {
	if prev == nil || t.dirty == nil || prev != t.before {
		return true, nil
	}
	return false, t.dirty.sent
}

// dirt is what a change touches.
type dirt struct {
	t, prev *Translator
	changes model.Changes
	// sent is what streams must look at; forgotten is what memory drops. They
	// differ where a type is small enough for streams to look at all of it.
	sent      map[string]map[string]struct{} // by type URL
	forgotten view.Forgotten
	hosts     map[string]struct{} // whose virtual hosts may differ
	// edits are rules that changed in their place: plans keep their shape, and
	// are edited instead of made anew. Nil: they are forgotten.
	edits map[*model.Rules]*model.Rules
}

// findDirt compares with the predecessor; nil: everything is dirty.
func findDirt(t, prev *Translator) *dirt {
	d := &dirt{
		t: t, prev: prev, changes: t.snap.Changed(prev.snap), hosts: make(map[string]struct{}),
		sent: make(map[string]map[string]struct{}),
	}
	if d.changes.All {
		return nil
	}
	c := &d.changes
	services := hostsOf(c.Services)
	endpoints := hostsOf(c.Endpoints)
	if len(services) > 0 {
		d.servicesChanged(services)
	}
	if len(endpoints) > 0 {
		d.endpointsChanged(endpoints)
	}
	if len(c.DestinationHosts) > 0 {
		d.destinationsChanged()
	}
	if len(c.RuleHosts) > 0 {
		d.rulesChanged()
	}
	if len(c.Gateways) > 0 || len(c.GatewayRules) > 0 {
		d.gatewaysChanged()
	}
	if len(c.ScopeNamespaces) > 0 {
		d.forget(view.TableNames, view.All)
	}
	if len(c.PeerNamespaces) > 0 {
		d.peersChanged()
	}
	for _, tb := range prev.mem.Overflown() {
		for _, u := range []string{wire.ClusterType, wire.EndpointType, wire.ListenerType, wire.RouteType, wire.VirtualHostType, wire.SecretType} {
			if tb == view.TableRoutes || view.TableOf(u) == tb {
				d.touch(u, view.All)
			}
		}
		d.forget(tb, view.All)
	}
	for key := range c.Secrets {
		for _, suffix := range []string{"", message.CASuffix} {
			d.touch(wire.SecretType, message.CredentialPrefix+key.Name+suffix)
		}
	}
	d.lists()
	return d
}

// lists makes memory drop the lists that hold something dirty. Those whose
// questions follow other plans or scopes now are not told apart.
func (d *dirt) lists() {
	for _, tb := range []view.Table{view.TableScope, view.TableRoutes, view.TableListen, view.TableGateway, view.TableClusters} {
		if len(d.forgotten[tb]) > 0 {
			d.forget(view.TableList, view.All)
			return
		}
	}
	for _, u := range []string{wire.ClusterType, wire.EndpointType, wire.ListenerType, wire.RouteType, wire.VirtualHostType, wire.SecretType, wire.NameTableType} {
		if len(d.sent[u])+len(d.forgotten[view.TableOf(u)]) > 0 {
			d.forget(view.TableList, u)
		}
	}
}

func hostsOf(keys map[model.ServiceKey]struct{}) map[string]struct{} {
	out := make(map[string]struct{}, len(keys))
	for k := range keys {
		out[k.Hostname] = struct{}{}
	}
	return out
}

// touch marks a resource for streams and memory.
func (d *dirt) touch(typeURL, name string) {
	d.send(typeURL, name)
	d.forget(view.TableOf(typeURL), name)
}

func (d *dirt) send(typeURL, name string) {
	if d.sent[typeURL] == nil {
		d.sent[typeURL] = make(map[string]struct{})
	}
	d.sent[typeURL][name] = struct{}{}
}

// forget makes memory drop a thing, or with view.All a table. The names of
// outbound clusters go with all other names.
func (d *dirt) forget(tb view.Table, name string) {
	if tb == view.TableNames {
		d.forget(view.TableClusters, name)
	}
	if d.forgotten[tb] == nil {
		d.forgotten[tb] = make(map[string]struct{})
	}
	d.forgotten[tb][name] = struct{}{}
}

// versions lists a host's services before and after the change.
func (d *dirt) versions(host string) []*registry.Service {
	var out []*registry.Service
	for _, s := range []*model.Snapshot{d.prev.snap, d.t.snap} {
		out = append(out, servicesNamed(s, host)...)
	}
	return out
}

func servicesNamed(s *model.Snapshot, host string) []*registry.Service {
	var out []*registry.Service
	for _, svc := range s.Services() {
		if svc.Hostname == host {
			out = append(out, svc)
		}
	}
	return out
}

// servicesMatching are the hosts of services that any of the hosts covers.
func (d *dirt) servicesMatching(hosts map[string]struct{}) map[string]struct{} {
	out := make(map[string]struct{})
	var wild []string
	for h := range hosts {
		out[h] = struct{}{}
		if match.Wildcard(h) {
			wild = append(wild, h)
		}
	}
	for _, s := range []*model.Snapshot{d.prev.snap, d.t.snap} {
		for _, svc := range s.Services() {
			if match.Wildcard(svc.Hostname) || len(wild) > 0 {
				for h := range hosts {
					if match.HostsOverlap(svc.Hostname, h) {
						out[svc.Hostname] = struct{}{}
					}
				}
			}
		}
	}
	return out
}

// clusters marks the clusters of hosts and their endpoints: every name that
// was ever asked for, and every name that exists now.
func (d *dirt) clusters(hosts map[string]struct{}) {
	if len(hosts) > dirtyServicesMax {
		for _, u := range []string{wire.ClusterType, wire.EndpointType} {
			d.touch(u, view.All)
		}
		return
	}
	mark := func(name string) {
		d.touch(wire.ClusterType, name)
		d.touch(wire.EndpointType, name)
	}
	for _, u := range []string{wire.ClusterType, wire.EndpointType} {
		for _, name := range d.prev.mem.Known(view.TableOf(u)) {
			if _, _, _, host, ok := plan.ParseCluster(name); ok && host != "" {
				if _, hit := hosts[host]; hit {
					mark(name)
				}
			}
		}
	}
	for host := range hosts {
		for _, svc := range servicesNamed(d.t.snap, host) {
			subsets := append(d.t.snap.Subsets(host), "")
			for _, p := range svc.Ports {
				for _, sub := range subsets {
					mark(wire.ClusterName(wire.Outbound, p.Number, sub, host))
					mark(wire.SNI(p.Number, sub, host))
				}
			}
		}
	}
}

// destinationsChanged follows changed rules to the clusters of their hosts, on both sides, and to the listeners that have their limits.
func (d *dirt) destinationsChanged() {
	d.forget(view.TableNames, view.All)
	d.clusters(d.servicesMatching(d.changes.DestinationHosts))
	for _, name := range d.prev.mem.Known(view.TableOf(wire.ClusterType)) {
		if direction, _, _, _, ok := plan.ParseCluster(name); ok && direction == wire.Inbound {
			d.touch(wire.ClusterType, name)
		}
	}
	if d.changes.TimedDestinations {
		d.touch(wire.ListenerType, view.All)
	}
	// Gateways that pass mutual TLS on have a chain for each subset.
	for _, name := range d.gatewayListeners() {
		d.touch(wire.ListenerType, name)
	}
}

func (d *dirt) servicesChanged(hosts map[string]struct{}) {
	d.forget(view.TableNames, view.All)
	d.forget(view.TableScope, view.All)
	d.forget(view.TableListen, view.All)
	d.touch(wire.NameTableType, plan.NameTable)
	d.clusters(hosts)
	d.send(wire.ListenerType, view.All)
	d.send(wire.RouteType, view.All)
	d.send(wire.VirtualHostType, view.All)
	ports := make(map[int]struct{})
	for host := range hosts {
		for _, svc := range d.versions(host) {
			if svc.Resolution == registry.Alias {
				// Rules anywhere may lead to it.
				d.touch(wire.RouteType, view.All)
				d.touch(wire.VirtualHostType, view.All)
				d.forget(view.TableRoutes, view.All)
			}
			for _, p := range svc.Ports {
				ports[p.Number] = struct{}{}
			}
		}
		d.related(host)
	}
	d.relatedByRules(hosts)
	d.relatedByAddress(hosts)
	d.routesOf(ports)
	d.listenersOf(ports)
	// Gateways lead to the only port of a service.
	d.gatewayRoutes()
}

// listenersOf makes memory drop the listeners that any service of these ports
// may share. Streams look at all of theirs.
func (d *dirt) listenersOf(ports map[int]struct{}) {
	for _, name := range d.prev.mem.Known(view.TableOf(wire.ListenerType)) {
		bind, portText, ok := cutLast(name, '_')
		port, err := strconv.Atoi(portText)
		if !ok || err != nil {
			continue
		}
		_, hit := ports[port]
		a, err := netip.ParseAddr(bind)
		// Listeners on the loopback have ports of their own choice.
		if hit || err == nil && a.IsLoopback() {
			d.forget(view.TableOf(wire.ListenerType), name)
		}
	}
	// Proxyless gRPC names listeners host:port.
	for _, name := range d.prev.mem.Known(view.TableOf(wire.ListenerType)) {
		if _, port, one := plan.SplitRouteName(name); one {
			if _, hit := ports[port]; hit {
				d.forget(view.TableOf(wire.ListenerType), name)
			}
		}
	}
	for _, name := range d.gatewayListeners() {
		d.forget(view.TableOf(wire.ListenerType), name)
	}
}

func cutLast(s string, sep byte) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, sep)
	if i < 0 {
		return "", "", false
	}
	return s[:i], s[i+1:], true
}

func (d *dirt) endpointsChanged(hosts map[string]struct{}) {
	d.clusters(hosts)
	headless := make(map[int]struct{})
	for h := range hosts {
		for _, svc := range d.versions(h) {
			if svc.Resolution == registry.Passthrough {
				for _, p := range svc.Ports {
					headless[p.Number] = struct{}{}
				}
			}
		}
	}
	if len(headless) == 0 {
		return
	}
	// Their endpoints have listeners and names of their own.
	d.forget(view.TableNames, view.All)
	d.forget(view.TableListen, view.All)
	d.touch(wire.NameTableType, plan.NameTable)
	d.send(wire.ListenerType, view.All)
	d.listenersOf(headless)
}

// rulesChanged follows changed rules to the services of their hosts.
func (d *dirt) rulesChanged() {
	d.forget(view.TableScope, view.All)
	if d.inPlace() {
		d.edits = d.changes.RuleEdits
	} else {
		d.forget(view.TableNames, view.All)
	}
	ports := make(map[int]struct{})
	hosts := d.servicesMatching(d.changes.RuleHosts)
	for h := range hosts {
		d.related(h)
		for _, svc := range d.versions(h) {
			for _, p := range svc.Ports {
				ports[p.Number] = struct{}{}
			}
		}
	}
	d.relatedByRules(d.changes.RuleHosts)
	// Hosts with rules take their domains before others do.
	d.relatedByAddress(hosts)
	d.routesOf(ports)
	if d.edits != nil {
		return
	}
	// The names of listeners do not depend on rules, but the plans hold them.
	d.forget(view.TableListen, view.All)
	for _, name := range d.prev.mem.Known(view.TableOf(wire.ListenerType)) {
		_, portText, _ := cutLast(name, '_')
		port, _ := strconv.Atoi(portText)
		a, err := netip.ParseAddr(strings.TrimSuffix(name, "_"+portText))
		if _, hit := ports[port]; hit || err == nil && a.IsLoopback() {
			d.touch(wire.ListenerType, name)
		}
	}
}

// inPlace reports whether the rules changed only in what their virtual hosts
// do with requests: names, domains and listeners stay as they are.
func (d *dirt) inPlace() bool {
	c := &d.changes
	if len(c.RuleEdits) == 0 || len(c.Services)+len(c.Endpoints)+len(c.GatewayRules)+len(c.Gateways)+len(c.ScopeNamespaces) > 0 || d.t.snap.HasSidecars() {
		return false
	}
	for old, now := range c.RuleEdits {
		// tls and tcp rules make listeners; rules without http make no host.
		if len(old.TLS)+len(old.TCP)+len(now.TLS)+len(now.TCP) > 0 || (len(old.HTTP) == 0) != (len(now.HTTP) == 0) {
			return false
		}
	}
	return true
}

// gatewaysChanged marks what gateways have. New listeners of a changed Gateway
// have names that nobody held, so there streams look at all of theirs.
func (d *dirt) gatewaysChanged() {
	d.forget(view.TableGateway, view.All)
	d.forget(view.TableNames, view.All)
	if len(d.changes.Gateways) > 0 {
		d.send(wire.ListenerType, view.All)
		d.touch(wire.SecretType, view.All)
		if d.autoPassthrough() {
			d.send(wire.ClusterType, view.All)
			d.send(wire.EndpointType, view.All)
		}
		for _, u := range []string{wire.ClusterType, wire.EndpointType} {
			for _, name := range d.prev.mem.Known(view.TableOf(u)) {
				if plan.IsSNI(name) {
					d.touch(u, name)
				}
			}
		}
	}
	for _, name := range d.gatewayListeners() {
		d.touch(wire.ListenerType, name)
	}
	d.gatewayRoutes()
}

// autoPassthrough reports whether a changed Gateway has, or had, clusters of
// its own.
func (d *dirt) autoPassthrough() bool {
	for name := range d.changes.Gateways {
		for _, s := range []*model.Snapshot{d.prev.snap, d.t.snap} {
			gw := s.Gateway(name)
			if gw != nil && slices.ContainsFunc(gw.Servers, func(x *model.Server) bool { return x.TLS != nil && x.TLS.Mode == "AUTO_PASSTHROUGH" }) {
				return true
			}
		}
	}
	return false
}

// gatewayListeners are the listeners that some gateway asked for.
func (d *dirt) gatewayListeners() []string {
	return d.prev.mem.KnownToRole(view.TableOf(wire.ListenerType), view.RoleGateway)
}

// peersChanged: only whether a namespace switches mutual TLS off reaches the
// callers' clusters; the inbound side is a part of the View.
func (d *dirt) peersChanged() {
	hosts := make(map[string]struct{})
	off := make(map[string]bool)
	for _, s := range []*model.Snapshot{d.prev.snap, d.t.snap} {
		for _, svc := range s.Services() {
			changed, known := off[svc.Namespace]
			if !known {
				before := d.prev.snap.PeerAuth(svc.Namespace, nil).Mode == model.MTLSDisable
				after := d.t.snap.PeerAuth(svc.Namespace, nil).Mode == model.MTLSDisable
				changed = before != after
				off[svc.Namespace] = changed
			}
			if changed {
				hosts[svc.Hostname] = struct{}{}
			}
		}
	}
	if len(hosts) > 0 {
		d.clusters(hosts)
	}
}

// editPlans puts new rules in the place of old ones in every plan of routes
// that was inherited.
func (d *dirt) editPlans() {
	if d.edits == nil {
		return
	}
	d.t.mem.Edit(view.TableRoutes, func(made any) any {
		if p, ok := made.(*plan.Routes); ok && p != nil {
			return p.Edited(d.t.mem, d.edits)
		}
		return made
	})
	d.edits = nil
}
