package rawhttp

import (
	"fmt"
	"net/http"
	"strings"
)

const (
	ok     = "HTTP/1.1 200 OK\r\n"
	abc    = "Content-Length: 3\r\n\r\nabc"
	length = "Content-Length: "
)

// framingResponses: where a response ends (RFC 9112 §6.3).
func framingResponses() []Response {
	const (
		rule  = "RFC 9112 §6.3"
		chunk = "RFC 9112 §7.1"
	)
	out := []Response{
		gives("length", rule, ok+abc, `200 "abc"`),
		gives("length zero", rule, ok+length+"0\r\n\r\n", "200 (content-length: 0)"),
		gives("length in tabs", rule, ok+"Content-Length:\t3\t\r\n\r\nabc", `200 "abc"`),
		gives("a body that looks like a response", rule, ok+length+"38\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", `200 "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"`),
		gives("a body of 100 kB", rule, ok+length+"100000\r\n\r\n"+strings.Repeat("x", 100_000), `200 "xxxxxxxxxx"... 100000 bytes`),
		gives("chunked", rule, ok+chunked+"\r\n3\r\nabc\r\n0\r\n\r\n", `200 chunked "abc"`),
		gives("chunked in upper case", rule, ok+"TRANSFER-ENCODING: CHUNKED\r\n\r\n3\r\nabc\r\n0\r\n\r\n", `200 chunked "abc"`),
		gives("chunked without data", rule, ok+chunked+"\r\n0\r\n\r\n", "200 chunked"),
		gives("chunked with an extension", rule, ok+chunked+"\r\n3;a=\"b\"\r\nabc\r\n0;c\r\n\r\n", `200 chunked "abc"`),
		gives("chunked with a trailer", rule, ok+chunked+"\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n", `200 chunked "abc" {x-sum: 1}`),
		gives("a chunk of 100 kB", rule, ok+chunked+"\r\n186a0\r\n"+strings.Repeat("x", 100_000)+"\r\n0\r\n\r\n", `200 chunked "xxxxxxxxxx"... 100000 bytes`),
		gives("until the server closes", rule, ok+"\r\nabc", `200 chunked "abc"`).closing(),
		gives("nothing until the server closes", rule, ok+"\r\n", "200 chunked").closing(),
		gives("100 kB until the server closes", rule, ok+"\r\n"+strings.Repeat("x", 100_000), `200 chunked "xxxxxxxxxx"... 100000 bytes`).closing(),
		gives("HTTP/1.0 with a length", rule, "HTTP/1.0 200 OK\r\n"+abc, `200 "abc"`).closing(),
		gives("HTTP/1.0 until the server closes", rule, "HTTP/1.0 200 OK\r\n\r\nabc", `200 chunked "abc"`).closing(),
		gives("HTTP/1.0 that keeps alive", "RFC 9112 §9.3", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n"+abc, `200 "abc"`),
		gives("close, with a length", "RFC 9112 §9.6", ok+"Connection: close\r\n"+abc, `200 "abc"`).closing(),
		gives("close, but the server stays", "RFC 9112 §9.6", ok+"Connection: close\r\n"+abc, `200 "abc"`),
		gives("HEAD with a length", rule, ok+length+"9\r\n\r\n", "200 (content-length: 9)").to("HEAD"),
		gives("HEAD with chunked", rule, ok+chunked+"\r\n", "200").to("HEAD"),
		gives("HEAD with neither", rule, ok+"\r\n", "200").to("HEAD"),
		gives("204", rule, "HTTP/1.1 204 No Content\r\n\r\n", "204"),
		gives("204 with a length", "RFC 9110 §8.6", "HTTP/1.1 204 No Content\r\n"+length+"0\r\n\r\n", "204"),
		gives("204 with a length that is not zero has no body", rule, "HTTP/1.1 204 No Content\r\n"+length+"3\r\n\r\n", "204"),
		gives("204 with chunked has no body", "RFC 9112 §6.1", "HTTP/1.1 204 No Content\r\n"+chunked+"\r\n", "204"),
		gives("304", rule, "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n", `304 (etag: "a")`),
		gives("304 with a length has no body", rule, "HTTP/1.1 304 Not Modified\r\n"+length+"9\r\n\r\n", "304 (content-length: 9)"),
		gives("304 with chunked has no body", rule, "HTTP/1.1 304 Not Modified\r\n"+chunked+"\r\n", "304"),
		gives("205 with length zero", "RFC 9110 §15.3.6", "HTTP/1.1 205 Reset Content\r\n"+length+"0\r\n\r\n", "205 (content-length: 0)"),
		gives("404 with a body", rule, "HTTP/1.1 404 Not Found\r\n"+abc, `404 "abc"`),
		gives("500 with chunks", rule, "HTTP/1.1 500 Internal Server Error\r\n"+chunked+"\r\n3\r\nabc\r\n0\r\n\r\n", `500 chunked "abc"`),
	}
	out = append(out, misframedResponses()...)
	for _, v := range []string{"", "-3", "+3", "0x3", "3_0", "3 0", "3.0", "3,3", "3, 3", "3, 4", "three", `"3"`, "3;", "99999999999999999999", "3\x00", "3\x0b"} {
		out = append(out, refused("length "+quoted(v), "RFC 9110 §8.6", ok+length+v+"\r\n\r\nabc"))
	}
	for _, v := range []string{"", "identity", "gzip", "gzip, chunked", "chunked, gzip", "chunked, chunked", "xchunked", "chunked;q=1", `"chunked"`, "chunked\x0b", "chunked,", ",chunked", "cow"} {
		out = append(out, refused("coding "+quoted(v), rule, ok+"Transfer-Encoding: "+v+"\r\n\r\n3\r\nabc\r\n0\r\n\r\n"))
	}
	for _, v := range []string{"", " 3", "3 ", "0x3", "+3", "-3", "3_", "g", "3;", "3;a=", "3;a\x00", "3; a", "3,", "ffffffffffffffff", "10000000000000003", "3\r", "3;a=\"b"} {
		out = append(out, breaks("chunk of size "+quoted(v), chunk, ok+chunked+"\r\n"+v+"\r\nabc\r\n0\r\n\r\n"))
	}
	for name, v := range map[string]string{
		"bare LF after a size": "3\nabc\r\n0\r\n\r\n", "bare CR after a size": "3\rabc\r\n0\r\n\r\n", "bare LF after data": "3\r\nabc\n0\r\n\r\n", "no line end after data": "3\r\nabc0\r\n\r\n", "more data than the size says": "3\r\nabcd\r\n0\r\n\r\n",
		"less data than the size says": "4\r\nabc\r\n0\r\n\r\n", "bare LF as the end": "3\r\nabc\r\n0\r\n\n", "two bytes in place of a line end": "3\r\nabcXX0\r\n\r\n", "an extension's line ends in LF": "3;\nabc\r\n0\r\n\r\n",
		"a trailer that frames": "3\r\nabc\r\n0\r\nContent-Length: 3\r\n\r\n", "a folded trailer": "3\r\nabc\r\n0\r\nX: a\r\n b\r\n\r\n", "a trailer with NUL": "3\r\nabc\r\n0\r\nX: \x00\r\n\r\n",
	} {
		out = append(out, breaks("chunked with "+name, chunk, ok+chunked+"\r\n"+v))
	}
	return out
}

// misframedResponses: responses that do not end where they say.
func misframedResponses() []Response {
	const (
		rule  = "RFC 9112 §6.3"
		chunk = "RFC 9112 §7.1"
	)
	return []Response{
		gives("chunked with a trailer that sets a cookie", "RFC 9110 §6.5.1", ok+chunked+"\r\n3\r\nabc\r\n0\r\nSet-Cookie: a=b\r\n\r\n", `200 chunked "abc"`),
		refused("both framings", rule, ok+length+"3\r\n"+chunked+"\r\n3\r\nabc\r\n0\r\n\r\n"),
		refused("both framings, chunked first", rule, ok+chunked+length+"3\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
		refused("both framings, length zero", rule, ok+length+"0\r\n"+chunked+"\r\n0\r\n\r\n"),
		refused("two lengths", rule, ok+length+"3\r\n"+length+"4\r\n\r\nabc"),
		refused("two equal lengths", rule, ok+length+"3\r\n"+length+"3\r\n\r\nabc"),
		refused("both framings in a 204", rule, "HTTP/1.1 204 No Content\r\n"+length+"3\r\n"+chunked+"\r\n"),
		refused("both framings in answer to HEAD", rule, ok+length+"3\r\n"+chunked+"\r\n").to("HEAD"),
		refused("chunked in HTTP/1.0", "RFC 9112 §6.1", "HTTP/1.0 200 OK\r\n"+chunked+"\r\n3\r\nabc\r\n0\r\n\r\n"),
		refused("two codings", rule, ok+chunked+chunked+"\r\n3\r\nabc\r\n0\r\n\r\n"),
		refused("coding folded", "RFC 9112 §5.2", ok+"Transfer-Encoding:\r\n chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
		breaks("shorter than its length", rule, ok+length+"9\r\n\r\nabc").closing(),
		breaks("length, and nothing comes", rule, ok+length+"9\r\n\r\n").closing(),
		breaks("chunked, cut after a chunk", "RFC 9112 §8", ok+chunked+"\r\n3\r\nabc\r\n").closing(),
		breaks("chunked, cut within a chunk", "RFC 9112 §8", ok+chunked+"\r\n9\r\nabc").closing(),
		breaks("chunked, cut within a size", "RFC 9112 §8", ok+chunked+"\r\n3\r\nabc\r\n1").closing(),
		breaks("chunked, cut before the end of the trailers", "RFC 9112 §8", ok+chunked+"\r\n3\r\nabc\r\n0\r\n").closing(),
		breaks("chunked, cut within the trailers", "RFC 9112 §8", ok+chunked+"\r\n3\r\nabc\r\n0\r\nX: y\r\n").closing(),
	}
}

// headResponses: status lines and fields (RFC 9112 §4, §5).
func headResponses() []Response {
	const rule, field = "RFC 9112 §4", "RFC 9112 §5"
	out := []Response{
		gives("no reason", rule, "HTTP/1.1 200\r\n"+abc, `200 "abc"`),
		gives("an empty reason", rule, "HTTP/1.1 200 \r\n"+abc, `200 "abc"`),
		gives("a reason of several words", rule, "HTTP/1.1 200 All is well\r\n"+abc, `200 "abc"`),
		gives("a reason above ASCII", rule, "HTTP/1.1 200 \xe9\r\n"+abc, `200 "abc"`),
		gives("a status that nobody knows", "RFC 9110 §15", "HTTP/1.1 299 X\r\n"+abc, `299 "abc"`),
		gives("status 599", "RFC 9110 §15", "HTTP/1.1 599 X\r\n"+abc, `599 "abc"`),
		gives("names in mixed case", field, ok+"X-FoO: Bar\r\n"+abc, `200 (x-foo: Bar) "abc"`),
		gives("values in whitespace", field, ok+"X: \t y \t\r\n"+abc, `200 (x: y) "abc"`),
		gives("an empty value", field, ok+"X:\r\n"+abc, `200 (x: ) "abc"`),
		gives("repeated fields keep their order", "RFC 9110 §5.3", ok+"Set-Cookie: a=1\r\nX: 1\r\nSet-Cookie: b=2\r\n"+abc, `200 (set-cookie: a=1; set-cookie: b=2; x: 1) "abc"`),
		gives("hop-by-hop fields end here", "RFC 9110 §7.6.1", ok+"Connection: x-private\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: close\r\nUpgrade: h2c\r\n"+abc, `200 "abc"`),
		gives("peer metadata ends here", "Istio: peer metadata", ok+"x-envoy-peer-metadata: x\r\nx-envoy-peer-metadata-id: y\r\n"+abc, `200 "abc"`),
		gives("Location is left alone", "RFC 9110 §10.2.2", "HTTP/1.1 302 Found\r\nLocation: http://b/\r\n"+length+"0\r\n\r\n", "302 (content-length: 0; location: http://b/)"),
		gives("Host in a response is a field", field, ok+"Host: b\r\n"+abc, `200 (host: b) "abc"`),
		refused("an empty line before the status line", "RFC 9112 §2.2", "\r\n"+ok+abc),
		refused("a folded field", "RFC 9112 §5.2", ok+"X: a\r\n b\r\n"+abc),
		refused("a field without a name", field, ok+": y\r\n"+abc),
		refused("a field without a colon", field, ok+"X\r\n"+abc),
		refused("a space before the colon", "RFC 9112 §5.1", ok+"X : y\r\n"+abc),
		refused("a space before the colon of the length", "RFC 9112 §5.1", ok+"Content-Length : 3\r\n\r\nabc"),
		refused("a space before the first field", "RFC 9112 §2.2", ok+" X: y\r\n"+abc),
		refused("a bare LF after the status line", "RFC 9112 §2.2", "HTTP/1.1 200 OK\n"+abc),
		refused("a bare LF after a field", "RFC 9112 §2.2", ok+"X: y\n"+abc),
		refused("a bare LF as the end of the head", "RFC 9112 §2.2", ok+length+"3\r\n\nabc"),
		refused("a bare CR in a value", "RFC 9112 §2.2", ok+"X: a\rb\r\n"+abc),
		refused("a bare CR that hides a field", "RFC 9112 §2.2", ok+"X: a\rSet-Cookie: b\r\n"+abc),
		refused("NUL in a value", "RFC 9110 §5.5", ok+"X: a\x00b\r\n"+abc),
		refused("a control in a value", "RFC 9110 §5.5", ok+"X: a\x01b\r\n"+abc),
		refused("DEL in a value", "RFC 9110 §5.5", ok+"X: a\x7fb\r\n"+abc),
		refused("a name above ASCII", "RFC 9110 §5.1", ok+"X\xe9: y\r\n"+abc),
		refused("a reason with a control", rule, "HTTP/1.1 200 O\x01K\r\n"+abc),
		refused("HTTP/0.9", "RFC 9112 §2.3", "abc\r\n\r\n").closing(),
		refused("another protocol", "RFC 9112 §2.3", "SSH-2.0-OpenSSH_9.9\r\n\r\n").closing(),
		refused("a request in place of a response", rule, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
		refused("more fields than we take", "limit.HeadFieldsMax", ok+strings.Repeat("X: y\r\n", 101)+abc),
		refused("a head larger than we take", "limit.HeadBytesMax", ok+"X: "+strings.Repeat("y", 61<<10)+"\r\n"+abc),
		{Name: "the head breaks off", RFC: "RFC 9112 §8", Raw: ok + "Content-Le", Closes: true, Saw: []string{"502"}},
		{Name: "nothing comes", RFC: "RFC 9112 §8", Raw: "", Closes: true, Saw: []string{`503 (content-type: text/plain) "upstream c"... 95 bytes`}},
	}
	for _, line := range []string{"HTTP/1.1", "HTTP/1.1 ", "HTTP/1.1 20 OK", "HTTP/1.1 2000 OK", "HTTP/1.1 099 X", "HTTP/1.1 000 X", "HTTP/1.1 600 X", "HTTP/1.1 999 X", "HTTP/1.1 +20 OK", "HTTP/1.1 -20 OK", "HTTP/1.1 2x0 OK", "HTTP/1.1  200 OK", "HTTP/1.1\t200 OK", "HTTP/1.1 200\tOK",
		"HTTP/1.1200 OK", "HTTP/2.0 200 OK", "HTTP/1.2 200 OK", "HTTP/0.9 200 OK", "HTTP/2 200 OK", "HTTP/1.10 200 OK", "http/1.1 200 OK", " HTTP/1.1 200 OK", "ICY 200 OK", "200 OK", "HTTP/1.1 OK", "HTTP/1.1 2 00 OK", "\ufeffHTTP/1.1 200 OK", "\x00HTTP/1.1 200 OK"} {
		out = append(out, refused("status line "+quoted(line), rule, line+"\r\n"+abc))
	}
	return out
}

// informationalResponses: 1xx (RFC 9110 §15.2).
func informationalResponses() []Response {
	const rule = "RFC 9110 §15.2"
	hints := "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
	many := func(n int) (string, []string) {
		var saw []string
		for range n {
			saw = append(saw, "103 (link: </a>)")
		}
		return strings.Repeat(hints, n) + ok + abc, append(saw, `200 "abc"`)
	}
	atLimit, sawAtLimit := many(32)
	below, sawBelow := many(31)
	above, sawAbove := many(33)
	sawAbove = append(sawAbove[:32], "502")
	return []Response{
		gives("early hints", rule, hints+ok+abc, "103 (link: </a>)", `200 "abc"`),
		gives("early hints twice", rule, hints+hints+ok+abc, "103 (link: </a>)", "103 (link: </a>)", `200 "abc"`),
		gives("early hints before HEAD's answer", rule, hints+ok+length+"9\r\n\r\n", "103 (link: </a>)", "200 (content-length: 9)").to("HEAD"),
		gives("early hints before 204", rule, hints+"HTTP/1.1 204 No Content\r\n\r\n", "103 (link: </a>)", "204"),
		gives("102", rule, "HTTP/1.1 102 Processing\r\n\r\n"+ok+abc, "102", `200 "abc"`),
		gives("a 1xx that nobody knows", rule, "HTTP/1.1 199 X\r\n\r\n"+ok+abc, "199", `200 "abc"`),
		gives("100 that nobody asked for", rule, "HTTP/1.1 100 Continue\r\n\r\n"+ok+abc, "100", `200 "abc"`),
		gives("a 1xx with a length has no body", "RFC 9110 §8.6", "HTTP/1.1 103 Early Hints\r\n"+length+"5\r\n\r\n"+ok+abc, "103", `200 "abc"`),
		gives("a 1xx with chunked has no body", "RFC 9112 §6.1", "HTTP/1.1 103 Early Hints\r\n"+chunked+"\r\n"+ok+abc, "103", `200 "abc"`),
		gives("close in a 1xx is not the final answer's", "RFC 9112 §9.3", "HTTP/1.1 103 Early Hints\r\nConnection: close\r\n\r\n"+ok+abc, "103", `200 "abc"`),
		gives("peer metadata in a 1xx ends here", "Istio: peer metadata", "HTTP/1.1 103 Early Hints\r\nx-envoy-peer-metadata: x\r\n\r\n"+ok+abc, "103", `200 "abc"`),
		gives("as many as we take, less one", "limit.InformationalMax", below, sawBelow...),
		gives("as many as we take", "limit.InformationalMax", atLimit, sawAtLimit...),
		gives("more than we take", "limit.InformationalMax", above, sawAbove...),
		refused("101 that nobody asked for", "RFC 9110 §15.2.2", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"),
		refused("101 to a protocol that was not offered", "RFC 9110 §7.8", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n").offering().ending(),
		refused("101 to no protocol", "RFC 9110 §7.8", "HTTP/1.1 101 Switching Protocols\r\n\r\n").offering().ending(),
		refused("101 whose Connection does not say so", "RFC 9110 §7.8", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n").offering().ending(),
		refused("101 after early hints, not asked for", "RFC 9110 §7.8", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"),
		gives("an upgrade that the server does not do", "RFC 9110 §7.8", ok+abc, `200 "abc"`).offering(),
		gives("an upgrade that the server asks for", "RFC 9110 §15.5.22", "HTTP/1.1 426 Upgrade Required\r\nConnection: upgrade\r\nUpgrade: TLS/1.3\r\n"+abc, `426 "abc"`),
		refused("a 1xx, then both framings", rule, "HTTP/1.1 103 Early Hints\r\n"+length+"3\r\n"+chunked+"\r\n"+ok+abc),
		refused("a folded 1xx", rule, "HTTP/1.1 103 Early Hints\r\nX: a\r\n b\r\n\r\n"+ok+abc),
	}
}

// desyncResponses: what a server sends behind its answer is nobody's.
func desyncResponses() []Response {
	const rule = "RFC 9112 §6.3"
	poison := "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
	var out []Response
	for name, raw := range map[string]string{
		"a length": ok + abc, "length zero": ok + length + "0\r\n\r\n", "chunks": ok + chunked + "\r\n3\r\nabc\r\n0\r\n\r\n",
		"204": "HTTP/1.1 204 No Content\r\n\r\n", "304": "HTTP/1.1 304 Not Modified\r\n\r\n", "404": "HTTP/1.1 404 Not Found\r\n" + abc,
	} {
		want := map[string]string{"a length": `200 "abc"`, "length zero": "200 (content-length: 0)", "chunks": `200 chunked "abc"`, "204": "204", "304": "304", "404": `404 "abc"`}[name]
		for behind, more := range map[string]string{"a response": poison, "a line end": "\r\n", "a byte": "x", "half a response": poison[:20], "1xx": "HTTP/1.1 103 X\r\n\r\n", "100 kB": strings.Repeat("x", 100_000)} {
			out = append(out, gives(fmt.Sprintf("%s behind %s", behind, name), rule, raw+more, want))
		}
	}
	for behind, more := range map[string]string{"a body": "abc", "a response": poison, "chunks": "3\r\nabc\r\n0\r\n\r\n"} {
		out = append(out, gives(behind+" behind HEAD's answer", rule, ok+length+"3\r\n\r\n"+more, "200 (content-length: 3)").to(http.MethodHead))
	}
	for i := range out {
		out[i].AtOnce = true
	}
	return out
}
