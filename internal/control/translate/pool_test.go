package translate_test

import (
	"slices"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	upstreamsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"

	"github.com/tullemesh/tulle/internal/control/translate"
	"github.com/tullemesh/tulle/internal/wire"
)

const poolWorld = `
{apiVersion: v1, kind: Service, metadata: {name: db, namespace: shop}, spec: {clusterIP: 10.0.0.1, selector: {app: db}, ports: [{name: tcp, port: 90}, {name: tcp-b, port: 91}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: front, namespace: shop}, spec: {clusterIP: 10.0.0.2, selector: {app: front}, ports: [{name: tcp, port: 92}]}}
---
{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: db-1, namespace: shop}, spec: {address: 10.1.0.9, labels: {app: db}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: db, namespace: shop}
spec:
  host: db
  trafficPolicy:
    connectionPool: {tcp: {idleTimeout: 11s, maxConnectionDuration: 12s, maxConnections: 13}, http: {h2UpgradePolicy: UPGRADE}}
    portLevelSettings: [{port: {number: 91}, connectionPool: {tcp: {idleTimeout: 0s}}}]
  subsets: [{name: v1, labels: {version: v1}, trafficPolicy: {connectionPool: {tcp: {idleTimeout: 21s}}}}]
---
{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: db-for-itself, namespace: shop}, spec: {host: db, workloadSelector: {matchLabels: {app: db}}, trafficPolicy: {connectionPool: {tcp: {maxConnections: 14}}}}}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: front, namespace: shop}, spec: {hosts: [front], tcp: [{route: [{destination: {host: db, port: {number: 90}, subset: v1}, weight: 1}, {destination: {host: front}, weight: 99}]}]}}
`

// The times of TCP connections are their listener's; of weighted destinations
// the first one's hold (Istio, DestinationRule: tcp.idleTimeout).
func TestListenersBoundTheTimeOfConnections(t *testing.T) {
	s := snapshotOf(t, "", poolWorld)
	v := viewOf(t, s, `{"id": "sidecar~10.1.0.1~client-0.shop~shop.svc.cluster.local", "metadata": {"NAMESPACE": "shop"}}`, "")
	tr := translate.New(s, nil)
	for _, c := range []struct {
		listener  string
		idle, age time.Duration
		idleSet   bool
	}{
		{"10.0.0.1_90", 11 * time.Second, 12 * time.Second, true},
		{"10.0.0.1_91", 0, 0, true}, // no bound is said as well
		{"10.0.0.2_92", 21 * time.Second, 0, true},
	} {
		l := build(t, tr, v, wire.ListenerType, c.listener).(*listenerv3.Listener)
		filters := l.GetFilterChains()[0].GetFilters()
		var p tcpproxyv3.TcpProxy
		if err := filters[len(filters)-1].GetTypedConfig().UnmarshalTo(&p); err != nil {
			t.Fatal(err)
		}
		if p.GetIdleTimeout().AsDuration() != c.idle || p.GetMaxDownstreamConnectionDuration().AsDuration() != c.age || (p.GetIdleTimeout() != nil) != c.idleSet {
			t.Errorf("%s: idle %v, age %v", c.listener, p.GetIdleTimeout(), p.GetMaxDownstreamConnectionDuration())
		}
	}
}

// What callers may send, the app behind the proxy must take; but callers'
// HTTP/2 says nothing of the app.
func TestServedPortsHaveThePoolOfTheirService(t *testing.T) {
	s := snapshotOf(t, "", poolWorld)
	v := viewOf(t, s, `{"id": "sidecar~10.1.0.9~db-1.shop~shop.svc.cluster.local", "metadata": {"NAMESPACE": "shop", "LABELS": {"app": "db"}}}`, "")
	tr := translate.New(s, nil)
	connections := func(name string) (*clusterv3.Cluster, uint32) {
		c := build(t, tr, v, wire.ClusterType, name).(*clusterv3.Cluster)
		return c, c.GetCircuitBreakers().GetThresholds()[0].GetMaxConnections().GetValue()
	}
	if _, n := connections("outbound|90||db.shop.svc.cluster.local"); n != 14 {
		t.Errorf("%d connections to itself", n)
	}
	c, n := connections("inbound|90||")
	if n != 13 {
		t.Errorf("%d connections", n)
	}
	var o upstreamsv3.HttpProtocolOptions
	for _, packed := range c.GetTypedExtensionProtocolOptions() {
		if err := packed.UnmarshalTo(&o); err != nil {
			t.Fatal(err)
		}
	}
	if o.GetCommonHttpProtocolOptions().GetIdleTimeout().AsDuration() != 11*time.Second || o.GetExplicitHttpConfig().GetHttp2ProtocolOptions() != nil {
		t.Errorf("options %v", &o)
	}
}

// Settings of a port replace all of their level, the PROXY header with the rest; a subset's leave that of the host (Istio:
// MergeSubsetTrafficPolicy).
func TestPortsWithSettingsOfTheirOwnHaveNoPROXYHeader(t *testing.T) {
	s := snapshotOf(t, "", `
{apiVersion: v1, kind: Service, metadata: {name: db, namespace: shop}, spec: {clusterIP: 10.0.0.1, selector: {app: db}, ports: [{name: tcp, port: 90}, {name: tcp-b, port: 91}]}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: db, namespace: shop}
spec:
  host: db
  trafficPolicy:
    proxyProtocol: {version: V2}
    portLevelSettings: [{port: {number: 91}, connectionPool: {tcp: {maxConnections: 1}}}]
  subsets:
  - {name: v1, labels: {version: v1}, trafficPolicy: {portLevelSettings: [{port: {number: 90}, connectionPool: {tcp: {maxConnections: 2}}}]}}
  - {name: v2, labels: {version: v2}, trafficPolicy: {proxyProtocol: {version: V1}, portLevelSettings: [{port: {number: 91}, connectionPool: {tcp: {maxConnections: 3}}}]}}
`)
	v := viewOf(t, s, `{"id": "sidecar~10.1.0.1~client-0.shop~shop.svc.cluster.local", "metadata": {"NAMESPACE": "shop"}}`, "")
	tr := translate.New(s, nil)
	for name, want := range map[string]bool{"90|": true, "91|": false, "90|v1": true, "91|v1": false, "90|v2": true, "91|v2": false} {
		c := build(t, tr, v, wire.ClusterType, "outbound|"+name+"|db.shop.svc.cluster.local").(*clusterv3.Cluster)
		sockets := []string{c.GetTransportSocket().GetName()}
		for _, m := range c.GetTransportSocketMatches() {
			sockets = append(sockets, m.GetTransportSocket().GetName())
		}
		if got := slices.Contains(sockets, "envoy.transport_sockets.upstream_proxy_protocol"); got != want {
			t.Errorf("%s: header %v, sockets %q", name, got, sockets)
		}
	}
}
