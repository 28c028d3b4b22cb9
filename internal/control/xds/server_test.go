package xds_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"

	"github.com/tullemesh/tulle/internal/control/xds"
	"github.com/tullemesh/tulle/internal/observe"
	"github.com/tullemesh/tulle/internal/testkit/xdsworld"
	"github.com/tullemesh/tulle/internal/wire"
)

// script runs story lines against a stage; each must hold.
func (s *stage) script(lines ...string) {
	s.t.Helper()
	for _, line := range lines {
		synctest.Wait()
		if err := s.do(strings.Fields(line)); err != nil {
			s.t.Fatalf("%s: %v", line, err)
		}
	}
	synctest.Wait()
}

func TestViewIsAskedAndRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, xds.Options{})
		var claims []string
		s.world.Views = func(c *xds.Client) (xds.View, error) {
			claims = append(claims, fmt.Sprintf("%s.%s plaintext=%v peer=%q", c.Node.Name, c.Node.Namespace, c.Plaintext, c.Peer))
			if c.Node.Name == "stranger" {
				return nil, errors.New("workload stranger is not of this mesh")
			}
			return xdsworld.View("shop"), nil
		}
		s.script("publish", "connect web delta", "web > cds", "web < cds (empty)", "connect stranger sotw", "stranger > cds", "stranger ended PermissionDenied")
		if want := `web.shop plaintext=true peer=""`; claims[0] != want {
			t.Errorf("claims %q, want %q", claims[0], want)
		}
		if err := s.proxies["stranger"].err(); !strings.Contains(err.Error(), "workload stranger is not of this mesh") {
			t.Errorf("the reason is not told: %v", err)
		}
	})
}

// byView is a generation whose resources depend on the view.
type byView struct{ version, view string }

func (g byView) Version() string                             { return g.version }
func (g byView) View(*xds.Client) (xds.View, error)          { return xdsworld.View(g.view), nil }
func (g byView) Resources(xds.View, string) []*wire.Resource { return nil }
func (g byView) Names(_ xds.View, typeURL string) []string   { return []string{"a", "b"} }
func (g byView) Build(v xds.View, typeURL, name string) (*wire.Resource, error) {
	if name == "b" {
		return wire.PackResource(name, typeURL, []byte("same")), nil
	}
	return wire.PackResource(name, typeURL, []byte(v.Key())), nil
}

func TestChangedViewIsEvaluatedWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, xds.Options{})
		s.server.Publish(byView{"1", "red"}, xds.Dirty{All: true})
		s.script("connect web delta", "web > cds", "web < cds a=red b=same")
		s.server.Publish(byView{"2", "blue"}, xds.Dirty{}) // nothing is dirty but the view
		s.script("web < cds a=blue")
		s.server.Publish(byView{"3", "blue"}, xds.Dirty{})
		s.script("web quiet")
	})
}

func TestRequestsThatAreRefused(t *testing.T) {
	node := func(id string) string { return id }
	tests := map[string]struct {
		id, typeURL, want string
		names             []string
	}{
		"no node id":        {id: node(""), typeURL: wire.ClusterType, want: "InvalidArgument"},
		"a foreign node id": {id: node("envoy-1"), typeURL: wire.ClusterType, want: "InvalidArgument"},
		"no type":           {id: nodeID("web"), typeURL: "", want: "InvalidArgument"},
		"an empty name":     {id: nodeID("web"), typeURL: wire.EndpointType, names: []string{""}, want: "InvalidArgument"},
		"a name of 3 kB":    {id: nodeID("web"), typeURL: wire.EndpointType, names: []string{strings.Repeat("x", 3000)}, want: "InvalidArgument"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, xds.Options{})
				s.script("publish", "connect web delta")
				p := s.proxies["web"]
				err := p.ads.SendMsg(&discoveryv3.DeltaDiscoveryRequest{Node: newNode(tt.id), TypeUrl: tt.typeURL, ResourceNamesSubscribe: tt.names})
				if err != nil {
					t.Fatal(err)
				}
				s.script("web ended " + tt.want)
			})
		})
	}
}

func TestClientThatSaysNothingIsEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, xds.Options{})
		s.script("publish", "connect web delta", "wait 14s", "web quiet", "wait 2s", "web ended DeadlineExceeded")
	})
}

func TestStreamsOfOneNodeAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, xds.Options{Limits: xds.Limits{StreamsPerNode: 2, Streams: 3}})
		s.script("publish")
		open := func(key, node string) *fakeProxy {
			p := connect(t, s.lis, node, true)
			s.proxies[key] = p
			s.script(key + " > cds")
			return p
		}
		open("1", "web")
		open("2", "web")
		open("3", "web")
		s.script("1 < cds (empty)", "2 < cds (empty)", "3 ended ResourceExhausted")
		// Another node is none of its business; a closed stream makes room.
		s.script("close 1")
		open("4", "web")
		open("5", "other")
		s.script("4 < cds (empty)", "5 < cds (empty)")
		open("6", "third")
		s.script("6 ended ResourceExhausted")
		if n := len(s.server.Status()); n != 3 {
			t.Errorf("%d streams", n)
		}
	})
}

// TestClientThatReadsNothing opens a stream whose client never receives: the
// server holds one response and a set of dirty names, and ends it in the end.
func TestClientThatReadsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, xds.Options{Limits: xds.Limits{SendTimeout: time.Minute}})
		s.script("set cds big=900000*x", "set eds e=1", "publish")
		p := dial(t, s.lis, "lazy", true)
		s.proxies["lazy"] = p
		close(p.done) // nobody reads
		s.script("lazy > cds", "connect web delta", "web > cds", "web < cds big=900000*x")
		for i := range 100 {
			s.script(fmt.Sprintf("set cds big=%d*y", 900000+i), "publish")
		}
		s.script("wait 50s")
		if n := len(s.server.Status()); n != 2 {
			t.Fatalf("%d streams before the timeout", n)
		}
		s.script("wait 30s")
		if st := s.server.Status(); len(st) != 1 || st[0].Node.Name != "web" {
			t.Fatalf("streams after the timeout: %+v", st)
		}
		// The reader got every state it could take, the last one for sure.
		p = s.proxies["web"]
		p.mu.Lock()
		last := p.got[len(p.got)-1].content[0]
		p.got = nil
		p.mu.Unlock()
		if last != "big=900099*y" {
			t.Errorf("the reader ended with %s", last)
		}
	})
}

func TestShutdownEndsStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, xds.Options{})
		s.script("publish", "connect web delta", "web > cds", "web < cds (empty)")
		s.stop()
		s.script("web ended Unavailable")
	})
}

func TestSynczIsIstios(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, xds.Options{})
		s.script("set cds a=1", "set lds l=1", "publish", "connect web delta", "web > cds", "web > lds", "web < cds a=1", "web < lds l=1", "web > cds ack")
		b, err := json.Marshal(xds.Syncz(s.server.Status()))
		if err != nil {
			t.Fatal(err)
		}
		want := `[{"proxy":"web.shop","proxy_type":"sidecar","cluster_sent":"1-1","cluster_acked":"1-1","listener_sent":"1-2"}]`
		if string(b) != want {
			t.Errorf("got  %s\nwant %s", b, want)
		}
	})
}

func TestMetricsCountWhatHappens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := observe.NewRegistry()
		s := newStage(t, xds.Options{Registry: reg})
		s.script("set cds a=1", "set eds e=1", "publish", "connect web sotw", "web > cds", "web < cds 1", "web > cds nack a: no", "web > eds list:e", "web < eds 1", "set eds e=2", "publish", "web < eds 2", "web > eds list:e ack:0")
		var out strings.Builder
		if err := reg.WritePrometheus(&out); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{
			`pilot_xds{version=""} 1`, `pilot_xds_pushes{type="cds"} 1`, `pilot_xds_pushes{type="eds"} 2`, `pilot_total_xds_rejects{type="cds"} 1`,
			`pilot_xds_cds_reject 1`, `pilot_xds_lds_reject 0`, `pilot_xds_expired_nonce{type="eds"} 1`, `pilot_proxy_convergence_time_count 2`, `pilot_xds_config_size_bytes_count{type="eds"} 2`,
		} {
			if !strings.Contains(out.String(), want+"\n") {
				t.Errorf("missing %s in\n%s", want, out.String())
			}
		}
	})
}

// TestOtherServicesKeepTheirCodec: ordinary messages pass on a server made
// with ServerOptions.
func TestOtherServicesKeepTheirCodec(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, xds.Options{})
		p := connect(t, s.lis, "web", true)
		s.proxies["web"] = p
		var resp discoveryv3.DiscoveryResponse
		err := p.conn.Invoke(t.Context(), "/unknown.Service/Method", &discoveryv3.DiscoveryRequest{}, &resp, grpc.WaitForReady(true))
		if err == nil || !strings.Contains(err.Error(), "unknown service") {
			t.Errorf("error %v", err)
		}
	})
}
