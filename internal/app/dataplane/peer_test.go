package dataplane

import (
	"encoding/base64"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/tullemesh/tulle/internal/proxy/engine/telemetry"
)

func TestPeersKnowEachOtherByTheirMetadata(t *testing.T) {
	self := telemetry.Workload{Name: "web-v1", Namespace: "shop", Cluster: "Kubernetes", App: "web", Version: "v1", CanonicalService: "web", Revision: "v1"}
	c, err := newPeerCodec(&corev3.Node{Id: "sidecar~127.0.0.1~web-v1-0.shop~shop.svc.cluster.local"}, self)
	if err != nil {
		t.Fatal(err)
	}
	id, encoded := c.Self()
	got, ok := c.Decode(encoded)
	if !ok || got != self || !strings.HasPrefix(id, "sidecar~") {
		t.Errorf("read back %+v %t, id %s, want %+v", got, ok, id, self)
	}
}

func TestForeignPeerMetadataIsNoPeers(t *testing.T) {
	c := &peerCodec{}
	for _, bad := range []string{"%%%", base64.StdEncoding.EncodeToString([]byte{0xff, 0xff}), strings.Repeat("A", peerBytesMax+4)} {
		if w, ok := c.Decode(bad); ok {
			t.Errorf("%.20q was read as %+v", bad, w)
		}
	}
	// An empty Struct is valid: a peer that says nothing of itself.
	if w, ok := c.Decode(""); !ok || w != (telemetry.Workload{}) {
		t.Errorf("an empty one: %+v %t", w, ok)
	}
}
