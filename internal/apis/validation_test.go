package apis_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/apis"
)

// istioData finds Istio's own data, which is beside the repository on some machines, or skips; CI must have it.
func istioData(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("TULLE_ISTIO_DATA")
	if dir == "" {
		root, err := os.Getwd()
		if err != nil {
			t.Fatal(err)
		}
		for root != filepath.Dir(root) {
			if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
				break
			}
			root = filepath.Dir(root)
		}
		dir = filepath.Join(root, "..", "shared", "data", "istio")
	}
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no Istio data at %s, and CI must have it", path)
		}
		t.Skipf("no Istio data at %s", path)
	}
	return path
}

// row is one call of Istio's validation, recorded from its own tests.
type row struct {
	Validator   string            `json:"validator"`
	Name        string            `json:"name"`
	Namespace   string            `json:"namespace"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	Spec        json.RawMessage   `json:"spec"`
	Error       string            `json:"error"`
	Warning     string            `json:"warning"`
}

// object writes the row as the file a user would write. Names that Istio's tests leave out are filled in.
func (r row) object(t *testing.T) []byte {
	t.Helper()
	kind := strings.TrimPrefix(r.Validator, "Validate")
	versions := map[string]string{
		"AuthorizationPolicy": "security.istio.io/v1", "PeerAuthentication": "security.istio.io/v1", "RequestAuthentication": "security.istio.io/v1",
		"Telemetry": "telemetry.istio.io/v1", "WasmPlugin": "extensions.istio.io/v1alpha1", "TrafficExtension": "extensions.istio.io/v1alpha1",
		"EnvoyFilter": "networking.istio.io/v1alpha3", "ProxyConfig": "networking.istio.io/v1beta1",
	}
	version := versions[kind]
	if version == "" {
		version = "networking.istio.io/v1"
	}
	name := strings.ToLower(r.Name) // Kubernetes refuses others before Istio sees them
	if name == "" {
		name = "unnamed"
	}
	b, err := json.MarshalIndent(map[string]any{
		"apiVersion": version, "kind": kind, "spec": r.Spec,
		"metadata": map[string]any{"name": name, "namespace": r.Namespace, "labels": r.Labels, "annotations": r.Annotations},
	}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestVerdictsEqualIstios(t *testing.T) {
	f, err := os.Open(istioData(t, "validation.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	total, equal, warned, warnings := 0, 0, 0, 0
	for n := 1; lines.Scan(); n++ {
		var r row
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatalf("line %d: %v", n, err)
		}
		if strings.HasPrefix(r.Error, "cannot cast") {
			continue // the test passed a value of another Go type, which no file can
		}
		result := apis.Decode(fmt.Sprintf("line%d.json", n), r.object(t), apis.Options{})
		var refusals []string
		suspicious := false
		for _, p := range result.Problems {
			if p.Level == apis.LevelError {
				refusals = append(refusals, p.Path+": "+p.Message)
			}
			suspicious = suspicious || p.Level == apis.LevelWarning
		}
		total++
		if (len(refusals) > 0) == (r.Error != "") {
			equal++
		} else {
			t.Logf("line %d, %s: Istio says %q, we say %q\n%.400s", n, r.Validator, r.Error, refusals, r.Spec)
		}
		if r.Warning != "" && r.Error == "" {
			warnings++
			if suspicious {
				warned++
			} else {
				t.Logf("line %d, %s: Istio warns %q, we do not\n%.300s", n, r.Validator, r.Warning, r.Spec)
			}
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	t.Logf("validity equal in %d of %d rows, %d of %d warnings given", equal, total, warned, warnings)
	if equal*100 < total*98 {
		t.Errorf("validity equal in %d of %d rows, want 98 %%", equal, total)
	}
	if warned*100 < warnings*90 {
		t.Errorf("%d of %d warnings, want 90 %%", warned, warnings)
	}
}

// Istio's CRD schemas refuse some documents before validation runs; what they refuse for what an object says, we refuse too.
func TestVerdictsEqualThoseOfIstiosSchemas(t *testing.T) {
	dir := istioData(t, "crd-validation")
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no documents in %s: %v", dir, err)
	}
	total, equal := 0, 0
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for doc := range strings.SplitSeq(string(data), "\n---") {
			lines := strings.Split(doc, "\n")
			kept := lines[:0]
			wanted := ""
			for _, line := range lines {
				if rest, ok := strings.CutPrefix(line, "_err:"); ok {
					wanted = rest
				} else {
					kept = append(kept, line)
				}
			}
			result := apis.Decode(filepath.Base(file), []byte(strings.Join(kept, "\n")), apis.Options{})
			if len(result.Objects) == 0 {
				continue
			}
			total++
			var refusals []string
			for _, p := range result.Problems {
				if p.Level == apis.LevelError {
					refusals = append(refusals, p.String())
				}
			}
			if (wanted != "") == (len(refusals) > 0) {
				equal++
			} else {
				t.Logf("%s %s: the schema says %q, we say %q", filepath.Base(file), result.Objects[0].Key, wanted, refusals)
			}
		}
	}
	t.Logf("validity equal in %d of %d documents", equal, total)
	if equal*100 < total*90 {
		t.Errorf("validity equal in %d of %d documents, want 90 %%", equal, total)
	}
}
