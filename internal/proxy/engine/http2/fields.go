package http2

import (
	"bytes"

	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
	"github.com/tullemesh/tulle/internal/proxy/engine/http2/hpack"
	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// section says what a header block is.
type section uint8

const (
	requestSection section = iota
	responseSection
	trailerSection
)

// pseudo-header fields as bits, to find repeated and missing ones.
const (
	gotMethod = 1 << iota
	gotScheme
	gotPath
	gotAuthority
	gotStatus
	gotProtocol
)

// fieldReader checks the fields of one block by RFC 9113 §8.2 and §8.3 and
// fills a head. A rule that is broken is remembered, because the rest of the
// block must still be decoded for HPACK's sake.
type fieldReader struct {
	head     *message.Head
	section  section
	bytesMax int
	countMax int
	extended bool // :protocol is allowed (RFC 8441)
	drops    bool // what may not trail is left out (RFC 9110 §6.5.1)

	bytes, count int
	pseudo       int
	regular      bool // a regular field was seen
	malformed    string
	large        bool
	host         []byte
	hosts        int
	cookies      int
	length       int64 // of Content-Length; -1: none
	trailers     bool  // te: trailers
	expect       bool  // expect: 100-continue
	protocol     []byte
}

// checked marks an entry of the HPACK table whose bytes are allowed.
const checked = 1

// Field implements hpack.Sink.
func (r *fieldReader) Field(f *hpack.Field) {
	if r.malformed != "" || r.large {
		return
	}
	r.bytes += len(f.Name) + len(f.Value) + 32 // RFC 9113 §6.5.2
	r.count++
	if r.bytes > r.bytesMax || r.count > r.countMax {
		r.large = true
		return
	}
	pseudo := len(f.Name) > 0 && f.Name[0] == ':'
	if !f.Static && (f.Mark == nil || *f.Mark&checked == 0) {
		if !validValue(f.Value) {
			r.malformed = "field value with a forbidden byte or surrounding space"
			return
		}
		if !pseudo && !validName(f.Name) {
			r.malformed = "field name with a forbidden byte"
			return
		}
		if f.Mark != nil {
			*f.Mark |= checked
		}
	}
	if pseudo {
		r.malformed = r.pseudoField(f)
		return
	}
	r.regular = true
	r.malformed = r.field(f)
}

// keep returns bytes that live as long as the head.
func (r *fieldReader) keep(b []byte, lives bool) []byte {
	if lives {
		return b
	}
	return r.head.Keep(b)
}

// pseudoField takes a pseudo-header field (RFC 9113 §8.3).
func (r *fieldReader) pseudoField(f *hpack.Field) (malformed string) {
	name := string(f.Name)
	if r.regular || r.section == trailerSection {
		return "pseudo-header field after a regular one or in trailers"
	}
	bit := 0
	h := r.head
	switch {
	case name == ":status" && r.section == responseSection:
		bit = gotStatus
		n, ok := parseLength(f.Value)
		if !ok || len(f.Value) != 3 || n < 100 || n == 101 {
			return ":status is not a status of HTTP/2"
		}
		h.Status = int(n)
	case r.section != requestSection:
		return "unknown pseudo-header field"
	case name == ":method":
		bit = gotMethod
		h.Method = r.keep(f.Value, f.ValueLives)
	case name == ":scheme":
		bit = gotScheme
		h.Scheme = r.keep(f.Value, f.ValueLives)
	case name == ":path":
		bit = gotPath
		h.Path = r.keep(f.Value, f.ValueLives)
	case name == ":authority":
		bit = gotAuthority
		h.Authority = r.keep(f.Value, f.ValueLives)
	case name == ":protocol" && r.extended:
		bit = gotProtocol
		r.protocol = r.keep(f.Value, f.ValueLives)
	default:
		return "unknown pseudo-header field"
	}
	if r.pseudo&bit != 0 {
		return "repeated pseudo-header field"
	}
	r.pseudo |= bit
	return ""
}

// field takes a regular field.
func (r *fieldReader) field(f *hpack.Field) (malformed string) {
	h := r.head
	switch string(f.Name) {
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
		return "connection-specific field" // RFC 9113 §8.2.2
	case "te":
		if r.section == trailerSection || string(f.Value) != "trailers" {
			return "te other than trailers, or in trailers"
		}
		r.trailers = true
		return ""
	case "content-length":
		n, ok := parseLength(f.Value)
		if r.section == trailerSection || !ok || r.length >= 0 {
			return "content-length that is repeated, misplaced or no number"
		}
		r.length = n
	case "host":
		if r.section == requestSection {
			r.hosts++
			r.host = r.keep(f.Value, f.ValueLives)
			return ""
		}
	case "cookie":
		r.cookies++
	case "expect":
		if r.section == requestSection && bytes.EqualFold(f.Value, []byte("100-continue")) {
			r.expect = true
			return ""
		}
	}
	if r.section == trailerSection && !message.MayTrail(string(f.Name)) {
		if r.drops {
			return ""
		}
		return "field that is not allowed in trailers"
	}
	h.Append(r.keep(f.Name, f.NameLives), r.keep(f.Value, f.ValueLives))
	return ""
}

// finish checks what only the whole block tells.
func (r *fieldReader) finish() {
	if r.malformed != "" || r.large {
		return
	}
	switch r.section {
	case requestSection:
		r.malformed = r.finishRequest()
	case responseSection:
		if r.pseudo&gotStatus == 0 {
			r.malformed = "no :status"
		}
	case trailerSection:
	}
}

func (r *fieldReader) finishRequest() (malformed string) {
	h := r.head
	h.Protocol = fact.HTTP2
	if r.hosts > 1 {
		return "repeated host"
	}
	if r.cookies > 1 { // RFC 9113 §8.2.3: crumbs are joined for whoever reads them
		if joined, ok := h.Get("cookie"); ok {
			h.Set("cookie", joined)
		}
	}
	if r.hosts == 1 {
		if r.pseudo&gotAuthority == 0 {
			h.Authority = r.host
			r.pseudo |= gotAuthority
		} else if !bytes.EqualFold(h.Authority, r.host) {
			return "host differs from :authority" // RFC 9113 §8.3.1
		}
	}
	connect := string(h.Method) == "CONNECT"
	if r.pseudo&gotProtocol != 0 {
		if malformed = r.finishUpgrade(connect); malformed != "" {
			return malformed
		}
		connect = false
	}
	switch {
	case !validMethod(h.Method):
		return ":method is missing or no token"
	case connect && (r.pseudo&(gotScheme|gotPath) != 0 || r.pseudo&gotAuthority == 0):
		return "CONNECT with :scheme or :path, or without :authority" // RFC 9113 §8.5
	case connect:
	case r.pseudo&(gotScheme|gotPath) != gotScheme|gotPath:
		return "no :scheme or no :path"
	case !validScheme(h.Scheme):
		return ":scheme is no scheme"
	case !validPath(h.Path, h.Method):
		return ":path is empty, relative or has a forbidden byte"
	}
	if !message.ValidAuthority(h.Authority, connect) {
		return ":authority is missing or no host and port"
	}
	return ""
}

// finishUpgrade turns an extended CONNECT into the request of HTTP/1.1 that means
// the same (RFC 8441 §4), so that whoever looks at it finds one form: GET with
// connection and upgrade. How the stream is framed is the codec's alone.
func (r *fieldReader) finishUpgrade(connect bool) (malformed string) {
	h := r.head
	switch {
	case !connect:
		return ":protocol without CONNECT"
	case !validProtocol(r.protocol):
		return ":protocol is no protocol"
	case r.length > 0:
		return "extended CONNECT with content-length" // RFC 9110 §9.3.6
	}
	if r.length == 0 {
		h.Remove("content-length")
		r.length = -1
	}
	h.Method = h.KeepString("GET")
	h.Append(h.KeepString("connection"), h.KeepString("upgrade"))
	h.Append(h.KeepString("upgrade"), r.protocol)
	return ""
}

// validProtocol is a token with an optional version (RFC 9110 §7.8).
func validProtocol(p []byte) bool {
	name, version, versioned := bytes.Cut(p, []byte("/"))
	return validMethod(name) && (!versioned || validMethod(version))
}

// validValue is RFC 9113 §8.2.1, and HTTP/1.1's rule for control characters:
// what passes here may be written in HTTP/1.1.
func validValue(v []byte) bool {
	if len(v) == 0 {
		return true
	}
	if first, last := v[0], v[len(v)-1]; first == ' ' || first == '\t' || last == ' ' || last == '\t' {
		return false
	}
	for i := range len(v) {
		if c := v[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// validName is a token in lower case (RFC 9113 §8.2).
func validName(n []byte) bool {
	for _, c := range n {
		if (c < 'a' || c > 'z') && c != '-' && (c < '0' || c > '9') && bytes.IndexByte([]byte("!#$%&'*+.^_`|~"), c) < 0 {
			return false
		}
	}
	return len(n) > 0
}

// validMethod is a token (RFC 9110 §9.1).
func validMethod(m []byte) bool {
	for _, c := range m {
		if letter := c|0x20 >= 'a' && c|0x20 <= 'z'; !letter && !validName([]byte{c}) {
			return false
		}
	}
	return len(m) > 0
}

func validScheme(s []byte) bool {
	for i, c := range s {
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		if !letter && (i == 0 || (c < '0' || c > '9') && c != '+' && c != '-' && c != '.') {
			return false
		}
	}
	return len(s) > 0
}

// validPath allows what a request target of HTTP/1.1 may hold.
func validPath(p, method []byte) bool {
	if len(p) == 0 || p[0] != '/' && (string(p) != "*" || string(method) != "OPTIONS") {
		return false
	}
	for _, c := range p {
		if c <= ' ' || c >= 0x7f || c == '#' {
			return false
		}
	}
	return true
}

func parseLength(s []byte) (int64, bool) {
	if len(s) == 0 || len(s) > 18 {
		return 0, false
	}
	n := int64(0)
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n, true
}
