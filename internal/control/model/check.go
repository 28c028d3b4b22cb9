package model

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/apis/problem"
	"github.com/tullemesh/tulle/internal/apis/schema"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/match"
)

// errSpec is a defect of ours: an object whose Spec is not of its kind's type.
var errSpec = errors.New("the object's content is not of its kind")

// finding is a problem whose position is not joined yet.
type finding struct {
	origin  Origin
	code    string
	level   apis.Level
	message string
	hint    string
	effect  string
}

// checks are the findings of a Snapshot, by check, kept so that the next one
// repeats only the checks whose input changed.
type checks struct {
	rules, hosts, destinations, sidecars, overlaps, peers, credentials []finding
	byRule                                                             map[*virtualService][]finding
	refused                                                            map[apis.Key]bool // Gateways that are written, but refused
}

func (c *checks) all() []finding {
	return slices.Concat(c.rules, c.hosts, c.destinations, c.sidecars, c.overlaps, c.peers, c.credentials)
}

// check looks for dangling references and conflicts.
func check(s, prev *Snapshot) checks {
	var c checks
	known := prev != nil
	if !known {
		prev = &Snapshot{set: &registry.Set{}}
	}
	sameServices := known && slices.Equal(s.set.Services, prev.set.Services)
	sameRules := known && sameParts(s.parts.virtualServices, prev.parts.virtualServices)
	sameDestinations := known && sameParts(s.parts.destinationRules, prev.parts.destinationRules)
	sameSidecars := known && sameParts(s.parts.sidecars, prev.parts.sidecars)
	sameWorkloads := known && slices.Equal(s.set.Workloads, prev.set.Workloads)
	c = prev.checks
	c.refused = refusedGateways(s.set.Problems)
	sameGateways := known && sameParts(s.parts.gateways, prev.parts.gateways) && maps.Equal(c.refused, prev.checks.refused)
	switch {
	case !sameServices || !sameDestinations || !sameGateways:
		c.checkRules(s, nil)
	case !sameRules:
		c.checkRules(s, prev.checks.byRule)
	}
	if !sameRules {
		c.hosts = meshConflicts(s)
	}
	if !sameServices || !sameDestinations {
		c.destinations = checkDestinationRules(s)
	}
	if !sameSidecars {
		c.sidecars = checkSidecars(s)
	}
	if !sameSidecars || len(s.parts.sidecars) > 1 && !sameWorkloads {
		c.overlaps = sidecarOverlaps(s)
	}
	if !known || !sameParts(s.parts.peers, prev.parts.peers) {
		c.peers = checkPeers(s)
	}
	if !sameGateways || !sameWorkloads || !sameParts(s.parts.secrets, prev.parts.secrets) {
		c.credentials = checkCredentials(s)
	}
	return c
}

// checkRules checks every VirtualService, except those whose findings are in reuse.
func (c *checks) checkRules(s *Snapshot, reuse map[*virtualService][]finding) {
	c.rules, c.byRule = nil, make(map[*virtualService][]finding, len(s.parts.virtualServices))
	for _, m := range s.parts.virtualServices {
		if m.err != nil {
			c.rules = append(c.rules, notConverted(m.object.Key, m.err))
			continue
		}
		found, done := reuse[m.value]
		if !done {
			found = c.checkVirtualService(s, m.value)
		}
		c.byRule[m.value] = found
		c.rules = append(c.rules, found...)
	}
}

func refusedGateways(problems []apis.Problem) map[apis.Key]bool {
	out := map[apis.Key]bool{}
	for _, p := range problems {
		if p.Key.Kind == "Gateway" && p.Refuses() {
			out[p.Key] = true
		}
	}
	return out
}

func notConverted(key apis.Key, err error) finding {
	return finding{Origin{Key: key, Path: "spec"}, problem.CodeNotConverted, apis.LevelError, err.Error(), "", "the object counts as absent"}
}

func (c *checks) checkVirtualService(s *Snapshot, vs *virtualService) []finding {
	var out []finding
	clients := []string{vs.rules.Origin.Key.Namespace}
	if !slices.Contains(vs.rules.ExportTo, "*") {
		clients = vs.rules.ExportTo
	}
	for _, r := range vs.rules.HTTP {
		out = append(out, checkDestinations(s, r.Destinations, clients)...)
	}
	for _, r := range slices.Concat(vs.rules.TLS, vs.rules.TCP) {
		out = append(out, checkDestinations(s, r.Destinations, clients)...)
	}
	if len(vs.rules.Hosts) == 0 {
		return out // a delegate is bound where its root is
	}
	for _, g := range vs.rules.Gateways {
		if g != MeshGateway {
			out = append(out, c.checkGateway(s, vs.rules, g)...)
		}
	}
	return out
}

