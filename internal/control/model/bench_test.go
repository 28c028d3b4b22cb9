package model_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/registry"
)

// large is a mesh of services with five WorkloadEntries, a VirtualService and
// a DestinationRule each, over fifty namespaces.
func large(tb testing.TB, services int) registry.Input {
	tb.Helper()
	var b strings.Builder
	for i := range services {
		ns := fmt.Sprintf("ns-%02d", i%50)
		name := fmt.Sprintf("svc-%04d", i)
		b.WriteString(service(name, ns))
		for j := range 5 {
			b.WriteString(benchEntry(ns, name, j, i))
		}
		b.WriteString(object("VirtualService", ns, name, benchRules(name, 90)))
		b.WriteString(object("DestinationRule", ns, name, "{host: "+name+", subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}"))
	}
	r := apis.Decode("large.yaml", []byte(b.String()), apis.Options{})
	for _, p := range r.Problems {
		if p.Refuses() {
			tb.Fatal(p)
		}
	}
	return registry.Input{Source: "bench", Objects: r.Objects, Problems: r.Problems}
}

func benchEntry(ns, name string, j, i int) string {
	return "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: " + fmt.Sprintf("%s-%d", name, j) + ", namespace: " + ns + ", labels: {app: " + name + ", version: v" + fmt.Sprint(1+j%2) +
		"}}\nspec: {address: " + fmt.Sprintf("10.%d.%d.%d", j, i/250, i%250+1) + ", serviceAccount: " + name + "}\n---\n"
}

func benchRules(name string, weight int) string {
	return fmt.Sprintf("{hosts: [%s], http: [{route: [{destination: {host: %s, subset: v1}, weight: %d}, {destination: {host: %s, subset: v2}, weight: %d}]}]}", name, name, weight, name, 100-weight)
}

// replaced is an input with one object replaced by the YAML's.
func replaced(in registry.Input, yaml string) registry.Input {
	o := apis.Decode("large.yaml", []byte(yaml), apis.Options{}).Objects[0]
	out := in
	out.Objects = slices.Clone(in.Objects)
	i := slices.IndexFunc(out.Objects, func(x *apis.Object) bool { return x.Key == o.Key })
	out.Objects[i] = o
	return out
}

func BenchmarkFullBuild(b *testing.B) {
	in := large(b, 1000)
	conf := model.MeshFrom(nil)
	b.ReportAllocs()
	for b.Loop() {
		store := registry.NewStore(registry.Options{})
		store.Put(in)
		model.Build(store.Set(), conf, nil)
	}
}

// benchEdit measures an edit from the decoded object to the Snapshot.
func benchEdit(b *testing.B, edit func(n int) string, check func(model.Changes) int) {
	in := large(b, 1000)
	conf := model.MeshFrom(nil)
	store := registry.NewStore(registry.Options{})
	store.Put(in)
	s, _ := model.Build(store.Set(), conf, nil)
	inputs := []registry.Input{replaced(in, edit(0)), replaced(in, edit(1))}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		store.Put(inputs[n%2])
		next, _ := model.Build(store.Set(), conf, s)
		if n > 0 && check(next.Changed(s)) != 1 {
			b.Fatalf("changes: %+v", next.Changed(s))
		}
		s = next
		n++
	}
}

func BenchmarkEndpointEdit(b *testing.B) {
	benchEdit(b, func(n int) string { return benchEntry("ns-07", "svc-0007", 1, 20000+n) },
		func(c model.Changes) int { return len(c.Endpoints) + len(c.Services) + len(c.RuleHosts) })
}

func BenchmarkRuleEdit(b *testing.B) {
	benchEdit(b, func(n int) string { return object("VirtualService", "ns-07", "svc-0007", benchRules("svc-0007", 80+n)) },
		func(c model.Changes) int { return len(c.Endpoints) + len(c.Services) + len(c.RuleHosts) })
}

func BenchmarkServiceEdit(b *testing.B) {
	benchEdit(b, func(n int) string {
		return strings.Replace(service("svc-0007", "ns-07"), "port: 80", fmt.Sprintf("port: %d", 8000+n), 1)
	}, func(c model.Changes) int { return len(c.Services) })
}
