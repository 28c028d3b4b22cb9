package xdsclient_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/tullemesh/tulle/internal/control/xds"
	"github.com/tullemesh/tulle/internal/proxy/xdsclient"
	"github.com/tullemesh/tulle/internal/testkit/xdsworld"
	"github.com/tullemesh/tulle/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// consumer is a handler that keeps what it was told, one line an update, and
// subscribes endpoints as clusters come, as a proxy does.
type consumer struct {
	client *xdsclient.Client
	follow bool

	mu     sync.Mutex
	lines  []string
	refuse map[string]string // by content of the resource
	held   map[string]string // cluster names
}

func (c *consumer) Apply(_ context.Context, u xdsclient.Update) []wire.Rejection {
	c.mu.Lock()
	defer c.mu.Unlock()
	kind := u.Type[strings.LastIndexByte(u.Type, '.')+1:]
	line := kind
	if u.Stored {
		line += " stored"
	}
	if u.Full {
		line += " full"
	}
	var refused []wire.Rejection
	for _, r := range u.Added {
		line += fmt.Sprintf(" %s=%s", r.Name, r.Body.Value)
		if reason := c.refuse[string(r.Body.Value)]; reason != "" {
			refused = append(refused, wire.Rejection{Name: r.Name, Reason: reason})
		} else if u.Type == wire.ClusterType {
			c.held[r.Name] = ""
		}
	}
	for _, n := range u.Removed {
		line += " -" + n
		if u.Type == wire.ClusterType {
			delete(c.held, n)
		}
	}
	c.lines = append(c.lines, line)
	if c.follow && u.Type == wire.ClusterType {
		var names []string
		for n := range c.held {
			names = append(names, n)
		}
		c.client.Want(wire.EndpointType, names)
	}
	return refused
}

// told returns the updates since the last call.
func (c *consumer) told() string {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	out := strings.Join(c.lines, "\n")
	c.lines = nil
	return out
}

// rig is a control plane that can be stopped and started again, and a client.
type rig struct {
	t     *testing.T
	world *xdsworld.World
	opts  xdsclient.Options
	// wrap lets a test put its own service before the server.
	wrap func(*xds.Server) discoveryv3.AggregatedDiscoveryServiceServer

	mu         sync.Mutex
	lis        *bufconn.Listener
	server     *xds.Server
	stopServer func()
	stopClient func()
	consumer   *consumer
	client     *xdsclient.Client
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, world: xdsworld.New(), stopServer: func() {}, stopClient: func() {}}
	r.opts = xdsclient.Options{
		Target: "passthrough:///control",
		Node:   &corev3.Node{Id: "sidecar~127.0.0.1~web.shop~shop.svc.cluster.local"},
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			r.mu.Lock()
			lis := r.lis
			r.mu.Unlock()
			return lis.DialContext(ctx)
		})},
	}
	t.Cleanup(func() { r.stopClient(); r.stopServer() })
	return r
}

func (r *rig) startServer() {
	server := xds.New(xds.Options{})
	g := grpc.NewServer(xds.ServerOptions()...)
	if r.wrap != nil {
		discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, r.wrap(server))
	} else {
		server.Register(g)
	}
	lis := bufconn.Listen(64 << 10)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = xds.Serve(ctx, g, lis, time.Second) })
	wg.Go(func() { _ = server.Run(ctx) })
	r.mu.Lock()
	r.lis, r.server = lis, server
	r.mu.Unlock()
	r.stopServer = func() { cancel(); wg.Wait(); r.stopServer = func() {} }
}

func (r *rig) startClient(follow bool, wildcards ...string) {
	r.consumer = &consumer{follow: follow, refuse: map[string]string{}, held: map[string]string{}}
	r.opts.Handler = r.consumer
	r.runClient(func(c *xdsclient.Client) {
		r.consumer.client = c
		for _, typeURL := range wildcards {
			c.Subscribe(typeURL, xdsclient.Wildcard)
		}
	})
}

// runClient makes a client of the options, and runs it after prepare.
func (r *rig) runClient(prepare func(*xdsclient.Client)) {
	var err error
	if r.client, err = xdsclient.New(r.opts); err != nil {
		r.t.Fatal(err)
	}
	prepare(r.client)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.client.Run(ctx); err != nil {
			r.t.Errorf("run: %v", err)
		}
	}()
	r.stopClient = func() { cancel(); <-done; r.stopClient = func() {} }
}

func (r *rig) set(typeURL, name, content string) {
	r.world.Put(name, wire.PackResource(name, typeURL, []byte(content)))
}

func (r *rig) publish() { r.world.Publish(r.server) }

func (r *rig) expect(want ...string) {
	r.t.Helper()
	if got := r.consumer.told(); got != strings.Join(want, "\n") {
		r.t.Fatalf("told:\n%s\nwant:\n%s", got, strings.Join(want, "\n"))
	}
}

// namedField is protobuf's field 1 with the name, then the content in field 2:
// state of the world finds a resource's name in field 1.
func namedField(name, content string) string {
	return "\n" + string(rune(len(name))) + name + "\x12" + string(rune(len(content))) + content
}

func TestDeltaFollowsClustersWithEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.startServer()
		r.set(wire.ClusterType, "a", "1")
		r.set(wire.ClusterType, "b", "1")
		r.set(wire.EndpointType, "a", "ea")
		r.publish()
		r.startClient(true, wire.ClusterType)
		r.expect("Cluster a=1 b=1", "ClusterLoadAssignment a=ea", "ClusterLoadAssignment -b")

		r.set(wire.EndpointType, "b", "eb")
		r.publish()
		r.expect("ClusterLoadAssignment b=eb")

		// A cluster changes: the server sends its endpoints again, and the
		// consumer, which has them, is not bothered.
		r.set(wire.ClusterType, "a", "2")
		r.publish()
		r.expect("Cluster a=2")

		r.world.Unset(wire.ClusterType, "b")
		r.world.Unset(wire.EndpointType, "b")
		r.publish()
		got := r.consumer.told()
		if !strings.HasPrefix(got, "Cluster -b") {
			t.Fatalf("told %q", got)
		}
		for _, ts := range r.server.Status()[0].Types {
			if !ts.Synced() || ts.Held != 1 {
				t.Errorf("%s: %+v", ts.TypeURL, ts)
			}
		}
	})
}

func TestReconnectResendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.startServer()
		r.set(wire.ClusterType, "a", "1")
		r.set(wire.ClusterType, "b", "1")
		r.set(wire.EndpointType, "a", "ea")
		r.set(wire.EndpointType, "b", "eb")
		r.publish()
		r.startClient(true, wire.ClusterType)
		r.expect("Cluster a=1 b=1", "ClusterLoadAssignment a=ea b=eb")
		if !r.client.Status().Connected {
			t.Error("not connected")
		}

		r.stopServer()
		synctest.Wait()
		if s := r.client.Status(); s.Connected || s.LastError == nil {
			t.Errorf("still connected: %+v", s)
		}
		<-time.After(time.Minute) // virtual: many attempts
		r.expect()
		r.startServer()
		r.set(wire.ClusterType, "b", "2")
		r.world.Unset(wire.EndpointType, "a")
		r.publish()
		<-time.After(13 * time.Second) // one wait at its longest, 12 s: the connection's and the stream's do not add up
		r.expect("Cluster b=2", "ClusterLoadAssignment -a")
		if !r.client.Status().Connected {
			t.Error("not connected again")
		}
	})
}

func TestRefusedResourceIsNackedByName(t *testing.T) {
	for _, mode := range []xdsclient.Mode{xdsclient.Delta, xdsclient.SotW} {
		t.Run(fmt.Sprint(mode), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.opts.Mode = mode
				r.startServer()
				r.set(wire.ListenerType, "good", namedField("good", "1"))
				r.publish()
				r.startClient(false, wire.ListenerType)
				r.consumer.told()
				bad := namedField("bad", "!")
				r.consumer.refuse[bad] = "no filter chain\nat all"
				r.set(wire.ListenerType, "bad", bad)
				r.set(wire.ListenerType, "good", namedField("good", "2"))
				r.publish()
				synctest.Wait()

				nack := r.server.Status()[0].Types[0].Rejected
				want := []wire.Rejection{{Name: "bad", Reason: "no filter chain; at all"}}
				if nack == nil || !slices.Equal(nack.Resources, want) {
					t.Fatalf("server knows %+v", nack)
				}
				st := r.client.Status().Types[0]
				if st.Resources != 1 || len(st.Rejected) != 1 {
					t.Fatalf("client has %+v", st)
				}
				// The last good one of it would have stayed; a mended one ends it.
				r.set(wire.ListenerType, "bad", namedField("bad", "ok"))
				r.publish()
				synctest.Wait()
				if ty := r.server.Status()[0].Types[0]; !ty.Synced() || ty.Held != 2 {
					t.Fatalf("after the mend: %+v", ty)
				}
			})
		})
	}
}

func TestFallsBackToStateOfTheWorld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.wrap = func(s *xds.Server) discoveryv3.AggregatedDiscoveryServiceServer { return sotwOnly{Server: s} }
		r.startServer()
		r.set(wire.ClusterType, "a", namedField("a", "1"))
		r.set(wire.ClusterType, "b", namedField("b", "1"))
		r.set(wire.EndpointType, "a", namedField("a", "e"))
		r.publish()
		r.startClient(true, wire.ClusterType)
		r.expect("Cluster full a="+namedField("a", "1")+" b="+namedField("b", "1"), "ClusterLoadAssignment a="+namedField("a", "e"))

		// Endpoints of b never come: 15 s confirm that there are none.
		<-time.After(14 * time.Second)
		r.expect()
		<-time.After(2 * time.Second)
		r.expect("ClusterLoadAssignment -b")

		r.world.Unset(wire.ClusterType, "b")
		r.publish()
		r.expect("Cluster full -b")
	})
}

type sotwOnly struct{ *xds.Server }

func (sotwOnly) DeltaAggregatedResources(discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	return status.Error(codes.Unimplemented, "state of the world only")
}

func TestVirtualHostsOnDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.startServer()
		r.set(wire.VirtualHostType, "80/a", "1")
		r.world.Put("80/b:80", wire.PackResource("80/b", wire.VirtualHostType, []byte("2")))
		r.publish()
		r.startClient(false)
		r.client.Subscribe(wire.VirtualHostType, "80/a", "80/nobody", "80/b:80")
		r.expect("VirtualHost 80/a=1 80/b=2", "VirtualHost -80/nobody")
		r.client.Want(wire.VirtualHostType, []string{"80/nobody", "80/b:80"})
		r.expect()
		r.set(wire.VirtualHostType, "80/a", "9")
		r.publish()
		r.expect()
		if n := r.client.Status().Types[0].Resources; n != 1 {
			t.Errorf("%d resources, want the aliased one", n)
		}
	})
}
