package cluster_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
)

const draws = 20_000

// members are n hosts "name0", "name1"... of one health.
func members(name string, n int, h cluster.Health) []cluster.Member {
	var out []cluster.Member
	for i := range n {
		out = append(out, cluster.Member{Host: &cluster.Host{Key: fmt.Sprintf("%s%d", name, i)}, Health: h})
	}
	return out
}

func weighted(weights ...uint32) []cluster.Member {
	out := members("h", len(weights), cluster.Healthy)
	for i := range out {
		out[i].Weight = weights[i]
	}
	return out
}

// share draws many times and counts, in percent, by the name without digits or,
// for whole, by host.
func share(s *cluster.HostSet, whole bool) map[string]int {
	counts := map[string]int{}
	var c cluster.Cursor
	random := uint64(1)
	for range draws {
		random = random*6364136223846793005 + 1442695040888963407
		name := "none"
		if h := s.Pick(&c, random^random>>29); h != nil {
			name = h.Key
			if !whole {
				name = name[:1]
			}
		}
		counts[name]++
	}
	for name, n := range counts {
		counts[name] = (n*100 + draws/2) / draws
	}
	return counts
}

func near(got, want map[string]int) bool {
	for name := range got {
		if _, known := want[name]; !known {
			return false
		}
	}
	for name, n := range want {
		if d := got[name] - n; d < -2 || d > 2 {
			return false
		}
	}
	return true
}

func TestRoundRobinVisitsEveryHostInTurn(t *testing.T) {
	t.Parallel()
	s := cluster.NewHostSet([]cluster.Group{{Members: weighted(1, 1, 1)}}, cluster.Policy{})
	var c cluster.Cursor
	var got []string
	for i := range uint64(6) {
		got = append(got, s.Pick(&c, i*7919).Key)
	}
	if diff := cmp.Diff([]string{"h0", "h1", "h2", "h0", "h1", "h2"}, got); diff != "" {
		t.Error(diff)
	}
}

// A heavy host does not get its requests in one go (nginx's example: 5, 1, 1).
func TestWeightedRoundRobinIsSmooth(t *testing.T) {
	t.Parallel()
	s := cluster.NewHostSet([]cluster.Group{{Members: weighted(5, 1, 1)}}, cluster.Policy{})
	var c cluster.Cursor
	counts, run, longest := map[string]int{}, 0, 0
	last := ""
	for i := range uint64(70) {
		h := s.Pick(&c, i).Key
		counts[h]++
		if run++; h != last {
			run = 1
		}
		last, longest = h, max(longest, run)
	}
	if diff := cmp.Diff(map[string]int{"h0": 50, "h1": 10, "h2": 10}, counts); diff != "" {
		t.Error(diff)
	}
	if longest > 3 {
		t.Errorf("%d requests in a row to one host", longest)
	}
}

func TestWeightsHoldForEveryBalancer(t *testing.T) {
	t.Parallel()
	for _, b := range []cluster.Balancer{cluster.RoundRobin, cluster.Random, cluster.LeastRequest} {
		s := cluster.NewHostSet([]cluster.Group{{Members: weighted(60, 30, 10)}}, cluster.Policy{Balancer: b})
		got := share(s, true)
		want := map[string]int{"h0": 60, "h1": 30, "h2": 10}
		if b == cluster.LeastRequest {
			// Idle hosts: of two draws the heavier one wins.
			want = map[string]int{"h0": 84, "h1": 15, "h2": 1}
		}
		if !near(got, want) {
			t.Errorf("balancer %d: %v, want %v", b, got, want)
		}
	}
}

func TestHugeWeightsAreScaled(t *testing.T) {
	t.Parallel()
	s := cluster.NewHostSet([]cluster.Group{{Members: weighted(4_000_000_000, 2_000_000_001, 1)}}, cluster.Policy{})
	if got := share(s, true); !near(got, map[string]int{"h0": 67, "h1": 33, "h2": 0}) {
		t.Errorf("%v", got)
	}
}

func TestLeastRequestAvoidsTheBusy(t *testing.T) {
	t.Parallel()
	m := weighted(1, 1)
	m[0].Host.Active.Store(10)
	s := cluster.NewHostSet([]cluster.Group{{Members: m}}, cluster.Policy{Balancer: cluster.LeastRequest})
	// Both draws hit the busy host in a quarter of the cases.
	if got := share(s, true); !near(got, map[string]int{"h0": 25, "h1": 75}) {
		t.Errorf("%v, want 25 and 75", got)
	}
}

