package model

import (
	"net/netip"
	"slices"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/control/registry"
)

// Snapshot is what the mesh is to do at one moment. It is immutable and safe
// for concurrent readers. Parts that did not change since the previous Snapshot
// are the same pointers, so readers may key caches on them.
type Snapshot struct {
	version uint64
	mesh    *Mesh
	set     *registry.Set

	parts      parts
	services   serviceIndex
	rules      ruleIndex
	dests      destinationIndex
	gateways   gatewayIndex
	scopes     scopeIndex
	peers      peerIndex
	loads      workloadIndex
	namespaces []string
	checks     checks

	// What the next Build may reuse.
	merged     *mergedDestinations
	roots      map[apis.Key]*mergedRoot
	delegation []finding
}

// ServiceKey names a service: a host may exist in several namespaces.
type ServiceKey = registry.ServiceKey

// Instance is one service port that a workload serves.
type Instance struct {
	Service    *registry.Service
	Port       registry.Port
	TargetPort int
	Endpoint   *registry.Endpoint
}

// Version is that of the registry.Set that the Snapshot was built from.
func (s *Snapshot) Version() uint64 { return s.version }

// Mesh is the mesh configuration.
func (s *Snapshot) Mesh() *Mesh { return s.mesh }

// Services lists every service, sorted by namespace and host.
func (s *Snapshot) Services() []*registry.Service { return s.set.Services }

// Namespaces maps each known namespace to its labels. Read only.
func (s *Snapshot) Namespaces() map[string]map[string]string { return s.set.Namespaces }

// Workloads lists every workload, sorted by namespace and name.
func (s *Snapshot) Workloads() []*registry.Workload { return s.set.Workloads }

// Object is the accepted configuration object with this key, nil if there is none.
func (s *Snapshot) Object(key apis.Key) *apis.Object {
	list := s.set.Objects
	if i, ok := slices.BinarySearchFunc(list, key, func(o *apis.Object, k apis.Key) int { return o.Key.Compare(k) }); ok {
		return list[i]
	}
	return nil
}

// Position is the place in the user's files that an origin names.
func (s *Snapshot) Position(o Origin) apis.Position {
	if obj := s.Object(o.Key); obj != nil {
		return obj.Position(o.Path)
	}
	return apis.Position{}
}

// Service is Istio's choice among the services with this host: the one in
// preferNamespace, else the Kubernetes one, else the oldest. Visibility is the
// caller's to consider: see Scope. Nil: unknown host.
func (s *Snapshot) Service(host, preferNamespace string) *registry.Service {
	return s.services.choose(host, preferNamespace)
}

// Endpoints lists the endpoints of one port of a service, also those that are
// not ready or draining, marked so. Sorted by address.
func (s *Snapshot) Endpoints(svc *registry.Service, port int) []*registry.Endpoint {
	return s.services.endpoints(svc, port)
}

// DestinationRule is the rule in effect for calls to host by a client: its
// own namespace's rules are asked first, then those of the service's namespace,
// then the root namespace's (Istio, "Destination Rule", exportTo). Rules of one
// namespace for one host are merged. Nil: none.
func (s *Snapshot) DestinationRule(host, clientNamespace string, clientLabels map[string]string) *DestinationRule {
	return effective(s.dests.lookup(s, host, clientNamespace), clientNamespace, clientLabels)
}

// DestinationRuleOfAll is DestinationRule without rules for some workloads (workloadSelector): what a service says of itself.
func (s *Snapshot) DestinationRuleOfAll(host, clientNamespace string) *DestinationRule {
	return effective(s.dests.lookup(s, host, clientNamespace), "", nil)
}

// Scope is the egress scope of a workload: the Sidecar that selects it, else
// its namespace's, else the root namespace's, else everything that it can see.
func (s *Snapshot) Scope(namespace string, labels map[string]string) *SidecarScope {
	return s.scopes.lookup(namespace, labels)
}

// HasSidecars reports whether any Sidecar narrows a scope.
func (s *Snapshot) HasSidecars() bool { return len(s.parts.sidecars) > 0 }

// Gateways lists the Gateways that apply to a workload with these labels that
// serves these instances, of all namespaces, oldest first (Istio's default
// PILOT_SCOPE_GATEWAY_TO_NAMESPACE=false).
func (s *Snapshot) Gateways(labels map[string]string, serves []Instance) []*Gateway {
	return s.gateways.selected(labels, serves)
}

// Gateway is the Gateway "namespace/name", nil if there is none.
func (s *Snapshot) Gateway(name string) *Gateway { return s.gateways.byName[name] }

// GatewayRules lists the rules bound to the Gateway "namespace/name", or to
// MeshGateway, and visible to a workload in proxyNamespace, in Istio's order:
// those exported to it alone first, then public ones, each oldest first.
func (s *Snapshot) GatewayRules(gateway, proxyNamespace string) []*Rules {
	return s.rules.bound(gateway, proxyNamespace)
}

// Rules lists the rules of all gateways and sidecars, whoever sees them, oldest first.
func (s *Snapshot) Rules() []*Rules { return s.rules.all }

// Workload is the workload with this name, nil if there is none.
func (s *Snapshot) Workload(namespace, name string) *registry.Workload {
	return s.loads.find(namespace, name)
}

// WorkloadByAddr is the workload with this address, nil if there is none. The
// first by namespace and name is given where several share one.
func (s *Snapshot) WorkloadByAddr(a netip.Addr) *registry.Workload { return s.loads.byAddr[a] }

// Instances lists the service ports that a workload serves, by service and port.
func (s *Snapshot) Instances(w *registry.Workload) []Instance {
	if w == nil {
		return nil
	}
	return s.instances(w.Namespace, func(e *registry.Endpoint) bool { return e.WorkloadKey == w.Key || loose(e, w.Addresses) })
}

// InstancesAt lists the service ports served at addresses by a proxy in
// namespace of which there is no Workload: inline endpoints of ServiceEntries and
// EndpointSlices without a Pod. Loopback addresses are nobody's.
func (s *Snapshot) InstancesAt(namespace string, addrs ...netip.Addr) []Instance {
	return s.instances(namespace, func(e *registry.Endpoint) bool { return loose(e, addrs) })
}

// PeerAuth is the effective PeerAuthentication of a workload: that which
// selects it, else its namespace's, else the root namespace's; an unset mode
// is inherited, in the end PERMISSIVE. Never nil.
func (s *Snapshot) PeerAuth(namespace string, labels map[string]string) *PeerAuth {
	return s.peers.lookup(namespace, labels)
}

// Changed says what differs from an older Snapshot; nil: everything is new.
func (s *Snapshot) Changed(prev *Snapshot) Changes { return diff(prev, s) }
