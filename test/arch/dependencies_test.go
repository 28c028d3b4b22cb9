package arch_test

import (
	"flag"
	"os"
	"slices"
	"strings"
	"testing"
)

// update rewrites the list; whoever does it reviews the difference.
var update = flag.Bool("update", false, "rewrite dependencies.txt")

// TestDependenciesAreReviewed: the modules behind the program are a reviewed
// list. A line more is a decision: who maintains it, what it pulls in, what we
// would write instead.
func TestDependenciesAreReviewed(t *testing.T) {
	var found []string
	for _, p := range list(t) {
		if ours(p) {
			continue
		}
		if m := p.Module.Path; !slices.Contains(found, m) {
			found = append(found, m)
		}
	}
	slices.Sort(found)
	text := strings.Join(found, "\n") + "\n"
	if *update {
		if err := os.WriteFile("dependencies.txt", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile("dependencies.txt")
	if err != nil {
		t.Fatal(err)
	}
	known := strings.Split(strings.TrimSpace(string(want)), "\n")
	for _, m := range found {
		if !slices.Contains(known, m) {
			t.Errorf("%s is new in the program: review it, then run go test ./test/arch -update", m)
		}
	}
	for _, m := range known {
		if !slices.Contains(found, m) {
			t.Errorf("%s is no longer in the program: run go test ./test/arch -update", m)
		}
	}
}
