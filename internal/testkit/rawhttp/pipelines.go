package rawhttp

import (
	"fmt"
	"strings"
)

// pipelineRequests: several messages on a connection (RFC 9112 §9.3.2).
func pipelineRequests() []Request {
	const rule = "RFC 9112 §9.3.2"
	var many strings.Builder
	var saw []string
	for i := range 100 {
		fmt.Fprintf(&many, "GET /%d HTTP/1.1\r\nHost: a\r\n\r\nPOST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcPUT /%d HTTP/1.1\r\nHost: a\r\n%s\r\n%s", i, i, i, chunked, hello)
		saw = append(saw, fmt.Sprintf("GET /%d a", i), fmt.Sprintf(`POST /%d a "abc"`, i), fmt.Sprintf(`PUT /%d a chunked "hello"`, i))
	}
	get := func(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n" }
	long := strings.Repeat("z", 40_000)
	return []Request{
		good("two requests", rule, get("/1")+get("/2"), "GET /1 a", "GET /2 a"),
		good("an empty line between requests", "RFC 9112 §2.2", get("/1")+"\r\n"+get("/2"), "GET /1 a", "GET /2 a"),
		{Name: "two empty lines between requests", RFC: "RFC 9112 §2.2", Raw: get("/1") + "\r\n\r\n" + get("/2"), Saw: []string{"GET /1 a"}, Status: 400},
		good("an empty line behind a body, as old clients send", "RFC 9112 §2.2", postA+"Content-Length: 5\r\n\r\nhello\r\n"+get("/2"), `POST /p a "hello"`, "GET /2 a"),
		good("a body, then a request", rule, postA+"Content-Length: 5\r\n\r\nhello"+get("/2"), `POST /p a "hello"`, "GET /2 a"),
		good("chunks, then a request", rule, postA+chunked+"\r\n"+hello+get("/2"), `POST /p a chunked "hello"`, "GET /2 a"),
		good("chunks with trailers, then a request", rule, postA+chunked+"\r\n5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n"+get("/2"), `POST /p a chunked "hello" {x-t: 1}`, "GET /2 a"),
		good("HEAD, then a request", rule, "HEAD /h HTTP/1.1\r\nHost: a\r\n\r\n"+get("/2"), "HEAD /h a", "GET /2 a"),
		good("an expectation, then a request", rule, postA+"Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello"+get("/2"), `POST /p a (expect: 100-continue) "hello"`, "GET /2 a"),
		good("three hundred requests at once", rule, many.String(), saw...),
		good("a large body, then a request", rule, postA+"Content-Length: 40000\r\n\r\n"+long+get("/2"), `POST /p a "zzzzzzzzzz"... 40000 bytes`, "GET /2 a"),
		good("a large chunk, then a request", rule, postA+chunked+"\r\n9c40\r\n"+long+"\r\n0\r\n\r\n"+get("/2"), `POST /p a chunked "zzzzzzzzzz"... 40000 bytes`, "GET /2 a"),
		last("a request behind close is nobody's", "RFC 9112 §9.6", get("/1")+getA+"Connection: close\r\n\r\n"+get("/3"), "GET /1 a", "GET / a"),
		{Name: "a refused one behind a good one", RFC: rule, Raw: get("/1") + "GET / HTTP/1.1\r\n\r\n" + get("/3"), Saw: []string{"GET /1 a"}, Status: 400},
		{Name: "bad chunks behind a good request", RFC: rule, Raw: get("/1") + postA + chunked + "\r\nx\r\n" + get("/3"), Saw: []string{"GET /1 a"}, Status: 400},
		{Name: "a bad length behind a body", RFC: rule, Raw: postA + "Content-Length: 5\r\n\r\nhello" + postA + "Content-Length: x\r\n\r\n" + get("/3"), Saw: []string{`POST /p a "hello"`}, Status: 400},
		cut("half a head", "RFC 9112 §8", "GET / HTTP/1.1\r\nHost: a\r\n"),
		cut("half a request line", "RFC 9112 §8", "GET /"),
		cut("half an empty line", "RFC 9112 §8", "\r"),
		cut("nothing", "RFC 9112 §8", ""),
	}
}
