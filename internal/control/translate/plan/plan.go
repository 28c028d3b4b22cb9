// Package plan decides what a proxy has, before any of it is built: which
// resources of each type, which services share a listener, which virtual hosts
// a route configuration has and which domains are whose, which servers of
// Gateways are merged, what a cluster's name means. In comes a view.Reader, out
// come immutable plans, remembered in its Memory, so that any one resource can
// be built alone and knows its place among the others. No protobuf is made here.
//
// Read names.go first; then hosts.go and domains.go, outbound.go, gateway.go,
// served.go and target.go.
package plan

import (
	"net/netip"

	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/control/translate/view"
)

// PortOf returns the port of a service with this number.
func PortOf(svc *registry.Service, number int) (registry.Port, bool) {
	for _, p := range svc.Ports {
		if p.Number == number {
			return p, true
		}
	}
	return registry.Port{}, false
}

// HTTPOrSniffed reports whether requests on a port can be routed by HTTP rules.
func HTTPOrSniffed(p registry.Protocol) bool { return p.IsHTTP() || p == registry.Unsupported }

// VIPs are the addresses under which a proxy calls a service: those it
// declares and, when the proxy answers the app's DNS, the allocated one.
func VIPs(svc *registry.Service, f view.Families, dnsCapture bool) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(svc.Addresses)+1)
	for _, p := range svc.Addresses {
		if f.Has(p.Addr()) {
			out = append(out, p)
		}
	}
	if a := svc.AutoAddress; len(svc.Addresses) == 0 && a.IsValid() && dnsCapture {
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return out
}
