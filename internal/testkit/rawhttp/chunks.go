package rawhttp

import (
	"fmt"
	"strconv"
	"strings"
)

// quoted makes a value readable in a case's name.
func quoted(v string) string { return strings.ReplaceAll(strconv.QuoteToASCII(v), "/", "slash") }

// chunkRequests: the grammar of the chunked coding (RFC 9112 §7.1).
func chunkRequests() []Request {
	const (
		rule    = "RFC 9112 §7.1"
		ext     = "RFC 9112 §7.1.1"
		trailer = "RFC 9112 §7.1.2"
		merge   = "RFC 9110 §6.5.1"
	)
	var out []Request
	yes := func(name, rfc, body, saw string) {
		out = append(out, good(name, rfc, postA+chunked+"\r\n"+body, strings.TrimSpace("POST /p a chunked "+saw)))
	}
	yes("one chunk", rule, hello, `"hello"`)
	yes("no data", rule, "0\r\n\r\n", "")
	yes("two chunks", rule, "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", `"hello"`)
	yes("chunks of one byte", rule, strings.Repeat("1\r\na\r\n", 70)+"0\r\n\r\n", fmt.Sprintf("%q", strings.Repeat("a", 70)))
	yes("size in lower case", rule, "a\r\n0123456789\r\n0\r\n\r\n", `"0123456789"`)
	yes("size in upper case", rule, "A\r\n0123456789\r\n0\r\n\r\n", `"0123456789"`)
	yes("size with leading zeros", rule, "0005\r\nhello\r\n0\r\n\r\n", `"hello"`)
	yes("several zeros end the body", rule, "5\r\nhello\r\n000\r\n\r\n", `"hello"`)
	yes("data that look like chunks", rule, "7\r\n0\r\n\r\n0\r\r\n0\r\n\r\n", `"0\r\n\r\n0\r"`)
	yes("data that look like a request", rule, "1c\r\nGET /x HTTP/1.1\r\nHost: b\r\n\r\n\r\n0\r\n\r\n", `"GET /x HTTP/1.1\r\nHost: b\r\n\r\n"`)
	yes("a chunk of 100 kB", rule, "186a0\r\n"+strings.Repeat("x", 100_000)+"\r\n0\r\n\r\n", `"xxxxxxxxxx"... 100000 bytes`)
	yes("extension", ext, "5;a\r\nhello\r\n0\r\n\r\n", `"hello"`)
	yes("extension with a value", ext, "5;a=b\r\nhello\r\n0;c=d\r\n\r\n", `"hello"`)
	yes("extension with a quoted value", ext, "5;a=\"b;c=\\\"d\\\" 0\"\r\nhello\r\n0\r\n\r\n", `"hello"`)
	yes("extension with an empty quoted value", ext, "5;a=\"\"\r\nhello\r\n0\r\n\r\n", `"hello"`)
	yes("several extensions", ext, "5;a;b=c;d=\"e\"\r\nhello\r\n0\r\n\r\n", `"hello"`)
	yes("extension of the last chunk", ext, "5\r\nhello\r\n0;signature=\"x\"\r\n\r\n", `"hello"`)
	yes("trailer", trailer, "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n", `"hello" {x-sum: 1}`)
	yes("trailers", trailer, "5\r\nhello\r\n0\r\nX-B: 1\r\nX-A: 2\r\n\r\n", `"hello" {x-a: 2; x-b: 1}`)
	yes("a trailer that calls and answers may have", merge, "0\r\nX-Request-Id: 1\r\nGrpc-Status: 0\r\n\r\n", `{grpc-status: 0; x-request-id: 1}`)
	yes("trailers of the connection are dropped", merge, "0\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\n\r\n", "")
	return append(out, badChunkRequests()...)
}

