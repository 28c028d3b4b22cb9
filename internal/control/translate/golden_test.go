package translate_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"google.golang.org/protobuf/encoding/protojson"
	"gopkg.in/yaml.v3"

	"github.com/tullemesh/tulle/internal/control/translate"
	"github.com/tullemesh/tulle/internal/control/translate/view"
	"github.com/tullemesh/tulle/internal/wire"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var typeURLs = map[string]string{
	"cluster": wire.ClusterType, "listener": wire.ListenerType, "route": wire.RouteType, "endpoints": wire.EndpointType,
	"host": wire.VirtualHostType, "secret": wire.SecretType,
}

// TestGolden runs testdata/*.txtar: input.yaml, optional mesh.yaml, node.json
// and identity, then sections that say what is built:
//
//	-- names TYPE --            the names of a type
//	-- TYPE NAME --             a resource, as YAML
//	-- TYPE NAME .path.to[] --  a part of it; [] is every element
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			a := txtar.Parse(data)
			input := make(map[string]string)
			for _, f := range a.Files {
				input[f.Name] = string(f.Data)
			}
			s := snapshotOf(t, input["mesh.yaml"], input["input.yaml"])
			v := viewOf(t, s, input["node.json"], strings.TrimSpace(input["identity"]))
			tr := translate.New(s, nil)
			for i, f := range a.Files {
				switch f.Name {
				case "mesh.yaml", "input.yaml", "node.json", "identity":
					continue
				}
				have := show(t, tr, v, f.Name)
				if *update {
					a.Files[i].Data = []byte(have)
					continue
				}
				if d := cmp.Diff(string(f.Data), have); d != "" {
					t.Errorf("%s (-golden +built):\n%s", f.Name, d)
				}
			}
			if *update {
				if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func show(t *testing.T, tr *translate.Translator, v *view.View, section string) string {
	t.Helper()
	words := strings.Fields(section)
	if words[0] == "names" {
		return strings.Join(tr.Names(v, typeURLs[words[1]]), "\n") + "\n"
	}
	m := build(t, tr, v, typeURLs[words[0]], words[1])
	if m == nil {
		return "none\n"
	}
	b, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var node any
	if err := json.Unmarshal(b, &node); err != nil {
		t.Fatal(err)
	}
	if len(words) > 2 {
		node = pick(node, strings.Split(strings.TrimPrefix(words[2], "."), "."))
	}
	out, err := yaml.Marshal(node)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// pick selects parts; several names are separated by commas.
func pick(node any, path []string) any {
	if len(path) == 0 {
		return node
	}
	keys, each := strings.CutSuffix(path[0], "[]")
	m, ok := node.(map[string]any)
	if !ok {
		return nil
	}
	if names := strings.Split(keys, ","); len(names) > 1 {
		out := make(map[string]any)
		for _, k := range names {
			if v, ok := m[k]; ok {
				out[k] = v
			}
		}
		return out
	}
	if !each {
		return pick(m[keys], path[1:])
	}
	var out []any
	list, _ := m[keys].([]any)
	for _, e := range list {
		out = append(out, pick(e, path[1:]))
	}
	return out
}
