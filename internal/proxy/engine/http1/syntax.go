package http1

import "bytes"

// class holds a byte's properties as bits.
type class uint8

const (
	isToken  class = 1 << iota // RFC 9110 §5.6.2
	isTarget                   // allowed in a request target
	isValue                    // allowed in a field value
	isDigit
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
		if digit {
			t[i] |= isDigit
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
