package engine

import (
	"errors"
	"io"

	"github.com/tullemesh/tulle/internal/proxy/engine/call"
	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
	"github.com/tullemesh/tulle/internal/proxy/engine/generation"
	"github.com/tullemesh/tulle/internal/proxy/engine/grpc"
	"github.com/tullemesh/tulle/internal/proxy/engine/message"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

// An exchange of gRPC-Web is one of gRPC from its admission on: its head and
// what comes of its body are translated where they are read, its response where
// it is written.

// beginWeb makes a request of gRPC-Web one of gRPC where the filter is on. What
// follows an upgrade is not gRPC.
func (x *exchange) beginWeb(r *router.Route) {
	if len(x.upgrade) > 0 || !generation.TranslatesGRPCWeb(x.manager, x.result.Host, r, x.weighted) {
		return
	}
	if x.web = grpc.BeginWeb(&x.req); x.web != nil {
		x.beginCall()
	}
}

// fromClient counts body bytes of the client and returns what the upstream gets
// of them, in their place.
func (x *exchange) fromClient(p []byte) ([]byte, *failure.Failure) {
	if x.web == nil {
		x.tookBody(p)
		return p, nil
	}
	x.bytesIn += int64(len(p))
	p, err := x.web.Request(p)
	if err != nil {
		return nil, &failure.Failure{Kind: failure.BadText, Cause: err}
	}
	x.messages.asked(p)
	return p, nil
}

// endFromClient says whether the body may end behind what fromClient got.
func (x *exchange) endFromClient() *failure.Failure {
	if x.web == nil {
		return nil
	}
	if err := x.web.EndRequest(); err != nil {
		return &failure.Failure{Kind: failure.BadText, Cause: err}
	}
	return nil
}

// toWeb counts body bytes of the service and returns what the client gets of
// them. The trailers are part of it.
func (x *exchange) toWeb(p []byte, end bool, trailers *message.Head) []byte {
	x.messages.answered(p)
	out := x.web.Response(p, end, trailers)
	x.bytesOut += int64(len(out))
	return out
}

// webHead turns the response's head into one of gRPC-Web; ends: no body follows
// it. For that, a body that is not one of gRPC is read first; moved is called when
// some of it came.
func (x *exchange) webHead(c call.Call, end bool, moved func()) (ends bool, err error) {
	if !x.web.Head(&x.res, end) {
		return end, nil
	}
	b := x.d.buffers.Get()
	defer x.d.buffers.Put(b)
	for {
		n, err := c.ReadBody(b.B)
		if err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		moved()
		x.web.Hold(b.B[:n])
		if err != nil {
			x.web.EndHeld(&x.res, grpc.Code(x.res.Status))
			return true, nil
		}
	}
}

// localWeb turns an answer of ours into what clients of gRPC-Web understand. As
// with Envoy's filter the status of HTTP stays, and only an answer with a text
// has one of gRPC.
func (x *exchange) localWeb() {
	h, code := &x.res, x.localCode()
	x.responseHeaders()
	x.web.Head(h, true)
	switch {
	case !bodyAllowed(h.Status):
	case len(x.body) > 0:
		x.web.Hold(x.body)
		x.web.EndHeld(h, code)
	case x.req.Protocol != fact.HTTP2:
		h.SetString("content-length", "0")
	}
	x.body = nil
}
