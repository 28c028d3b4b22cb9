// Package http2 is HTTP/2 (RFC 9113) for both sides of the proxy. In come the
// bytes of a connection, out go heads, body bytes, trailers and the bytes that
// answer them.
//
// Session is the pure part: it parses every frame of a read, keeps the state of
// streams and windows, and appends what must be sent to a buffer; it does no
// I/O and asks no clock. Conn owns a Session under its mutex and drives a socket
// with it. A read is a Turn: all its frames are parsed, then those that they
// concern act, then each connection that has something to say is flushed once.
// A Stream is used by goroutines that wait (stream.go) or, without any, by a
// Watcher that is told in the turn (put.go). Left out: server push (refused,
// §8.4) and priorities (ignored, §5.3.2). What a peer can make grow is bounded
// by package limit.
//
// Sketch of a relayed unary request: no allocation and no goroutine; of a read
// with n requests one write to each side; body bytes are copied once into their
// stream and once out of it. Locks: a turn's watcher may hold its own lock and
// take one connection's; nobody holds a connection's lock and waits for more.
// Read session.go first, then conn.go and memory.go.
package http2

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Preface is what a client sends first (RFC 9113 §3.4).
const Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// frameKind is a frame's type (RFC 9113 §6).
type frameKind uint8

const (
	kindData frameKind = iota
	kindHeaders
	kindPriority
	kindReset
	kindSettings
	kindPush
	kindPing
	kindGoAway
	kindWindow
	kindContinuation
)

