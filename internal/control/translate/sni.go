package translate

import (
	"slices"
	"strings"

	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/match"
	"github.com/tullemesh/tulle/internal/wire"
)

// A gateway with a server in mode AUTO_PASSTHROUGH leads mutual TLS of the
// mesh on to the cluster that its server name says, "outbound_.80_.v1_.host".
// Such a cluster has the name for its name, no TLS of its own, and only
// endpoints that take mutual TLS.

func isSNI(cluster string) bool { return strings.HasPrefix(cluster, string(wire.Outbound)+"_.") }

// parseCluster is wire.ParseClusterName for both forms of names.
func parseCluster(name string) (d wire.Direction, port int, subset, host string, ok bool) {
	if isSNI(name) {
		name = strings.Replace(name, "_.", "|", 3)
	}
	return wire.ParseClusterName(name)
}

// sniNames lists the server names that a server leads on.
func sniNames(r *reader, s *gatewayServer) []string {
	var out []string
	for _, svc := range r.scope().services {
		if svc.External || svc.Resolution == registry.Alias || !slices.ContainsFunc(s.sni, func(h string) bool { return match.HostWithin(svc.Hostname, h) }) {
			continue
		}
		for _, p := range svc.Ports {
			if p.Protocol == registry.UDP {
				continue
			}
			out = append(out, wire.SNI(p.Number, "", svc.Hostname))
			if dr := r.destination(svc.Hostname); dr != nil {
				for _, sub := range dr.Subsets {
					out = append(out, wire.SNI(p.Number, sub.Name, svc.Hostname))
				}
			}
		}
	}
	return out
}

func autoPassthrough(r *reader, s *gatewayServer) []*chain {
	var out []*chain
	for _, name := range sniNames(r, s) {
		out = append(out, &chain{sni: []string{name}, alpn: istioAll(), clusters: []weightedCluster{{name: name}}, stat: name})
	}
	return out
}

// sniClusterNames lists the clusters that the gateway's servers need for it.
func (t *Translator) sniClusterNames(r *reader) []string {
	var out []string
	for _, l := range t.gatewayPlanOf(r, r.v).listeners {
		for _, s := range l.servers {
			if s.TLS != nil && s.TLS.Mode == "AUTO_PASSTHROUGH" {
				out = append(out, sniNames(r, s)...)
			}
		}
	}
	return out
}