// badChunkRequests: sizes, extensions, line ends and trailers that RFC 9112 §7.1 does not know.
func badChunkRequests() []Request {
	const (
		rule    = "RFC 9112 §7.1"
		ext     = "RFC 9112 §7.1.1"
		trailer = "RFC 9112 §7.1.2"
		merge   = "RFC 9110 §6.5.1"
	)
	var out []Request
	no := func(name, rfc string, status int, body string) {
		out = append(out, bad(name, rfc, status, postA+chunked+"\r\n"+body))
	}
	for _, size := range []string{"", " 5", "5 ", "5\t", "\t5", "0x5", "0X5", "+5", "-5", "5_", "_5", "5h", "g", "5.0", "5,", "\"5\"", "5\x0b", "5\x00", "\x005", "\uff15", "5\r", "5:", "5=", "5 a", "5 ;a", "0 5", "five",
		"-1", "ffffffffffffffff", "fffffffffffffff5", "10000000000000005", "8000000000000000", "00000000000000000005"} {
		no("size "+quoted(size), rule, 400, size+"\r\nhello\r\n0\r\n\r\n")
	}
	for _, size := range []string{"0x0", "-0", "+0", " 0", "0 ", "0\t", "0_", "0;", "00000000000000000", "0\x00", "0\r"} {
		no("last chunk "+quoted(size), rule, 400, "5\r\nhello\r\n"+size+"\r\n\r\n")
	}
	for _, e := range []string{";", ";;", ";a;", ";a=", ";=b", ";=", "; a", ";a ", ";a =b", ";a= b", " ;a", "\t;a", ";a=b c", ";a=\"b", ";a=\"b\"c", ";a=\"b\" ", ";a=b\"", ";a[", ";a=[", ";a/b", ";a=\x00", ";a\x00", ";a=\"\x00\"",
		";a=\"\x7f\"", ";a\rb", ";a=\"\r\"", ";a\nb", ";a=\"\n\"", ";\xe9", ";a=\xe9", ";a,b", ";a=b=c", ";a\\", ";a=\"\\", ";a:b", ";\r", ";a\r"} {
		no("extension "+quoted(e), ext, 400, "5"+e+"\r\nhello\r\n0\r\n\r\n")
	}
	no("bare LF after the size", rule, 400, "5\nhello\r\n0\r\n\r\n")
	no("bare CR after the size", rule, 400, "5\rhello\r\n0\r\n\r\n")
	no("LF CR after the size", rule, 400, "5\n\rhello\r\n0\r\n\r\n")
	no("bare LF after the data", rule, 400, "5\r\nhello\n0\r\n\r\n")
	no("bare CR after the data", rule, 400, "5\r\nhello\r0\r\n\r\n")
	no("no line end after the data", rule, 400, "5\r\nhello0\r\n\r\n")
	no("two bytes in place of the line end", rule, 400, "5\r\nhelloXX0\r\n\r\n")
	no("CR and another byte after the data", rule, 400, "5\r\nhello\rX0\r\n\r\n")
	no("LF CR after the data", rule, 400, "5\r\nhello\n\r0\r\n\r\n")
	no("more data than the size says", rule, 400, "4\r\nhello\r\n0\r\n\r\n")
	no("less data than the size says", rule, 400, "6\r\nhello\r\n0\r\n\r\n")
	no("an empty line before the first size", rule, 400, "\r\n"+hello)
	no("an empty line between chunks", rule, 400, "5\r\nhello\r\n\r\n0\r\n\r\n")
	no("bare LF after the last chunk's size", rule, 400, "5\r\nhello\r\n0\n\r\n")
	no("bare LF as the end", trailer, 400, "5\r\nhello\r\n0\r\n\n")
	no("bare CR as the end", trailer, 400, "5\r\nhello\r\n0\r\n\rX: y\r\n\r\n")
	no("trailer with a bare LF", trailer, 400, "0\r\nX: y\n\r\n")
	no("trailer with a bare CR", trailer, 400, "0\r\nX: y\rz\r\n\r\n")
	no("trailer with NUL", trailer, 400, "0\r\nX: y\x00\r\n\r\n")
	no("trailer folded", trailer, 400, "0\r\nX: y\r\n z\r\n\r\n")
	no("trailer that begins with a space", trailer, 400, "0\r\n X: y\r\n\r\n")
	no("trailer with a space before the colon", trailer, 400, "0\r\nX : y\r\n\r\n")
	no("trailer without a colon", trailer, 400, "0\r\nX\r\n\r\n")
	no("trailer without a name", trailer, 400, "0\r\n: y\r\n\r\n")
	no("a request in place of trailers", trailer, 400, "0\r\nGET /x HTTP/1.1\r\nHost: b\r\n\r\n")
	for _, name := range []string{"Content-Length", "Transfer-Encoding", "Host", "Connection", "Upgrade", "TE", "Trailer", "Expect", "Authorization", "Cookie", "Set-Cookie", "Content-Type", "Content-Encoding", "Content-Range", "Cache-Control", "Max-Forwards", "Range",
		"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Client-Cert", "Forwarded", "X-Envoy-Peer-Metadata", "X-Envoy-External-Address", "Proxy-Authorization"} {
		no("trailer "+name, merge, 400, "5\r\nhello\r\n0\r\n"+name+": 1\r\n\r\n")
	}
	return out
}
