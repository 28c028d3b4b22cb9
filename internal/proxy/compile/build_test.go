package compile_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	rbacfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/tullemesh/tulle/internal/proxy/compile"
	"github.com/tullemesh/tulle/internal/wire"
)

// ads is the config source that everything comes by.
func ads() *corev3.ConfigSource {
	return &corev3.ConfigSource{ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}, ResourceApiVersion: corev3.ApiVersion_V3}
}

func socket(ip string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: ip, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port}}}}
}

func edsCluster(name string) *clusterv3.Cluster {
	return &clusterv3.Cluster{Name: name, ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}, EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{EdsConfig: ads()}}
}

func endpoints(name string, ports ...uint32) *endpointv3.ClusterLoadAssignment {
	l := &endpointv3.LocalityLbEndpoints{}
	for _, p := range ports {
		l.LbEndpoints = append(l.LbEndpoints, &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: socket("127.0.0.1", p)}}})
	}
	return &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{l}}
}

func routes(name string, clusters ...string) *routev3.RouteConfiguration {
	h := &routev3.VirtualHost{Name: "h", Domains: []string{"*"}}
	for _, c := range clusters {
		h.Routes = append(h.Routes, &routev3.Route{Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/" + c}}, Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: c}}}})
	}
	return &routev3.RouteConfiguration{Name: name, VirtualHosts: []*routev3.VirtualHost{h}}
}

func httpListener(t testing.TB, name string, port uint32, routeName string, filters ...*hcmv3.HttpFilter) *listenerv3.Listener {
	t.Helper()
	router := &hcmv3.HttpFilter{Name: "router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(t, &routerv3.Router{})}}
	hcm := &hcmv3.HttpConnectionManager{HttpFilters: append(filters, router), RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: routeName, ConfigSource: ads()}}}
	return &listenerv3.Listener{Name: name, Address: socket("127.0.0.1", port), FilterChains: []*listenerv3.FilterChain{{
		Filters: []*listenerv3.Filter{{Name: "hcm", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: pack(t, hcm)}}},
	}}}
}

func denyAll(t testing.TB) *hcmv3.HttpFilter {
	t.Helper()
	return &hcmv3.HttpFilter{Name: "rbac", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(t, &rbacfilterv3.RBAC{Rules: &rbacv3.RBAC{}})}}
}

func resource(t testing.TB, name string, m proto.Message) []*wire.Resource {
	t.Helper()
	r, err := wire.NewResource(name, m)
	if err != nil {
		t.Fatal(err)
	}
	return []*wire.Resource{r}
}

// world is a builder with a clock that a test turns.
type world struct {
	*compile.Builder
	t   *testing.T
	now time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return &world{compile.NewBuilder(compile.New()), t, time.Unix(1_000_000, 0)}
}

func (w *world) put(typeURL, name string, m proto.Message) []wire.Rejection {
	w.t.Helper()
	return w.Apply(typeURL, resource(w.t, name, m), nil, w.now)
}

func (w *world) accept(typeURL, name string, m proto.Message) {
	w.t.Helper()
	if r := w.put(typeURL, name, m); len(r) > 0 {
		w.t.Fatalf("refused: %v", r)
	}
}

// clustersOf are the clusters that the live table forwards to.
func (w *world) clustersOf(table string) string {
	w.t.Helper()
	cfg, _ := w.Build(w.now)
	tb := cfg.Table(table)
	if tb == nil {
		return "not live"
	}
	return strings.Join(slices.Collect(tb.Clusters), ",")
}

func TestNewVersionWaitsForWhatItReferences(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.accept(wire.ClusterType, "a", edsCluster("a"))
	w.accept(wire.EndpointType, "a", endpoints("a", 1))
	w.accept(wire.RouteType, "r", routes("r", "a"))
	if got := w.clustersOf("r"); got != "a" {
		t.Fatalf("at first: %s", got)
	}
	w.accept(wire.RouteType, "r", routes("r", "b"))
	if got := w.clustersOf("r"); got != "a" {
		t.Errorf("before cluster b is there: %s, want the last version", got)
	}
	w.accept(wire.ClusterType, "b", edsCluster("b"))
	if got := w.clustersOf("r"); got != "a" {
		t.Errorf("before b's endpoints are there: %s, want the last version", got)
	}
	if _, wait := w.Build(w.now); wait != 15*time.Second {
		t.Errorf("builds again after %v, want 15s", wait)
	}
	w.accept(wire.EndpointType, "b", endpoints("b", 2))
	if got := w.clustersOf("r"); got != "b" {
		t.Errorf("when all is there: %s", got)
	}
	if _, wait := w.Build(w.now); wait != 0 {
		t.Errorf("nothing waits, and it builds again after %v", wait)
	}
}

func TestAbsenceIsConfirmedByTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.accept(wire.ClusterType, "a", edsCluster("a"))
	w.accept(wire.EndpointType, "a", endpoints("a", 1))
	w.accept(wire.RouteType, "r", routes("r", "a"))
	w.clustersOf("r")
	w.accept(wire.RouteType, "r", routes("r", "typo"))
	w.now = w.now.Add(15*time.Second - 1)
	if got := w.clustersOf("r"); got != "a" {
		t.Errorf("before 15 s: %s, want the last version", got)
	}
	w.now = w.now.Add(1)
	if got := w.clustersOf("r"); got != "typo" {
		t.Errorf("after 15 s: %s, want the new version with its named error", got)
	}
}

func TestFirstVersionOfRoutesDoesNotWait(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.accept(wire.RouteType, "r", routes("r", "typo"))
	if got := w.clustersOf("r"); got != "typo" {
		t.Errorf("one dangling reference keeps all other routes away: %s", got)
	}
}

func TestListenerWaitsForItsRoutes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.accept(wire.ListenerType, "l", httpListener(t, "l", 8080, "r"))
	if cfg, wait := w.Build(w.now); cfg.Listener("l") != nil || wait == 0 {
		t.Errorf("live without routes: %v, wait %v", cfg.Listener("l"), wait)
	}
	if diff := cmp.Diff([]string{"r"}, w.Wants()[wire.RouteType]); diff != "" {
		t.Error(diff)
	}
	w.accept(wire.RouteType, "r", routes("r"))
	cfg, _ := w.Build(w.now)
	if cfg.Listener("l") == nil {
		t.Error("not live with its routes")
	}
}

func TestAuthorizationDoesNotWait(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.accept(wire.ListenerType, "l", httpListener(t, "l", 8080, "r"))
	w.accept(wire.RouteType, "r", routes("r", "a"))
	before, _ := w.Build(w.now)
	w.accept(wire.ListenerType, "l", httpListener(t, "l", 8080, "r", denyAll(t)))
	after, _ := w.Build(w.now)
	if n := len(before.Listener("l").Spec().Chains[0].HTTP.Filters); n != 0 {
		t.Errorf("%d filters before", n)
	}
	if n := len(after.Listener("l").Spec().Chains[0].HTTP.Filters); n != 1 {
		t.Errorf("%d filters after, want the new policy at once", n)
	}
}

func TestUnchangedResourcesAreTheSamePointers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.accept(wire.ClusterType, "a", edsCluster("a"))
	w.accept(wire.EndpointType, "a", endpoints("a", 1))
	w.accept(wire.RouteType, "r", routes("r", "a"))
	w.accept(wire.ListenerType, "l", httpListener(t, "l", 8080, "r"))
	before, _ := w.Build(w.now)
	w.accept(wire.ClusterType, "a", edsCluster("a")) // sent again, as it is
	w.accept(wire.EndpointType, "a", endpoints("a", 1, 2))
	after, _ := w.Build(w.now)
	if before.Listener("l") != after.Listener("l") || before.Table("r") != after.Table("r") || before.Cluster("a") != after.Cluster("a") {
		t.Error("something was compiled again")
	}
	if n := after.Assignment(after.Cluster("a")).Count(); n != 2 {
		t.Errorf("%d endpoints, want the new ones", n)
	}
}

func TestRefusedVersionLeavesTheLastOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.accept(wire.ClusterType, "a", edsCluster("a"))
	bad := edsCluster("a")
	bad.LbPolicy = clusterv3.Cluster_RING_HASH
	r := w.put(wire.ClusterType, "a", bad)
	if len(r) != 1 || r[0].Name != "a" || !strings.Contains(r[0].Reason, "lb_policy") {
		t.Fatalf("%v, want a refusal that names the field", r)
	}
	if cfg, _ := w.Build(w.now); cfg.Cluster("a") == nil {
		t.Error("the last version is gone")
	}
	w.Apply(wire.ClusterType, nil, []string{"a"}, w.now)
	if cfg, _ := w.Build(w.now); cfg.Cluster("a") != nil {
		t.Error("a removed cluster stays")
	}
}

func TestOneBadResourceDoesNotPoisonTheOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	bad := edsCluster("bad")
	bad.OutlierDetection = &clusterv3.OutlierDetection{}
	list := append(resource(t, "a", edsCluster("a")), resource(t, "bad", bad)...)
	list = append(list, resource(t, "b", edsCluster("b"))...)
	if r := w.Apply(wire.ClusterType, list, nil, w.now); len(r) != 1 || r[0].Name != "bad" {
		t.Fatalf("%v", r)
	}
	if diff := cmp.Diff([]string{"a", "b"}, w.Wants()[wire.EndpointType]); diff != "" {
		t.Error(diff)
	}
}

func TestListenersDoNotShareAnAddress(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.accept(wire.ListenerType, "one", httpListener(t, "one", 8080, "r"))
	if r := w.put(wire.ListenerType, "two", httpListener(t, "two", 8080, "r")); len(r) != 1 || r[0].Name != "two" {
		t.Errorf("%v, want listener two refused", r)
	}
	// An address that becomes free in the same update can be taken.
	if r := w.Apply(wire.ListenerType, resource(t, "two", httpListener(t, "two", 8080, "r")), []string{"one"}, w.now); len(r) != 0 {
		t.Errorf("%v, want it taken over", r)
	}
}

