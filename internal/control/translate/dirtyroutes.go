package translate

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/control/translate/plan"
	"github.com/tullemesh/tulle/internal/control/translate/view"
	"github.com/tullemesh/tulle/internal/match"
	"github.com/tullemesh/tulle/internal/wire"
)

// related adds hosts whose domains may clash with a host's: short forms are
// cut off at a dot.
func (d *dirt) related(host string) { d.hosts[host] = struct{}{} }

// relatedByRules adds the hosts that stand beside one of the hosts in a rule:
// such a rule's other hosts come and go with the services of the first.
func (d *dirt) relatedByRules(hosts map[string]struct{}) {
	for _, s := range []*model.Snapshot{d.prev.snap, d.t.snap} {
		for _, x := range s.Rules() {
			if !slices.ContainsFunc(x.Hosts, func(rh string) bool {
				for h := range hosts {
					if match.HostsOverlap(rh, h) {
						return true
					}
				}
				return false
			}) {
				continue
			}
			for _, rh := range x.Hosts {
				d.related(rh)
			}
		}
	}
}

// relatedByAddress adds the hosts that share an address with one of the hosts.
func (d *dirt) relatedByAddress(hosts map[string]struct{}) {
	taken := make(map[netip.Addr]struct{})
	addresses := func(svc *registry.Service) []netip.Addr {
		out := []netip.Addr{svc.AutoAddress}
		for _, p := range svc.Addresses {
			out = append(out, p.Addr())
		}
		return out
	}
	for h := range hosts {
		for _, svc := range d.versions(h) {
			for _, a := range addresses(svc) {
				taken[a] = struct{}{}
			}
		}
	}
	delete(taken, netip.Addr{})
	if len(taken) == 0 {
		return
	}
	for _, s := range []*model.Snapshot{d.prev.snap, d.t.snap} {
		for _, svc := range s.Services() {
			for _, a := range addresses(svc) {
				if _, hit := taken[a]; hit {
					d.related(svc.Hostname)
				}
			}
		}
	}
}

// clashes reports whether a virtual host's name belongs to a related host: the
// host itself, a short form or long form of it, or a wildcard about it.
func (d *dirt) clashes(host string) bool {
	if _, hit := d.hosts[host]; hit {
		return true
	}
	for h := range d.hosts {
		if strings.HasPrefix(h, host+".") || strings.HasPrefix(host, h+".") || match.HostsOverlap(h, host) {
			return true
		}
	}
	return false
}

// routesOf marks the route configurations of ports and, in them, the virtual
// hosts of related hosts: those that were, and those that are.
func (d *dirt) routesOf(ports map[int]struct{}) {
	ports[80] = struct{}{} // hosts without a service are on port 80
	touched := func(rc string) bool {
		if rc == plan.HTTPProxyRoutes {
			return true
		}
		_, port, _ := plan.SplitRouteName(rc)
		if _, p, _, _, ok := wire.ParseClusterName(rc); ok {
			port = p
		}
		_, hit := ports[port]
		return hit
	}
	for _, tb := range []view.Table{view.TableRoutes, view.TableOf(wire.RouteType)} {
		for _, rc := range d.prev.mem.Known(tb) {
			if touched(rc) {
				if d.edits == nil {
					d.forget(view.TableRoutes, rc)
				}
				d.touch(wire.RouteType, rc)
			}
		}
	}
	for p := range ports {
		d.touch(wire.RouteType, strconv.Itoa(p))
	}
	d.touch(wire.RouteType, plan.HTTPProxyRoutes)
	for _, name := range d.prev.mem.Known(view.TableOf(wire.VirtualHostType)) {
		rc, vh, _ := strings.Cut(name, "/")
		if !touched(rc) {
			continue
		}
		host, _, _ := plan.SplitRouteName(vh)
		if host == "" || d.clashes(host) {
			d.touch(wire.VirtualHostType, name)
		}
	}
	for h := range d.hosts {
		for p := range ports {
			port := strconv.Itoa(p)
			for _, rc := range []string{port, h + ":" + port, plan.HTTPProxyRoutes} {
				d.touch(wire.RouteType, rc)
				d.touch(wire.VirtualHostType, wire.VirtualHostResourceName(rc, h+":"+port))
			}
		}
	}
}

func (d *dirt) gatewayRoutes() {
	isGateway := func(name string) bool { return strings.HasPrefix(name, "http.") || strings.HasPrefix(name, "https.") }
	for _, tb := range []view.Table{view.TableRoutes, view.TableOf(wire.RouteType)} {
		for _, name := range d.prev.mem.Known(tb) {
			if isGateway(name) {
				d.forget(view.TableRoutes, name)
				d.touch(wire.RouteType, name)
			}
		}
	}
	for _, name := range d.prev.mem.Known(view.TableOf(wire.VirtualHostType)) {
		if isGateway(name) {
			d.touch(wire.VirtualHostType, name)
		}
	}
	if len(d.changes.Gateways) > 0 || len(d.changes.GatewayRules) > 0 {
		// Virtual hosts that did not exist before, for those who take them
		// one by one.
		d.send(wire.VirtualHostType, view.All)
	}
}