// checkDestinations looks destinations up as clients of the namespaces do that
// the rules are for: their own, or those of exportTo.
func checkDestinations(s *Snapshot, list []Destination, clients []string) []finding {
	var out []finding
	for _, d := range list {
		at := Origin{Key: d.Origin.Key, Path: d.Origin.Path + ".destination.host"}
		namespace := d.Origin.Key.Namespace
		var svc *registry.Service
		for _, client := range clients {
			if svc = s.serviceFor(d.Host, client); svc == nil {
				f := finding{at, problem.CodeNotFound, apis.LevelError, fmt.Sprintf("no service has the host %q", d.Host), s.nearHost(d.Host, namespace),
					"requests that this rule takes are answered with 503"}
				if s.serviceFor(d.Host, namespace) != nil {
					f.message = fmt.Sprintf("no service that namespace %s can see has the host %q", client, d.Host)
					f.hint = "export the service to the namespaces that the rules are exported to"
				}
				out = append(out, f)
				break
			}
		}
		if svc == nil {
			continue
		}
		out = append(out, checkPort(svc, d, at)...)
		if d.Subset != "" && !s.hasSubset(d.Host, d.Subset, namespace) {
			out = append(out, finding{Origin{Key: d.Origin.Key, Path: d.Origin.Path + ".destination.subset"}, problem.CodeNotFound, apis.LevelError,
				fmt.Sprintf("no DestinationRule defines subset %q of host %q", d.Subset, d.Host), s.nearSubset(d, namespace),
				"requests that this rule takes are answered with 503"})
		}
	}
	return out
}

func checkPort(svc *registry.Service, d Destination, host Origin) []finding {
	var numbers []string
	for _, p := range svc.Ports {
		if p.Number == d.Port {
			return nil
		}
		numbers = append(numbers, fmt.Sprint(p.Number))
	}
	switch {
	case d.Port != 0:
		return []finding{{Origin{Key: d.Origin.Key, Path: d.Origin.Path + ".destination.port.number"}, problem.CodeNotFound, apis.LevelError,
			fmt.Sprintf("service %s has no port %d", svc.Hostname, d.Port), "its ports are " + strings.Join(numbers, ", "),
			"requests that this rule takes are answered with 503"}}
	case len(svc.Ports) > 1:
		return []finding{{host, problem.CodePortRequired, apis.LevelError, fmt.Sprintf("service %s has %d ports, and the destination names none", svc.Hostname, len(svc.Ports)),
			"add port.number, one of " + strings.Join(numbers, ", "), "the port that the client called is used; if the service lacks it, the answer is 503"}}
	}
	return nil
}

// serviceFor is the service that clients of a namespace reach under a host,
// by a wildcard host too.
func (s *Snapshot) serviceFor(host, namespace string) *registry.Service {
	if svc := s.services.chooseVisible(host, namespace); svc != nil {
		return svc
	}
	for _, svc := range s.services.visible(namespace) {
		if match.Wildcard(svc.Hostname) && match.HostWithin(host, svc.Hostname) {
			return svc
		}
	}
	return nil
}

func (s *Snapshot) hasSubset(host, subset, namespace string) bool {
	has := func(list []*DestinationRule) bool {
		return slices.ContainsFunc(list, func(d *DestinationRule) bool {
			return slices.ContainsFunc(d.Subsets, func(x *Subset) bool { return x.Name == subset })
		})
	}
	serviceNamespace := ""
	if svc := s.services.chooseVisible(host, namespace); svc != nil {
		serviceNamespace = svc.Namespace
	}
	if has(s.dests.candidates(host, namespace, serviceNamespace)) {
		return true
	}
	// Clients of other namespaces may see a rule that this one does not.
	for _, t := range s.dests.local {
		if has(t.exact[host]) {
			return true
		}
	}
	return false
}

