package xds

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"pgregory.net/rapid"

	"github.com/tullemesh/tulle/internal/wire"
)

// TestHoldingsAreAMapOnAnyList holds, over random changes and lists of names,
// that holdings say what a plain map would.
func TestHoldingsAreAMapOnAnyList(t *testing.T) {
	var all []string
	for i := range 20 {
		all = append(all, fmt.Sprintf("name-%02d", i))
	}
	rapid.Check(t, func(rt *rapid.T) {
		var h holdings
		want := map[string]held{}
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			name := rapid.SampledFrom(all).Draw(rt, "name")
			switch rapid.IntRange(0, 3).Draw(rt, "action") {
			case 0:
				v := held(rapid.IntRange(0, 3).Draw(rt, "version"))
				if rapid.Bool().Draw(rt, "named") {
					v |= namedBit
				}
				h.set(name, v)
				if want[name] = v; v == 0 {
					delete(want, name)
				}
			case 1:
				h.want(name, false)
				want[name] |= lookBit | askedBit
			case 2:
				h.want(name, true)
				want[name] |= lookBit | askedBit | forceBit
			case 3:
				h.on(slices.DeleteFunc(slices.Clone(all), func(string) bool { return rapid.Bool().Draw(rt, "absent") }))
			}
			got := maps.Collect(h.all)
			if !maps.Equal(got, want) {
				rt.Fatalf("have %v, want %v", got, want)
			}
			checked := 0
			for n, v := range want {
				checked += one(v.marked())
				if h.get(n) != v {
					rt.Fatalf("%s is %x, want %x", n, h.get(n), v)
				}
			}
			if h.count != len(want) || h.marked != checked {
				rt.Fatalf("counted %d, %d to check; there are %d and %d", h.count, h.marked, len(want), checked)
			}
			if names := h.sorted(func(string, held) bool { return true }); !slices.Equal(names, slices.Sorted(maps.Keys(want))) {
				rt.Fatalf("listed %q", names)
			}
		}
	})
}

func TestNamesOfTheListNeedNoMap(t *testing.T) {
	names := newMesh(1000).names
	var h holdings
	h.on(names)
	for _, n := range names {
		h.want(n, true)
	}
	if h.extra != nil || h.marked != len(names) {
		t.Errorf("%d of %d names are beside the list", len(h.extra), len(names))
	}
	if a := testing.AllocsPerRun(10, func() {
		for _, n := range names {
			h.set(n, h.get(n)^lookBit)
		}
	}); a > 0 {
		t.Errorf("%v allocations to mark names of the list", a)
	}
}

// onDemand is a generation in which one virtual host answers for any name.
type onDemand struct {
	meshGeneration
	answers string
}

func (g *onDemand) Build(_ View, typeURL, _ string) (*wire.Resource, error) {
	return wire.PackResource(g.answers, typeURL, []byte(g.answers)), nil
}

// TestAHostOnDemandFollowsWhoAnswersForIt: only the new virtual host is dirty,
// under a name that the client never said.
func TestAHostOnDemandFollowsWhoAnswersForIt(t *testing.T) {
	s := New(Options{})
	s.Publish(&onDemand{answers: "80/allow_any"}, Dirty{All: true})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	p := &pipe{context: func() context.Context { return ctx }, requests: make(chan *discoveryv3.DeltaDiscoveryRequest), got: make(chan int)}
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.serve(p, true) })
	defer func() { cancel(); serving.Wait(); s.running.Wait() }()
	receive := func() {
		t.Helper()
		select {
		case n := <-p.got:
			if n != 1 {
				t.Fatalf("%d resources, want 1", n)
			}
		case <-ctx.Done():
			t.Fatal("nothing came")
		}
	}
	p.requests <- &discoveryv3.DeltaDiscoveryRequest{
		Node: &corev3.Node{Id: "sidecar~127.0.0.1~web-0.bench~bench.svc.cluster.local"}, TypeUrl: wire.VirtualHostType,
		ResourceNamesSubscribe: []string{"80/a.example"},
	}
	receive()
	s.Publish(&onDemand{answers: "80/a.example:80"}, Dirty{Types: map[string]NameSet{wire.VirtualHostType: {Names: map[string]struct{}{"80/a.example:80": {}}}}})
	receive()
}
