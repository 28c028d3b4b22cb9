package compile_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/tullemesh/tulle/internal/proxy/compile"
	"github.com/tullemesh/tulle/internal/wire"
)

// order is the order in which a client meets the types.
func order() []string {
	return []string{wire.ClusterType, wire.EndpointType, wire.ListenerType, wire.RouteType, wire.SecretType}
}

// resources are a stream's resources of a type, by name.
func (s stream) resources(typeURL string) []*wire.Resource {
	var out []*wire.Resource
	for name, a := range s[typeURL] {
		out = append(out, wire.PackResource(name, a.GetTypeUrl(), a.GetValue()))
	}
	slices.SortFunc(out, func(a, b *wire.Resource) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// feed applies all resources of a stream, and removes what it no longer has.
func (s stream) feed(b *compile.Builder, before stream, now time.Time) []string {
	var refused []string
	for _, typeURL := range order() {
		var removed []string
		for name := range before[typeURL] {
			if s[typeURL][name] == nil {
				removed = append(removed, name)
			}
		}
		for _, r := range b.Apply(typeURL, s.resources(typeURL), removed, now) {
			refused = append(refused, fmt.Sprintf("%s %s: %s", typeURL[strings.LastIndexByte(typeURL, '.')+1:], r.Name, r.Reason))
		}
	}
	return refused
}

func scenarios() []string { return []string{"s1-plain", "s2-routing", "s5-tcp"} }

func clients() []string { return []string{"sidecar", "sidecar2", "gateway"} }

// What istiod really sends compiles, but for resources that ask for something
// that is not built yet. Each is in the golden file, with the place.
func TestRecordedStreamsCompileButForNamedFeatures(t *testing.T) {
	t.Parallel()
	var got strings.Builder
	for _, scenario := range scenarios() {
		for _, client := range clients() {
			base := filepath.Join(recordings(t), scenario, client)
			sotw := refusals(t, base+"-sotw.bin")
			if diff := cmp.Diff(sotw, refusals(t, base+"-delta.bin")); diff != "" {
				t.Errorf("%s %s: state of the world and delta differ:\n%s", scenario, client, diff)
			}
			fmt.Fprintf(&got, "# %s %s\n", scenario, client)
			for _, line := range sotw {
				fmt.Fprintln(&got, line)
			}
		}
	}
	golden(t, "recorded.txt", got.String())
}

func refusals(t *testing.T, file string) []string {
	t.Helper()
	s := stream{}
	s.replay(t, file)
	return s.feed(compile.NewBuilder(compile.New()), stream{}, time.Time{})
}

// golden compares with testdata/name; the flag that rewrites it is declared
// beside the reference's freshness test.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if flag.Lookup("update").Value.String() == "true" {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

// withoutUnbuilt takes out of route configurations and clusters what the
// compiler refuses, to see the rest of them decide.
func withoutUnbuilt(t testing.TB, s stream) {
	t.Helper()
	for name, a := range s[wire.RouteType] {
		var m routev3.RouteConfiguration
		unpack(t, a, &m)
		for _, h := range m.GetVirtualHosts() {
			for _, r := range h.GetRoutes() {
				r.TypedPerFilterConfig = nil
				if f := r.GetRoute(); f != nil {
					f.RequestMirrorPolicies, f.RetryPolicy = nil, nil
				}
			}
		}
		s[wire.RouteType][name] = pack(t, &m)
	}
	for name, a := range s[wire.ClusterType] {
		var m clusterv3.Cluster
		unpack(t, a, &m)
		m.OutlierDetection = nil
		if m.GetLbPolicy() != clusterv3.Cluster_CLUSTER_PROVIDED {
			m.LbPolicy, m.LbConfig = clusterv3.Cluster_ROUND_ROBIN, nil
		}
		s[wire.ClusterType][name] = pack(t, &m)
	}
}

func unpack(t testing.TB, a *anypb.Any, m proto.Message) {
	t.Helper()
	if err := a.UnmarshalTo(m); err != nil {
		t.Fatal(err)
	}
}

func pack(t testing.TB, m proto.Message) *anypb.Any {
	t.Helper()
	a := &anypb.Any{}
	if err := anypb.MarshalFrom(a, m, proto.MarshalOptions{Deterministic: true}); err != nil {
		t.Fatal(err)
	}
	return a
}
