package exchange

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
func (x *Exchange) beginWeb(r *router.Route) {
	if len(x.Upgrade) > 0 || !generation.TranslatesGRPCWeb(x.Manager, x.Result.Host, r, x.weighted) {
		return
	}
	if x.Web = grpc.BeginWeb(&x.Req); x.Web != nil {
		x.beginCall()
	}
}

// FromClient counts body bytes of the client and returns what the upstream gets
// of them, in their place.
func (x *Exchange) FromClient(p []byte) ([]byte, *failure.Failure) {
	if x.Web == nil {
		x.TookBody(p)
		return p, nil
	}
	x.BytesIn += int64(len(p))
	p, err := x.Web.Request(p)
	if err != nil {
		return nil, &failure.Failure{Kind: failure.BadText, Cause: err}
	}
	x.messages.asked(p)
	return p, nil
}

// EndFromClient says whether the body may end behind what FromClient got.
func (x *Exchange) EndFromClient() *failure.Failure {
	if x.Web == nil {
		return nil
	}
	if err := x.Web.EndRequest(); err != nil {
		return &failure.Failure{Kind: failure.BadText, Cause: err}
	}
	return nil
}

// ToWeb counts body bytes of the service and returns what the client gets of
// them. The trailers are part of it.
func (x *Exchange) ToWeb(p []byte, end bool, trailers *message.Head) []byte {
	x.messages.answered(p)
	out := x.Web.Response(p, end, trailers)
	x.BytesOut += int64(len(out))
	return out
}

// WebHead turns the response's head into one of gRPC-Web; ends: no body follows
// it. For that, a body that is not one of gRPC is read first; moved is called when
// some of it came.
func (x *Exchange) WebHead(c call.Call, end bool, moved func()) (ends bool, err error) {
	if !x.Web.Head(&x.Res, end) {
		return end, nil
	}
	b := x.d.Buffers.Get()
	defer x.d.Buffers.Put(b)
	for {
		n, err := c.ReadBody(b.B)
		if err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		moved()
		x.Web.Hold(b.B[:n])
		if err != nil {
			x.Web.EndHeld(&x.Res, grpc.Code(x.Res.Status))
			return true, nil
		}
	}
}

// localWeb turns an answer of ours into what clients of gRPC-Web understand. As
// with Envoy's filter the status of HTTP stays, and only an answer with a text
// has one of gRPC.
func (x *Exchange) localWeb() {
	h, code := &x.Res, x.localCode()
	x.responseHeaders()
	x.Web.Head(h, true)
	switch {
	case !BodyAllowed(h.Status):
	case len(x.Body) > 0:
		x.Web.Hold(x.Body)
		x.Web.EndHeld(h, code)
	case x.Req.Protocol != fact.HTTP2:
		h.SetString("content-length", "0")
	}
	x.Body = nil
}
