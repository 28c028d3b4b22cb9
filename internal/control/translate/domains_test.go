package translate_test

import (
	"slices"
	"testing"

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
