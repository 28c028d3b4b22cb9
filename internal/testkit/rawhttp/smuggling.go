package rawhttp

import "strings"

// smugglingRequests: published techniques by their names. Each carries a
// request for /smuggled in a place where two parsers may differ.
func smugglingRequests() []Request {
	const (
		linhart  = "Linhart et al., HTTP Request Smuggling (2005)"
		kettle   = "Kettle, HTTP Desync Attacks (2019)"
		browser  = "Kettle, Browser-Powered Desync Attacks (2022)"
		endgame  = "Kettle, HTTP/1.1 Must Die (2025)"
		klein    = "Klein, HTTP Request Smuggling in 2020"
		te0      = "TE.0 (Bugcrowd, 2024)"
		smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
		size     = "23" // of smuggled, in hexadecimal
	)
	out := []Request{
		bad("CL.CL", linhart, 400, post("Content-Length: 0\r\nContent-Length: 35\r\n", smuggled)),
		bad("CL.CL the other way round", linhart, 400, post("Content-Length: 35\r\nContent-Length: 0\r\n", smuggled)),
		bad("CL.TE", kettle, 400, post("Content-Length: 40\r\n"+chunked, "0\r\n\r\n"+smuggled)),
		bad("TE.CL", kettle, 400, post("Content-Length: 4\r\n"+chunked, size+"\r\n"+smuggled+"\r\n0\r\n\r\n")),
		bad("TE.TE by a second coding", kettle, 400, post(chunked+"Transfer-Encoding: x\r\n", "0\r\n\r\n"+smuggled)),
		bad("TE.TE by a space before the colon", kettle, 400, post("Content-Length: 4\r\nTransfer-Encoding : chunked\r\n", size+"\r\n"+smuggled+"\r\n0\r\n\r\n")),
		bad("TE.TE by a tab", kettle, 400, post("Content-Length: 4\r\nTransfer-Encoding:\tchunked\r\n", size+"\r\n"+smuggled+"\r\n0\r\n\r\n")),
		bad("TE.TE by a leading space", kettle, 400, post("Content-Length: 4\r\n Transfer-Encoding: chunked\r\n", "0\r\n\r\n"+smuggled)),
		bad("TE.TE by a line before", kettle, 400, post("Content-Length: 4\r\nX: X\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"+smuggled)),
		bad("TE.TE by a folded value", kettle, 400, post("Content-Length: 4\r\nTransfer-Encoding\r\n : chunked\r\n", "0\r\n\r\n"+smuggled)),
		bad("TE.TE by xchunked", kettle, 400, post("Content-Length: 4\r\nTransfer-Encoding: xchunked\r\n", "0\r\n\r\n"+smuggled)),
		bad("TE.TE by a vertical tab", kettle, 400, post("Content-Length: 4\r\nTransfer-Encoding:\x0bchunked\r\n", "0\r\n\r\n"+smuggled)),
		bad("TE.TE by quotes", kettle, 400, post("Content-Length: 4\r\nTransfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n"+smuggled)),
		bad("TE.TE by NUL", klein, 400, post("Content-Length: 4\r\nTransfer-Encoding: chunked\x00\r\n", "0\r\n\r\n"+smuggled)),
		bad("a CR in the name of the length", klein, 400, post("Content\rLength: 37\r\n", smuggled)),
		bad("a CR before the name of the length", klein, 400, post("X: y\r\rContent-Length: 35\r\n", smuggled)),
		bad("a junk word behind the name of the length", klein, 400, post("Content-Length abcde: 37\r\n", smuggled)),
		bad("a length with a sign", klein, 400, post("Content-Length: +37\r\n", smuggled)),
		good("CL.0: a length on a path without content", browser, "POST /static.css HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\n\r\n"+smuggled, `POST /static.css a "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"`),
		good("CL.0 with GET", browser, "GET /static.css HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\n\r\n"+smuggled, `GET /static.css a "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"`),
		bad("0.CL: a length that only the second hop reads", endgame, 400, "POST /p HTTP/1.1\r\nHost: a\r\n Content-Length: 35\r\n\r\n"+smuggled),
		bad("0.CL by a length behind a bare LF", endgame, 400, post("X: y\n\nContent-Length: 35\r\n", smuggled)),
		bad("visible-hidden: a Host with a space before", endgame, 400, "GET / HTTP/1.1\r\nHost: a\r\n Host: b\r\n\r\n"),
		bad("hidden-visible: a length with a space behind its name", endgame, 400, post("Content-Length : 37\r\n", smuggled)),
		bad("an expectation that hides a length", endgame, 417, post("Expect: y 100-continue\r\nContent-Length: 35\r\n", smuggled)),
		good("an expectation with a body that is a request", endgame, post("Expect: 100-continue\r\nContent-Length: 35\r\n", smuggled), `POST /p a (expect: 100-continue) "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"`),
		good("an expectation of a GET without content", endgame, "GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n"+smuggled, "GET / a", "GET /smuggled a"),
		bad("an expectation twice, in different letters", endgame, 417, post("Expect: 100-continue\r\nexpect: 100-continue \x80\r\nContent-Length: 35\r\n", smuggled)),
		good("TE.0 with OPTIONS", te0, "OPTIONS / HTTP/1.1\r\nHost: a\r\n"+chunked+"\r\n"+size+"\r\n"+smuggled+"\r\n0\r\n\r\n", `OPTIONS / a chunked "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"`),
	}
	out = append(out, spillRequests()...)
	// A name that hides a coding, of the list of HTTP Request Smuggler.
	for _, hidden := range []string{"Transfer-Encoding:\n chunked", "Transfer-Encoding\n: chunked", "Transfer\r-Encoding: chunked", "Transfer-Encoding\x00: chunked", "Transfer-Encoding\xa0: chunked", "\x00Transfer-Encoding: chunked", "Transfer-Encoding: \x01chunked",
		"Transfer-Encoding: chunked\x0b", "Transfer-Encoding: chunk\xe9d", "Transfer-Encoding: chu\u0001nked", "Foo: bar\r\rTransfer-Encoding: chunked", "Foo: bar\n\rTransfer-Encoding: chunked", "\tTransfer-Encoding: chunked", "Transfer-Encoding;: chunked", "Transfer-Encoding=: chunked", "Transfer Encoding: chunked", "(Transfer-Encoding): chunked", ": Transfer-Encoding: chunked"} {
		out = append(out, bad("hidden coding "+strings.Trim(quoted(hidden), `"`), kettle, 400, post("Content-Length: 40\r\n"+hidden+"\r\n", "0\r\n\r\n"+smuggled)))
	}
	return out
}

