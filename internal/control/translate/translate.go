// Package translate turns a Snapshot into xDS resources. In come a Snapshot, a
// View (what one proxy's configuration depends on) and the type and name of a
// resource; out comes a wire.Resource, serialized once and shared by all
// proxies whose Views give the same answers. Any one resource can be built
// alone; lists are iterations over Names.
//
// What is emitted has Istio's shapes and names, so that stock Envoy, istioctl
// and Kiali read it. Left out, because stock Envoy lacks them and our proxy
// does their work natively: Istio's own filters (metadata exchange, stats,
// alpn) and, as there is no tracing yet, the tracing settings. The ALPN
// "istio-peer-exchange" is not offered, since nobody behind it would answer.
//
// The package is pure. State is a memory of what was built: a Translator
// belongs to one Snapshot and inherits the memory of its predecessor for what
// Dirty does not name. It is safe for concurrent use.
//
// Read this file first, then view.go and memory.go (what a resource may ask of
// a View, and how the answers key the memory) and list.go; then hosts.go and route.go,
// cluster.go and endpoint.go, outbound.go and inbound.go, gateway.go, grpc.go.
package translate

import (
	"fmt"
	"slices"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"

	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/wire"
)

// Translator builds the resources of one Snapshot.
type Translator struct {
	snap *model.Snapshot
	mem  *memory
	// What differs from the Snapshot before; nil: everything.
	before *model.Snapshot
	dirty  *dirt

	retry       *routev3.RetryPolicy // Istio's default, shared by all routes
	selectsByDR bool                 // destination rules look at clients' labels
}

// New makes the Translator of a Snapshot. prev, which may be nil, is that of an
// earlier Snapshot: what Dirty does not name is taken over from it.
func New(s *model.Snapshot, prev *Translator) *Translator {
	t := &Translator{snap: s, mem: newMemory(), retry: defaultRetryPolicy(), selectsByDR: s.SelectsClients()}
	if prev == nil {
		return t
	}
	t.before = prev.snap
	if t.dirty = findDirt(t, prev); t.dirty != nil {
		t.mem.inherit(prev.mem, &t.dirty.forgotten)
		if t.dirty.edits != nil {
			t.mem.editPlans(t.dirty.edits)
			t.dirty.edits = nil
		}
		t.dirty.prev = nil // the predecessor may go
	}
	return t
}

// Snapshot is what the Translator translates.
func (t *Translator) Snapshot() *model.Snapshot { return t.snap }

// Names lists the resources of a type that a proxy with this View gets by a
// wildcard subscription, sorted. Virtual hosts are listed as
// "route configuration/virtual host". The slice is shared: do not write.
func (t *Translator) Names(v *View, typeURL string) []string {
	names, _ := remember(t, nil, v, tableNames, typeURL, func(r *reader) ([]string, error) {
		out := t.names(r, typeURL)
		if !slices.IsSorted(out) { // streams look names up by halves
			out = slices.Sorted(slices.Values(out))
		}
		return t.mem.lists.intern(out), nil
	})
	return names
}

func (t *Translator) names(r *reader, typeURL string) []string {
	switch typeURL {
	case wire.ClusterType:
		return t.clusterNames(r)
	case wire.EndpointType:
		return t.endpointNames(r)
	case wire.ListenerType:
		return t.listenerNames(r)
	case wire.RouteType:
		return t.routeNames(r)
	case wire.VirtualHostType:
		return t.virtualHostNames(r)
	case wire.SecretType:
		return t.secretNames(r)
	case wire.NameTableType:
		return []string{nameTableName}
	}
	return nil
}

// Build returns one resource as the proxy with this View gets it; nil without
// an error when it does not exist. The result is shared: do not write.
func (t *Translator) Build(v *View, typeURL, name string) (*wire.Resource, error) {
	return t.build(nil, v, typeURL, name)
}

// build is Build on behalf of outer, another resource that contains this one:
// what is asked of the View counts as asked by outer too.
func (t *Translator) build(outer *reader, v *View, typeURL, name string) (*wire.Resource, error) {
	if typeURL == wire.VirtualHostType {
		name = t.virtualHostNameFor(outer, v, name)
		if name == "" {
			return nil, nil
		}
	}
	return remember(t, outer, v, tableOf(typeURL), name, func(r *reader) (*wire.Resource, error) {
		return t.buildNew(r, typeURL, name)
	})
}

func (t *Translator) buildNew(r *reader, typeURL, name string) (*wire.Resource, error) {
	var m proto.Message
	var err error
	switch typeURL {
	case wire.ClusterType:
		m, err = some(t.cluster(r, name))
	case wire.EndpointType:
		m, err = some(t.assignment(r, name))
	case wire.ListenerType:
		m, err = some(t.listener(r, name))
	case wire.RouteType:
		return t.routeConfiguration(r, name)
	case wire.VirtualHostType:
		m, err = some(t.virtualHostResource(r, name))
	case wire.SecretType:
		m, err = some(t.secret(r, name))
	case wire.NameTableType:
		return t.nameTable(r), nil
	}
	if err != nil {
		return nil, fmt.Errorf("translate %s %q: %w", typeURL, name, err)
	}
	if m == nil {
		return nil, nil
	}
	return wire.NewResource(name, m)
}

// some turns a typed nil message into an untyped one.
func some[M interface {
	comparable
	proto.Message
}](m M, err error) (proto.Message, error) {
	var none M
	if m == none {
		return nil, err
	}
	return m, err
}