func TestVirtualHostsOfTheirOwnJoinTheirTable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	table := routes("80")
	table.Vhds = &routev3.Vhds{ConfigSource: ads()}
	w.accept(wire.RouteType, "80", table)
	before, _ := w.Build(w.now)
	host := routes("x", "a").GetVirtualHosts()[0]
	host.Name, host.Domains = "shop", []string{"shop"}
	w.accept(wire.ClusterType, "a", edsCluster("a"))
	w.accept(wire.EndpointType, "a", endpoints("a", 1))
	w.accept(wire.VirtualHostType, wire.VirtualHostResourceName("80", "shop"), host)
	after, _ := w.Build(w.now)
	if h := before.Table("80").Host([]byte("shop")); h.Name != "h" {
		t.Errorf("before: %s", h.Name)
	}
	if h := after.Table("80").Host([]byte("shop")); h.Name != "shop" {
		t.Errorf("after: %s", h.Name)
	}
	again, _ := w.Build(w.now)
	if again.Table("80") != after.Table("80") {
		t.Error("an unchanged table was merged again")
	}
	w.Apply(wire.VirtualHostType, nil, []string{"80/shop"}, w.now)
	if gone, _ := w.Build(w.now); gone.Table("80").Host([]byte("shop")).Name != "h" {
		t.Error("a removed virtual host stays")
	}
}

// One route to a cluster that does not exist must not take the other routes of
// its host with it; but while a wildcard answers, that goes on for a while.
func TestAHostWithADanglingRouteWaitsOnlyWhereAnotherAnswers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	table := routes("80")
	table.VirtualHosts = nil
	table.Vhds = &routev3.Vhds{ConfigSource: ads()}
	w.accept(wire.RouteType, "80", table)
	add := func(name, domain string) {
		h := routes("x", "missing").GetVirtualHosts()[0]
		h.Name, h.Domains = name, []string{domain}
		w.accept(wire.VirtualHostType, wire.VirtualHostResourceName("80", name), h)
	}
	add("wildcard", "*.shop")
	cfg, _ := w.Build(w.now)
	if h := cfg.Table("80").Host([]byte("a.shop")); h == nil || h.Name != "wildcard" {
		t.Fatalf("the first host waits: %v", h)
	}
	add("one", "a.shop")
	cfg, wait := w.Build(w.now)
	if h := cfg.Table("80").Host([]byte("a.shop")); h.Name != "wildcard" || wait == 0 {
		t.Errorf("%s answers and %v is waited, want the wildcard for a while", h.Name, wait)
	}
	cfg, _ = w.Build(w.now.Add(wait))
	if h := cfg.Table("80").Host([]byte("a.shop")); h.Name != "one" {
		t.Errorf("%s answers after the wait, want the host itself", h.Name)
	}
}

// A server replaces the subset of a route: the new cluster comes first, the old
// one goes in the same breath, and the new one's endpoints come only when they
// have been asked for. At no moment does a request find no endpoint.
func TestARouteMovesToANewClusterWithoutAGap(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	table := routes("80")
	table.Vhds = &routev3.Vhds{ConfigSource: ads()}
	host := func(cluster string) *routev3.VirtualHost {
		h := routes("x", cluster).GetVirtualHosts()[0]
		h.Name, h.Domains = "shop", []string{"shop"}
		return h
	}
	name := wire.VirtualHostResourceName("80", "shop")
	w.accept(wire.ClusterType, "old", edsCluster("old"))
	w.accept(wire.EndpointType, "old", endpoints("old", 1))
	w.accept(wire.RouteType, "80", table)
	w.accept(wire.VirtualHostType, name, host("old"))
	serves := func(when, want string) {
		t.Helper()
		cfg, _ := w.Build(w.now)
		got := cfg.Table("80").Host([]byte("shop")).Routes[0].Forward.Clusters[0].Cluster
		if got != want {
			t.Errorf("%s: the route goes to %s, want %s", when, got, want)
		}
		if spec := cfg.Cluster(got); spec == nil || cfg.Assignment(spec) == nil {
			t.Errorf("%s: cluster %s or its endpoints are gone", when, got)
		}
	}
	serves("before", "old")
	w.accept(wire.ClusterType, "new", edsCluster("new"))
	w.accept(wire.VirtualHostType, name, host("new"))
	w.Apply(wire.ClusterType, nil, []string{"old"}, w.now)
	w.Apply(wire.EndpointType, nil, []string{"old"}, w.now)
	serves("while the endpoints are awaited", "old")
	w.accept(wire.EndpointType, "new", endpoints("new", 1))
	serves("after", "new")
	if cfg, _ := w.Build(w.now); cfg.Cluster("old") != nil {
		t.Error("the removed cluster stays when nobody uses it")
	}
}
