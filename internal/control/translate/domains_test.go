package translate_test

import (
	"fmt"
	"slices"
	"testing"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/tullemesh/tulle/internal/control/translate"
	"github.com/tullemesh/tulle/internal/wire"
)

// A wildcard of the caller's own namespace has no short form: "*" would be every
// host, which belongs to the traffic policy, and proxies refuse two claims.
func TestAWildcardOfANamespaceIsNotEveryHost(t *testing.T) {
	s := snapshotOf(t, "", `{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: all, namespace: shop}, spec: {hosts: ["*.shop.svc.cluster.local"], ports: [{number: 80, name: http, protocol: HTTP}]}}`)
	for _, node := range []string{
		`{"id": "sidecar~10.1.0.1~web-0.shop~shop.svc.cluster.local", "metadata": {"NAMESPACE": "shop"}}`,
		`{"id": "sidecar~10.1.0.1~web-0.shop~svc.cluster.local", "metadata": {"NAMESPACE": "shop"}}`,
	} {
		tr := translate.New(s, nil)
		rc := build(t, tr, viewOf(t, s, node, ""), wire.RouteType, "80").(*routev3.RouteConfiguration)
		for _, vh := range rc.GetVirtualHosts() {
			if slices.Contains(vh.GetDomains(), "*") && vh.GetName() != wire.AllowAny {
				t.Errorf("%s claims every host: %q", vh.GetName(), vh.GetDomains())
			}
		}
	}
}

// Two ServiceEntries of one host, of which only the second resolves names: its
// names are no addresses that EDS could carry, and proxies would refuse them.
func TestEndpointsByEDSAreAddresses(t *testing.T) {
	entry := `{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: %s, namespace: shop}, spec: {hosts: [api.example.com], ports: [{number: 443, name: https, protocol: HTTPS}], resolution: %s}}`
	s := snapshotOf(t, "", fmt.Sprintf(entry, "a", "NONE")+"\n---\n"+fmt.Sprintf(entry, "b", "DNS"))
	gateway := `{"id": "router~10.1.0.9~gw-0.shop~shop.svc.cluster.local", "metadata": {"NAMESPACE": "shop"}}`
	cla := build(t, translate.New(s, nil), viewOf(t, s, gateway, ""), wire.EndpointType, "outbound|443||api.example.com").(*endpointv3.ClusterLoadAssignment)
	for _, l := range cla.GetEndpoints() {
		for _, e := range l.GetLbEndpoints() {
			if a := e.GetEndpoint().GetAddress().GetSocketAddress().GetAddress(); a == "api.example.com" {
				t.Errorf("EDS carries the name %s", a)
			}
		}
	}
}
