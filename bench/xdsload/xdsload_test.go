package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func testMesh() mesh {
	return mesh{services: 120, endpoints: 5, namespaces: 50, localities: 10, tcpEvery: 10, routeEvery: 10, policies: true}
}

func TestGeneratedFolder(t *testing.T) {
	m := testMesh()
	dir := filepath.Join(t.TempDir(), "mesh")
	if err := m.write(dir); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(b)
	}
	text := all.String()
	if strings.Contains(text, "%!") {
		t.Errorf("a format is wrong: %s", text[strings.Index(text, "%!")-40:][:80])
	}
	for want, n := range map[string]int{
		"kind: ServiceEntry": 120 + 3, "kind: VirtualService": 12 + 1, "kind: DestinationRule": 12, "kind: WorkloadEntry": 2,
		"name: svc-0001, namespace: bench-01": 3, "namespace: bench-49": 2, "locality: region2/zone10": 60, "{address: 10.0.0.64, ": 1,
	} {
		if got := strings.Count(text, want); got != n {
			t.Errorf("%q occurs %d times, want %d", want, got, n)
		}
	}
}

func TestSpread(t *testing.T) {
	var d []time.Duration
	for i := 100; i > 0; i-- {
		d = append(d, time.Duration(i)*time.Millisecond)
	}
	if got, want := spreadOf(d), (spread{100, 1, 50, 90, 99, 100}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := spreadOf(nil); got != (spread{}) {
		t.Errorf("nothing is %+v", got)
	}
}

// tiny is an ADS server with one resource of each type. It answers each
// request that is no ACK with all of the type, and publishes what next brings.
type tiny struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	next chan *endpointv3.ClusterLoadAssignment
}

func (s *tiny) resources(typeURL string) []proto.Message {
	manager, _ := anypb.New(&hcmv3.HttpConnectionManager{RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: "80"}}})
	return map[string][]proto.Message{
		clusterType:     {&clusterv3.Cluster{Name: "a", ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}}, &clusterv3.Cluster{Name: "static"}},
		endpointType:    {&endpointv3.ClusterLoadAssignment{ClusterName: "a"}},
		listenerType:    {&listenerv3.Listener{Name: "l", FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: manager}}}}}}},
		routeType:       {&routev3.RouteConfiguration{Name: "80", Vhds: &routev3.Vhds{}}},
		virtualHostType: {&routev3.VirtualHost{Name: "80/host"}},
	}[typeURL]
}

func (s *tiny) DeltaAggregatedResources(conn discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	requests := make(chan *discoveryv3.DeltaDiscoveryRequest)
	go func() {
		defer close(requests)
		for {
			r, err := conn.Recv()
			if err != nil {
				return
			}
			requests <- r
		}
	}()
	send := func(typeURL string, ms []proto.Message) error {
		resp := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: typeURL, Nonce: "n"}
		for _, m := range ms {
			body, err := anypb.New(m)
			if err != nil {
				return err
			}
			name := ""
			switch n := m.(type) {
			case interface{ GetName() string }:
				name = n.GetName()
			case interface{ GetClusterName() string }:
				name = n.GetClusterName()
			}
			resp.Resources = append(resp.Resources, &discoveryv3.Resource{Name: name, Version: "1", Resource: body})
		}
		return conn.Send(resp)
	}
	for {
		var err error
		select {
		case r, ok := <-requests:
			if !ok {
				return nil
			}
			if r.ResponseNonce == "" {
				err = send(r.TypeUrl, s.resources(r.TypeUrl))
			}
		case m := <-s.next:
			err = send(endpointType, []proto.Message{m})
		}
		if err != nil {
			return err
		}
	}
}

// TestProxyBecomesReadyAndSeesChanges: a proxy follows clusters to endpoints,
// listeners to routes to virtual hosts, and notes when the marker comes.
func TestProxyBecomesReadyAndSeesChanges(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &tiny{next: make(chan *endpointv3.ClusterLoadAssignment)}
	g := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, server)
	go func() { _ = g.Serve(lis) }()
	defer g.Stop()

	s := &settings{mesh: testMesh(), dir: "x", addr: lis.Addr().String(), mode: "vhds", proxies: 1}
	f, err := newFleet(s)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer f.running.Wait()
	defer cancel()
	f.start(ctx, 0, 1)
	if got := f.await(0, 1, 10*time.Second); len(got) != 1 {
		t.Fatal("the proxy did not become ready")
	}
	for _, typeURL := range types() {
		if n := f.byType[typeURL].msgs.Load(); n != 1 {
			t.Errorf("%s: %d responses", typeURL, n)
		}
	}
	m := &marker{types: []string{endpointType}, text: []byte("10.9.9.9"), done: make(chan struct{}), at: make([]time.Time, 1), left: 1}
	f.marker.Store(m)
	start := time.Now()
	server.next <- &endpointv3.ClusterLoadAssignment{ClusterName: fmt.Sprintf("a-%s", "10.9.9.9")}
	select {
	case <-m.done:
	case <-time.After(10 * time.Second):
		t.Fatal("the change was not seen")
	}
	if got := m.latencies(start); len(got) != 1 || got[0] < 0 {
		t.Errorf("latencies %v", got)
	}
}
