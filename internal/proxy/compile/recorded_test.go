package compile_test

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// recordings finds the recorded streams of a real istiod, which are not part of
// the project.
func recordings(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("TULLE_ISTIO_ADS_DATA")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "..", "shared", "data", "istio-ads")
	}
	if _, err := os.Stat(dir); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("recorded streams of istiod: %v", err)
		}
		t.Skipf("recorded streams of istiod are not here: %v", err)
	}
	return dir
}

// stream is what a client holds after the responses: resources by type URL and
// name, in order of arrival.
type stream map[string]map[string]*anypb.Any

// replay applies recorded responses. State-of-the-world replaces listeners and
// clusters as a set and adds the rest; delta adds and removes by name.
func (s stream) replay(t testing.TB, file string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for len(data) > 0 {
		n, size := binary.Uvarint(data)
		if size <= 0 || uint64(len(data)-size) < n {
			t.Fatalf("%s: truncated", file)
		}
		body := data[size : size+int(n)]
		data = data[size+int(n):]
		if strings.Contains(filepath.Base(file), "-delta") {
			err = s.delta(body)
		} else {
			err = s.sotw(body)
		}
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
	}
}

func (s stream) sotw(body []byte) error {
	var r discoveryv3.DiscoveryResponse
	if err := proto.Unmarshal(body, &r); err != nil {
		return err
	}
	if strings.HasSuffix(r.GetTypeUrl(), ".Listener") || strings.HasSuffix(r.GetTypeUrl(), ".Cluster") {
		s[r.GetTypeUrl()] = nil
	}
	for _, a := range r.GetResources() {
		name, err := nameOf(a)
		if err != nil {
			return err
		}
		s.put(r.GetTypeUrl(), name, a)
	}
	return nil
}

func (s stream) delta(body []byte) error {
	var r discoveryv3.DeltaDiscoveryResponse
	if err := proto.Unmarshal(body, &r); err != nil {
		return err
	}
	for _, res := range r.GetResources() {
		s.put(r.GetTypeUrl(), res.GetName(), res.GetResource())
	}
	for _, name := range r.GetRemovedResources() {
		delete(s[r.GetTypeUrl()], name)
	}
	return nil
}

func (s stream) put(url, name string, a *anypb.Any) {
	if s[url] == nil {
		s[url] = map[string]*anypb.Any{}
	}
	s[url][name] = a
}

func nameOf(a *anypb.Any) (string, error) {
	m, err := a.UnmarshalNew()
	if err != nil {
		// Istio's name tables are not protobuf that we link; they have no name.
		return a.GetTypeUrl(), nil //nolint:nilerr // see above
	}
	switch m := m.(type) {
	case interface{ GetName() string }:
		return m.GetName(), nil
	case interface{ GetClusterName() string }:
		return m.GetClusterName(), nil
	}
	return "", errors.New("a resource without a name")
}
