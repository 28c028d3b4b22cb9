package http1

import "errors"

// ErrMore means that the bytes end before the element does.
var ErrMore = errors.New("more bytes are needed")

// Error is a refusal of a message: the status that answers a request, and the
// rule in words. A response that breaks a rule is a bad gateway whatever the
// status says.
type Error struct {
	Status int
	Reason string
	// Source is the rule's place, e.g. "RFC 9112 §6.3".
	Source string
}

// Error implements error.
func (e *Error) Error() string { return e.Reason + " (" + e.Source + ")" }

// The refusals.
var (
	ErrLine        = &Error{400, "malformed start line", "RFC 9112 §3"}
	ErrBareLF      = &Error{400, "line that does not end in CR LF", "RFC 9112 §2.2"}
	ErrMethod      = &Error{400, "malformed method", "RFC 9110 §9.1"}
	ErrMethodLong  = &Error{501, "method longer than any known", "RFC 9112 §3"}
	ErrTarget      = &Error{400, "malformed request target", "RFC 9112 §3.2"}
	ErrTargetLong  = &Error{414, "request target too long", "RFC 9112 §3"}
	ErrVersion     = &Error{400, "malformed protocol version", "RFC 9112 §2.3"}
	ErrVersionNew  = &Error{505, "protocol version not supported", "RFC 9110 §15.6.6"}
	ErrName        = &Error{400, "malformed field name", "RFC 9112 §5.1"}
	ErrFold        = &Error{400, "folded field line", "RFC 9112 §5.2"}
	ErrValue       = &Error{400, "control character in a field value", "RFC 9110 §5.5"}
	ErrHeadLarge   = &Error{431, "header section too large", "RFC 6585 §5"}
	ErrFieldCount  = &Error{431, "too many header fields", "RFC 6585 §5"}
	ErrHostMissing = &Error{400, "no Host field", "RFC 9112 §3.2"}
	ErrHostTwice   = &Error{400, "more than one Host field", "RFC 9112 §3.2"}
	ErrHost        = &Error{400, "malformed Host", "RFC 9110 §7.2"}
	ErrLength      = &Error{400, "malformed Content-Length", "RFC 9110 §8.6"}
	ErrLengthTwice = &Error{400, "more than one Content-Length", "RFC 9112 §6.3"}
	ErrBothLengths = &Error{400, "Content-Length and Transfer-Encoding together", "RFC 9112 §6.3"}
	ErrCoding      = &Error{400, "Transfer-Encoding that does not end in one chunked", "RFC 9112 §6.3"}
	ErrCodingOther = &Error{501, "transfer coding not supported", "RFC 9112 §7"}
	ErrCodingOld   = &Error{400, "Transfer-Encoding in HTTP/1.0", "RFC 9112 §6.1"}
	ErrCodingTwice = &Error{400, "more than one Transfer-Encoding", "RFC 9112 §6.3"}
	ErrNominated   = &Error{400, "Connection nominates a field that is not hop-by-hop", "RFC 9110 §7.6.1"}
	ErrExpect      = &Error{417, "unknown expectation", "RFC 9110 §10.1.1"}
	ErrUpgradeBody = &Error{400, "upgrade or CONNECT with a body", "RFC 9110 §9.3.6"}
	ErrChunk       = &Error{400, "malformed chunk", "RFC 9112 §7.1"}
	ErrChunkLong   = &Error{400, "chunk size line too long", "RFC 9112 §7.1"}
	ErrTrailer     = &Error{400, "field not allowed in trailers", "RFC 9110 §6.5.1"}
	ErrStatus      = &Error{400, "malformed status line", "RFC 9112 §4"}
	// ErrCut is told by who reads, because only it knows of the end.
	ErrCut = &Error{400, "connection ended within a head", "RFC 9112 §8"}
)
