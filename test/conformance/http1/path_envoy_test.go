//go:build conformance

package http1_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
)

// pathParts are what the rules of normalization look at.
var pathParts = strings.Fields(`/ / / // /. /.. . .. ... %2e %2E %2e%2e %2f %2F %5c %5C \ %00 %25 %252f %252e % %2 %zz %61 %7E %7e %5f %3b %3F %23 %20 %c3%a9 %ff a B ; ;x=y , : @ = & + ~ ! $ ' ( ) * - _ " < > [ ] ^ { | } ` + "`")

// explainedPath reports whether we differ from Envoy on purpose.
func explainedPath(path string) bool {
	path, _, _ = strings.Cut(strings.ToLower(path), "?")
	// A dot segment with parameters whose dots were escaped, or with a backslash
	// behind: Envoy leaves it, we take it for what servers do.
	return strings.Contains(path, ";") && (strings.Contains(path, "%2e") || strings.Contains(path, "\\") || strings.Contains(path, "%5c"))
}

func TestPathsBecomeWhatStockEnvoyMakesOfThem(t *testing.T) {
	managers := map[string]*listener.HTTPManager{}
	for name, set := range normalizations() {
		managers[name] = asIstio()
		set(managers[name])
	}
	at := stockEnvoy(t, managers)
	b, _ := newStrict(t).(*strict)
	random := rand.New(rand.NewPCG(1, 2))
	var paths []string
	for range 3000 {
		path := "/"
		for range random.IntN(9) {
			path += pathParts[random.IntN(len(pathParts))]
		}
		if random.IntN(4) == 0 {
			path += "?" + pathParts[random.IntN(len(pathParts))] + "/../%2f//" + pathParts[random.IntN(len(pathParts))]
		}
		paths = append(paths, path)
	}
	for name, m := range managers {
		t.Run(name, func(t *testing.T) {
			envoy := &asker{at: at[name], tell: func(a answer) string { return a.field("x-path") }}
			ours := &asker{at: startProxy(t, m, b.addr()).at, tell: func(a answer) string { return a.body }}
			wrong := 0
			for _, path := range paths {
				if explainedPath(path) {
					continue
				}
				want, got := envoy.ask(t, path), ours.ask(t, path)
				if query, all := strings.CutPrefix(want, "//"); all && m.MergeSlashes && got == "/"+query {
					continue // where all are slashes, Envoy leaves two; its documentation says one
				}
				if got != want {
					if wrong++; wrong < 30 {
						t.Errorf("%s becomes %s, want %s", path, got, want)
					}
				}
			}
			t.Logf("%d of %d differ", wrong, len(paths))
		})
	}
}
