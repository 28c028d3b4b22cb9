package rawhttp

import "strings"

const (
	getA    = "GET / HTTP/1.1\r\nHost: a\r\n"
	postA   = "POST /p HTTP/1.1\r\nHost: a\r\n"
	chunked = "Transfer-Encoding: chunked\r\n"
	hello   = "5\r\nhello\r\n0\r\n\r\n"
)

// framingRequests: where a message ends (RFC 9112 §6).
func framingRequests() []Request {
	const (
		rule    = "RFC 9112 §6.3"
		length  = "RFC 9110 §8.6"
		coding  = "RFC 9112 §6.1"
		coding7 = "RFC 9112 §7"
	)
	out := []Request{
		good("no framing field is no body", rule, getA+"\r\n", "GET / a"),
		good("POST without a framing field has no body", rule, postA+"\r\n", "POST /p a"),
		good("length zero", length, postA+"Content-Length: 0\r\n\r\n", "POST /p a (content-length: 0)"),
		good("length", length, postA+"Content-Length: 5\r\n\r\nhello", `POST /p a "hello"`),
		good("length without a space", length, postA+"Content-Length:5\r\n\r\nhello", `POST /p a "hello"`),
		good("length in optional whitespace", length, postA+"Content-Length: \t 5 \t \r\n\r\nhello", `POST /p a "hello"`),
		good("length's name in mixed case", length, postA+"cOnTeNt-lEnGtH: 5\r\n\r\nhello", `POST /p a "hello"`),
		good("length with leading zeros", length, postA+"Content-Length: 005\r\n\r\nhello", `POST /p a (content-length: 005) "hello"`),
		good("GET with a body", "RFC 9110 §9.3.1", getA+"Content-Length: 5\r\n\r\nhello", `GET / a "hello"`),
		good("HEAD with a body", "RFC 9110 §9.3.2", "HEAD /h HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", `HEAD /h a "hello"`),
		good("DELETE with a body", "RFC 9110 §9.3.5", "DELETE / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", `DELETE / a "hello"`),
		good("OPTIONS with a body", "RFC 9110 §9.3.7", "OPTIONS / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", `OPTIONS / a "hello"`),
		good("GET with chunks", "RFC 9110 §9.3.1", getA+chunked+"\r\n"+hello, `GET / a chunked "hello"`),
		good("a body that looks like a request", rule, postA+"Content-Length: 28\r\n\r\nGET /x HTTP/1.1\r\nHost: b\r\n\r\n", `POST /p a "GET /x HTTP/1.1\r\nHost: b\r\n\r\n"`),
		good("a body of CR LF", rule, postA+"Content-Length: 4\r\n\r\n\r\n\r\n", `POST /p a "\r\n\r\n"`),
		good("a body of all bytes", rule, postA+"Content-Length: 6\r\n\r\n\x00\x01\x7f\x80\xff\n", `POST /p a "\x00\x01\x7f\x80\xff\n"`),
		good("a body of 100 kB", rule, postA+"Content-Length: 100000\r\n\r\n"+strings.Repeat("x", 100_000), `POST /p a "xxxxxxxxxx"... 100000 bytes`),
		cut("a body shorter than its length", "RFC 9112 §8", postA+"Content-Length: 6\r\n\r\nhello"),
		good("a body longer than its length is the next request", rule, postA+"Content-Length: 5\r\n\r\nhelloGET /n HTTP/1.1\r\nHost: b\r\n\r\n", `POST /p a "hello"`, "GET /n b"),
		{Name: "a body longer than its length is no request", RFC: rule, Raw: postA + "Content-Length: 5\r\n\r\nhello there\r\n\r\n", Saw: []string{`POST /p a "hello"`}, Status: 400},
		bad("two lengths that differ", rule, 400, postA+"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
		bad("two lengths that are equal", rule, 400, postA+"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
		bad("two lengths with fields between", rule, 400, postA+"Content-Length: 5\r\nX: y\r\nContent-length: 0\r\n\r\nhello"),
		bad("length folded", "RFC 9112 §5.2", 400, postA+"Content-Length:\r\n 5\r\n\r\nhello"),
		bad("length with a space before the colon", "RFC 9112 §5.1", 400, postA+"Content-Length : 5\r\n\r\nhello"),
		bad("length with a tab before the colon", "RFC 9112 §5.1", 400, postA+"Content-Length\t: 5\r\n\r\nhello"),
		bad("both framings", rule, 400, postA+"Content-Length: 5\r\n"+chunked+"\r\n"+hello),
		bad("both framings, chunked first", rule, 400, postA+chunked+"Content-Length: 5\r\n\r\n"+hello),
		bad("both framings, length zero", rule, 400, postA+"Content-Length: 0\r\n"+chunked+"\r\n"+hello),
		bad("both framings, the true length of the coded body", rule, 400, postA+"Content-Length: 15\r\n"+chunked+"\r\n"+hello),
		bad("a length and a coding that is none", rule, 400, postA+"Content-Length: 5\r\nTransfer-Encoding: identity\r\n\r\nhello"),
		bad("a length and an empty coding", rule, 400, postA+"Content-Length: 5\r\nTransfer-Encoding:\r\n\r\nhello"),
		bad("a bad length and chunked", rule, 400, postA+"Content-Length: x\r\n"+chunked+"\r\n"+hello),
	}
	out = append(out, codingRequests()...)
	for _, v := range []string{"", "-5", "-0", "+5", "0x5", "5_0", "5 0", "5.0", "5e0", `"5"`, "5;", "5, 5", "5,5", "5, 6", "5,", ",5", "five", "\uff15", "5\x0b", "\x0c5", "5\x00", "5\r", "5\x7f",
		"18446744073709551621", "9223372036854775808", "340282366920938463463374607431768211461", "1e1000", "NaN", "0b101", "5\u00a0", "'5'", "5h", "(5)", "5:5"} {
		out = append(out, bad("length of "+quoted(v), length, 400, postA+"Content-Length: "+v+"\r\n\r\nhello"))
	}
	for v, status := range map[string]int{
		"": 400, ",": 400, "identity": 400, "gzip": 400, "cow": 400, "chunked, gzip": 400, "chunked, identity": 400, "chunked, chunked": 400, "CHUNKED,chunked": 400, "chunked, gzip, chunked": 400,
		"chunked,": 400, "chunked;": 400, "chunked;q=1": 400, "chunked ;": 400, "xchunked": 400, "x-chunked": 400, "chunkedd": 400, "chunke": 400, "chun ked": 400, `"chunked"`: 400, "'chunked'": 400, "[chunked]": 400,
		"chunked\x0b": 400, "\x0bchunked": 400, "\x0cchunked": 400, "chunked\x00": 400, "\u212ahunked": 400, "chun\u212aed": 400, "chunked\x7f": 400, "\ufeffchunked": 400, "chunked\u00a0": 400, "chunked\r": 400, "chunked\tgzip": 400,
		"gzip, chunked": 501, "identity, chunked": 501, ", chunked": 501, "deflate, gzip, chunked": 501, "cow, chunked": 501, "chunked;q=1, chunked": 501,
	} {
		out = append(out, bad("coding "+quoted(v), coding7, status, postA+"Transfer-Encoding: "+v+"\r\n\r\n"+hello))
	}
	return out
}

// codingRequests: bodies that end with their last chunk, and codings that only look like it (RFC 9112 §6.1).
func codingRequests() []Request {
	const (
		length  = "RFC 9110 §8.6"
		coding  = "RFC 9112 §6.1"
		coding7 = "RFC 9112 §7"
	)
	return []Request{
		good("chunked", coding, postA+chunked+"\r\n"+hello, `POST /p a chunked "hello"`),
		good("chunked in mixed case", coding7, postA+"tRANSFER-eNCODING: Chunked\r\n\r\n"+hello, `POST /p a chunked "hello"`),
		good("chunked in upper case", coding7, postA+"TRANSFER-ENCODING: CHUNKED\r\n\r\n"+hello, `POST /p a chunked "hello"`),
		good("chunked in tabs", coding, postA+"Transfer-Encoding:\tchunked\t\r\n\r\n"+hello, `POST /p a chunked "hello"`),
		good("chunked without a space", coding, postA+"Transfer-Encoding:chunked\r\n\r\n"+hello, `POST /p a chunked "hello"`),
		bad("coding folded", "RFC 9112 §5.2", 400, postA+"Transfer-Encoding:\r\n chunked\r\n\r\n"+hello),
		bad("coding folded by a tab", "RFC 9112 §5.2", 400, postA+"Transfer-Encoding:\r\n\tchunked\r\n\r\n"+hello),
		bad("coding's name with a space", "RFC 9112 §5.1", 400, postA+"Transfer-Encoding : chunked\r\n\r\n"+hello),
		bad("coding's name with a vertical tab", "RFC 9112 §5.1", 400, postA+"Transfer-Encoding\x0b: chunked\r\n\r\n"+hello),
		bad("coding's name with NUL", "RFC 9110 §5.1", 400, postA+"Transfer\x00-Encoding: chunked\r\n\r\n"+hello),
		bad("coding's name above ASCII", "RFC 9110 §5.1", 400, postA+"Transfer-Encod\u0131ng: chunked\r\n\r\n"+hello),
		bad("coding hidden behind a bare CR", "RFC 9112 §2.2", 400, postA+"X: y\rTransfer-Encoding: chunked\r\n\r\n"+hello),
		bad("coding hidden behind a bare LF", "RFC 9112 §2.2", 400, postA+"X: y\nTransfer-Encoding: chunked\r\n\r\n"+hello),
		bad("coding on a line that begins with a space", "RFC 9112 §5.2", 400, postA+"X: y\r\n Transfer-Encoding: chunked\r\n\r\n"+hello),
		good("coding's name with an underscore is another field", "RFC 9110 §5.1", getA+"Transfer_Encoding: chunked\r\n\r\n", "GET / a (transfer_encoding: chunked)"),
		good("length's name with an underscore is another field", "RFC 9110 §5.1", getA+"Content_Length: 5\r\n\r\n", "GET / a (content_length: 5)"),
		bad("two codings", coding, 400, postA+chunked+chunked+"\r\n"+hello),
		bad("two codings, identity last", coding, 400, postA+chunked+"Transfer-Encoding: identity\r\n\r\n"+hello),
		bad("two codings, identity first", coding, 400, postA+"Transfer-Encoding: identity\r\n"+chunked+"\r\n"+hello),
		bad("two codings, nonsense last", coding, 400, postA+chunked+"Transfer-Encoding: cow\r\n\r\n"+hello),
		bad("two codings, nonsense first", coding, 400, postA+"Transfer-Encoding: cow\r\n"+chunked+"\r\n"+hello),
		cut("chunked, without a last chunk", "RFC 9112 §8", postA+chunked+"\r\n5\r\nhello\r\n"),
		cut("chunked, ends within a chunk", "RFC 9112 §8", postA+chunked+"\r\n5\r\nhel"),
		cut("chunked, ends after the last chunk's line", "RFC 9112 §8", postA+chunked+"\r\n0\r\n"),
		cut("chunked, ends within the trailers", "RFC 9112 §8", postA+chunked+"\r\n0\r\nX: y\r\n"),
	}
}
