package message

import (
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/invariant"
	"github.com/tullemesh/tulle/internal/wire"
)

// istioMetadata is the filter_metadata key that istioctl and Kiali read.
const istioMetadata = "istio"

// metadata is Istio's config reference and our origin, side by side.
func metadata(config, origin model.Origin) *corev3.Metadata {
	m := &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
		istioMetadata: object("config", structpb.NewStringValue(configPath(config))),
	}}
	addOrigin(m, origin)
	return m
}

func addOrigin(m *corev3.Metadata, o model.Origin) {
	if text := wireOrigin(o).Encode(); text != "" {
		m.FilterMetadata[wire.MetadataKey] = object(wire.OriginField, structpb.NewStringValue(text))
	}
}

func wireOrigin(o model.Origin) wire.Origin {
	return wire.Origin{Kind: o.Key.Kind, Namespace: o.Key.Namespace, Name: o.Key.Name, Path: o.Path}
}

// configPath is how Istio's metadata names an object:
// /apis/networking.istio.io/v1/namespaces/NS/virtual-service/NAME.
func configPath(o model.Origin) string {
	k := o.Key
	group := "networking.istio.io"
	switch k.Kind {
	case "PeerAuthentication", "RequestAuthentication", "AuthorizationPolicy":
		group = "security.istio.io"
	}
	return "/apis/" + group + "/v1/namespaces/" + k.Namespace + "/" + kebab(k.Kind) + "/" + k.Name
}

// kebab turns VirtualService into virtual-service.
func kebab(kind string) string {
	var b strings.Builder
	for i, c := range kind {
		if c >= 'A' && c <= 'Z' {
			if i > 0 {
				b.WriteByte('-')
			}
			c += 'a' - 'A'
		}
		b.WriteRune(c)
	}
	return b.String()
}

func object(key string, value *structpb.Value) *structpb.Struct {
	return &structpb.Struct{Fields: map[string]*structpb.Value{key: value}}
}

// pack puts a message into an Any, deterministically. Messages made here can
// always be marshalled: their strings come from validated objects.
func pack(m proto.Message) *anypb.Any {
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	invariant.Check(err == nil, "marshal of a message that translate made")
	return &anypb.Any{TypeUrl: "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName()), Value: value}
}
