package rawhttp

import (
	"strings"
)

// lineRequests: the request line and the protocol's version (RFC 9112 §2, §3).
func lineRequests() []Request {
	const (
		line    = "RFC 9112 §3"
		version = "RFC 9112 §2.3"
		parsing = "RFC 9112 §2.2"
		method  = "RFC 9110 §9.1"
	)
	out := []Request{
		good("an empty line before the request", parsing, "\r\n"+getA+"\r\n", "GET / a"),
		bad("two empty lines before the request", parsing, 400, "\r\n\r\n"+getA+"\r\n"),
		bad("a bare LF before the request", parsing, 400, "\n"+getA+"\r\n"),
		bad("a bare CR before the request", parsing, 400, "\r"+getA+"\r\n"),
		bad("a space before the request", line, 400, " "+getA+"\r\n"),
		bad("a byte order mark before the request", line, 400, "\ufeff"+getA+"\r\n"),
		bad("a space before the first field", parsing, 400, "GET / HTTP/1.1\r\n X: y\r\nHost: a\r\n\r\n"),
		bad("a tab before the first field", parsing, 400, "GET / HTTP/1.1\r\n\tX: y\r\nHost: a\r\n\r\n"),
		bad("a line of a space before the first field", parsing, 400, "GET / HTTP/1.1\r\n \r\nHost: a\r\n\r\n"),
		bad("bare LF after the request line", parsing, 400, "GET / HTTP/1.1\nHost: a\r\n\r\n"),
		bad("bare CR after the request line", parsing, 400, "GET / HTTP/1.1\rHost: a\r\n\r\n"),
		bad("CR CR LF after the request line", parsing, 400, "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n"),
		bad("all lines end in bare LF", parsing, 400, "GET / HTTP/1.1\nHost: a\n\n"),
		bad("the head ends in bare LF", parsing, 400, getA+"\n"),
		bad("the head ends in LF LF", parsing, 400, "GET / HTTP/1.1\r\nHost: a\n\n"),
		bad("the request line is folded", line, 400, "GET /\r\n HTTP/1.1\r\n"+hostA),
		bad("no target", line, 400, "GET HTTP/1.1\r\n"+hostA),
		bad("no version", version, 400, "GET /\r\n"+hostA),
		bad("no version, but a space", version, 400, "GET / \r\n"+hostA),
		bad("the method alone", line, 400, "GET\r\n"+hostA),
		bad("two spaces before the target", line, 400, "GET  / HTTP/1.1\r\n"+hostA),
		bad("two spaces before the version", line, 400, "GET /  HTTP/1.1\r\n"+hostA),
		bad("space after the version", line, 400, "GET / HTTP/1.1 \r\n"+hostA),
		bad("tab after the version", line, 400, "GET / HTTP/1.1\t\r\n"+hostA),
		bad("tabs as separators", line, 400, "GET\t/\tHTTP/1.1\r\n"+hostA),
		bad("vertical tab as separator", line, 400, "GET\x0b/ HTTP/1.1\r\n"+hostA),
		bad("form feed as separator", line, 400, "GET /\x0cHTTP/1.1\r\n"+hostA),
		bad("no-break space as separator", line, 400, "GET\u00a0/ HTTP/1.1\r\n"+hostA),
		bad("CR as separator", line, 400, "GET\r/\rHTTP/1.1\r\n"+hostA),
		bad("four words", line, 400, "GET / a HTTP/1.1\r\n"+hostA),
		bad("two request lines in one", line, 400, "GET / HTTP/1.1 GET /x HTTP/1.1\r\n"+hostA),
		bad("a status line", line, 400, "HTTP/1.1 200 OK\r\n"+hostA),
		bad("TLS to a plaintext port", line, 400, "\x16\x03\x01\x00\x05hello\r\n\r\n"),
		bad("another protocol's first line", line, 400, "EHLO a\r\n\r\n"),
		bad("the HTTP/2 preface, cut", version, 505, "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n").with(HTTP1Only),
		bad("NUL in the request line", line, 400, "GET /\x00 HTTP/1.1\r\n"+hostA),
	}
	out = append(out, methodRequests()...)
	for v, status := range map[string]int{
		"HTTP/0.9": 505, "HTTP/1.2": 505, "HTTP/1.9": 505, "HTTP/2.0": 505, "HTTP/3.0": 505, "HTTP/9.9": 505, "HTTP/0.0": 505,
		"http/1.1": 400, "Http/1.1": 400, "HTTP/1,1": 400, "HTTP/1.": 400, "HTTP/.1": 400, "HTTP/1": 400, "HTTP/2": 400, "HTTP/11": 400, "HTTP/1.10": 400, "HTTP/01.1": 400, "HTTP/1.01": 400, "HTTP/1.1.1": 400, "HTTP/+1.1": 400, "HTTP/-1.1": 400, "HTTP/1.-1": 400,
		"HTTP 1.1": 400, "HTTP1.1": 400, "HTTP//1.1": 400, "HTTP\\1.1": 400, "HTPP/1.1": 400, "HTTPS/1.1": 400, "ICY/1.1": 400, "HTTP/ 1.1": 400, "HTTP/1 .1": 400, "HTTP/1.1x": 400, "HTTP/1.1;x": 400, "HTTP/1.1\x00": 400, "HTTP/1.\u0661": 400, "\x00HTTP/1.1": 400, "HTTP/one": 400, "H": 400,
	} {
		out = append(out, bad("version "+quoted(v), version, status, "GET / "+v+"\r\n"+hostA))
	}
	for _, m := range []string{"PATCH", "PUT", "TRACE", "PROPFIND", "REPORT", "M-SEARCH"} {
		out = append(out, good("method "+m, method, m+" /m HTTP/1.1\r\n"+hostA, m+" /m a"))
	}
	return out
}

