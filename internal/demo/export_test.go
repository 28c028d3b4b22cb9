package demo_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/tullemesh/tulle/internal/demo"
)

func TestExportWritesTheProjectOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "shop")
	written, err := demo.Export(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(written) != 6 {
		t.Errorf("wrote %q, want tulle.yaml and five objects", written)
	}
	for _, p := range written {
		if b, err := os.ReadFile(p); err != nil || len(b) == 0 {
			t.Errorf("%s: %d bytes, %v", p, len(b), err)
		}
	}
	edited := filepath.Join(dir, "istio", "gateway.yaml")
	if err := os.WriteFile(edited, []byte("# mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "tulle.yaml")); err != nil {
		t.Fatal(err)
	}
	if _, err := demo.Export(dir); !errors.Is(err, demo.ErrExists) {
		t.Errorf("export over edited files: %v", err)
	}
	if b, _ := os.ReadFile(edited); string(b) != "# mine" {
		t.Errorf("the edited file holds %q", b)
	}
	if _, err := os.Stat(filepath.Join(dir, "tulle.yaml")); err == nil {
		t.Error("a refused export wrote a file")
	}
}
