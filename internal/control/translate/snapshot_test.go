package translate_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/control/translate"
	"github.com/tullemesh/tulle/internal/control/translate/view"
	"github.com/tullemesh/tulle/internal/wire"
)

// world keeps a registry between edits, so that Snapshots are built as the
// control plane builds them.
type world struct {
	t     testing.TB
	store *registry.Store
	mesh  *model.Mesh
	prev  *model.Snapshot
	quiet bool // refusals of the input are not told
}

func newWorld(t testing.TB, meshConfig string) *world {
	t.Helper()
	config, problems := apis.DecodeMeshConfig("mesh.yaml", []byte(meshConfig))
	for _, p := range problems {
		t.Logf("mesh configuration: %s", p.Message)
	}
	mesh := model.MeshFrom(config)
	return &world{t: t, mesh: mesh, store: registry.NewStore(registry.Options{Cluster: "Kubernetes", DomainSuffix: mesh.DomainSuffix})}
}

// put replaces what a file says and returns the Snapshot of all files.
func (w *world) put(file, yaml string) *model.Snapshot {
	w.t.Helper()
	w.edit(file, yaml)
	return w.snapshot()
}

// edit replaces what a file says.
func (w *world) edit(file, yaml string) {
	w.t.Helper()
	r := apis.Decode(file, []byte(yaml), apis.Options{DefaultNamespace: "default"})
	for _, p := range r.Problems {
		if !w.quiet && (p.Level == "error" || p.Level == "unsupported") {
			w.t.Logf("%s: %s %s: %s", file, p.Key, p.Path, p.Message)
		}
	}
	w.store.Put(registry.Input{Source: file, Objects: r.Objects, Problems: r.Problems})
}

// snapshot builds the Snapshot of all files.
func (w *world) snapshot() *model.Snapshot {
	w.prev, _ = model.Build(w.store.Set(), w.mesh, w.prev)
	return w.prev
}

func snapshotOf(t testing.TB, meshConfig, yaml string) *model.Snapshot {
	t.Helper()
	return newWorld(t, meshConfig).put("input.yaml", yaml)
}

// nodeOf makes a node of JSON in the form of Envoy's Node message.
func nodeOf(t testing.TB, text string) *wire.Node {
	t.Helper()
	p := &corev3.Node{}
	if err := protojson.Unmarshal([]byte(text), p); err != nil {
		t.Fatal(err)
	}
	n, err := wire.ParseNode(p)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func viewOf(t testing.TB, s *model.Snapshot, node, peer string) *view.View {
	t.Helper()
	v, err := view.New(s, nodeOf(t, node), peer)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// build returns a resource as its message; nil: it does not exist.
func build(t testing.TB, tr *translate.Translator, v *view.View, typeURL, name string) proto.Message {
	t.Helper()
	r, err := tr.Build(v, typeURL, name)
	if err != nil {
		t.Fatal(err)
	}
	if r == nil {
		return nil
	}
	m, err := r.Body.UnmarshalNew()
	if err != nil {
		t.Fatalf("%s %q: %v", typeURL, name, err)
	}
	if v, ok := m.(interface{ ValidateAll() error }); ok {
		if err := v.ValidateAll(); err != nil {
			t.Errorf("%s %q: %v", typeURL, name, err)
		}
	}
	return m
}

// istioData is the folder of Istio's recorded streams.
func istioData(t testing.TB) string {
	t.Helper()
	dir := filepath.Join("..", "..", "..", "..", "shared", "data", "istio-ads")
	if istio := os.Getenv("TULLE_ISTIO_DATA"); istio != "" {
		dir = filepath.Join(filepath.Dir(istio), "istio-ads")
	}
	if _, err := os.Stat(dir); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("recorded streams of Istio: %v", err)
		}
		t.Skipf("recorded streams of Istio are not here: %v", err)
	}
	return dir
}

// recording is what a client of the recorded control plane asked and got.
type recording struct {
	node      string
	resources map[string]map[string]json.RawMessage // by type URL, name
}

func readRecording(t testing.TB, scenario, client string) recording {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(istioData(t), scenario, client+"-delta.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Events []struct {
			Direction string
			Message   struct {
				Node      json.RawMessage
				TypeURL   string `json:"type_url"`
				Resources []struct {
					Name     string
					Resource json.RawMessage
				}
			}
		}
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	out := recording{resources: make(map[string]map[string]json.RawMessage)}
	for _, e := range file.Events {
		if len(e.Message.Node) > 0 && out.node == "" {
			out.node = string(e.Message.Node)
		}
		for _, r := range e.Message.Resources {
			if out.resources[e.Message.TypeURL] == nil {
				out.resources[e.Message.TypeURL] = make(map[string]json.RawMessage)
			}
			out.resources[e.Message.TypeURL][r.Name] = r.Resource
		}
	}
	return out
}

func readFile(t testing.TB, parts ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
