package compile_test

import (
	"fmt"
	"testing"

	"github.com/tullemesh/tulle/internal/limit"
)

func TestConfigurationHasLargestSizes(t *testing.T) {
	nested := func(n int) string {
		p := `{"any":true}`
		for range n {
			p = `{"not_rule":` + p + `}`
		}
		return withPermission(p)
	}
	identified := func(n int) string {
		p := `{"any":true}`
		for range n {
			p = `{"not_id":` + p + `}`
		}
		return withPrincipal(p)
	}
	// The products are the limit, one less and one more.
	pairs := map[int][2]int{limit.ChainCombinationsMax - 1: {511, 513}, limit.ChainCombinationsMax: {512, 512}, limit.ChainCombinationsMax + 1: {481, 545}}
	combined := func(n int) string {
		p := pairs[n]
		if p[0]*p[1] != n {
			t.Fatalf("%d × %d is not %d", p[0], p[1], n)
		}
		return withMatch(fmt.Sprintf(`{"source_ports":[%s],"application_protocols":[%s]}`, list(p[0]), quoted(p[1])))
	}
	for _, c := range []struct {
		name string
		text func(int) string
		most int
	}{
		{"permissions", nested, limit.PolicyDepthMax},
		{"principals", identified, limit.PolicyDepthMax},
		{"matches", combined, limit.ChainCombinationsMax},
	} {
		for _, n := range []int{c.most - 1, c.most, c.most + 1} {
			if r := report(t, "listener", c.text(n)); r.Refused() != (n > c.most) {
				t.Errorf("%d %s: refused %t: %v", n, c.name, r.Refused(), r.Problems)
			}
		}
	}
}
