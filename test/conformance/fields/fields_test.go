// Package fields_test proves the ledger of fields: what internal/apis/ledger calls enforced changes what proxies are sent.
//
// In come testdata/*.txtar: a world (input.yaml, optional mesh.yaml), a proxy (node.json, optional identity) and cases.yaml. A case changes one
// piece of text of the world, and says what must come and go in the proxy's resources; where the field were ignored, nothing would. The test owns no state.
// Read case in this file first.
package fields_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/rogpeppe/go-internal/txtar"
	"google.golang.org/protobuf/encoding/protojson"
	"gopkg.in/yaml.v3"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/apis/ledger"
	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/control/translate"
	"github.com/tullemesh/tulle/internal/control/translate/view"
	"github.com/tullemesh/tulle/internal/proxy/compile"
	"github.com/tullemesh/tulle/internal/wire"
)

// testCase is one field of one kind, written in two ways.
type testCase struct {
	Field string // "KIND PATTERN", as in the ledger
	Was   string // stands once in the world
	Now   string // replaces it
	// Came and Gone are parts of lines of the proxy's resources, which only the
	// changed world and only the first one have. At least one is given.
	Came, Gone string
}

// world is a file of cases.
type world struct {
	input, mesh, node, identity string
	cases                       []testCase
}

func read(t *testing.T, file string) *world {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{}
	for _, f := range txtar.Parse(data).Files {
		switch f.Name {
		case "input.yaml":
			w.input = string(f.Data)
		case "mesh.yaml":
			w.mesh = string(f.Data)
		case "node.json":
			w.node = string(f.Data)
		case "identity":
			w.identity = strings.TrimSpace(string(f.Data))
		case "cases.yaml":
			if err := yaml.Unmarshal(f.Data, &w.cases); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
		default:
			t.Fatalf("%s has a section %q", file, f.Name)
		}
	}
	return w
}

func files(t *testing.T) []string {
	t.Helper()
	list, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(list) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	return list
}

func TestFields(t *testing.T) {
	for _, file := range files(t) {
		w := read(t, file)
		before := resources(t, w.input, w.mesh, w.node, w.identity)
		for _, c := range w.cases {
			t.Run(c.Field, func(t *testing.T) {
				if c.Came == "" && c.Gone == "" {
					t.Fatal("the case asks for nothing")
				}
				input, mesh := c.edit(t, w)
				after := resources(t, input, mesh, w.node, w.identity)
				came, gone := missing(after, before), missing(before, after)
				if c.Came != "" && !contains(came, c.Came) || c.Gone != "" && !contains(gone, c.Gone) {
					t.Errorf("%s: %q for %q: want what came to have %q, and what went %q; it is\n%s", file, c.Now, c.Was, c.Came, c.Gone, changes(came, gone))
				}
			})
		}
	}
}

// edit gives the changed world; of input.yaml and mesh.yaml one has the text.
func (c *testCase) edit(t *testing.T, w *world) (input, mesh string) {
	t.Helper()
	if n := strings.Count(w.input, c.Was) + strings.Count(w.mesh, c.Was); c.Was == "" || n != 1 {
		t.Fatalf("%q stands %d times in the world, want 1", c.Was, n)
	}
	return strings.Replace(w.input, c.Was, c.Now, 1), strings.Replace(w.mesh, c.Was, c.Now, 1)
}