// nearHost hints at a host that is known, short where the user may write it so.
func (s *Snapshot) nearHost(host, namespace string) string {
	suffix := "." + namespace + ".svc." + s.mesh.DomainSuffix
	if short, ok := strings.CutSuffix(host, suffix); ok {
		var names, elsewhere []string
		for _, svc := range s.services.visible(namespace) {
			if n, ok := strings.CutSuffix(svc.Hostname, suffix); ok {
				names = append(names, n)
			}
			if strings.HasPrefix(svc.Hostname, short+".") {
				elsewhere = append(elsewhere, svc.Hostname)
			}
		}
		if near := schema.Nearest(short, names); near != "" {
			return fmt.Sprintf("did you mean %q?", near)
		}
		if len(elsewhere) > 0 {
			return fmt.Sprintf("a short name is looked up in namespace %s; did you mean %q?", namespace, elsewhere[0])
		}
		return fmt.Sprintf("a short name is looked up in namespace %s; add a Service or a ServiceEntry for the host", namespace)
	}
	var names []string
	for _, svc := range s.services.visible(namespace) {
		names = append(names, svc.Hostname)
	}
	if near := schema.Nearest(host, names); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return "add a Service or a ServiceEntry for the host"
}

func (s *Snapshot) nearSubset(d Destination, namespace string) string {
	rule := s.DestinationRule(d.Host, namespace, nil)
	if rule == nil {
		return fmt.Sprintf("add a DestinationRule for %s with this subset", d.Host)
	}
	var names []string
	for _, x := range rule.Subsets {
		names = append(names, x.Name)
	}
	if near := schema.Nearest(d.Subset, names); near != "" {
		return fmt.Sprintf("did you mean %q, of %s?", near, rule.Origin.Key)
	}
	if len(names) == 0 {
		return fmt.Sprintf("%s has no subsets", rule.Origin.Key)
	}
	return fmt.Sprintf("%s has %s", rule.Origin.Key, strings.Join(names, ", "))
}

func (c *checks) checkGateway(s *Snapshot, r *Rules, name string) []finding {
	at := Origin{Key: r.Origin.Key, Path: "spec.gateways"}
	if obj := s.Object(r.Origin.Key); obj != nil {
		at.Path = gatewayPath(obj, name)
	}
	g := s.gateways.byName[name]
	if ns, short, _ := strings.Cut(name, "/"); g == nil && c.refused[apis.Key{Kind: "Gateway", Namespace: ns, Name: short}] {
		return []finding{{at, problem.CodeNotFound, apis.LevelError, fmt.Sprintf("Gateway %q is refused", name), "see its own problems",
			"the rules apply at no gateway of this name"}}
	}
	if g == nil {
		return []finding{{at, problem.CodeNotFound, apis.LevelError, fmt.Sprintf("there is no Gateway %q", name), s.nearGateway(name),
			"the rules apply at no gateway of this name"}}
	}
	for _, server := range g.Servers {
		for _, gh := range server.Hosts {
			if gh.Namespace != "*" && gh.Namespace != r.Origin.Key.Namespace {
				continue
			}
			if slices.ContainsFunc(r.Hosts, func(h string) bool { return match.HostsOverlap(h, gh.Host) }) {
				return nil
			}
		}
	}
	return []finding{{at, problem.CodeHostNotInGateway, apis.LevelWarning, fmt.Sprintf("Gateway %s serves none of the hosts %s", name, strings.Join(r.Hosts, ", ")),
		"add a host to the Gateway's servers, or correct spec.hosts", "the rules never apply at this gateway"}}
}

func (s *Snapshot) nearGateway(name string) string {
	var names []string
	for _, g := range s.gateways.list {
		names = append(names, g.Namespace+"/"+g.Name)
	}
	if near := schema.Nearest(name, names); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	_, short, _ := strings.Cut(name, "/")
	for _, n := range names {
		if strings.HasSuffix(n, "/"+short) {
			return fmt.Sprintf("did you mean %q?", n)
		}
	}
	return "add a Gateway of this name, as namespace/name if it is of another namespace"
}

func delegateMissing(at Origin, d delegateRef) finding {
	return finding{at, problem.CodeNotFound, apis.LevelError, fmt.Sprintf("there is no VirtualService %s/%s without hosts to delegate to", d.namespace, d.name),
		"a delegate is a VirtualService without spec.hosts", "the route is left out: its requests meet the following ones"}
}

func delegateHidden(at Origin, d delegateRef, namespace string) finding {
	return finding{at, problem.CodeDelegate, apis.LevelError, fmt.Sprintf("VirtualService %s/%s is not exported to namespace %s", d.namespace, d.name, namespace),
		"add the namespace to exportTo of the delegate", "the route is left out: its requests meet the following ones"}
}

func delegateConflict(at Origin, root *Route) finding {
	return finding{at, problem.CodeDelegate, apis.LevelWarning, fmt.Sprintf("the conditions contradict those of the route that delegates, %s %s", root.Origin.Key, root.Origin.Path),
		"a delegate may narrow the conditions of its root, not leave them", "the route is left out of that root"}
}
