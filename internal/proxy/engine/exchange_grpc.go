package engine

import (
	"net/http"
	"strconv"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
	"github.com/tullemesh/tulle/internal/proxy/engine/message"
	"github.com/tullemesh/tulle/internal/proxy/engine/telemetry"
)

// isGRPC reports whether the request is one of gRPC.
func (x *exchange) isGRPC() bool {
	ct, _ := x.req.Get("content-type")
	return isGRPCType(ct)
}

// isGRPCType reports whether a message with this content-type is one of gRPC
// (gRPC over HTTP/2: content-type begins with application/grpc).
func isGRPCType(ct []byte) bool {
	const want = "application/grpc"
	return len(ct) >= len(want) && string(ct[:len(want)]) == want && (len(ct) == len(want) || ct[len(want)] == '+' || ct[len(want)] == ';')
}

// noteGRPC keeps the status that a response's head or trailers carry.
func (x *exchange) noteGRPC(h *message.Head) {
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
func (x *exchange) localGRPC() {
	h := &x.res
	code := grpcCode(h.Status)
	if x.failure.Kind == failure.CallDeadline {
		code = grpcDeadlineExceeded
	}
	h.Status = http.StatusOK
	h.SetString("content-type", "application/grpc")
	h.SetString("grpc-status", strconv.Itoa(code))
	if len(x.body) > 0 {
		x.scratch = appendGRPCMessage(x.scratch[:0], x.body)
		h.Set("grpc-message", x.scratch)
	}
	x.body = nil
	if x.req.Protocol != fact.HTTP2 {
		h.SetString("content-length", "0") // else the connection's end would be the body's
	}
	x.responseHeaders()
}

// grpcDeadlineExceeded is gRPC's DEADLINE_EXCEEDED.
const grpcDeadlineExceeded = 4

// callTimeout is how long the caller of gRPC waits; 0: it does not say
// (gRPC over HTTP/2: Timeout).
func (x *exchange) callTimeout() time.Duration {
	value, ok := x.req.Get("grpc-timeout")
	const digitsMax = 8
	last := len(value) - 1
	if !ok || last < 1 || last > digitsMax || !x.isGRPC() {
		return 0
	}
	n := time.Duration(0)
	for _, c := range value[:last] {
		if c < '0' || c > '9' {
			return 0
		}
		n = n*10 + time.Duration(c-'0')
	}
	switch value[last] {
	case 'H':
		return min(n, callHoursMax) * time.Hour
	case 'M':
		return n * time.Minute
	case 'S':
		return n * time.Second
	case 'm':
		return n * time.Millisecond
	case 'u':
		return n * time.Microsecond
	case 'n':
		return max(n, 1)
	}
	return 0
}

// callHoursMax keeps a timeout within what a Duration holds.
const callHoursMax = 1 << 20

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
