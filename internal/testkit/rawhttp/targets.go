package rawhttp

// targetRequests: the request target and Host (RFC 9112 §3.2, RFC 9110 §7.2).
func targetRequests() []Request {
	const (
		target   = "RFC 9112 §3.2"
		origin   = "RFC 9112 §3.2.1"
		absolute = "RFC 9112 §3.2.2"
		auth     = "RFC 9112 §3.2.3"
		asterisk = "RFC 9112 §3.2.4"
	)
	to := func(target string) string { return "GET " + target + " HTTP/1.1\r\nHost: a\r\n\r\n" }
	out := []Request{
		good("a path with a query", origin, to("/a/b?c=d&e"), "GET /a/b?c=d&e a"),
		good("an empty query", origin, to("/a?"), "GET /a? a"),
		good("a query with question marks and slashes", origin, to("/a?b?c/../d//e"), "GET /a?b?c/../d//e a"),
		good("escapes stay", origin, to("/a%20b%2Fc%3f"), "GET /a%20b%2Fc%3f a"),
		good("an escaped line end stays escaped", origin, to("/a%0d%0aX:%20y"), "GET /a%0d%0aX:%20y a"),
		good("a path that looks like an authority", origin, to("//b/c"), "GET //b/c a").with(PathAsIs),
		good("a path that looks like a URI", origin, to("/http://b/c"), "GET /http://b/c a").with(PathAsIs),
		good("sub-delimiters", origin, to("/a;b=c,d:e@f!$&'()*+"), "GET /a;b=c,d:e@f!$&'()*+ a"),
		good("absolute form", absolute, to("http://a/b?c"), "GET /b?c a"),
		good("absolute form in https", absolute, to("https://a/b"), "GET /b a"),
		good("absolute form in mixed case", absolute, to("HtTp://a/b"), "GET /b a"),
		good("absolute form without a path", absolute, to("http://a"), "GET / a"),
		good("absolute form with a query only", absolute, to("http://a?b"), "GET /?b a"),
		good("absolute form with a port", absolute, to("http://a:8080/b"), "GET /b a:8080"),
		good("absolute form with an IPv6 address", absolute, to("http://[::1]:80/b"), "GET /b [::1]:80"),
		good("absolute form of another host: the target rules", absolute, to("http://b/c"), "GET /c b"),
		good("OPTIONS *", asterisk, "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS * a"),
		good("OPTIONS of an absolute form without a path", asterisk, "OPTIONS http://b HTTP/1.1\r\nHost: b\r\n\r\n", "OPTIONS * b"),
		good("OPTIONS of an absolute form with a path", asterisk, "OPTIONS http://b/ HTTP/1.1\r\nHost: b\r\n\r\n", "OPTIONS / b"),
		bad("GET *", asterisk, 400, to("*")),
		bad("OPTIONS * with more", asterisk, 400, "OPTIONS *a HTTP/1.1\r\nHost: a\r\n\r\n"),
		bad("absolute form without Host", target, 400, "GET http://a/ HTTP/1.1\r\n\r\n"),
		bad("absolute form with an empty Host", target, 400, "GET http://a/ HTTP/1.1\r\nHost:\r\n\r\n"),
		bad("absolute form with two Hosts", target, 400, "GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
		bad("absolute form with a bad Host", hostField, 400, "GET http://a/ HTTP/1.1\r\nHost: a b\r\n\r\n"),
		bad("authority form with GET", auth, 400, to("a:80")),
		bad("CONNECT to a path", auth, 400, "CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n"),
		bad("CONNECT to a URI", auth, 400, "CONNECT http://a:80/ HTTP/1.1\r\nHost: a\r\n\r\n"),
		bad("CONNECT without a port", auth, 400, "CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n"),
		bad("CONNECT with an empty port", auth, 400, "CONNECT a: HTTP/1.1\r\nHost: a\r\n\r\n"),
		bad("CONNECT with user information", auth, 400, "CONNECT u@a:80 HTTP/1.1\r\nHost: a\r\n\r\n"),
		bad("CONNECT with a body", "RFC 9110 §9.3.6", 400, "CONNECT a:80 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"),
		bad("CONNECT with chunks", "RFC 9110 §9.3.6", 400, "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n"+chunked+"\r\n"+hello),
		bad("CONNECT where no route ends it", "Envoy: ConnectMatcher", 404, "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n"),
	}
	for _, t := range []string{"a", "a/b", "?a", "#", "/a#b", "/#", "http:", "http:/", "http://", "http:///a", "http:a", "://a", "http//a", "ftp://a/", "file:///etc/passwd", "javascript:1", "http://u@a/", "http://u:p@a/", "http://a:b/", "http://a:80:80/",
		"http://a:99999/", "http://[::1/", "http://[::1]a/", "http://a b/", "http://a/b#c", "http://a\\b/", "http://a,b/", "http://[abc]/", "\\a", "@a", ":80", "/a\x00", "/a\x01", "/a\tb", "/a\x7f", "/a\x80", "/\u00e9", "/a\rb", "/a\x0bb"} {
		out = append(out, bad("target "+quoted(t), target, 400, to(t)))
	}
	return append(out, hostRequests()...)
}

// hostField says what Host is.
const hostField = "RFC 9110 §7.2"

// hostRequests are about Host.
func hostRequests() []Request {
	const target = "RFC 9112 §3.2"
	at := func(host string) string { return "GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n" }
	out := []Request{
		good("Host with a port", hostField, at("a:8080"), "GET / a:8080"),
		good("Host with an empty port", hostField, at("a:"), "GET / a:"),
		good("Host in mixed case", hostField, at("ExAmPlE.com"), "GET / ExAmPlE.com"),
		good("Host with a final dot", hostField, at("a."), "GET / a."),
		good("Host that is an address", hostField, at("127.0.0.1"), "GET / 127.0.0.1"),
		good("Host that is an IPv6 address", hostField, at("[::1]"), "GET / [::1]"),
		good("Host with underscores and dashes", hostField, at("a_b-c.d"), "GET / a_b-c.d"),
		bad("no Host", target, 400, "GET / HTTP/1.1\r\nX: y\r\n\r\n"),
		bad("no field at all", target, 400, "GET / HTTP/1.1\r\n\r\n"),
		bad("two Hosts", target, 400, "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
		bad("two equal Hosts", target, 400, "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
		bad("two Hosts, one empty", target, 400, "GET / HTTP/1.1\r\nHost:\r\nHost: a\r\n\r\n"),
		bad("two Hosts with fields between", target, 400, "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\nhost: b\r\n\r\n"),
		bad("two Hosts in different letters", target, 400, "GET / HTTP/1.1\r\nHost: a\r\nHOST: b\r\n\r\n"),
		good("X-Host is no Host", target, getA+"X-Host: b\r\nHosts: c\r\n\r\n", "GET / a (hosts: c; x-host: b)"),
	}
	for _, h := range []string{"", "a b", "a,b", "a, b", "a/b", "a?b", "a#b", "u@a", "a:b", "a:80:80", ":80", ":", "a:123456", "a:99999", "a:-1", "a:+80", "a:0x50", "a: 80", "[::1", "::1]", "[::1]a", "[]", "[a]", "[::1]:b", "[::g]", "http://a", "//a", "a\\b", "a\x00b", "a\tb", "\u00e9", "a\x7f", "a%", "a%0", "a%zz", "<a>", "\"a\"", "{a}", "a|b", "a^b", "a`b"} {
		out = append(out, bad("Host "+quoted(h), hostField, 400, at(h)))
	}
	return out
}