// resources are all that the proxy gets, a line for each value. The proxy takes all of them: what it refused would be enforced by nobody.
func resources(t *testing.T, input, meshConfig, node, peer string) []string {
	t.Helper()
	config, problems := apis.DecodeMeshConfig("mesh.yaml", []byte(meshConfig))
	mesh := model.MeshFrom(config)
	store := registry.NewStore(registry.Options{Cluster: "Kubernetes", DomainSuffix: mesh.DomainSuffix})
	decoded := apis.Decode("input.yaml", []byte(input), apis.Options{})
	for _, p := range append(problems, decoded.Problems...) {
		if p.Refuses() {
			t.Fatalf("the world is refused: %s", p)
		}
	}
	store.Put(registry.Input{Source: "input.yaml", Objects: decoded.Objects, Problems: decoded.Problems})
	snapshot, _ := model.Build(store.Set(), mesh, nil)
	message := &corev3.Node{}
	if err := protojson.Unmarshal([]byte(node), message); err != nil {
		t.Fatal(err)
	}
	n, err := wire.ParseNode(message)
	if err != nil {
		t.Fatal(err)
	}
	view, err := view.New(snapshot, n, peer)
	if err != nil {
		t.Fatal(err)
	}
	tr, builder := translate.New(snapshot, nil), compile.NewBuilder(compile.New())
	var lines []string
	for _, typeURL := range []string{wire.ClusterType, wire.EndpointType, wire.ListenerType, wire.RouteType, wire.SecretType} {
		var found []*wire.Resource
		for _, name := range tr.Names(view, typeURL) {
			r, err := tr.Build(view, typeURL, name)
			if err != nil {
				t.Fatal(err)
			}
			if r != nil {
				found, lines = append(found, r), append(lines, flat(t, name, r)...)
			}
		}
		for _, refused := range builder.Apply(typeURL, found, nil, time.Unix(0, 0)) {
			t.Errorf("the proxy refuses %s %s: %s", typeURL, refused.Name, refused.Reason)
		}
	}
	return lines
}

// flat writes a resource as "name path.to[0].value = 1" lines. Origins are left out: they change where nothing else does.
func flat(t *testing.T, name string, r *wire.Resource) []string {
	t.Helper()
	m, err := r.Body.UnmarshalNew()
	if err != nil {
		t.Fatal(err)
	}
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var node any
	if err := json.Unmarshal(text, &node); err != nil {
		t.Fatal(err)
	}
	var lines []string
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			if len(v) == 0 {
				lines = append(lines, path+" = {}") // a message that says something by being there
			}
			for _, k := range slices.Sorted(maps.Keys(v)) {
				if k != "tulle" {
					walk(path+"."+k, v[k])
				}
			}
		case []any:
			for i, e := range v {
				walk(fmt.Sprintf("%s[%d]", path, i), e)
			}
		default:
			lines = append(lines, fmt.Sprintf("%s = %v", path, v))
		}
	}
	walk(name+" ", node)
	return lines
}

// missing are the lines of a that b lacks.
func missing(a, b []string) []string {
	in := make(map[string]bool, len(b))
	for _, line := range b {
		in[line] = true
	}
	return slices.DeleteFunc(slices.Clone(a), func(line string) bool { return in[line] })
}

func contains(lines []string, part string) bool {
	return slices.ContainsFunc(lines, func(line string) bool { return strings.Contains(line, part) })
}

// changes are the first of what came and went, for messages.
func changes(came, gone []string) string {
	const most = 12
	var b strings.Builder
	for _, line := range gone[:min(most, len(gone))] {
		b.WriteString("- " + line + "\n")
	}
	for _, line := range came[:min(most, len(came))] {
		b.WriteString("+ " + line + "\n")
	}
	return b.String()
}

// Whatever the ledger calls enforced has a case here or names another test; and cases are of enforced fields.
func TestEveryEnforcedFieldHasACase(t *testing.T) {
	have := map[string]bool{}
	for _, file := range files(t) {
		for _, c := range read(t, file).cases {
			have[c.Field] = true
		}
	}
	book := ledger.New()
	wanted := map[string]bool{}
	for _, name := range book.Names() {
		kind := book.Kind(name)
		for _, f := range kind.Fields() {
			field := name + " " + f.Pattern
			wanted[field] = f.Enforced()
			if wanted[field] && f.Entry.Test == "" && !kind.Holds(f.Pattern) && !have[field] {
				t.Errorf("%s is enforced, and no case proves it", field)
			}
		}
	}
	for field := range have {
		if !wanted[field] {
			t.Errorf("%s has a case, but the ledger does not call it enforced", field)
		}
	}
}
