package xdsclient_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3" // for UnmarshalNew
	_ "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"

	"github.com/tullemesh/tulle/internal/control/xds"
	"github.com/tullemesh/tulle/internal/proxy/xdsclient"
	"github.com/tullemesh/tulle/internal/testkit/adsreplay"
	"github.com/tullemesh/tulle/internal/wire"
)

// recordings finds Istio's recorded streams, or says why the test is skipped.
func recordings(t *testing.T) string {
	dir := os.Getenv("TULLE_ISTIO_DATA")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "..", "shared", "data", "istio")
	}
	dir += "-ads"
	if _, err := os.Stat(dir); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("Istio's recorded streams are missing: %v", err)
		}
		t.Skipf("Istio's recorded streams are not here: %v", err)
	}
	return dir
}

// accepting keeps the resources as a proxy that accepts all would have them.
type accepting struct {
	client *xdsclient.Client
	held   map[string]map[string]*wire.Resource
}

func (a *accepting) Apply(_ context.Context, u xdsclient.Update) []wire.Rejection {
	if a.held[u.Type] == nil {
		a.held[u.Type] = map[string]*wire.Resource{}
	}
	for _, r := range u.Added {
		a.held[u.Type][r.Name] = r
	}
	for _, n := range u.Removed {
		delete(a.held[u.Type], n)
	}
	if u.Type == wire.ClusterType {
		var names []string
		for n, r := range a.held[u.Type] {
			var c clusterv3.Cluster
			if err := proto.Unmarshal(r.Body.Value, &c); err != nil {
				return []wire.Rejection{{Name: n, Reason: err.Error()}}
			}
			if c.GetType() == clusterv3.Cluster_EDS {
				names = append(names, n)
			}
		}
		a.client.Want(wire.EndpointType, names)
	}
	return nil
}

// TestReplaysIstio plays each recorded stream of s1 and s2 with its edits, and
// compares what the client holds with a plain reading of the same files.
func TestReplaysIstio(t *testing.T) {
	dir := recordings(t)
	for _, scenario := range []string{"s1-plain", "s2-routing", "s5-tcp"} {
		for _, client := range []string{"sidecar", "gateway"} {
			for _, mode := range []string{"delta", "sotw"} {
				name := fmt.Sprintf("%s/%s-%s", scenario, client, mode)
				t.Run(name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { replay(t, filepath.Join(dir, name)) })
				})
			}
		}
	}
}

func replay(t *testing.T, base string) {
	files, err := filepath.Glob(base + ".edit-*.bin")
	if err != nil {
		t.Fatal(err)
	}
	var recs []*adsreplay.Recording
	for _, file := range append([]string{base + ".bin"}, files...) {
		rec, err := adsreplay.Load(file)
		if err != nil {
			t.Fatal(err)
		}
		recs = append(recs, rec)
	}
	r := newRig(t)
	server := adsreplay.New(recs[0])
	r.wrap = func(*xds.Server) discoveryv3.AggregatedDiscoveryServiceServer { return server }
	r.startServer()
	if strings.Contains(base, "-sotw") {
		r.opts.Mode = xdsclient.SotW
	}
	a := &accepting{held: map[string]map[string]*wire.Resource{}}
	r.opts.Handler = a
	r.runClient(func(c *xdsclient.Client) {
		a.client = c
		c.Subscribe(wire.ClusterType, xdsclient.Wildcard)
		c.Subscribe(wire.ListenerType, xdsclient.Wildcard)
	})
	synctest.Wait()
	for _, rec := range recs[1:] {
		server.Play(rec)
		synctest.Wait()
	}
	want := expected(recs)
	for _, typeURL := range []string{wire.ClusterType, wire.ListenerType, wire.EndpointType} {
		if len(want[typeURL]) == 0 && !(typeURL == wire.ListenerType && strings.Contains(base, "gateway")) {
			t.Errorf("the recording has no %s", typeURL)
		}
		if len(a.held[typeURL]) != len(want[typeURL]) {
			t.Errorf("%s: holds %d, want %d", typeURL, len(a.held[typeURL]), len(want[typeURL]))
		}
		for n, body := range want[typeURL] {
			if got := a.held[typeURL][n]; got == nil || string(got.Body.Value) != body {
				t.Errorf("%s %q differs", typeURL, n)
			}
		}
	}
	answers := server.Answers()
	for _, answer := range answers {
		if answer.Rejected != "" {
			t.Errorf("NACK: %+v", answer)
		}
	}
	if len(answers) < 3 {
		t.Errorf("%d answers", len(answers))
	}
}

// expected reads the recordings as the README beside them says.
func expected(recs []*adsreplay.Recording) map[string]map[string]string {
	out := map[string]map[string]string{}
	for _, rec := range recs {
		for _, m := range rec.Responses {
			typeURL := m.GetTypeUrl()
			if out[typeURL] == nil {
				out[typeURL] = map[string]string{}
			}
			switch r := m.(type) {
			case *discoveryv3.DeltaDiscoveryResponse:
				for _, x := range r.Resources {
					out[typeURL][x.Name] = string(x.Resource.Value)
				}
				for _, n := range r.RemovedResources {
					delete(out[typeURL], n)
				}
			case *discoveryv3.DiscoveryResponse:
				if typeURL == wire.ClusterType || typeURL == wire.ListenerType {
					clear(out[typeURL])
				}
				for _, x := range r.Resources {
					msg, err := x.UnmarshalNew()
					if err != nil {
						continue // NDS, which this test does not ask for
					}
					name := ""
					switch n := msg.(type) {
					case interface{ GetClusterName() string }:
						name = n.GetClusterName()
					case interface{ GetName() string }:
						name = n.GetName()
					}
					out[typeURL][name] = string(x.Value)
				}
			}
		}
	}
	return out
}