// The flags (RFC 9113 §6).
const (
	flagAck        = 0x1 // of SETTINGS and PING
	flagEndStream  = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

// The settings (RFC 9113 §6.5.2, RFC 8441 §3).
const (
	settingTableSize     = 1
	settingPush          = 2
	settingStreams       = 3
	settingWindow        = 4
	settingFrameSize     = 5
	settingHeadSize      = 6
	settingExtendConnect = 8
)

const (
	frameHeadBytes = 9
	frameBytesMin  = 1 << 14 // what every peer must take
	windowMax      = 1<<31 - 1
	streamIDMax    = 1<<31 - 1
	windowDefault  = 65535
	tableDefault   = 4096
)

// Code is why a stream or a connection ended (RFC 9113 §7).
type Code uint32

// The error codes.
const (
	NoError Code = iota
	ProtocolError
	InternalError
	FlowControlError
	SettingsTimeout
	StreamClosed
	FrameSizeError
	RefusedStream
	Cancel
	CompressionError
	ConnectError
	EnhanceYourCalm
	InadequateSecurity
	HTTP11Required
)

// String is the code's name in RFC 9113 §7.
func (c Code) String() string {
	names := [...]string{
		"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED",
		"FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM",
		"INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
	}
	if int(c) < len(names) {
		return names[c]
	}
	return fmt.Sprintf("code %d", uint32(c))
}

// Errors of streams and connections.
var (
	// ErrNoSwitch: the peer does not take extended CONNECT (RFC 8441 §3).
	ErrNoSwitch = errors.New("the peer does not take extended CONNECT")
	// ErrNotProcessed: the peer says that it did nothing of the request, which
	// may be sent again (RFC 9113 §8.7).
	ErrNotProcessed = errors.New("the peer did not process the request")
	// ErrClosed: the connection ended.
	ErrClosed = errors.New("the HTTP/2 connection ended")
	// ErrInterrupted: Stream.Interrupt ended a wait.
	ErrInterrupted = errors.New("interrupted")
	// ErrUnavailable: the connection takes no more streams.
	ErrUnavailable = errors.New("the HTTP/2 connection takes no more streams")
	// ErrEnding is ErrUnavailable for good.
	ErrEnding = fmt.Errorf("%w: it ends", ErrUnavailable)
)

// ConnError is a rule broken that ends the connection (RFC 9113 §5.4.1).
type ConnError struct {
	Code   Code
	Reason string
	// Flood names the limit of frames that was exceeded, of a closed set; empty:
	// none.
	Flood string
}

// Error implements error.
func (e *ConnError) Error() string { return "connection error " + e.Code.String() + ": " + e.Reason }

// StreamError is a rule broken that ends one stream (RFC 9113 §5.4.2).
type StreamError struct {
	Stream uint32
	Code   Code
	Reason string
}

// Error implements error.
func (e *StreamError) Error() string {
	return fmt.Sprintf("stream %d error %s: %s", e.Stream, e.Code, e.Reason)
}

// ResetError is the peer's RST_STREAM.
type ResetError struct {
	Code Code
	// Complete tells that the peer's message had come as a whole.
	Complete bool
}

// Error implements error.
func (e *ResetError) Error() string { return "stream reset by the peer: " + e.Code.String() }

// Is makes a refused stream ErrNotProcessed.
func (e *ResetError) Is(target error) bool {
	return target == ErrNotProcessed && e.Code == RefusedStream
}

func connError(code Code, reason string) error { return &ConnError{Code: code, Reason: reason} }

func flood(name, reason string) error {
	return &ConnError{EnhanceYourCalm, reason, name}
}

// frame is one parsed frame; payload is a slice of what was read.
type frame struct {
	kind    frameKind
	flags   uint8
	stream  uint32
	payload []byte
}

func (f *frame) has(flag uint8) bool { return f.flags&flag != 0 }

// nextFrame cuts the first frame off b; n is 0 when there is not all of it. A
// frame longer than what we allow is refused before its bytes have come.
func nextFrame(b []byte) (f frame, n int, err error) {
	if len(b) < frameHeadBytes {
		return f, 0, nil
	}
	length := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
	if length > FrameBytesMax {
		return f, 0, connError(FrameSizeError, "frame longer than SETTINGS_MAX_FRAME_SIZE")
	}
	if len(b) < frameHeadBytes+length {
		return f, 0, nil
	}
	f.kind, f.flags = frameKind(b[3]), b[4]
	f.stream = binary.BigEndian.Uint32(b[5:]) & streamIDMax
	f.payload = b[frameHeadBytes : frameHeadBytes+length]
	return f, frameHeadBytes + length, nil
}

// unpad takes padding off (RFC 9113 §6.1).
func unpad(f *frame) error {
	if !f.has(flagPadded) {
		return nil
	}
	if len(f.payload) == 0 {
		return connError(FrameSizeError, "padded frame without a pad length")
	}
	pad := int(f.payload[0])
	if pad >= len(f.payload) {
		return connError(ProtocolError, "padding longer than the payload")
	}
	f.payload = f.payload[1 : len(f.payload)-pad]
	return nil
}

func appendFrameHead(dst []byte, length int, kind frameKind, flags uint8, stream uint32) []byte {
	dst = append(dst, byte(length>>16), byte(length>>8), byte(length), byte(kind), flags)
	return binary.BigEndian.AppendUint32(dst, stream)
}

// putFrameHead writes over the frame head at the beginning of b.
func putFrameHead(b []byte, length int, kind frameKind, flags uint8, stream uint32) {
	b[0], b[1], b[2], b[3], b[4] = byte(length>>16), byte(length>>8), byte(length), byte(kind), flags
	binary.BigEndian.PutUint32(b[5:], stream)
}

func appendReset(dst []byte, stream uint32, code Code) []byte {
	dst = appendFrameHead(dst, 4, kindReset, 0, stream)
	return binary.BigEndian.AppendUint32(dst, uint32(code))
}

func appendWindow(dst []byte, stream uint32, n int64) []byte {
	dst = appendFrameHead(dst, 4, kindWindow, 0, stream)
	return binary.BigEndian.AppendUint32(dst, uint32(n))
}

func appendGoAway(dst []byte, last uint32, code Code, reason string) []byte {
	dst = appendFrameHead(dst, 8+len(reason), kindGoAway, 0, 0)
	dst = binary.BigEndian.AppendUint32(dst, last)
	dst = binary.BigEndian.AppendUint32(dst, uint32(code))
	return append(dst, reason...)
}

func appendPing(dst []byte, flags uint8, data []byte) []byte {
	return append(appendFrameHead(dst, 8, kindPing, flags, 0), data...)
}

func appendSetting(dst []byte, id uint16, value uint32) []byte {
	dst = binary.BigEndian.AppendUint16(dst, id)
	return binary.BigEndian.AppendUint32(dst, value)
}
