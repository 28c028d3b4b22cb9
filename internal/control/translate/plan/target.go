package plan

import (
	"cmp"

	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/model/pool"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/control/translate/view"
)

// Target is what an outbound cluster name means to a proxy.
type Target struct {
	Service *registry.Service
	Port    registry.Port
	Rule    *model.DestinationRule // nil: none
	Subset  *model.Subset          // nil: the whole service
	// MutualOnly leaves out endpoints that do not take mutual TLS.
	MutualOnly bool
	// AddressesOnly leaves out endpoints that are names: proxies refuse them in
	// EDS. They come of another ServiceEntry for the host, which resolves them.
	AddressesOnly bool
}

// TargetOf resolves an outbound cluster; ok is false when the proxy has no such
// service, port or subset.
func TargetOf(r *view.Reader, host, subset string, port int) (Target, bool) {
	svc := r.Service(host)
	if svc == nil || svc.Resolution == registry.Alias {
		return Target{}, false
	}
	p, ok := PortOf(svc, port)
	if !ok || p.Protocol == registry.UDP {
		return Target{}, false
	}
	out := Target{Service: svc, Port: p, Rule: r.Destination(host)}
	if subset == "" {
		return out, true
	}
	if out.Rule == nil {
		return Target{}, false
	}
	out.Subset = out.Rule.Subset(subset)
	return out, out.Subset != nil
}

// Policy is the traffic policy in effect: each setting from the most specific
// place that has it, of the subset's port, the subset, the port and the host.
// A port's settings replace the host's as a whole (DestinationRule docs,
// portLevelSettings).
func (g *Target) Policy() model.TrafficPolicy {
	var out model.TrafficPolicy
	if g.Rule == nil {
		return out
	}
	level := func(general *model.TrafficPolicy, ports map[int]*model.TrafficPolicy) {
		if p := ports[g.Port.Number]; p != nil {
			header := out.ProxyHeader
			out = *p
			out.ProxyHeader = header // of the level above alone (Istio: MergeSubsetTrafficPolicy)
			return
		}
		if general != nil {
			out = overlay(out, *general)
		}
	}
	level(g.Rule.Policy, g.Rule.Ports)
	if g.Subset != nil {
		level(g.Subset.Policy, g.Subset.Ports)
	}
	return out
}

func overlay(base, over model.TrafficPolicy) model.TrafficPolicy {
	if over.Balancer != "" {
		base.Balancer = over.Balancer
	}
	if over.TLSMode != "" {
		base.TLSMode = over.TLSMode
	}
	if over.Pool != nil {
		base.Pool = over.Pool
	}
	base.ProxyHeader = cmp.Or(over.ProxyHeader, base.ProxyHeader)
	base.Origin = over.Origin
	return base
}

// PoolOf is the pool in effect for calls to a cluster; nil: none.
func PoolOf(r *view.Reader, cluster string) *pool.Settings {
	_, port, subset, host, ok := ParseCluster(cluster)
	if !ok {
		return nil
	}
	dr := r.Destination(host)
	if dr == nil {
		return nil
	}
	g := Target{Rule: dr, Port: registry.Port{Number: port}}
	g.Subset = dr.Subset(subset)
	return g.Policy().Pool
}

// SendsEndpoints reports whether the cluster's endpoints come by EDS.
func (g *Target) SendsEndpoints(r *view.Reader) bool {
	switch g.Service.Resolution {
	case registry.DNS, registry.DNSRoundRobin:
		return false
	case registry.Passthrough:
		return r.Role() != view.RoleSidecar
	}
	return r.Role() != view.RoleSidecar || g.Policy().Balancer != "PASSTHROUGH"
}
