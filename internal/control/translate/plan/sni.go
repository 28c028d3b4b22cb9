package plan

import (
	"slices"
	"strings"

	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/control/translate/view"
	"github.com/tullemesh/tulle/internal/match"
	"github.com/tullemesh/tulle/internal/wire"
)

// A gateway with a server in mode AUTO_PASSTHROUGH leads mutual TLS of the
// mesh on to the cluster that its server name says, "outbound_.80_.v1_.host".
// Such a cluster has the name for its name, no TLS of its own, and only
// endpoints that take mutual TLS.

// IsSNI reports whether a name is that of such a cluster.
func IsSNI(cluster string) bool { return strings.HasPrefix(cluster, string(wire.Outbound)+"_.") }

// ParseCluster is wire.ParseClusterName for both forms of names.
func ParseCluster(name string) (d wire.Direction, port int, subset, host string, ok bool) {
	if IsSNI(name) {
		name = strings.Replace(name, "_.", "|", 3)
	}
	return wire.ParseClusterName(name)
}

// SNINames lists the server names that a server leads on.
func SNINames(r *view.Reader, s *GatewayServer) []string {
	var out []string
	for _, svc := range r.Scope().Services {
		if svc.External || svc.Resolution == registry.Alias || !slices.ContainsFunc(s.SNI, func(h string) bool { return match.HostWithin(svc.Hostname, h) }) {
			continue
		}
		for _, p := range svc.Ports {
			if p.Protocol == registry.UDP {
				continue
			}
			out = append(out, wire.SNI(p.Number, "", svc.Hostname))
			if dr := r.Destination(svc.Hostname); dr != nil {
				for _, sub := range dr.Subsets {
					out = append(out, wire.SNI(p.Number, sub.Name, svc.Hostname))
				}
			}
		}
	}
	return out
}

// sniClusterNames lists the clusters that the gateway's servers need for it.
func sniClusterNames(r *view.Reader) []string {
	var out []string
	for _, l := range GatewayOf(r).Listeners {
		for _, s := range l.Servers {
			if s.TLS != nil && s.TLS.Mode == "AUTO_PASSTHROUGH" {
				out = append(out, SNINames(r, s)...)
			}
		}
	}
	return out
}