// spillRequests: techniques within chunks, trailers and lines.
func spillRequests() []Request {
	const (
		browser  = "Kettle, Browser-Powered Desync Attacks (2022)"
		funky    = "Jeppe Bonde Weikop, Funky chunks (2025)"
		klein    = "Klein, HTTP Request Smuggling in 2020"
		smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
		size     = "23" // of smuggled, in hexadecimal
	)
	return []Request{
		bad("TERM.EXT: an extension's line ends in LF", funky, 400, post(chunked, "2;\nxx\r\n3f\r\n0\r\n\r\n"+smuggled+"\r\n0\r\n\r\n")),
		bad("EXT.TERM: an extension holds a line end", funky, 400, post(chunked, "2;\nxx\r\n0\r\n\r\n"+smuggled)),
		bad("TERM.EXT by a bare CR", funky, 400, post(chunked, "2;\rxx\r\n0\r\n\r\n"+smuggled)),
		bad("EXT.TERM in quotes", funky, 400, post(chunked, "2;a=\"\n\"xx\r\n0\r\n\r\n"+smuggled)),
		bad("TERM.SPILL: LF in place of the line end behind data", funky, 400, post(chunked, "5\r\nAAAAA\n2\r\nxx\r\n0\r\n\r\n"+smuggled)),
		bad("SPILL.TERM: two bytes in place of the line end behind data", funky, 400, post(chunked, "5\r\nAAAAAXX2\r\n45\r\n0\r\n\r\n"+smuggled)),
		bad("ONE.TWO: one byte in place of two", funky, 400, post(chunked, "5\r\nhello\rXa\r\n0\r\n\r\n"+smuggled)),
		bad("TWO.ONE: a CR and the next size", funky, 400, post(chunked, "5\r\nhello\r0\r\n\r\n"+smuggled)),
		bad("ZERO.TWO: nothing in place of two", funky, 400, post(chunked, "5\r\nhello0\r\n\r\n"+smuggled)),
		bad("a chunk size that overflows 32 bits", klein, 400, post(chunked, "100000000000000000\r\n\r\n"+smuggled)),
		bad("a chunk size that overflows 64 bits", klein, 400, post(chunked, "10000000000000005\r\nhello\r\n0\r\n\r\n"+smuggled)),
		bad("a chunk size with 0x", klein, 400, post(chunked, "0x0\r\n\r\n"+smuggled)),
		bad("a negative chunk", klein, 400, post(chunked, "-1\r\n\r\n"+smuggled)),
		bad("a negative chunk size behind data", klein, 400, post(chunked, "5\r\nhello\r\n-5\r\n\r\n"+smuggled)),
		bad("trailers that set a length", "RFC 9110 §6.5.1", 400, post(chunked, "0\r\nContent-Length: 35\r\n\r\n"+smuggled)),
		bad("trailers that set a coding", "RFC 9110 §6.5.1", 400, post(chunked, "0\r\nTransfer-Encoding: chunked\r\n\r\n"+smuggled)),
		bad("a trailer section whose end is LF LF", klein, 400, post(chunked, "0\r\n\n\n"+smuggled)),
		bad("a trailer section whose end is LF CR LF", klein, 400, post(chunked, "0\r\nX: y\n\r\n"+smuggled)),
		good("a request behind a chunked one", "RFC 9112 §9.3.2", post(chunked, "0\r\n\r\n"+smuggled), "POST /p a chunked", "GET /smuggled a"),
		good("a request in a body that a POST without length does not have", browser, "POST / HTTP/1.1\r\nHost: a\r\n\r\n"+smuggled, "POST / a", "GET /smuggled a"),
		bad("Connection drops a length", "RFC 9110 §7.6.1", 400, post("Content-Length: 35\r\nConnection: Content-Length\r\n", smuggled)),
		bad("Connection drops a coding", "RFC 9110 §7.6.1", 400, post(chunked+"Connection: Transfer-Encoding\r\n", "0\r\n\r\n"+smuggled)),
		bad("HTTP/1.0 with a coding", "RFC 9112 §6.1", 400, "POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nContent-Length: 40\r\n"+chunked+"\r\n0\r\n\r\n"+smuggled).with(HTTP10),
		bad("a request line in a request line", "RFC 9112 §3", 400, "GET /?x= HTTP/1.1\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"),
		good("a request in a query", "RFC 9112 §3", "GET /?x=%20HTTP/1.1%0d%0aHost:%20a%0d%0a%0d%0aGET%20/smuggled HTTP/1.1\r\nHost: a\r\n\r\n", "GET /?x=%20HTTP/1.1%0d%0aHost:%20a%0d%0a%0d%0aGET%20/smuggled a"),
		bad("a request in a Host", "RFC 9110 §7.2", 400, "GET / HTTP/1.1\r\nHost: a/ HTTP/1.1\r\n\r\n"),
		bad("an upgrade that nobody does", "RFC 9110 §7.8", 403, getA+"Connection: upgrade\r\nUpgrade: x\r\n\r\n"+smuggled),
		{Name: "an upgrade that the backend does not do", RFC: "RFC 9110 §7.8", Raw: getA + "Connection: upgrade\r\nUpgrade: websocket\r\n\r\n" + smuggled,
			Saw: []string{"GET / a (connection: upgrade; upgrade: websocket)", "GET /smuggled a"}},
	}
}

// post is a request with more fields and what follows its head.
func post(fields, body string) string { return postA + fields + "\r\n" + body }
