package http1

import (
	"bytes"
	"net/netip"
)

// class holds a byte's properties as bits.
type class uint8

const (
	isToken  class = 1 << iota // RFC 9110 §5.6.2
	isTarget                   // allowed in a request target
	isValue                    // allowed in a field value
	isHost                     // allowed in a host name or address
	isDigit
	isHex
)

// classes and lowers are constant tables: nobody writes to them.
var (
	classes = buildClasses() //nolint:gochecknoglobals // a table that Go has no constant for
	lowers  = buildLowers()  //nolint:gochecknoglobals // a table that Go has no constant for
)

func buildClasses() (t [256]class) {
	for i := range t {
		c := byte(i)
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		digit := c >= '0' && c <= '9'
		if letter || digit || bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), c) >= 0 {
			t[i] |= isToken
		}
		if c > ' ' && c < 0x7f && c != '#' {
			t[i] |= isTarget
		}
		if c >= ' ' && c != 0x7f || c == '\t' {
			t[i] |= isValue
		}
		if letter || digit || bytes.IndexByte([]byte("-._~%!$&'()*+;="), c) >= 0 {
			t[i] |= isHost
		}
		if digit {
			t[i] |= isDigit
		}
		if digit || c|0x20 >= 'a' && c|0x20 <= 'f' {
			t[i] |= isHex
		}
	}
	return t
}

func buildLowers() (t [256]byte) {
	for i := range t {
		t[i] = byte(i)
		if i >= 'A' && i <= 'Z' {
			t[i] += 'a' - 'A'
		}
	}
	return t
}

// all reports whether each byte has a property.
func all(b []byte, want class) bool {
	for _, c := range b {
		if classes[c]&want == 0 {
			return false
		}
	}
	return true
}

// toLower changes b in place.
func toLower(b []byte) {
	for i, c := range b {
		b[i] = lowers[c]
	}
}

// equalFold compares with a string in lower case.
func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if lowers[c] != lower[i] {
			return false
		}
	}
	return true
}

// trim removes optional whitespace (RFC 9110 §5.6.3).
func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// cutList returns the first element of a comma-separated list and the rest.
func cutList(list []byte) (element, rest []byte) {
	if i := bytes.IndexByte(list, ','); i >= 0 {
		return trim(list[:i]), list[i+1:]
	}
	return trim(list), nil
}

// hasToken reports whether a comma-separated list holds a token, given in
// lower case.
func hasToken(list []byte, token string) bool {
	var element []byte
	for len(list) > 0 {
		element, list = cutList(list)
		if equalFold(element, token) {
			return true
		}
	}
	return false
}

// validAuthority checks uri-host [ ":" port ] (RFC 9110 §7.2). User
// information is not part of it.
func validAuthority(b []byte, wantsPort bool) bool {
	if len(b) == 0 {
		return false
	}
	host, rest := b, []byte(nil)
	if b[0] == '[' {
		end := bytes.IndexByte(b, ']')
		if end < 0 || !validLiteral(b[1:end]) {
			return false
		}
		host, rest = b[1:end], b[end+1:]
	} else {
		if i := bytes.IndexByte(b, ':'); i >= 0 {
			host, rest = b[:i], b[i:]
		}
		if !all(host, isHost) || !validEscapes(host) {
			return false
		}
	}
	if len(host) == 0 {
		return false
	}
	if len(rest) == 0 {
		return !wantsPort
	}
	return rest[0] == ':' && validPort(rest[1:], wantsPort)
}

// validLiteral checks an address in brackets: IPv6 without a zone
// (RFC 3986 §3.2.2). Future versions are refused.
func validLiteral(b []byte) bool {
	if len(b) > len("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255") {
		return false
	}
	a, err := netip.ParseAddr(string(b))
	return err == nil && a.Is6() && a.Zone() == ""
}

// validEscapes checks that each % begins an escape (RFC 3986 §2.1).
func validEscapes(b []byte) bool {
	for i, c := range b {
		if c == '%' && (i+2 >= len(b) || classes[b[i+1]]&classes[b[i+2]]&isHex == 0) {
			return false
		}
	}
	return true
}

// validPort takes 0 to 65535, and nothing where no port is wanted.
func validPort(b []byte, wanted bool) bool {
	if len(b) > 5 {
		return false
	}
	n := 0
	for _, c := range b {
		if classes[c]&isDigit == 0 {
			return false
		}
		n = n*10 + int(c-'0')
	}
	return n <= 65535 && (len(b) > 0 || !wanted)
}

// parseLength reads a Content-Length: digits only, no sign, no list.
func parseLength(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	var n int64
	for _, c := range b {
		if classes[c]&isDigit == 0 {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}
