package apis_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/apis/document"
)

// sound reads a file of testdata/sound.
func sound(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "sound", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestSoundObjectsPassInSilence(t *testing.T) {
	for name, count := range map[string]int{"istio.yaml": 12, "kubernetes.yaml": 6} {
		r := apis.Decode(name, sound(t, name), apis.Options{})
		if len(r.Objects) != count {
			t.Errorf("%s: %d objects, want %d", name, len(r.Objects), count)
		}
		for _, p := range r.Problems {
			t.Errorf("%s", describe(p))
		}
	}
}

func TestSuspiciousObjectsPassWithWarnings(t *testing.T) {
	r := apis.Decode("warnings.yaml", sound(t, "warnings.yaml"), apis.Options{})
	var said strings.Builder
	for _, p := range r.Problems {
		if p.Refuses() {
			t.Errorf("refused: %s", p)
		}
		fmt.Fprintln(&said, describe(p))
	}
	golden(t, filepath.Join("testdata", "sound", "warnings.want"), said.String())
}

// Our decoder keeps places and finds near names; what it reads must be what protobuf's own reads.
func TestSpecsEqualWhatProtojsonReads(t *testing.T) {
	data := sound(t, "istio.yaml")
	docs, problems := document.Parse(data)
	objects := apis.Decode("istio.yaml", data, apis.Options{}).Objects
	if len(problems) > 0 || len(docs) != len(objects) {
		t.Fatalf("%d documents, %d objects", len(docs), len(objects))
	}
	for i, o := range objects {
		got, ok := o.Spec.(proto.Message)
		if !ok {
			t.Fatalf("%s has a %T", o.Key, o.Spec)
		}
		want := got.ProtoReflect().New().Interface()
		if err := protojson.Unmarshal(docs[i].Root.Lookup("spec").AppendJSON(nil), want); err != nil {
			t.Errorf("%s: %v", o.Key, err)
			continue
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%s (-protojson +ours):\n%s", o.Key, diff)
		}
	}
}
