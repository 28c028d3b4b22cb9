package project_test

import (
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/app/project"
	"github.com/tullemesh/tulle/internal/demo"
)

// accepted decodes objects as the control plane does and counts them by kind.
func accepted(t *testing.T, file string, text []byte) map[string]int {
	t.Helper()
	kinds := map[string]int{}
	r := apis.Decode(file, text, apis.Options{DefaultNamespace: "default"})
	for _, p := range r.Problems {
		t.Errorf("%s", p)
	}
	for _, o := range r.Objects {
		kinds[o.Key.Kind]++
	}
	return kinds
}

func TestCompiledObjectsAreAccepted(t *testing.T) {
	in, err := os.ReadFile("testdata/bookinfo.yaml")
	if err != nil {
		t.Fatal(err)
	}
	p := decode(t, string(in))
	addresses, err := project.Assign(t.Context(), p, nil, ports(t))
	if err != nil {
		t.Fatal(err)
	}
	text, _, err := project.Compile(p, "/", addresses)
	if err != nil {
		t.Fatal(err)
	}
	if got := accepted(t, "compiled.yaml", text); got["Service"] != 6 || got["ServiceAccount"] != 5 || got["WorkloadEntry"] != 10 {
		t.Errorf("objects %v, want 6 services, 5 accounts, 10 entries", got)
	}
}

func TestObjectsOfTheShopAreAccepted(t *testing.T) {
	kinds := map[string]int{}
	err := fs.WalkDir(demo.Files(), "istio", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if !strings.HasSuffix(path, ".yaml") {
			t.Errorf("%s is no object", path)
		}
		text, err := fs.ReadFile(demo.Files(), path)
		for kind, n := range accepted(t, path, text) {
			kinds[kind] += n
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for kind, n := range map[string]int{"Gateway": 1, "VirtualService": 2, "DestinationRule": 1, "ServiceEntry": 1, "PeerAuthentication": 1} {
		if kinds[kind] != n {
			t.Errorf("%d objects of kind %s, want %d", kinds[kind], kind, n)
		}
	}
}
