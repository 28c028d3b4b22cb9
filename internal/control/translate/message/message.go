// Package message writes what is planned as Envoy's messages. In come a
// view.Reader and the type and name of a resource; out comes the message, or
// nil when the proxy has none of this name. What each place in a message means
// to stock Envoy, and why Istio sends it, stands beside the code that writes it.
//
// The package is pure and holds no state but what all messages of a Snapshot
// share. Read this file first; then routeconfig.go and route.go, cluster.go and
// endpoint.go, listener.go and inbound.go, gateway.go, grpc.go.
package message

import (
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"

	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/translate/view"
	"github.com/tullemesh/tulle/internal/wire"
)

// Writer writes the messages of one Snapshot. It is immutable.
type Writer struct {
	snap  *model.Snapshot
	retry *routev3.RetryPolicy // Istio's default, shared by all routes
}

// New makes the Writer of a Snapshot.
func New(s *model.Snapshot) *Writer { return &Writer{snap: s, retry: defaultRetryPolicy()} }

// Resource writes a resource that is one message: a cluster, the endpoints of
// one, a listener, a virtual host or a secret; nil: the proxy has none of this
// name.
func (w *Writer) Resource(r *view.Reader, typeURL, name string) proto.Message {
	switch typeURL {
	case wire.ClusterType:
		return some(w.cluster(r, name))
	case wire.EndpointType:
		return some(w.assignment(r, name))
	case wire.ListenerType:
		return some(w.listener(r, name))
	case wire.VirtualHostType:
		return some(w.virtualHostResource(r, name))
	case wire.SecretType:
		return some(w.secret(r, name))
	}
	return nil
}

// some turns a typed nil message into an untyped one.
func some[M interface {
	comparable
	proto.Message
}](m M) proto.Message {
	var none M
	if m == none {
		return nil
	}
	return m
}
