package model_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/registry"
)

// TestFindingsOfIstiosAnalyzer runs the cases of Istio's analyzer for the checks that
// Build has: the same objects get the same codes.
func TestFindingsOfIstiosAnalyzer(t *testing.T) {
	dir := istioData(t)
	data, err := os.ReadFile(filepath.Join(dir, "analyze-cases.json"))
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Name       string
		InputFiles []string
		Analyzer   string
		Expected   []struct{ Code, Origin string }
	}
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	// The checks of Build by Istio's analyzer: codes, and a part of the path where a code has several uses.
	checks := map[string]map[string]string{
		"&virtualservice.ConflictingMeshGatewayHostsAnalyzer{}": {"IST0109": ""},
		"&virtualservice.DestinationHostAnalyzer{}":             {"IST0101": "destination", "IST0112": ""},
		"&virtualservice.DestinationRuleAnalyzer{}":             {"IST0101": "subset"},
		"&virtualservice.GatewayAnalyzer{}":                     {"IST0101": "spec.gateways", "IST0132": ""},
	}
	ran := 0
	for _, c := range cases {
		ours := checks[c.Analyzer]
		want := map[string]bool{}
		for _, e := range c.Expected {
			if _, ok := ours[e.Code]; ok {
				want[e.Code+" "+e.Origin] = true
			}
		}
		if len(want) == 0 {
			continue
		}
		ran++
		t.Run(c.Name, func(t *testing.T) {
			in := registry.Input{Source: "test"}
			for _, f := range c.InputFiles {
				path := filepath.Join(dir, "analyze", filepath.Base(f))
				text, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				r := apis.Decode(path, text, apis.Options{})
				in.Objects = append(in.Objects, r.Objects...)
				in.Problems = append(in.Problems, r.Problems...)
			}
			store := registry.NewStore(registry.Options{})
			store.Put(in)
			_, problems := model.Build(store.Set(), model.MeshFrom(nil), nil)
			// Istio's analyzers look at invalid objects too. Here they are refused before, and so told.
			refused := map[string]bool{}
			for _, p := range store.Set().Problems {
				if p.Refuses() {
					refused[p.Key.Kind+" "+p.Key.Namespace+"/"+p.Key.Name] = true
					refused[p.Key.Kind+" "+p.Key.Name] = true
				}
			}
			got := map[string]bool{}
			for _, p := range problems {
				if path, ok := ours[p.Code]; !ok || !strings.Contains(p.Path, path) || strings.HasSuffix(p.Path, ".subset") && path != "subset" {
					continue
				}
				id := p.Code + " " + p.Key.Kind + " " + p.Key.Namespace + "/" + p.Key.Name
				if short := p.Code + " " + p.Key.Kind + " " + p.Key.Name; want[short] && p.Key.Namespace == "default" {
					id = short // the case names no namespace
				}
				if strings.HasSuffix(p.Message, "is refused") { // a Gateway: Istio compares hosts with it all the same
					refused[p.Key.Kind+" "+p.Key.Namespace+"/"+p.Key.Name] = true
					continue
				}
				got[id] = true
			}
			for id := range want {
				if _, object, _ := strings.Cut(id, " "); refused[object] {
					delete(want, id)
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-Istio +tulle)\n%s", diff)
			}
		})
	}
	if ran < 7 {
		t.Errorf("only %d cases were run", ran)
	}
}