// Envoy's documented examples: "Load balancing, priority levels" with the
// overprovisioning factor of 1.4, then panic and degraded hosts.
func TestPrioritiesFollowEnvoysTables(t *testing.T) {
	t.Parallel()
	group := func(priority uint32, name string, healthy, degraded, unhealthy int) cluster.Group {
		m := members(name, healthy, cluster.Healthy)
		m = append(m, members(name, degraded, cluster.Degraded)...)
		return cluster.Group{Priority: priority, Members: append(m, members(name, unhealthy, cluster.Unhealthy)...)}
	}
	cases := []struct {
		name   string
		groups []cluster.Group
		panic  uint32
		want   map[string]int
	}{
		{"all healthy", []cluster.Group{group(0, "a", 100, 0, 0), group(1, "b", 100, 0, 0)}, 50, map[string]int{"a": 100}},
		{"72 % are enough", []cluster.Group{group(0, "a", 72, 0, 28), group(1, "b", 100, 0, 0)}, 50, map[string]int{"a": 100}},
		{"71 % are not quite", []cluster.Group{group(0, "a", 71, 0, 29), group(1, "b", 100, 0, 0)}, 50, map[string]int{"a": 99, "b": 1}},
		{"half", []cluster.Group{group(0, "a", 50, 0, 50), group(1, "b", 100, 0, 0)}, 50, map[string]int{"a": 70, "b": 30}},
		{"none at first", []cluster.Group{group(0, "a", 0, 0, 10), group(1, "b", 100, 0, 0)}, 50, map[string]int{"b": 100}},
		{"both weak", []cluster.Group{group(0, "a", 25, 0, 75), group(1, "b", 25, 0, 75)}, 0, map[string]int{"a": 50, "b": 50}},
		{"three levels", []cluster.Group{group(0, "a", 20, 0, 80), group(1, "b", 20, 0, 80), group(2, "c", 100, 0, 0)}, 0, map[string]int{"a": 28, "b": 28, "c": 44}},
		{"panic uses all", []cluster.Group{group(0, "a", 1, 0, 9)}, 50, map[string]int{"a": 100}},
		{"no panic, none healthy", []cluster.Group{group(0, "a", 0, 0, 9)}, 0, map[string]int{"none": 100}},
		{"panic everywhere shares by size", []cluster.Group{group(0, "a", 0, 0, 10), group(1, "b", 0, 0, 30)}, 50, map[string]int{"a": 25, "b": 75}},
		{"degraded after healthy", []cluster.Group{group(0, "a", 0, 100, 0), group(1, "b", 100, 0, 0)}, 50, map[string]int{"b": 100}},
		{"degraded when the rest does not suffice", []cluster.Group{group(0, "a", 0, 100, 0)}, 50, map[string]int{"a": 100}},
		{"no hosts", nil, 50, map[string]int{"none": 100}},
		{"an empty level", []cluster.Group{group(0, "a", 0, 0, 0), group(1, "b", 10, 0, 0)}, 50, map[string]int{"b": 100}},
	}
	for _, c := range cases {
		s := cluster.NewHostSet(c.groups, cluster.Policy{PanicThreshold: c.panic})
		if got := share(s, false); !near(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
		if s.Empty() != (c.want["none"] == 100) {
			t.Errorf("%s: Empty is %v", c.name, s.Empty())
		}
	}
}

func TestPanicReachesUnhealthyHosts(t *testing.T) {
	t.Parallel()
	m := append(members("h", 1, cluster.Healthy), members("u", 3, cluster.Unhealthy)...)
	s := cluster.NewHostSet([]cluster.Group{{Members: m}}, cluster.Policy{PanicThreshold: 50})
	if got := share(s, false); !near(got, map[string]int{"h": 25, "u": 75}) {
		t.Errorf("in panic: %v", got)
	}
	s = cluster.NewHostSet([]cluster.Group{{Members: m}}, cluster.Policy{PanicThreshold: 20})
	if got := share(s, false); !near(got, map[string]int{"h": 100}) {
		t.Errorf("above the threshold: %v", got)
	}
}

func TestLocalitiesShareByWeightAndHealth(t *testing.T) {
	t.Parallel()
	groups := []cluster.Group{{Weight: 80, Members: members("a", 2, cluster.Healthy)}, {Weight: 20, Members: members("b", 8, cluster.Healthy)}}
	s := cluster.NewHostSet(groups, cluster.Policy{LocalityWeighted: true})
	if got := share(s, false); !near(got, map[string]int{"a": 80, "b": 20}) {
		t.Errorf("weighted: %v", got)
	}
	s = cluster.NewHostSet(groups, cluster.Policy{})
	if got := share(s, false); !near(got, map[string]int{"a": 20, "b": 80}) {
		t.Errorf("not weighted, all hosts alike: %v", got)
	}
	groups[0].Members[0].Health = cluster.Unhealthy // 70 % of 80 against 20
	s = cluster.NewHostSet(groups, cluster.Policy{LocalityWeighted: true})
	if got := share(s, false); !near(got, map[string]int{"a": 74, "b": 26}) {
		t.Errorf("half of a lost: %v", got)
	}
}

func TestRepetitionsGoToAnotherHostIfThereIsOne(t *testing.T) {
	t.Parallel()
	m := members("h", 3, cluster.Healthy)
	m[0].Weight = 1000
	bad := members("u", 2, cluster.Unhealthy)
	s := cluster.NewHostSet([]cluster.Group{{Members: append(m, bad...)}}, cluster.Policy{Balancer: cluster.Random})
	for _, c := range []struct {
		name  string
		tried string
		want  map[string]int
	}{
		{"none was tried", "", map[string]int{"h0": 100, "h1": 0, "h2": 0}},
		{"the heavy one was", "h0", map[string]int{"h1": 50, "h2": 50}},
		{"two were", "h0 h1", map[string]int{"h2": 100}},
		{"all were", "h0 h1 h2", map[string]int{"h0": 100, "h1": 0, "h2": 0}},
	} {
		counts := map[string]int{}
		var cursor cluster.Cursor
		random := uint64(1)
		for range draws {
			random = random*6364136223846793005 + 1442695040888963407
			h := s.PickOther(&cursor, random>>11, func(h *cluster.Host) bool { return slices.Contains(strings.Fields(c.tried), h.Key) })
			counts[h.Key]++
		}
		for k, n := range counts {
			counts[k] = (n*100 + draws/2) / draws
		}
		if !near(counts, c.want) {
			t.Errorf("%s: %v, want %v", c.name, counts, c.want)
		}
	}
}

// Whatever the hosts: if one is eligible a pick finds one, never an unhealthy
// one without panic, and equal inputs give equal picks.
func TestPickIsTotalAndDeterministic(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		var groups []cluster.Group
		healthy := false
		for range rapid.IntRange(0, 4).Draw(rt, "groups") {
			g := cluster.Group{Priority: rapid.Uint32Range(0, 3).Draw(rt, "priority"), Weight: rapid.Uint32Range(1, 5).Draw(rt, "weight")}
			for range rapid.IntRange(0, 5).Draw(rt, "hosts") {
				h := cluster.Health(rapid.IntRange(0, 3).Draw(rt, "health"))
				healthy = healthy || h == cluster.Healthy || h == cluster.Degraded
				g.Members = append(g.Members, cluster.Member{Host: &cluster.Host{Key: h2s(h)}, Weight: rapid.Uint32().Draw(rt, "w"), Health: h})
			}
			groups = append(groups, g)
		}
		s := cluster.NewHostSet(groups, cluster.Policy{
			Balancer: cluster.Balancer(rapid.IntRange(0, 2).Draw(rt, "balancer")), LocalityWeighted: rapid.Bool().Draw(rt, "locality"),
		})
		random := rapid.Uint64().Draw(rt, "random")
		var a, b cluster.Cursor
		h := s.Pick(&a, random)
		if again := s.Pick(&b, random); again != h {
			rt.Fatalf("%v, then %v", h, again)
		}
		if (h != nil) != healthy {
			rt.Fatalf("picked %v, healthy %v", h, healthy)
		}
		if h != nil && h.Key != "usable" {
			rt.Fatal("an unhealthy host without panic")
		}
	})
}

func h2s(h cluster.Health) string {
	if h == cluster.Healthy || h == cluster.Degraded {
		return "usable"
	}
	return "not usable"
}

func TestPickAllocatesNothing(t *testing.T) {
	s := cluster.NewHostSet([]cluster.Group{
		{Weight: 1, Members: weighted(1, 2, 3)}, {Weight: 2, Members: weighted(1, 1)}, {Priority: 1, Weight: 1, Members: weighted(5, 5)},
	}, cluster.Policy{Balancer: cluster.LeastRequest, LocalityWeighted: true})
	var c cluster.Cursor
	const want = 0
	if got := testing.AllocsPerRun(100, func() { s.Pick(&c, 12345) }); got != want {
		t.Errorf("%v allocations, want %d", got, want)
	}
}
