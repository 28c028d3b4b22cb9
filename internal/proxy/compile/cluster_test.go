package compile_test

import (
	"fmt"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/tullemesh/tulle/internal/proxy/compile"
	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/wire"
)

func spec(t testing.TB, text string) *cluster.Spec {
	t.Helper()
	var m clusterv3.Cluster
	if err := protojson.Unmarshal([]byte(text), &m); err != nil {
		t.Fatal(err)
	}
	s, _, r := compile.New().Cluster(&m, "")
	if r.Refused() {
		t.Fatalf("refused: %s", r.Error())
	}
	return s
}

// httpOptions is a static cluster with these HTTP options.
func httpOptions(common string) string {
	return static(`"typed_extension_protocol_options":{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions":{
		"@type":"type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions","explicit_http_config":{"http_protocol_options":{}},
		"common_http_protocol_options":{` + common + `}}}`)
}

func TestConnectionPoolsOfClusters(t *testing.T) {
	const century = 100 * 365 * 24 * time.Hour
	thresholds := func(s string) string { return static(`"circuit_breakers":{"thresholds":[{` + s + `}]}`) }
	pings := func(s string) string { return static(`"http2_protocol_options":{"connection_keepalive":{` + s + `}}`) }
	dns := func(s string) string {
		return `{"name":"c","type":"STRICT_DNS",` + s + `}`
	}
	for name, c := range map[string]struct {
		text string
		got  func(*cluster.Spec) any
		want any
	}{
		"connections":               {thresholds(`"max_connections":1`), func(s *cluster.Spec) any { return s.MaxConnections }, uint32(1)},
		"pending requests":          {thresholds(`"max_pending_requests":2`), func(s *cluster.Spec) any { return s.MaxPending }, uint32(2)},
		"requests":                  {thresholds(`"max_requests":3`), func(s *cluster.Spec) any { return s.MaxRequests }, uint32(3)},
		"retries":                   {thresholds(`"max_retries":4`), func(s *cluster.Spec) any { return s.MaxRetries }, uint32(4)},
		"connections by default":    {static(`"lb_policy":"RANDOM"`), func(s *cluster.Spec) any { return s.MaxConnections }, uint32(1024)},
		"retries by default":        {static(`"lb_policy":"RANDOM"`), func(s *cluster.Spec) any { return s.MaxRetries }, uint32(3)},
		"connect timeout":           {static(`"connect_timeout":"0.25s"`), func(s *cluster.Spec) any { return s.ConnectTimeout }, 250 * time.Millisecond},
		"idle":                      {httpOptions(`"idle_timeout":"7s"`), func(s *cluster.Spec) any { return s.IdleTimeout }, 7 * time.Second},
		"idle by default":           {httpOptions(``), func(s *cluster.Spec) any { return s.IdleTimeout }, time.Hour},
		"idle without bound":        {httpOptions(`"idle_timeout":"0s"`), func(s *cluster.Spec) any { return s.IdleTimeout }, century},
		"age":                       {httpOptions(`"max_connection_duration":"8s"`), func(s *cluster.Spec) any { return s.MaxConnDuration }, 8 * time.Second},
		"requests on a connection":  {httpOptions(`"max_requests_per_connection":9`), func(s *cluster.Spec) any { return s.MaxRequestsPerConn }, uint32(9)},
		"keepalive":                 {static(`"upstream_connection_options":{"tcp_keepalive":{"keepalive_probes":5}}`), func(s *cluster.Spec) any { return [3]uint32{s.KeepaliveProbes, s.KeepaliveTime, s.KeepaliveInterval} }, [3]uint32{5, 7200, 75}},
		"PING":                      {pings(`"interval":"3s","timeout":"2s"`), func(s *cluster.Spec) any { return [2]time.Duration{s.PingInterval, s.PingTimeout} }, [2]time.Duration{3 * time.Second, 2 * time.Second}},
		"refresh of names":          {dns(`"dns_refresh_rate":"3s"`), func(s *cluster.Spec) any { return s.DNSRefresh }, 3 * time.Second},
		"spread of names":           {dns(`"dns_jitter":"0.1s"`), func(s *cluster.Spec) any { return s.DNSJitter }, 100 * time.Millisecond},
		"names after failures":      {dns(`"dns_failure_refresh_rate":{"base_interval":"2s"}`), func(s *cluster.Spec) any { return s.DNSFailure }, cluster.Backoff{Base: 2 * time.Second, Max: 20 * time.Second}},
		"names after failures, max": {dns(`"dns_failure_refresh_rate":{"base_interval":"2s","max_interval":"5s"}`), func(s *cluster.Spec) any { return s.DNSFailure }, cluster.Backoff{Base: 2 * time.Second, Max: 5 * time.Second}},
		"lifetimes of names":        {dns(`"respect_dns_ttl":true`), func(s *cluster.Spec) any { return s.RespectDNSTTL }, true},
		"port of destinations":      {`{"name":"c","type":"ORIGINAL_DST","lb_policy":"CLUSTER_PROVIDED","original_dst_lb_config":{"upstream_port_override":8443}}`, func(s *cluster.Spec) any { return s.OriginalPort }, uint16(8443)},
		"families of names":         {dns(`"dns_lookup_family":"V4_PREFERRED"`), func(s *cluster.Spec) any { return s.DNSFamily }, cluster.DNSV4Preferred},
	} {
		if got := c.got(spec(t, c.text)); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestAddressOfAnotherListenerIsRefused(t *testing.T) {
	w := newWorld(t)
	w.accept(wire.RouteType, "r", routes("r"))
	w.accept(wire.ListenerType, "b", httpListener(t, "b", 81, "r"))
	w.accept(wire.ListenerType, "free", httpListener(t, "free", 0, "r"))
	w.accept(wire.ListenerType, "free too", httpListener(t, "free too", 0, "r"))
	w.Build(w.now)
	if r := w.put(wire.ListenerType, "a", httpListener(t, "a", 81, "r")); len(r) != 1 || r[0].Reason != "address: 127.0.0.1:81 is listener b's already" {
		t.Errorf("a newcomer: %v", r)
	}
	w.accept(wire.ListenerType, "a", httpListener(t, "a", 82, "r"))
	w.Build(w.now)
	if r := w.put(wire.ListenerType, "a", httpListener(t, "a", 81, "r")); len(r) != 1 {
		t.Errorf("one that moves: %v", r)
	}
	if r := w.put(wire.ListenerType, "c", httpListener(t, "c", 82, "r")); len(r) != 1 {
		t.Errorf("the place of one that could not move: %v", r)
	}
}

func BenchmarkListenersOfOneUpdate(b *testing.B) {
	var all []*wire.Resource
	for i := range 2000 {
		name := fmt.Sprintf("l%d", i)
		all = append(all, resource(b, name, httpListener(b, name, uint32(1000+i), "r"))...)
	}
	for b.Loop() {
		w := compile.NewBuilder(compile.New())
		if r := w.Apply(wire.ListenerType, all, nil, time.Unix(0, 0)); len(r) > 0 {
			b.Fatal(r)
		}
	}
}
