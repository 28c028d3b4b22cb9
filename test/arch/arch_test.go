// Package arch_test holds the shape of the house over the real import graph
// and the sources: who may import whom, what packages are called, that each is
// documented, how long files are. The rules are docs/architecture.md's.
package arch_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const (
	module   = "github.com/tullemesh/tulle"
	internal = module + "/internal/"
)

// pkg is what go list says of one package.
type pkg struct {
	ImportPath string
	Name       string
	Dir        string
	Doc        string
	Standard   bool
	Imports    []string
	Deps       []string
	GoFiles    []string
	Module     struct{ Path string }
}

func list(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-deps", "-json=ImportPath,Name,Dir,Doc,Standard,Imports,Deps,GoFiles,Module", module+"/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []pkg
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		if !p.Standard {
			pkgs = append(pkgs, p)
		}
	}
}

func ours(p pkg) bool { return strings.HasPrefix(p.ImportPath, module+"/") }

// under reports whether path is root or below it; a root in short form is
// below internal/.
func under(path, root string) bool {
	for _, r := range []string{root, internal + root} {
		if path == r || strings.HasPrefix(path, r+"/") {
			return true
		}
	}
	return false
}

// TestPlanesNeverMeet: bans that bind through others, too.
func TestPlanesNeverMeet(t *testing.T) {
	type ban = struct{ from, to, why string }
	bans := []ban{
		{"control", "proxy", "the planes meet only in app"},
		{"proxy", "control", "the planes meet only in app"},
		{"apis", "control", "object kinds know no plane"},
		{"apis", "proxy", "object kinds know no plane"},
		{"proxy", "apis", "the data plane speaks xDS only"},
		{"proxy", "k8s.io", "no Kubernetes in the data plane"},
		{"proxy", "istio.io/api", "the data plane speaks xDS only"},
		{"proxy", "sigs.k8s.io", "no Kubernetes in the data plane"},
		{"proxy", "github.com/prometheus", "no Prometheus client in the data plane"},
		{"proxy/engine", "google.golang.org/protobuf", "protobuf stops at compile"},
		{"proxy/engine", "google.golang.org/grpc", "the engine calls others through remote"},
	}
	// What runs the data plane alone carries no control plane.
	for _, from := range []string{"app/dataplane", "app/port", "cli/proxy", "cli/call", module + "/cmd/tulle-proxy"} {
		for _, to := range []string{"control", "apis", "demo", "k8s.io", "sigs.k8s.io", "github.com/prometheus"} {
			bans = append(bans, ban{from, to, "the sidecar image carries the data plane alone"})
		}
	}
	for _, p := range list(t) {
		for _, b := range bans {
			if !under(p.ImportPath, b.from) {
				continue
			}
			for _, d := range p.Deps {
				if under(d, b.to) {
					t.Errorf("%s reaches %s: %s", p.ImportPath, d, b.why)
				}
			}
		}
	}
}

// TestTheDataPlaneReachesNothingOfIstio: the data plane alone speaks xDS, and
// two messages of the certificate service that it writes by hand (agent/certs).
// The second list is what came with Istio's and Envoy's generated code for no
// use, and stayed resident in each sidecar.
func TestTheDataPlaneReachesNothingOfIstio(t *testing.T) {
	found := false
	for _, p := range list(t) {
		if p.ImportPath != module+"/cmd/tulle-proxy" {
			continue
		}
		found = true
		for _, d := range p.Deps {
			if under(d, "istio.io") {
				t.Errorf("%s reaches %s: the data plane speaks xDS only", p.ImportPath, d)
			}
			for _, useless := range []string{"github.com/golang/protobuf", "google.golang.org/protobuf/reflect/protodesc", "google.golang.org/genproto/googleapis/api/annotations"} {
				if under(d, useless) {
					t.Errorf("%s reaches %s, which nothing in it uses", p.ImportPath, d)
				}
			}
		}
	}
	if !found {
		t.Error("there is no cmd/tulle-proxy")
	}
}

