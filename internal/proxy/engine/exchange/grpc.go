package exchange

import (
	"net/http"
	"strconv"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
	"github.com/tullemesh/tulle/internal/proxy/engine/grpc"
	"github.com/tullemesh/tulle/internal/proxy/engine/message"
	"github.com/tullemesh/tulle/internal/proxy/engine/telemetry"
)

// isGRPC reports whether the request is one of gRPC.
func (x *Exchange) isGRPC() bool {
	ct, _ := x.Req.Get("content-type")
	return grpc.IsType(ct)
}

// NoteGRPC keeps the status that a response's head or trailers carry.
func (x *Exchange) NoteGRPC(h *message.Head) {
	if h == nil || !x.isGRPC() {
		return
	}
	if status, ok := h.Get("grpc-status"); ok {
		x.grpc = telemetry.GRPCStatus(status)
	}
}

// localGRPC turns an answer for a failure into what gRPC clients understand: a
// response of trailers only, with status 200 (Envoy: sendLocalReply of a gRPC
// request).
func (x *Exchange) localGRPC() {
	h := &x.Res
	code := x.localCode()
	h.Status = http.StatusOK
	h.SetString("content-type", grpc.ContentType)
	h.SetString("grpc-status", strconv.Itoa(code))
	if len(x.Body) > 0 {
		x.scratch = grpc.AppendMessage(x.scratch[:0], x.Body)
		h.Set("grpc-message", x.scratch)
	}
	x.Body = nil
	if x.Req.Protocol != fact.HTTP2 {
		h.SetString("content-length", "0") // else the connection's end would be the body's
	}
	x.responseHeaders()
}

// localCode is gRPC's status for an answer of ours.
func (x *Exchange) localCode() int {
	if x.failure.Kind == failure.CallDeadline {
		return grpc.DeadlineExceeded
	}
	return grpc.Code(x.Res.Status)
}

// BoundCall notes when the caller of gRPC stops waiting, and returns how long
// it waits; 0: it does not say.
func (x *Exchange) BoundCall() time.Duration {
	value, ok := x.Req.Get("grpc-timeout")
	if !ok || !x.isGRPC() {
		return 0
	}
	limit := grpc.Timeout(value)
	if limit > 0 {
		x.CallEnd = x.Start + int64(limit)
	}
	return limit
}

// InTime prefers the passed deadline of a call to what it led to: the service
// has the same deadline, a moment later, and ends the stream.
func (x *Exchange) InTime(f *failure.Failure, now int64) *failure.Failure {
	if x.CallEnd > 0 && now >= x.CallEnd && (f.Kind == failure.RemoteReset || f.Kind == failure.RouteTimeout) {
		return &failure.Failure{Kind: failure.CallDeadline, Cause: f.Cause}
	}
	return f
}
