package invariant_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/invariant"
)

func TestTrueConditionPassesUncounted(t *testing.T) {
	before := invariant.Violations()
	if !invariant.Check(true, "one is one") {
		t.Error("a true condition was returned as false")
	}
	if got := invariant.Violations(); got != before {
		t.Errorf("violations went from %d to %d", before, got)
	}
}

func TestFalseConditionPanicsInTests(t *testing.T) {
	before := invariant.Violations()
	defer func() {
		if got := recover(); got != "invariant violated: window is negative" {
			t.Errorf("panic value %v", got)
		}
		if got := invariant.Violations(); got != before+1 {
			t.Errorf("violations went from %d to %d", before, got)
		}
	}()
	invariant.Check(false, "window is negative")
	t.Error("a false condition passed")
}

func TestFalseConditionIsCountedInProduction(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "run", "./testdata/production").CombinedOutput()
	if err != nil {
		t.Fatalf("run: %v\n%s", err, out)
	}
	if got := strings.TrimSpace(string(out)); got != "true false false 2" {
		t.Errorf("production printed %q", got)
	}
}

func TestCheckAllocatesNothing(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { invariant.Check(true, "holds") }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}
