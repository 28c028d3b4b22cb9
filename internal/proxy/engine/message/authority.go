package message

import (
	"bytes"
	"net/netip"
)

// hostBytes may stand in a host's name or address (RFC 3986 §3.2.2). The comma
// may not: it would make a list of a field's value.
var hostBytes = buildHostBytes() //nolint:gochecknoglobals // a table that Go has no constant for

func buildHostBytes() (t [256]bool) {
	for i := range t {
		c := byte(i)
		t[i] = c|0x20 >= 'a' && c|0x20 <= 'z' || digit(c) || bytes.IndexByte([]byte("-._~%!$&'()*+;="), c) >= 0
	}
	return t
}

// ValidAuthority checks uri-host [ ":" port ] (RFC 9110 §7.2), of which Host and
// :authority consist; user information is not part of it. wantsPort: nor may the
// port be left out, as in CONNECT (§9.3.6).
func ValidAuthority(b []byte, wantsPort bool) bool {
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
		if !validHost(host) {
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

// validHost checks that each byte is allowed and that each % begins an escape
// (RFC 3986 §2.1).
func validHost(b []byte) bool {
	for i, c := range b {
		if !hostBytes[c] || c == '%' && (i+2 >= len(b) || !hex(b[i+1]) || !hex(b[i+2])) {
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
		if !digit(c) {
			return false
		}
		n = n*10 + int(c-'0')
	}
	return n <= 65535 && (len(b) > 0 || !wanted)
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

func hex(c byte) bool { return digit(c) || c|0x20 >= 'a' && c|0x20 <= 'f' }
