package xds_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	grpcxds "google.golang.org/grpc/xds"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tullemesh/tulle/internal/control/xds"
	"github.com/tullemesh/tulle/internal/testkit/xdsworld"
)

// proxylessWorld describes one service as Istio does for proxyless clients.
func proxylessWorld(t *testing.T, w *xdsworld.World, cluster string, port int) {
	pack := func(m proto.Message) *anypb.Any {
		a, err := anypb.New(m)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	ads := &corev3.ConfigSource{ResourceApiVersion: corev3.ApiVersion_V3, ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}}
	set := func(name string, m proto.Message) {
		if err := w.Set(name, m); err != nil {
			t.Fatal(err)
		}
	}
	set("greeter:80", &listenerv3.Listener{Name: "greeter:80", ApiListener: &listenerv3.ApiListener{ApiListener: pack(&hcmv3.HttpConnectionManager{
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: "80", ConfigSource: ads}},
		HttpFilters:    []*hcmv3.HttpFilter{{Name: "router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(&routerv3.Router{})}}},
	})}})
	set("80", &routev3.RouteConfiguration{Name: "80", VirtualHosts: []*routev3.VirtualHost{{Name: "greeter", Domains: []string{"*"}, Routes: []*routev3.Route{{
		Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: ""}},
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster}}},
	}}}}})
	set(cluster, &clusterv3.Cluster{
		Name: cluster, ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}, LbPolicy: clusterv3.Cluster_ROUND_ROBIN,
		EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{EdsConfig: ads, ServiceName: cluster},
	})
	set(cluster, &endpointv3.ClusterLoadAssignment{ClusterName: cluster, Endpoints: []*endpointv3.LocalityLbEndpoints{{
		Locality: &corev3.Locality{Region: "r"}, LoadBalancingWeight: wrapperspb.UInt32(1),
		LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: &corev3.Address{
			Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: "127.0.0.1", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)}}},
		}}}}},
	}}})
}

// backend is a health server that says which one it is by its status.
func backend(t *testing.T, state healthgrpc.HealthCheckResponse_ServingStatus) (port int) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	h := health.NewServer()
	h.SetServingStatus("", state)
	healthgrpc.RegisterHealthServer(g, h)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(lis) }()
	t.Cleanup(func() { g.Stop(); <-done })
	return lis.Addr().(*net.TCPAddr).Port
}

// TestGRPCGoResolves: grpc-go's own xDS client, state of the world by name,
// makes a call to a service that our server describes, and follows a change.
func TestGRPCGoResolves(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := xds.New(xds.Options{})
	g := grpc.NewServer(xds.ServerOptions()...)
	server.Register(g)
	run, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = xds.Serve(run, g, lis, time.Second) })
	wg.Go(func() { _ = server.Run(run) })
	defer func() { stop(); wg.Wait() }()

	world := xdsworld.New()
	proxylessWorld(t, world, "outbound|80||greeter", backend(t, healthgrpc.HealthCheckResponse_SERVING))
	world.Publish(server)

	resolver, err := grpcxds.NewXDSResolverWithConfigForTesting(fmt.Appendf(nil,
		`{"xds_servers":[{"server_uri":%q,"channel_creds":[{"type":"insecure"}],"server_features":["xds_v3"]}],"node":{"id":%q}}`,
		"passthrough:///"+lis.Addr().String(), nodeID("app")))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("xds:///greeter:80", grpc.WithResolvers(resolver), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	check := func() (healthgrpc.HealthCheckResponse_ServingStatus, error) {
		resp, err := healthgrpc.NewHealthClient(conn).Check(ctx, &healthgrpc.HealthCheckRequest{}, grpc.WaitForReady(true))
		return resp.GetStatus(), err
	}
	if got, err := check(); err != nil || got != healthgrpc.HealthCheckResponse_SERVING {
		t.Fatalf("status %v, %v", got, err)
	}

	// The route moves to another cluster, which goes to another backend.
	proxylessWorld(t, world, "outbound|80|v2|greeter", backend(t, healthgrpc.HealthCheckResponse_NOT_SERVING))
	world.Publish(server)
	for {
		// grpc-go takes a route into use a moment before its balancer knows the
		// cluster ("unknown cluster selected for RPC").
		got, err := check()
		if err == nil && got == healthgrpc.HealthCheckResponse_NOT_SERVING {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("the change never came: status %v, %v", got, err)
		}
	}
	for _, p := range server.Status() {
		for _, ty := range p.Types {
			if ty.Rejected != nil {
				t.Errorf("grpc-go refused %s: %s", ty.TypeURL, ty.Rejected.Message)
			}
		}
	}
}
