package message

import (
	"cmp"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/control/translate/plan"
	"github.com/tullemesh/tulle/internal/control/translate/view"
	"github.com/tullemesh/tulle/internal/wire"
)

// assignment builds the endpoints of one cluster; nil: the proxy has no such
// cluster, or it finds its endpoints otherwise.
//
// Localities are sent without priorities. Istio ranks them only for clusters
// with outlier detection, which no destination rule can ask for yet; our proxy
// ranks by itself. So the bytes do not depend on where the proxy runs.
func (w *Writer) assignment(r *view.Reader, name string) *endpointv3.ClusterLoadAssignment {
	direction, port, subset, host, ok := plan.ParseCluster(name)
	if !ok || direction != wire.Outbound {
		return nil
	}
	g, ok := plan.TargetOf(r, host, subset, port)
	if !ok || !g.SendsEndpoints(r) {
		return nil
	}
	g.MutualOnly, g.AddressesOnly = plan.IsSNI(name), true
	return &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: w.localities(r, g)}
}

// localities groups the endpoints of a target by where they run, sorted.
func (w *Writer) localities(r *view.Reader, g plan.Target) []*endpointv3.LocalityLbEndpoints {
	f := r.Families()
	plain := g.Policy().TLSMode == "DISABLE"
	byPlace := make(map[registry.Locality]*endpointv3.LocalityLbEndpoints)
	var places []registry.Locality
	for _, e := range w.snap.Endpoints(g.Service, g.Port.Number) {
		if g.Subset != nil && !subsetOf(g.Subset.Labels, e.Labels) || g.AddressesOnly && e.Host != "" {
			continue
		}
		le := endpoint(e, f, plain)
		if le == nil || g.MutualOnly && e.TLSMode != modeIstio {
			continue
		}
		l := byPlace[e.Locality]
		if l == nil {
			l = &endpointv3.LocalityLbEndpoints{
				Locality:            &corev3.Locality{Region: e.Locality.Region, Zone: e.Locality.Zone, SubZone: e.Locality.SubZone},
				LoadBalancingWeight: wrapperspb.UInt32(0),
			}
			byPlace[e.Locality] = l
			places = append(places, e.Locality)
		}
		l.LbEndpoints = append(l.LbEndpoints, le)
		l.LoadBalancingWeight.Value += le.LoadBalancingWeight.GetValue()
	}
	slices.SortFunc(places, func(a, b registry.Locality) int {
		return cmp.Or(cmp.Compare(a.Region, b.Region), cmp.Compare(a.Zone, b.Zone), cmp.Compare(a.SubZone, b.SubZone))
	})
	out := make([]*endpointv3.LocalityLbEndpoints, 0, len(places))
	for _, p := range places {
		out = append(out, byPlace[p])
	}
	return out
}

// endpoint writes one endpoint; nil: the proxy is not to call it, because it
// is not ready or has no address of a family that the proxy has. plain leaves
// out that it takes mutual TLS.
func endpoint(e *registry.Endpoint, f view.Families, plain bool) *endpointv3.LbEndpoint {
	if !e.Ready && !e.Draining {
		return nil
	}
	addresses := endpointAddresses(e, f)
	if len(addresses) == 0 {
		return nil
	}
	ep := &endpointv3.Endpoint{Address: addresses[0]}
	for _, a := range addresses[1:] {
		ep.AdditionalAddresses = append(ep.AdditionalAddresses, &endpointv3.Endpoint_AdditionalAddress{Address: a})
	}
	out := &endpointv3.LbEndpoint{
		HostIdentifier:      &endpointv3.LbEndpoint_Endpoint{Endpoint: ep},
		HealthStatus:        corev3.HealthStatus_HEALTHY,
		LoadBalancingWeight: wrapperspb.UInt32(max(1, e.Weight)),
		Metadata: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
			istioMetadata: object("workload", structpb.NewStringValue(workloadText(e))),
		}},
	}
	if e.Draining {
		out.HealthStatus = corev3.HealthStatus_DRAINING
	}
	if e.TLSMode == modeIstio && !plain {
		out.Metadata.FilterMetadata[socketMatchMeta] = object(tlsModeKey, structpb.NewStringValue(modeIstio))
	}
	return out
}

func endpointAddresses(e *registry.Endpoint, f view.Families) []*corev3.Address {
	switch {
	case e.Pipe != "":
		return []*corev3.Address{{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: e.Pipe}}}}
	case e.Host != "":
		return []*corev3.Address{socketAddress(e.Host, e.TargetPort)}
	}
	var out []*corev3.Address
	for _, a := range e.Addresses {
		if f.Has(a) {
			out = append(out, socketAddress(a.String(), e.TargetPort))
		}
	}
	return out
}

func socketAddress(host string, port int) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)},
	}}}
}

// workloadText is Istio's endpoint metadata for telemetry:
// "workload;namespace;canonical name;canonical revision;cluster".
func workloadText(e *registry.Endpoint) string {
	revision := firstLabel(e.Labels, "service.istio.io/canonical-revision", "app.kubernetes.io/version", "version")
	if revision == "latest" {
		revision = "" // what the reader assumes
	}
	name := firstLabel(e.Labels, "service.istio.io/canonical-name", "app.kubernetes.io/name", "app")
	return strings.Join([]string{
		e.Workload, cmp.Or(e.WorkloadNamespace, e.Namespace), cmp.Or(name, e.Workload), revision, e.Cluster,
	}, ";")
}

func firstLabel(labels map[string]string, keys ...string) string {
	for _, k := range keys {
		if v := labels[k]; v != "" {
			return v
		}
	}
	return ""
}

// subsetOf reports whether labels satisfy a selector.
func subsetOf(selector, labels map[string]string) bool {
	for k, v := range selector {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}
