package xdsclient

import (
	"context"
	"strconv"

	"github.com/cespare/xxhash/v2"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tullemesh/tulle/internal/wire"
)

// message is a discovery response of either kind.
type message struct {
	typeURL, version, nonce string
	resources               []*wire.Resource
	aliases                 map[string]string
	removed                 []string
	// refused is what can't be handed on at all.
	refused []wire.Rejection
}

// wrappedType is a resource with its name around it, as state of the world may
// carry it (Envoy API, discovery.proto, Resource).
const wrappedType = "type.googleapis.com/envoy.service.discovery.v3.Resource"

// read receives responses until the stream ends.
func (s *session) read(ctx context.Context, received chan<- message) error {
	for {
		var m message
		if s.delta {
			var r discoveryv3.DeltaDiscoveryResponse
			if err := s.conn.RecvMsg(&r); err != nil {
				return err
			}
			m = fromDelta(&r)
		} else {
			var r discoveryv3.DiscoveryResponse
			if err := s.conn.RecvMsg(&r); err != nil {
				return err
			}
			m = fromSotw(&r)
		}
		select {
		case received <- m:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func fromDelta(r *discoveryv3.DeltaDiscoveryResponse) message {
	m := message{typeURL: r.GetTypeUrl(), version: r.GetSystemVersionInfo(), nonce: r.GetNonce(), removed: r.GetRemovedResources()}
	for _, x := range r.GetResources() {
		if x.GetResource() == nil {
			// Envoy's VHDS: name and aliases without a resource say that the
			// names do not exist.
			m.removed = append(append(m.removed, x.GetName()), x.GetAliases()...)
			continue
		}
		for _, a := range x.GetAliases() {
			if m.aliases == nil {
				m.aliases = map[string]string{}
			}
			m.aliases[a] = x.GetName()
		}
		m.add(x.GetName(), x.GetVersion(), x.GetResource())
	}
	return m
}

func fromSotw(r *discoveryv3.DiscoveryResponse) message {
	m := message{typeURL: r.GetTypeUrl(), version: r.GetVersionInfo(), nonce: r.GetNonce()}
	for _, body := range r.GetResources() {
		if body.GetTypeUrl() == wrappedType {
			var w discoveryv3.Resource
			if err := proto.Unmarshal(body.GetValue(), &w); err != nil {
				m.refused = append(m.refused, wire.Rejection{Reason: "a wrapped resource: " + err.Error()})
				continue
			}
			m.add(w.GetName(), "", w.GetResource())
			continue
		}
		name := ""
		if m.typeURL != wire.NameTableType { // the one type without a name
			name = firstField(body.GetValue())
		}
		m.add(name, "", body)
	}
	return m
}

// add takes a resource into the message. Without a version of the server's, a
// hash of the bytes is its version.
func (m *message) add(name, version string, body *anypb.Any) {
	if body.GetTypeUrl() != m.typeURL {
		m.refused = append(m.refused, wire.Rejection{Name: name, Reason: "type " + strconv.Quote(body.GetTypeUrl()) + " in a response of " + m.typeURL})
		return
	}
	if version == "" {
		version = strconv.FormatUint(xxhash.Sum64(body.GetValue()), 16)
	}
	m.resources = append(m.resources, &wire.Resource{Name: name, Version: version, Body: body})
}

// firstField is the string in field 1, which is the name in every xDS type
// (cluster_name in ClusterLoadAssignment).
func firstField(b []byte) string {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return ""
		}
		b = b[n:]
		if num == 1 && typ == protowire.BytesType {
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return ""
			}
			return string(v)
		}
		if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
			return ""
		}
		b = b[n:]
	}
	return ""
}
