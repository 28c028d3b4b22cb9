package dataplane

import (
	"cmp"
	"encoding/base64"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/tullemesh/tulle/internal/proxy/engine/telemetry"
)

// peerBytesMax bounds the encoded metadata of a peer that is read.
const peerBytesMax = 16 << 10

// peerCodec writes and reads Istio's peer metadata (x-envoy-peer-metadata: a
// base64 protobuf Struct; Istio, "peer_metadata" filter), by which sidecars
// know each other's workloads in metrics.
type peerCodec struct{ id, encoded string }

// newPeerCodec encodes this workload once.
func newPeerCodec(node *corev3.Node, self telemetry.Workload) (*peerCodec, error) {
	labels := map[string]any{"app": self.App, "version": self.Version, "service.istio.io/canonical-name": self.CanonicalService, "service.istio.io/canonical-revision": self.Revision}
	for k, v := range labels {
		if v == "" {
			delete(labels, k)
		}
	}
	s, err := structpb.NewStruct(map[string]any{"NAME": nodeName(node.GetId()), "NAMESPACE": self.Namespace, "WORKLOAD_NAME": self.Name, "CLUSTER_ID": self.Cluster, "LABELS": labels})
	if err != nil {
		return nil, err
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(s)
	if err != nil {
		return nil, err
	}
	return &peerCodec{id: node.GetId(), encoded: base64.StdEncoding.EncodeToString(data)}, nil
}

// nodeName is the workload's name in a node id, "TYPE~IP~NAME.NS~DOMAIN".
func nodeName(id string) string {
	parts := strings.Split(id, "~")
	if len(parts) != 4 {
		return id
	}
	name, _, _ := strings.Cut(parts[2], ".")
	return name
}

// Self implements telemetry.PeerCodec.
func (p *peerCodec) Self() (id, encoded string) { return p.id, p.encoded }

// Decode implements telemetry.PeerCodec. What does not decode is no peer's.
func (p *peerCodec) Decode(encoded string) (telemetry.Workload, bool) {
	if len(encoded) > peerBytesMax {
		return telemetry.Workload{}, false
	}
	data, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return telemetry.Workload{}, false
	}
	var s structpb.Struct
	if err := proto.Unmarshal(data, &s); err != nil {
		return telemetry.Workload{}, false
	}
	text := func(from *structpb.Struct, key string) string { return from.GetFields()[key].GetStringValue() }
	labels := s.GetFields()["LABELS"].GetStructValue()
	return telemetry.Workload{Name: text(&s, "WORKLOAD_NAME"), Namespace: text(&s, "NAMESPACE"), Cluster: text(&s, "CLUSTER_ID"), App: text(labels, "app"), Version: text(labels, "version"),
		CanonicalService: cmp.Or(text(labels, "service.istio.io/canonical-name"), text(labels, "app")),
		Revision:         cmp.Or(text(labels, "service.istio.io/canonical-revision"), text(labels, "version"))}, true
}
