package engine

import (
	"net/http"
	"strconv"

	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// isGRPC reports whether the request is one of gRPC (gRPC over HTTP/2:
// content-type begins with application/grpc).
func (x *exchange) isGRPC() bool {
	const want = "application/grpc"
	ct, ok := x.req.Get("content-type")
	return ok && len(ct) >= len(want) && string(ct[:len(want)]) == want && (len(ct) == len(want) || ct[len(want)] == '+' || ct[len(want)] == ';')
}

// noteGRPC keeps the status that a response's head or trailers carry.
func (x *exchange) noteGRPC(h *message.Head) {
	if h == nil || !x.isGRPC() {
		return
	}
	if status, ok := h.Get("grpc-status"); ok {
		x.grpc = grpcStatus(status)
	}
}

// localGRPC turns an answer for a failure into what gRPC clients understand: a
// response of trailers only, with status 200 (Envoy: sendLocalReply of a gRPC
// request).
func (x *exchange) localGRPC() {
	h := &x.res
	code := grpcCode(h.Status)
	h.Status = http.StatusOK
	h.SetString("content-type", "application/grpc")
	h.SetString("grpc-status", strconv.Itoa(code))
	if len(x.body) > 0 {
		x.scratch = appendGRPCMessage(x.scratch[:0], x.body)
		h.Set("grpc-message", x.scratch)
	}
	x.body = nil
	x.responseHeaders()
}

// grpcCode maps a status of HTTP (gRPC: "HTTP to gRPC Status Code Mapping").
func grpcCode(status int) int {
	const (
		unknownCode      = 2
		permissionDenied = 7
		unimplemented    = 12
		internal         = 13
		unavailable      = 14
		unauthenticated  = 16
	)
	switch status {
	case http.StatusBadRequest:
		return internal
	case http.StatusUnauthorized:
		return unauthenticated
	case http.StatusForbidden:
		return permissionDenied
	case http.StatusNotFound:
		return unimplemented
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return unavailable
	}
	return unknownCode
}

// appendGRPCMessage percent-encodes what may not stand in grpc-message.
func appendGRPCMessage(dst, message []byte) []byte {
	const digits = "0123456789ABCDEF"
	for _, c := range message {
		if c >= ' ' && c <= '~' && c != '%' {
			dst = append(dst, c)
			continue
		}
		dst = append(dst, '%', digits[c>>4], digits[c&15])
	}
	return dst
}
