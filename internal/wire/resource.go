package wire

import (
	"fmt"
	"strconv"

	"github.com/cespare/xxhash/v2"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Field numbers of envoy.service.discovery.v3.Resource and of the resource
// lists of both discovery responses (Envoy API, discovery.proto). The list is
// field 2 in both, and so is the Any within Resource: that is why one encoded
// entry serves delta and state of the world.
const (
	fieldEntryVersion = 1
	fieldEntryAny     = 2
	fieldEntryName    = 3
	fieldEntryAlias   = 4
	fieldList         = 2
	fieldAnyType      = 1
	fieldAnyValue     = 2
)

// NewResource packs a message, serialized once and deterministically. The
// version is a hash of the bytes, so equal content has equal versions also
// after a restart of the control plane.
func NewResource(name string, m proto.Message) (*Resource, error) {
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("marshal %s %q: %w", m.ProtoReflect().Descriptor().FullName(), name, err)
	}
	return PackResource(name, "type.googleapis.com/"+string(m.ProtoReflect().Descriptor().FullName()), value), nil
}

// PackResource is NewResource for a message that is serialized already. The
// value is copied: the resource keeps one buffer, its entry of a discovery
// response, and Body.Value is a part of it.
func PackResource(name, typeURL string, value []byte) *Resource {
	version := strconv.FormatUint(xxhash.Sum64(value), 16)
	r := &Resource{Name: name, Version: version}
	r.entry, r.anyAt = encodeEntry(name, version, typeURL, value)
	r.Body = &anypb.Any{TypeUrl: typeURL, Value: r.entry[len(r.entry)-len(value):]}
	return r
}

// DeltaEntry is the resource as an element of a DeltaDiscoveryResponse's
// resources, tag and length included. The bytes are shared: do not write.
func (r *Resource) DeltaEntry() []byte {
	entry, _ := r.encoded()
	return entry
}

// SotwEntry is the resource as an element of a DiscoveryResponse's resources,
// tag and length included. The bytes are shared: do not write.
func (r *Resource) SotwEntry() []byte {
	entry, at := r.encoded()
	return entry[at:]
}

// AliasHead returns the first bytes of a delta entry that names an alias (the
// name under which a client asked for the resource, see VHDS in Envoy's
// documentation); AliasHead + SotwEntry is the whole element.
func (r *Resource) AliasHead(alias string) []byte {
	body := r.SotwEntry()
	head := appendHead(nil, r.Name, r.Version, alias)
	out := protowire.AppendTag(nil, fieldList, protowire.BytesType)
	out = protowire.AppendVarint(out, uint64(len(head)+len(body)))
	return append(out, head...)
}

func (r *Resource) encoded() (entry []byte, anyAt int) {
	if r.entry != nil {
		return r.entry, r.anyAt
	}
	return encodeEntry(r.Name, r.Version, r.Body.GetTypeUrl(), r.Body.GetValue())
}

// encodeEntry returns the element and where its Any begins: last, so that the
// tail of a delta element is the element of state of the world.
func encodeEntry(name, version, typeURL string, value []byte) (entry []byte, anyAt int) {
	anyBytes := 0
	if typeURL != "" {
		anyBytes += protowire.SizeTag(fieldAnyType) + protowire.SizeBytes(len(typeURL))
	}
	if len(value) > 0 {
		anyBytes += protowire.SizeTag(fieldAnyValue) + protowire.SizeBytes(len(value))
	}
	head := appendHead(nil, name, version, "")
	size := len(head) + protowire.SizeTag(fieldEntryAny) + protowire.SizeBytes(anyBytes)
	b := make([]byte, 0, protowire.SizeTag(fieldList)+protowire.SizeBytes(size))
	b = protowire.AppendTag(b, fieldList, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	b = append(b, head...)
	anyAt = len(b)
	b = protowire.AppendTag(b, fieldEntryAny, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(anyBytes))
	if typeURL != "" {
		b = protowire.AppendTag(b, fieldAnyType, protowire.BytesType)
		b = protowire.AppendString(b, typeURL)
	}
	if len(value) > 0 {
		b = protowire.AppendTag(b, fieldAnyValue, protowire.BytesType)
		b = protowire.AppendBytes(b, value)
	}
	return b, anyAt
}

func appendHead(b []byte, name, version, alias string) []byte {
	b = protowire.AppendTag(b, fieldEntryName, protowire.BytesType)
	b = protowire.AppendString(b, name)
	b = protowire.AppendTag(b, fieldEntryVersion, protowire.BytesType)
	b = protowire.AppendString(b, version)
	if alias != "" {
		b = protowire.AppendTag(b, fieldEntryAlias, protowire.BytesType)
		b = protowire.AppendString(b, alias)
	}
	return b
}