// allowed is what each room may import directly of ours ("" is nothing) and of
// others, beside the standard library. The longest matching room rules.
func allowed() map[string][]string {
	xds := []string{"github.com/envoyproxy/go-control-plane/envoy", "github.com/cncf/xds", "google.golang.org/protobuf", "google.golang.org/genproto/googleapis/rpc"}
	grpc := []string{"google.golang.org/grpc"}
	with := func(parts ...[]string) []string { return slices.Concat(parts...) }
	// What the engine's rooms share, beside the rooms that are named.
	engine := func(rooms ...string) []string {
		out := []string{"limit"}
		for _, r := range append(rooms, "access", "call", "cluster", "conn", "date", "fact", "failure", "generation", "grpc", "http1", "http2", "listener", "message", "path", "router", "tcp", "telemetry", "tls", "worker") {
			out = append(out, "proxy/engine/"+r)
		}
		return out
	}
	return map[string][]string{
		"invariant":         {},
		"limit":             {"invariant"},
		"match":             {"invariant", "limit", "golang.org/x"},
		"identity":          {"invariant", "limit", "match"},
		"observe":           {"invariant", "limit", "match", "identity"},
		"wire":              with([]string{"invariant", "limit", "match", "identity", "github.com/cespare/xxhash/v2"}, xds),
		"apis":              {"apis", "match", "identity", "limit", "invariant", "istio.io/api", "sigs.k8s.io/gateway-api", "k8s.io/api", "k8s.io/apimachinery", "gopkg.in/yaml.v3", "google.golang.org/protobuf", "github.com/cespare/xxhash/v2"},
		"control/model":     {"control/model", "apis", "match", "identity", "limit", "invariant", "control/registry", "istio.io/api", "google.golang.org/protobuf", "k8s.io/api", "github.com/cespare/xxhash/v2"},
		"control/translate": with([]string{"control/translate", "control/model", "control/registry", "apis", "wire", "match", "identity", "limit", "invariant", "github.com/cespare/xxhash/v2"}, xds),
		"control/source":    {"control/source", "control/registry", "apis", "observe", "limit", "invariant", "github.com/fsnotify/fsnotify"},
		"control/registry":  {"apis", "identity", "limit", "invariant", "istio.io/api", "k8s.io/api", "k8s.io/apimachinery", "google.golang.org/protobuf", "github.com/cespare/xxhash/v2"},
		"control/xds":       with([]string{"control/xds", "wire", "identity", "observe", "limit", "invariant", "github.com/cespare/xxhash/v2"}, grpc, xds),
		"control/ca":        with([]string{"control/ca", "identity", "apis", "observe", "limit", "invariant", "istio.io/api"}, grpc),
		"proxy/xdsclient":   with([]string{"proxy/xdsclient", "wire", "identity", "observe", "limit", "invariant", "github.com/cespare/xxhash/v2"}, grpc, xds),
		"proxy/compile":     with([]string{"proxy/compile", "wire", "match", "identity", "limit", "invariant", "proxy/engine", "gopkg.in/yaml.v3", "github.com/cespare/xxhash/v2"}, xds),
		"proxy/engine":      {"proxy/engine", "match", "identity", "limit", "observe", "invariant", "golang.org/x", "github.com/cespare/xxhash/v2"},
		"proxy/admin":       with([]string{"proxy/admin", "proxy/engine", "proxy/xdsclient", "wire", "identity", "observe", "limit", "invariant"}, xds),
		"agent":             with([]string{"agent", "wire", "identity", "observe", "limit", "invariant", "proxy/xdsclient", "github.com/google/nftables", "github.com/vishvananda", "github.com/miekg/dns", "golang.org/x"}, grpc, xds),
		"demo":              {"demo", "observe", "limit", "invariant", "app", "golang.org/x"},
		"app/dataplane":     with([]string{"app/port", "agent", "wire", "identity", "observe", "limit", "invariant", "proxy", "golang.org/x"}, xds),
		"app/port":          {"identity", "limit", "invariant"},
		"cli/call":          {"github.com/spf13"},
		"cli/proxy":         {"cli/call", "app/dataplane", "app/port", "observe", "github.com/spf13"},
		"cli":               {"cli", "app", "apis", "demo", "dashboard", "observe", "limit", "invariant", "github.com/spf13", "golang.org/x", "gopkg.in/yaml.v3"},

		// The rooms of a connection and a request: steps know no driver, drivers no engine.
		"proxy/engine/exchange":   engine(),
		"proxy/engine/downstream": engine("exchange"),
		"proxy/engine/driver2":    engine("exchange", "downstream"),
		"proxy/engine/driver1":    engine("exchange", "downstream", "driver2"),

		// The steps of translate, each of which knows only those before it.
		"control/translate/view":    {"control/model", "control/registry", "wire", "match", "identity", "limit", "invariant"},
		"control/translate/plan":    {"control/translate/view", "control/model", "control/registry", "wire", "match", "identity", "limit", "invariant"},
		"control/translate/message": with([]string{"control/translate/view", "control/translate/plan", "control/model", "control/registry", "wire", "match", "identity", "limit", "invariant"}, xds),
	}
}

