package xds

import (
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers of DiscoveryResponse and DeltaDiscoveryResponse, which agree
// (Envoy API, discovery.proto).
const (
	fieldVersion = 1
	fieldTypeURL = 4
	fieldNonce   = 5
	fieldRemoved = 6 // delta only
)

// response is a discovery response of either kind, already encoded: parts are
// the resources' shared bytes, then one buffer of its own.
type response struct {
	typeURL string
	parts   mem.BufferSlice
	bytes   int
	count   int
	removed []string
}

// newResponse returns a response with room for n resources and a tail.
func newResponse(typeURL string, n int) *response {
	return &response{typeURL: typeURL, parts: make(mem.BufferSlice, 0, n+1)}
}

// add appends one encoded element, of which head may be empty; the bytes are
// shared and stay unchanged.
func (r *response) add(head, body []byte) {
	if len(head) > 0 {
		r.parts = append(r.parts, mem.SliceBuffer(head))
	}
	r.parts = append(r.parts, mem.SliceBuffer(body))
	r.bytes += len(head) + len(body)
	r.count++
}

// remove appends a name to removed_resources.
func (r *response) remove(name string) {
	r.removed = append(r.removed, name)
	r.bytes += len(name) + 4
}

func (r *response) empty() bool { return r.count == 0 && len(r.removed) == 0 }

// finish appends what is not shared. Order of fields is free in protobuf.
func (r *response) finish(version, nonce string) {
	tail := make([]byte, 0, 64+len(version)+len(nonce)+len(r.typeURL))
	tail = appendString(tail, fieldVersion, version)
	tail = appendString(tail, fieldTypeURL, r.typeURL)
	tail = appendString(tail, fieldNonce, nonce)
	for _, name := range r.removed {
		tail = appendString(tail, fieldRemoved, name)
	}
	r.parts = append(r.parts, mem.SliceBuffer(tail))
	r.bytes = r.parts.Len()
}

func appendString(b []byte, field protowire.Number, s string) []byte {
	b = protowire.AppendTag(b, field, protowire.BytesType)
	return protowire.AppendString(b, s)
}

// codec writes responses as they are and leaves all else to gRPC's own codec.
type codec struct{ encoding.CodecV2 }

func newCodec() encoding.CodecV2 { return codec{encoding.GetCodecV2(proto.Name)} }

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if r, ok := v.(*response); ok {
		return r.parts, nil
	}
	return c.CodecV2.Marshal(v)
}
