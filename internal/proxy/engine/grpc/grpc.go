// Package grpc is what the engine knows of gRPC, without I/O: which messages
// are its own, how statuses, messages and timeouts are written, where a body's
// messages begin, and gRPC-Web, which carries all that where a client can't
// read trailers.
//
// In come heads and body bytes as the codecs read them, split anywhere; out go
// numbers, and for gRPC-Web the bytes of the other side. A Counter and a Web
// belong to one exchange. It follows gRPC's PROTOCOL-HTTP2.md (messages,
// grpc-timeout, grpc-status, grpc-message), http-grpc-status-mapping.md, and
// PROTOCOL-WEB.md as Envoy's filter grpc_web does; compression is the
// business of both ends. Read grpc.go, then web.go.
package grpc

import (
	"net/http"
	"time"
)

// ContentType is what a message of gRPC has for content-type, or begins it with.
const ContentType = "application/grpc"

// IsType reports whether a message with this content-type is one of gRPC (gRPC
// over HTTP/2: content-type begins with application/grpc). Those of gRPC-Web
// are not.
func IsType(ct []byte) bool {
	const n = len(ContentType)
	return len(ct) >= n && string(ct[:n]) == ContentType && (len(ct) == n || ct[n] == '+' || ct[n] == ';')
}

// DeadlineExceeded is gRPC's status of a call that took too long.
const DeadlineExceeded = 4

// Code maps a status of HTTP (gRPC: "HTTP to gRPC Status Code Mapping").
func Code(status int) int {
	const (
		unknown          = 2
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
	return unknown
}

// AppendMessage percent-encodes what may not stand in grpc-message (gRPC over
// HTTP/2: Percent-Encoded).
func AppendMessage(dst, message []byte) []byte {
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

// Timeout is what grpc-timeout says (gRPC over HTTP/2: Timeout); 0: nothing
// that could be understood.
func Timeout(value []byte) time.Duration {
	const digitsMax = 8
	last := len(value) - 1
	if last < 1 || last > digitsMax {
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
		return min(n, hoursMax) * time.Hour
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

// hoursMax keeps a timeout within what a Duration holds.
const hoursMax = 1 << 20