// methodRequests: methods, and versions below 1.1 (RFC 9110 §9.1, RFC 9112 §2.3).
func methodRequests() []Request {
	const (
		line    = "RFC 9112 §3"
		version = "RFC 9112 §2.3"
		method  = "RFC 9110 §9.1"
	)
	return []Request{
		bad("NUL before the method", method, 400, "\x00GET / HTTP/1.1\r\n"+hostA),
		bad("a method in quotes", method, 400, "\"GET\" / HTTP/1.1\r\n"+hostA),
		bad("a method in brackets", method, 400, "[GET] / HTTP/1.1\r\n"+hostA),
		bad("a method with a colon", method, 400, "GET: / HTTP/1.1\r\n"+hostA),
		bad("a method with a slash", method, 400, "GET/ / HTTP/1.1\r\n"+hostA),
		bad("a method above ASCII", method, 400, "G\u00c9T / HTTP/1.1\r\n"+hostA),
		bad("a method with NUL", method, 400, "GET\x00 / HTTP/1.1\r\n"+hostA),
		bad("a method with DEL", method, 400, "GET\x7f / HTTP/1.1\r\n"+hostA),
		bad("a method with a comma", method, 400, "GET,POST / HTTP/1.1\r\n"+hostA),
		bad("a long method", line, 501, strings.Repeat("M", 33)+" / HTTP/1.1\r\n"+hostA),
		bad("a very long method", line, 501, strings.Repeat("M", 8000)+" / HTTP/1.1\r\n"+hostA),
		bad("HTTP/0.9 in its form", version, 400, "GET /\r\n\r\n"),
		bad("HTTP/1.0 where it is not accepted", "Envoy: accept_http_10", 426, "GET / HTTP/1.0\r\n"+hostA),
		last("HTTP/1.0", version, "GET / HTTP/1.0\r\n"+hostA, "GET / a").with(HTTP10),
		good("HTTP/1.0 that keeps alive", "RFC 9112 §9.3", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n"+hostA, "GET / a").with(HTTP10),
		good("HTTP/1.0 that keeps alive in other letters", "RFC 9112 §9.3", "GET / HTTP/1.0\r\nconnection: Keep-Alive\r\n"+hostA, "GET / a").with(HTTP10),
		last("HTTP/1.0 that says close and keep-alive", "RFC 9112 §9.3", "GET / HTTP/1.0\r\nConnection: close, keep-alive\r\n"+hostA, "GET / a").with(HTTP10),
		good("HTTP/1.0 with a length", rule10, "POST /p HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 5\r\n"+hostA+"hello", `POST /p a "hello"`).with(HTTP10),
		bad("HTTP/1.0 without Host", "RFC 9112 §3.2", 400, "GET / HTTP/1.0\r\n\r\n").with(HTTP10),
		last("HTTP/1.0 with a whole target needs no Host", "RFC 9112 §3.2.2", "GET http://a/ HTTP/1.0\r\n\r\n", "GET / a").with(HTTP10),
		bad("HTTP/1.0 with two Hosts", "RFC 9112 §3.2", 400, "GET / HTTP/1.0\r\nHost: a\r\n"+hostA).with(HTTP10),
		bad("HTTP/1.0 with chunks", "RFC 9112 §6.1", 400, "POST / HTTP/1.0\r\nConnection: keep-alive\r\n"+chunked+hostA+hello).with(HTTP10),
		bad("HTTP/1.0 with chunks and a length", "RFC 9112 §6.3", 400, "POST / HTTP/1.0\r\nContent-Length: 5\r\n"+chunked+hostA+hello).with(HTTP10),
		last("HTTP/1.0 has no expectations", "RFC 9110 §10.1.1", "POST /p HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n"+hostA+"hello", `POST /p a "hello"`).with(HTTP10),
		last("HTTP/1.0 has no upgrades", "RFC 9110 §7.8", "GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"+hostA, "GET / a").with(HTTP10),
	}
}

const (
	rule10 = "RFC 9112 §6.3"
	hostA  = "Host: a\r\n\r\n"
)
