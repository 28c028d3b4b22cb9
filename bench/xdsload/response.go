package main

import (
	"fmt"
	"hash/maphash"
	"sync"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

const (
	prefix          = "type.googleapis.com/"
	clusterType     = prefix + "envoy.config.cluster.v3.Cluster"
	endpointType    = prefix + "envoy.config.endpoint.v3.ClusterLoadAssignment"
	listenerType    = prefix + "envoy.config.listener.v3.Listener"
	routeType       = prefix + "envoy.config.route.v3.RouteConfiguration"
	virtualHostType = prefix + "envoy.config.route.v3.VirtualHost"
	managerType     = prefix + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
)

// types are the measured types in the order of reports.
func types() []string {
	return []string{clusterType, endpointType, listenerType, routeType, virtualHostType}
}

// rawCodec hands received messages over as bytes, so that the client's own CPU
// use stays small beside the server's.
type rawCodec struct{}

// raw is a received message.
type raw struct{ bytes []byte }

// Name implements encoding.CodecV2.
func (rawCodec) Name() string { return "proto" }

// Marshal implements encoding.CodecV2.
func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("marshal %T", v)
	}
	b, err := proto.Marshal(m)
	return mem.BufferSlice{mem.SliceBuffer(b)}, err
}

// Unmarshal implements encoding.CodecV2.
func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(*raw)
	if !ok {
		return fmt.Errorf("unmarshal into %T", v)
	}
	m.bytes = data.Materialize()
	return nil
}

// resource is one of a response; name is of delta only.
type resource struct {
	name  string
	value []byte
}

// response is a discovery response of either kind, parsed at its outer level.
type response struct {
	version, typeURL, nonce string
	resources               []resource
	removed                 []string
}

// fields calls f for each length-delimited field of a message.
func fields(b []byte, f func(num protowire.Number, v []byte) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if typ != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
				return protowire.ParseError(n)
			}
			b = b[n:]
			continue
		}
		v, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := f(num, v); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// field returns the last value of a length-delimited field.
func field(b []byte, want protowire.Number) (out []byte, err error) {
	err = fields(b, func(num protowire.Number, v []byte) error {
		if num == want {
			out = v
		}
		return nil
	})
	return out, err
}

// parse reads a response. Field numbers of both kinds agree (discovery.proto);
// delta wraps each resource with its name.
func parse(b []byte, delta bool) (r response, err error) {
	err = fields(b, func(num protowire.Number, v []byte) (err error) {
		switch num {
		case 1:
			r.version = string(v)
		case 2:
			var x resource
			if delta {
				name, err := field(v, 3)
				if err != nil {
					return err
				}
				x.name = string(name)
				if v, err = field(v, 2); err != nil {
					return err
				}
			}
			x.value, err = field(v, 2)
			r.resources = append(r.resources, x)
		case 4:
			r.typeURL = string(v)
		case 5:
			r.nonce = string(v)
		case 6:
			r.removed = append(r.removed, string(v))
		}
		return err
	})
	return r, err
}

// content is what a proxy reads in a resource: its name and what it refers to
// (endpoints of a cluster, routes of a listener, itself for a route
// configuration whose virtual hosts come by VHDS).
type content struct {
	name string
	refs []string
}

// reader decodes each distinct resource once for all proxies.
type reader struct {
	seed maphash.Seed

	// Guarded by mu.
	mu    sync.RWMutex
	known map[uint64]*content
}

// knownMax bounds the decoded resources that are remembered.
const knownMax = 200_000

func newReader() *reader { return &reader{seed: maphash.MakeSeed(), known: map[uint64]*content{}} }

func (d *reader) read(typeURL string, b []byte) (*content, error) {
	h := maphash.Bytes(d.seed, b)
	d.mu.RLock()
	c := d.known[h]
	d.mu.RUnlock()
	if c != nil {
		return c, nil
	}
	c, err := decode(typeURL, b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", typeURL, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.known) >= knownMax {
		clear(d.known)
	}
	d.known[h] = c
	return c, nil
}

func decode(typeURL string, b []byte) (*content, error) {
	switch typeURL {
	case clusterType:
		var m clusterv3.Cluster
		if err := proto.Unmarshal(b, &m); err != nil {
			return nil, err
		}
		c := &content{name: m.GetName()}
		if m.GetType() == clusterv3.Cluster_EDS {
			c.refs = []string{m.GetName()}
			if s := m.GetEdsClusterConfig().GetServiceName(); s != "" {
				c.refs[0] = s
			}
		}
		return c, nil
	case listenerType:
		return decodeListener(b)
	case routeType:
		var m routev3.RouteConfiguration
		if err := proto.Unmarshal(b, &m); err != nil {
			return nil, err
		}
		c := &content{name: m.GetName()}
		if m.GetVhds() != nil {
			c.refs = []string{m.GetName()}
		}
		return c, nil
	}
	name, err := field(b, 1) // cluster_name of endpoints, name of all else
	return &content{name: string(name)}, err
}

func decodeListener(b []byte) (*content, error) {
	var m listenerv3.Listener
	if err := proto.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	c := &content{name: m.GetName()}
	seen := map[string]bool{}
	for _, chain := range append(m.GetFilterChains(), m.GetDefaultFilterChain()) {
		for _, f := range chain.GetFilters() {
			if f.GetTypedConfig().GetTypeUrl() != managerType {
				continue
			}
			var h hcmv3.HttpConnectionManager
			if err := proto.Unmarshal(f.GetTypedConfig().GetValue(), &h); err != nil {
				return nil, err
			}
			if n := h.GetRds().GetRouteConfigName(); n != "" && !seen[n] {
				seen[n] = true
				c.refs = append(c.refs, n)
			}
		}
	}
	return c, nil
}
