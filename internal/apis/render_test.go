package apis_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/tullemesh/tulle/internal/apis"
)

// Each archive holds files and, last, what a person is shown about them.
func TestProblemsAreShownWithTheirPlace(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join("testdata", "render", "*.txtar"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no archives: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			sources := map[string][]byte{}
			var problems []apis.Problem
			var want string
			kept := archive.Files[:0]
			for _, f := range archive.Files {
				if f.Name == "shown" {
					want = string(f.Data)
					continue
				}
				kept = append(kept, f)
				sources[f.Name] = f.Data
				problems = append(problems, apis.Decode(f.Name, f.Data, apis.Options{}).Problems...)
			}
			got := apis.Render(problems, sources, false)
			if *update {
				archive.Files = append(kept, txtar.File{Name: "shown", Data: []byte(got)})
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != want {
				t.Errorf("shown:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func TestColourMarksTheLevelOnly(t *testing.T) {
	const file = "kind: VirtualService\n"
	problems := apis.Decode("a.yaml", []byte(file), apis.Options{}).Problems
	sources := map[string][]byte{"a.yaml": []byte(file)}
	plain, colored := apis.Render(problems, sources, false), apis.Render(problems, sources, true)
	if strings.Contains(plain, "\x1b") || !strings.HasPrefix(colored, "\x1b[1;31merror[TUL1004]\x1b[0m: ") {
		t.Errorf("plain %q, colored %q", plain, colored)
	}
	if stripped := strings.NewReplacer("\x1b[1;31m", "", "\x1b[0m", "").Replace(colored); stripped != plain {
		t.Errorf("colour changes the text: %q", stripped)
	}
}

func TestTerminalsAreSafeFromFiles(t *testing.T) {
	for _, text := range []string{`"\u202e\u200b"`, "\"\u202e\"", "\"\u009b2J\"", "\"\x1b[2J\x07\""} {
		file := "apiVersion: v1\nkind: Service\nmetadata:\n  name: x\nspec: {type: [" + text + "]}\n"
		shown := apis.Render(apis.Decode("a\x1b[2J.yaml", []byte(file), apis.Options{}).Problems, map[string][]byte{"a\x1b[2J.yaml": []byte(file)}, false)
		if strings.ContainsAny(shown, "\x1b\u009b\u202e\x07") || !strings.Contains(shown, "spec: {type:") {
			t.Errorf("%q is shown as %q", text, shown)
		}
	}
}

func TestSecretsAreNotShown(t *testing.T) {
	file := "apiVersion: v1\nkind: Secret\nmetadata:\n  name: x\nstringData:\n  password: 31415926\ndata:\n  key: hunter2!\n"
	result := apis.Decode("s.yaml", []byte(file), apis.Options{})
	shown := apis.Render(result.Problems, map[string][]byte{"s.yaml": []byte(file)}, false)
	if len(result.Problems) != 2 || strings.Contains(shown, "31415926") || strings.Contains(shown, "hunter2") {
		t.Errorf("shown:\n%s", shown)
	}
}
