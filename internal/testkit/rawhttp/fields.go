package rawhttp

import (
	"fmt"
	"strings"
)

// fieldRequests: field lines (RFC 9112 §5, RFC 9110 §5).
func fieldRequests() []Request {
	const (
		line  = "RFC 9112 §5"
		name  = "RFC 9110 §5.1"
		value = "RFC 9110 §5.5"
		space = "RFC 9112 §5.1"
		fold  = "RFC 9112 §5.2"
	)
	out := []Request{
		good("a field", line, getA+"X: y\r\n\r\n", "GET / a (x: y)"),
		good("a field without a space", line, getA+"X:y\r\n\r\n", "GET / a (x: y)"),
		good("a field in optional whitespace", line, getA+"X: \t y \t \r\n\r\n", "GET / a (x: y)"),
		good("an empty value", value, getA+"X:\r\n\r\n", "GET / a (x: )"),
		good("a value of spaces is empty", value, getA+"X:   \r\n\r\n", "GET / a (x: )"),
		good("a value with spaces and tabs", value, getA+"X: a \tb\r\n\r\n", "GET / a (x: a \tb)"),
		good("a value with colons", value, getA+"X: a:b: c\r\n\r\n", "GET / a (x: a:b: c)"),
		good("a value that begins with a colon", value, getA+"X::y\r\n\r\n", "GET / a (x: :y)"),
		good("a value of 8-bit bytes", value, getA+"X: \xe9\xff\x80\r\n\r\n", "GET / a (x: \xe9\xff\x80)"),
		good("a value in UTF-8", value, getA+"X: \u00e9\u4e16\r\n\r\n", "GET / a (x: \u00e9\u4e16)"),
		good("a value that looks like a request", value, getA+"X: GET /x HTTP/1.1\r\n\r\n", "GET / a (x: GET /x HTTP/1.1)"),
		good("escaped line ends in a value", value, getA+"X: a%0d%0aHost: b\r\n\r\n", "GET / a (x: a%0d%0aHost: b)"),
		good("a backslash line end in a value", value, getA+`X: a\r\nHost: b`+"\r\n\r\n", `GET / a (x: a\r\nHost: b)`),
		good("a name of all token characters", name, getA+"!#$%&'*+-.^_`|~09azAZ: y\r\n\r\n", "GET / a (!#$%&'*+-.^_`|~09azaz: y)"),
		good("repeated fields keep their order", "RFC 9110 §5.3", getA+"X: 1\r\nY: 2\r\nX: 3\r\n\r\n", "GET / a (x: 1; x: 3; y: 2)"),
		good("a field before Host", line, "GET / HTTP/1.1\r\nX: y\r\nHost: a\r\n\r\n", "GET / a (x: y)"),
		good("a name of 1000 bytes", name, getA+strings.Repeat("n", 1000)+": y\r\n\r\n", "GET / a ("+strings.Repeat("n", 1000)+": y)"),
		good("a value of 8000 bytes", value, getA+"X: "+strings.Repeat("v", 8000)+"\r\n\r\n", "GET / a (x: "+strings.Repeat("v", 8000)+")"),
		bad("a folded value", fold, 400, getA+"X: a\r\n b\r\n\r\n"),
		bad("a value folded by a tab", fold, 400, getA+"X: a\r\n\tb\r\n\r\n"),
		bad("a value folded twice", fold, 400, getA+"X: a\r\n b\r\n c\r\n\r\n"),
		bad("a folded empty value", fold, 400, getA+"X:\r\n \r\n\r\n"),
		bad("Host folded", fold, 400, "GET / HTTP/1.1\r\nHost:\r\n a\r\n\r\n"),
		bad("a fold before the end", fold, 400, getA+" \r\n\r\n"),
		bad("a fold that hides a field", fold, 400, getA+"X: a\r\n Content-Length: 5\r\n\r\n"),
		bad("no name", name, 400, getA+": y\r\n\r\n"),
		bad("no name and no value", name, 400, getA+":\r\n\r\n"),
		bad("no colon", line, 400, getA+"X\r\n\r\n"),
		bad("no colon, but an equals sign", line, 400, getA+"X=y\r\n\r\n"),
		bad("a space before the colon", space, 400, getA+"X : y\r\n\r\n"),
		bad("a tab before the colon", space, 400, getA+"X\t: y\r\n\r\n"),
		bad("a space within the name", name, 400, getA+"X Y: z\r\n\r\n"),
		bad("a space before the colon of Host", space, 400, "GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
		bad("a line of spaces in the head", line, 400, getA+"   \r\n\r\n"),
		bad("bare LF after a field", "RFC 9112 §2.2", 400, getA+"X: y\nY: z\r\n\r\n"),
		bad("bare CR after a field", "RFC 9112 §2.2", 400, getA+"X: y\rY: z\r\n\r\n"),
		bad("bare CR before the line end", "RFC 9112 §2.2", 400, getA+"X: y\r\r\n\r\n"),
		bad("bare CR in a value", "RFC 9112 §2.2", 400, getA+"X: a\rb\r\n\r\n"),
		bad("bare CR at the begin of a value", "RFC 9112 §2.2", 400, getA+"X: \ry\r\n\r\n"),
		bad("LF CR as line end", "RFC 9112 §2.2", 400, getA+"X: y\n\rY: z\r\n\r\n"),
		bad("a double colon as name", name, 400, getA+"::x: y\r\n\r\n"),
	}
	for c := range 0x20 {
		switch c {
		case '\t', '\r', '\n':
			continue
		}
		out = append(out, bad(fmt.Sprintf("control 0x%02x in a value", c), value, 400, getA+"X: a"+string(rune(c))+"b\r\n\r\n"))
	}
	out = append(out, bad("DEL in a value", value, 400, getA+"X: a\x7fb\r\n\r\n"))
	for _, c := range "\x00\x01\x0b\x0c\r\x1b\x7f\"(),/;<=>?@[\\]{}\u00e9\u2028" {
		out = append(out, bad("name with "+quoted(string(c)), name, 400, getA+"X"+string(c)+"Y: z\r\n\r\n"))
	}
	return out
}
