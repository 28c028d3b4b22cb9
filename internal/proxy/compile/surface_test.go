package compile

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

var update = flag.Bool("update", false, "rewrite golden files")

// A misspelt field would be listed and refused; a message that nobody links
// could not be unpacked.
func TestSurfaceNamesOnlyWhatExists(t *testing.T) {
	t.Parallel()
	s := newSurface()
	for name, rules := range s.messages {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
		if err != nil {
			t.Errorf("message %s: %v", name, err)
			continue
		}
		for field, r := range rules {
			if d.(protoreflect.MessageDescriptor).Fields().ByName(field) == nil {
				t.Errorf("%s has no field %s", name, field)
			}
			if r.verdict != enforced && r.reason == "" {
				t.Errorf("%s.%s is %s without a reason", name, field, r.verdict)
			}
		}
	}
	for name, r := range s.extensions {
		if r.verdict == enforced && s.messages[protoreflect.FullName(name)] == nil {
			t.Errorf("extension %s is enforced, and its fields are not listed", name)
		}
		if r.verdict != enforced && r.reason == "" {
			t.Errorf("extension %s is %s without a reason", name, r.verdict)
		}
	}
}

// Every message that an enforced field leads to must be listed, or its fields
// would all be refused for a reason that helps nobody.
func TestSurfaceListsEveryMessageThatIsReached(t *testing.T) {
	t.Parallel()
	s := newSurface()
	for name, rules := range s.messages {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
		if err != nil {
			t.Fatal(err)
		}
		fds := d.(protoreflect.MessageDescriptor).Fields()
		for i := range fds.Len() {
			fd := fds.Get(i)
			if rules[fd.Name()].verdict != enforced {
				continue
			}
			if fd.IsMap() {
				fd = fd.MapValue()
			}
			m := fd.Message()
			if m == nil || m.FullName().Parent() == "google.protobuf" {
				continue
			}
			if s.messages[m.FullName()] == nil {
				t.Errorf("%s.%s is enforced, and %s is not listed", name, fd.Name(), m.FullName())
			}
		}
	}
}

func TestReferenceIsFresh(t *testing.T) {
	t.Parallel()
	var got bytes.Buffer
	if err := New().Reference(&got); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("..", "..", "..", "docs", "reference", "xds.md")
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%s is stale: run go test ./internal/proxy/compile -update", file)
	}
}
