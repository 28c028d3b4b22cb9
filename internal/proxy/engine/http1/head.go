// Package http1 is a strict HTTP/1.x codec (RFC 9112): bytes in, heads and
// body parts out, and the way back. It does no I/O, looks at no clock and owns
// no state beside the small structs that callers hold.
//
// Strict means that what two parsers could read differently is refused: both
// lengths, repeated lengths or hosts, folded lines, bare CR or LF, whitespace
// around names, loose chunk grammar. Nothing is repaired. Left out: transfer
// codings other than chunked, and HTTP/0.9.
//
// Read head.go for messages' starts, body.go for their bodies, write.go for
// the way back. Cost of a usual head: one pass over its bytes, names lowered
// in place, no allocation.
package http1

import (
	"bytes"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// Limits bound a head. Zero values mean the defaults.
type Limits struct {
	HeadBytesMax int // default 60 KiB, Envoy's max_request_headers_kb
	FieldsMax    int // default 100, Envoy's max_headers_count
}

// leadingMax is how many bytes of empty lines before a request line are
// skipped.
const leadingMax = limit.LeadingLinesMax * len("\r\n")

func (l Limits) headBytes() int {
	if l.HeadBytesMax > 0 {
		return l.HeadBytesMax
	}
	return limit.HeadBytesMax
}

func (l Limits) fields() int {
	if l.FieldsMax > 0 {
		return l.FieldsMax
	}
	return limit.HeadFieldsMax
}

// Framing is what a head says about the message's body and the connection.
type Framing struct {
	// Length is Content-Length, -1 without one.
	Length int64
	// Chunked transfer coding.
	Chunked bool
	// Close: the connection ends after this message (persistence by version
	// and Connection field).
	Close bool
	// Upgrade is the wanted or agreed protocol, in lower case, or empty.
	Upgrade []byte
	// Expect100: the client waits for 100 (Continue).
	Expect100 bool
	// WantsTrailers: the TE field says "trailers".
	WantsTrailers bool
	// KeepAlive is the value of the Keep-Alive field, or empty. It points into
	// the head's bytes.
	KeepAlive []byte
}

// Scan remembers how far the search for a head's end has come, so that bytes
// that come one by one are looked at once. The zero value starts a head.
type Scan struct{ line, at int }

// End looks for the end of a head in buf, which holds the head's first bytes
// and grows between calls. It returns ErrMore when the end is not there yet.
func (s *Scan) End(buf []byte, l Limits) (int, error) {
	for {
		i := bytes.IndexByte(buf[s.at:], '\n')
		if i < 0 {
			s.at = len(buf)
			if len(buf) > l.headBytes() {
				return 0, s.large()
			}
			return 0, ErrMore
		}
		end := s.at + i
		if end == 0 || buf[end-1] != '\r' {
			return 0, ErrBareLF
		}
		empty := end-1 == s.line
		if end+1 > l.headBytes() {
			return 0, s.large()
		}
		s.line, s.at = end+1, end+1
		if empty && end >= leadingMax {
			return end + 1, nil
		}
	}
}

// large is the refusal of a head beyond the limit: of its target when not even
// the first line has ended.
func (s *Scan) large() error {
	if s.line <= leadingMax {
		return ErrTargetLong
	}
	return ErrHeadLarge
}

// ParseRequest parses a complete head, as Scan.End found it. Names are changed
// to lower case in place; hop-by-hop fields other than a wanted upgrade's are
// left out of h.
func ParseRequest(buf []byte, l Limits, h *message.Head, f *Framing) error {
	h.Reset()
	*f = Framing{Length: -1}
	if len(buf) >= 2 && buf[0] == '\r' && buf[1] == '\n' {
		buf = buf[2:]
	}
	line, rest, ok := cutLine(buf)
	if !ok {
		return ErrLine
	}
	form, err := parseRequestLine(line, h)
	if err != nil {
		return err
	}
	p := fieldParser{head: h, framing: f, request: true, max: l.fields()}
	if err := p.parse(rest); err != nil {
		return err
	}
	if err := p.finishRequest(form); err != nil {
		return err
	}
	return p.dropHopByHop()
}

func cutLine(buf []byte) (line, rest []byte, ok bool) {
	i := bytes.IndexByte(buf, '\n')
	if i < 1 || buf[i-1] != '\r' {
		return nil, nil, false
	}
	return buf[:i-1], buf[i+1:], true
}

// targetForm is the form of a request target (RFC 9112 §3.2).
type targetForm uint8

const (
	originForm targetForm = iota
	absoluteForm
	authorityForm
	asteriskForm
)

func parseRequestLine(line []byte, h *message.Head) (targetForm, error) {
	sp := bytes.IndexByte(line, ' ')
	if sp <= 0 || !all(line[:sp], isToken) {
		return 0, ErrMethod
	}
	if sp > limit.MethodBytesMax {
		return 0, ErrMethodLong
	}
	h.Method = line[:sp]
	line = line[sp+1:]
	sp = bytes.IndexByte(line, ' ')
	if sp <= 0 {
		return 0, ErrLine
	}
	target, version := line[:sp], line[sp+1:]
	var err error
	if h.Protocol, err = parseVersion(version); err != nil {
		return 0, err
	}
	if !all(target, isTarget) {
		return 0, ErrTarget
	}
	return parseTarget(target, h)
}

func parseVersion(v []byte) (fact.Protocol, error) {
	switch string(v) {
	case "HTTP/1.1":
		return fact.HTTP11, nil
	case "HTTP/1.0":
		return fact.HTTP10, nil
	}
	if len(v) == 8 && string(v[:5]) == "HTTP/" && v[6] == '.' && classes[v[5]]&classes[v[7]]&isDigit != 0 {
		return 0, ErrVersionNew
	}
	return 0, ErrVersion
}

func parseTarget(target []byte, h *message.Head) (targetForm, error) {
	connect := string(h.Method) == "CONNECT"
	switch {
	case connect:
		if !message.ValidAuthority(target, true) {
			return 0, ErrTarget
		}
		h.Authority = target
		return authorityForm, nil
	case target[0] == '/':
		h.Path = target
		return originForm, nil
	case len(target) == 1 && target[0] == '*':
		if string(h.Method) != "OPTIONS" {
			return 0, ErrTarget
		}
		h.Path = target
		return asteriskForm, nil
	}
	return absoluteForm, parseAbsolute(target, h)
}

// parseAbsolute takes http and https URIs (RFC 9112 §3.2.2).
func parseAbsolute(target []byte, h *message.Head) error {
	i := bytes.Index(target, []byte("://"))
	if i < 0 || !equalFold(target[:i], "http") && !equalFold(target[:i], "https") {
		return ErrTarget
	}
	rest := target[i+3:]
	end := bytes.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	if !message.ValidAuthority(rest[:end], false) {
		return ErrTarget
	}
	h.Authority = rest[:end]
	switch {
	case end == len(rest):
		h.Path = h.KeepString("/")
		if string(h.Method) == "OPTIONS" {
			h.Path = h.KeepString("*") // RFC 9112 §3.2.4
		}
	case rest[end] == '?':
		h.Path = h.Keep(append([]byte("/"), rest[end:]...))
	default:
		h.Path = rest[end:]
	}
	return nil
}

// ParseResponse parses a complete head, as Scan.End found it. method is the
// request's.
func ParseResponse(buf []byte, l Limits, h *message.Head, f *Framing) error {
	h.Reset()
	*f = Framing{Length: -1}
	line, rest, ok := cutLine(buf)
	if !ok {
		return ErrStatus
	}
	if len(line) < 12 || line[8] != ' ' || len(line) > 12 && line[12] != ' ' || !all(line[12:], isValue) {
		return ErrStatus
	}
	var err error
	if h.Protocol, err = parseVersion(line[:8]); err != nil {
		return err
	}
	if !all(line[9:12], isDigit) || line[9] < '1' || line[9] > '5' {
		return ErrStatus
	}
	h.Status = int(line[9]-'0')*100 + int(line[10]-'0')*10 + int(line[11]-'0')
	p := fieldParser{head: h, framing: f, max: l.fields()}
	if err := p.parse(rest); err != nil {
		return err
	}
	if f.Chunked && h.Protocol == fact.HTTP10 {
		return ErrCodingOld
	}
	return p.dropHopByHop()
}
