package file_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/tullemesh/tulle/internal/apis/problem"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/control/source"
	"github.com/tullemesh/tulle/internal/control/source/file"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var _ source.Source = (*file.Source)(nil)

// entry is a WorkloadEntry.
func entry(name, address string) string {
	return "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: " + name + "}\nspec: {address: " + address + "}\n---\n"
}

func write(t testing.TB, dir, name, text string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func objects(in registry.Input) []string {
	var out []string
	for _, o := range in.Objects {
		out = append(out, o.Key.Name)
	}
	return out
}

func codes(in registry.Input) []string {
	var out []string
	for _, p := range in.Problems {
		out = append(out, p.Code+" "+filepath.Base(p.Position.File))
	}
	return out
}

func load(t testing.TB, opts file.Options, paths ...string) registry.Input {
	t.Helper()
	in, _, err := file.Load(paths, opts)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func TestLoadReadsConfigurationFilesOfATree(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", entry("a", "10.0.0.1"))
	write(t, dir, "deep/er/b.yml", entry("b", "10.0.0.1"))
	write(t, dir, "c.JSON", `{"apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry", "metadata": {"name": "c"}, "spec": {"address": "10.0.0.1"}}`)
	write(t, dir, "compose.yaml", "services: {x: {image: y}}")
	for _, name := range []string{"tulle.yaml", ".hidden/d.yaml", ".e.yaml", "f.txt", "g.yaml~", "h.yaml.swp"} {
		write(t, dir, name, entry("not-read", "10.0.0.1"))
	}
	in := load(t, file.Options{}, dir)
	if diff := cmp.Diff([]string{"a", "c", "b"}, objects(in)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{problem.CodeNotRead + " compose.yaml"}, codes(in)); diff != "" {
		t.Error(diff)
	}
	one := load(t, file.Options{}, filepath.Join(dir, "f.txt"))
	if diff := cmp.Diff([]string{"not-read"}, objects(one)); diff != "" {
		t.Errorf("a file that is named is read whatever its name:\n%s", diff)
	}
}

func TestLoadOfNothing(t *testing.T) {
	_, _, err := file.Load([]string{filepath.Join(t.TempDir(), "missing")}, file.Options{})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	_, _, err = file.Load(nil, file.Options{MeshConfig: filepath.Join(t.TempDir(), "missing")})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestLinksStayInTheTree(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	write(t, outside, "out.yaml", entry("out", "10.0.0.1"))
	write(t, dir, "..data/in.yaml", entry("in", "10.0.0.1"))
	for name, target := range map[string]string{
		"in.yaml": "..data/in.yaml", "out.yaml": filepath.Join(outside, "out.yaml"), "folder": outside, "circle": dir, "gone.yaml": "nowhere",
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	in := load(t, file.Options{}, dir)
	if diff := cmp.Diff([]string{"in"}, objects(in)); diff != "" {
		t.Error(diff)
	}
	want := []string{problem.CodeLink + " circle", problem.CodeLink + " folder", problem.CodeLink + " gone.yaml", problem.CodeLink + " out.yaml"}
	if diff := cmp.Diff(want, codes(in)); diff != "" {
		t.Error(diff)
	}
}

func TestMeshConfigFromAConfigMap(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "istio.yaml", `apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |-
    trustDomain: prod.example
    outboundTrafficPolicy: {mode: REGISTRY_ONLY}
    nonsense: 1
`)
	in := load(t, file.Options{}, dir)
	if got := in.MeshConfig.GetTrustDomain(); got != "prod.example" {
		t.Errorf("trust domain %q", got)
	}
	if len(in.Problems) != 1 || in.Problems[0].Position.Line != 8 || in.Problems[0].Position.Column != 5 {
		t.Errorf("problems %v", in.Problems)
	}
	write(t, dir, "mesh.txt", "trustDomain: other.example\n")
	in = load(t, file.Options{MeshConfig: filepath.Join(dir, "mesh.txt")}, dir)
	if got := in.MeshConfig.GetTrustDomain(); got != "other.example" {
		t.Errorf("the file that is named wins: %q", got)
	}
}

// running is a Source that runs for the length of a test.
type running struct {
	t     *testing.T
	store *registry.Store
}

func run(t *testing.T, opts file.Options, paths ...string) *running {
	t.Helper()
	r := &running{t: t, store: registry.NewStore(registry.Options{})}
	s, err := file.New(paths, r.store, opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return r
}

// until waits for a Set that has what is wanted.
func (r *running) until(what string, ok func(*registry.Set) bool) *registry.Set {
	r.t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	for {
		if set := r.store.Set(); ok(set) {
			return set
		}
		select {
		case <-r.store.Changed():
		case <-deadline.C:
			r.t.Fatalf("%s: it did not come to that; objects %v, problems %v", what, r.store.Set().Objects, r.store.Set().Problems)
		}
	}
}

// addresses lists "name=address" of all workloads.
func addresses(set *registry.Set) string {
	var out []string
	for _, w := range set.Workloads {
		out = append(out, w.Name+"="+w.Addresses[0].String())
	}
	return strings.Join(out, " ")
}

func (r *running) untilAddresses(want string) *registry.Set {
	r.t.Helper()
	return r.until(want, func(s *registry.Set) bool { return s.Version > 0 && addresses(s) == want })
}

func TestEditsAreSeen(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", entry("a", "10.0.0.1"))
	r := run(t, file.Options{}, dir)
	r.untilAddresses("a=10.0.0.1")
	for i := 2; i < 20; i++ { // same size, within one tick of the file system's clock
		write(t, dir, "a.yaml", entry("a", fmt.Sprintf("10.0.0.%d", i%10)))
		r.untilAddresses(fmt.Sprintf("a=10.0.0.%d", i%10))
	}
	write(t, dir, "new/folder/b.yaml", entry("b", "10.0.0.2"))
	r.untilAddresses("a=10.0.0.9 b=10.0.0.2")
	write(t, dir, "new/folder/b.yaml", entry("b", "10.0.0.3"))
	r.untilAddresses("a=10.0.0.9 b=10.0.0.3")
	if err := os.RemoveAll(filepath.Join(dir, "new")); err != nil {
		t.Fatal(err)
	}
	r.untilAddresses("a=10.0.0.9")
	write(t, dir, "new/b.yaml", entry("b", "10.0.0.4"))
	r.untilAddresses("a=10.0.0.9 b=10.0.0.4")
}

func TestAFileThatIsWatchedAlone(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", entry("a", "10.0.0.1"))
	write(t, dir, "other.yaml", entry("other", "10.0.0.1"))
	r := run(t, file.Options{}, filepath.Join(dir, "a.yaml"))
	r.untilAddresses("a=10.0.0.1")
	write(t, dir, "a.yaml", entry("a", "10.0.0.2"))
	r.untilAddresses("a=10.0.0.2")
}

// Editors write in their own ways; no object may be missing from any Set meanwhile.
func TestEditorsDances(t *testing.T) {
	for name, save := range map[string]func(t *testing.T, dir, text string){
		"rename over the file": func(t *testing.T, dir, text string) {
			write(t, dir, "a.yaml.new", text)
			rename(t, dir, "a.yaml.new", "a.yaml")
		},
		"rename away and write anew": func(t *testing.T, dir, text string) {
			rename(t, dir, "a.yaml", "a.yaml~")
			write(t, dir, "a.yaml", text)
		},
		"truncate and write in pieces": func(t *testing.T, dir, text string) {
			f, err := os.Create(filepath.Join(dir, "a.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			for piece := range slices.Chunk([]byte(text), 30) {
				if _, err := f.Write(piece); err != nil {
					t.Fatal(err)
				}
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			text := func(i int) string { return entry("first", fmt.Sprintf("10.0.0.%d", i)) + entry("last", "10.9.9.9") }
			write(t, dir, "a.yaml", text(1))
			r := run(t, file.Options{}, dir)
			r.untilAddresses("first=10.0.0.1 last=10.9.9.9")
			for i := 2; i < 8; i++ {
				save(t, dir, text(i))
				r.until(fmt.Sprint(i), func(s *registry.Set) bool {
					if len(s.Workloads) != 2 {
						t.Fatalf("an object is missing: %s", addresses(s))
					}
					return addresses(s) == fmt.Sprintf("first=10.0.0.%d last=10.9.9.9", i)
				})
			}
		})
	}
}

func rename(t *testing.T, dir, from, to string) {
	t.Helper()
	if err := os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)); err != nil {
		t.Fatal(err)
	}
}

func TestBrokenFilesKeepWhatTheyHeld(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", entry("a", "10.0.0.1")+entry("b", "10.0.0.2"))
	r := run(t, file.Options{}, dir)
	r.untilAddresses("a=10.0.0.1 b=10.0.0.2")
	write(t, dir, "a.yaml", entry("a", "10.0.0.3")+"{{{ nonsense\n")
	set := r.untilAddresses("a=10.0.0.3 b=10.0.0.2")
	if len(set.Problems) == 0 || set.Problems[0].Code != problem.CodeSyntax {
		t.Errorf("problems %v", set.Problems)
	}
	write(t, dir, "a.yaml", entry("a", "10.0.0.4"))
	r.untilAddresses("a=10.0.0.4")
	if os.Geteuid() == 0 {
		return // root reads everything
	}
	if err := os.Chmod(filepath.Join(dir, "a.yaml"), 0); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "c.yaml", entry("c", "10.0.0.5"))
	set = r.untilAddresses("a=10.0.0.4 c=10.0.0.5")
	if len(set.Problems) != 1 || set.Problems[0].Code != problem.CodeUnreadable {
		t.Errorf("problems %v", set.Problems)
	}
}

func TestMeshConfigIsWatched(t *testing.T) {
	dir, conf := t.TempDir(), t.TempDir()
	write(t, conf, "mesh.yaml", "trustDomain: one.example\n")
	r := run(t, file.Options{MeshConfig: filepath.Join(conf, "mesh.yaml")}, dir)
	is := func(want string) func(*registry.Set) bool {
		return func(s *registry.Set) bool { return s.MeshConfig.GetTrustDomain() == want }
	}
	r.until("one", is("one.example"))
	write(t, conf, "mesh.yaml", "trustDomain: two.example\n")
	r.until("two", is("two.example"))
	write(t, conf, "mesh.yaml.new", "trustDomain: [broken\n") // in place it would be empty for a moment: a good file that names no domain
	rename(t, conf, "mesh.yaml.new", "mesh.yaml")
	r.until("a problem", func(s *registry.Set) bool { return len(s.Problems) > 0 && is("two.example")(s) })
}
