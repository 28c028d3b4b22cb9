package apis_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/tullemesh/tulle/internal/apis"
)

var update = flag.Bool("update", false, "rewrite golden files")

// golden compares got with a file, or writes it under -update.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got), rewrite with -update after reading:\n%s", path, diff)
	}
}

// describe is one problem in one line, with its remedy.
func describe(p apis.Problem) string {
	s := p.String()
	if p.Hint != "" {
		s += " | " + p.Hint
	}
	return s
}

// archives are the files with one mistake each.
func archives(t testing.TB) map[string]*txtar.Archive {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("testdata", "malformed", "*.txtar"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no archives: %v", err)
	}
	all := map[string]*txtar.Archive{}
	for _, path := range paths {
		a, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimSuffix(path, ".txtar")] = a
	}
	return all
}

func TestMalformedFilesAreRefusedByNameAndPlace(t *testing.T) {
	rows := 0
	for path, archive := range archives(t) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			var said strings.Builder
			for _, f := range archive.Files {
				rows++
				result := apis.Decode(f.Name, f.Data, apis.Options{})
				fmt.Fprintf(&said, "%s\n", f.Name)
				refused := 0
				for _, p := range result.Problems {
					fmt.Fprintf(&said, "  %s\n", describe(p))
					if p.Level == apis.LevelError {
						refused++
						complete(t, f.Name, p)
					}
				}
				if refused == 0 {
					t.Errorf("%s is not refused: %v", f.Name, result.Problems)
				}
				for _, o := range result.Objects {
					if o.Refused() || o.Key.Name == "good" || strings.HasPrefix(f.Name, "the-same") || strings.HasPrefix(f.Name, "bad-item") {
						continue
					}
					t.Errorf("%s: %s passes", f.Name, o.Key)
				}
			}
			golden(t, path+".want", said.String())
		})
	}
	if rows < 200 {
		t.Errorf("%d malformed files, want 200", rows)
	}
}

// complete checks that a refusal says which object, where, why, and what happens to traffic.
func complete(t *testing.T, name string, p apis.Problem) {
	t.Helper()
	if p.Key.Kind == "" && !strings.HasPrefix(name, "no-") && name != "empty-kind.yaml" && name != "kind-is-a-number.yaml" {
		t.Errorf("%s: no object named: %s", name, p)
	}
	if p.Position.File != name || p.Position.Line < 1 || p.Position.Column < 1 {
		t.Errorf("%s: no place: %s", name, p)
	}
	if p.Message == "" || p.Effect == "" {
		t.Errorf("%s: lacks message or effect: %+v", name, p)
	}
	if p.Code == "" {
		t.Errorf("%s: no code", name)
	}
}