// TestRoomsImportOnlyWhatTheyMay holds the table of docs/architecture.md over
// direct imports.
func TestRoomsImportOnlyWhatTheyMay(t *testing.T) {
	table := allowed()
	pkgs := list(t)
	standard := map[string]bool{}
	for _, p := range pkgs {
		standard[p.ImportPath] = false
	}
	for _, p := range pkgs {
		room := roomOf(p.ImportPath, table)
		if room == "" {
			continue
		}
		for _, imp := range p.Imports {
			if _, known := standard[imp]; !known {
				continue // the standard library
			}
			if under(imp, room) {
				continue
			}
			if !slices.ContainsFunc(table[room], func(a string) bool { return under(imp, a) }) {
				t.Errorf("%s imports %s, which the room %q may not", p.ImportPath, imp, room)
			}
		}
	}
}

func roomOf(path string, table map[string][]string) string {
	best := ""
	for room := range table {
		if strings.HasPrefix(path, internal) && under(path, room) && len(room) > len(best) {
			best = room
		}
	}
	return best
}

// TestTheModelDoesNoIO: the model imports neither network nor files. What its
// inputs' types bring along (Kubernetes' types know net/http) is not its doing.
func TestTheModelDoesNoIO(t *testing.T) {
	for _, p := range list(t) {
		if !under(p.ImportPath, "control/model") && !under(p.ImportPath, "control/translate") {
			continue
		}
		for _, imp := range p.Imports {
			if slices.Contains([]string{"net/http", "os", "io/fs", "os/exec"}, imp) {
				t.Errorf("%s imports %s: it does no I/O", p.ImportPath, imp)
			}
		}
	}
}

// TestTestkitIsForTests: nothing of the program imports testkit.
func TestTestkitIsForTests(t *testing.T) {
	for _, p := range list(t) {
		if !ours(p) || under(p.ImportPath, "testkit") {
			continue
		}
		for _, imp := range p.Imports {
			if under(imp, "testkit") {
				t.Errorf("%s imports %s outside a test", p.ImportPath, imp)
			}
		}
	}
}

// TestPackagesAreNamedAndDocumented: nouns of the domain, one comment each.
func TestPackagesAreNamedAndDocumented(t *testing.T) {
	bad := []string{"util", "utils", "common", "helpers", "base", "misc", "types"}
	for _, p := range list(t) {
		if !ours(p) || len(p.GoFiles) == 0 {
			continue
		}
		if slices.Contains(bad, p.Name) {
			t.Errorf("%s: %q says nothing", p.ImportPath, p.Name)
		}
		if p.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}
