package http1

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// parseRequest finds and parses a request's head in raw.
func parseRequest(raw string, h *message.Head, f *Framing) (rest string, err error) {
	var s Scan
	end, err := s.End([]byte(raw), Limits{})
	if err != nil {
		return "", err
	}
	return raw[end:], ParseRequest([]byte(raw[:end]), Limits{}, h, f)
}

const host = "Host: a\r\n"

func TestRequestsThatAreRefused(t *testing.T) {
	cases := []struct {
		name, raw string
		want      error
	}{
		{"no target", "GET HTTP/1.1\r\n" + host + "\r\n", ErrLine},
		{"empty method", " / HTTP/1.1\r\n" + host + "\r\n", ErrMethod},
		{"method with a control", "GE\x01T / HTTP/1.1\r\n" + host + "\r\n", ErrMethod},
		{"method with a colon", "GET: / HTTP/1.1\r\n" + host + "\r\n", ErrMethod},
		{"method in brackets", "[GET] / HTTP/1.1\r\n" + host + "\r\n", ErrMethod},
		{"long method", strings.Repeat("A", 33) + " / HTTP/1.1\r\n" + host + "\r\n", ErrMethodLong},
		{"two spaces before the target", "GET  / HTTP/1.1\r\n" + host + "\r\n", ErrLine},
		{"two spaces before the version", "GET /  HTTP/1.1\r\n" + host + "\r\n", ErrVersion},
		{"space within the target", "GET /a b HTTP/1.1\r\n" + host + "\r\n", ErrVersion},
		{"trailing space", "GET / HTTP/1.1 \r\n" + host + "\r\n", ErrVersion},
		{"tab as separator", "GET\t/\tHTTP/1.1\r\n" + host + "\r\n", ErrMethod},
		{"leading space", " GET / HTTP/1.1\r\n" + host + "\r\n", ErrMethod},
		{"no version", "GET /\r\n" + host + "\r\n", ErrLine},
		{"version 0.9", "GET / HTTP/0.9\r\n" + host + "\r\n", ErrVersionNew},
		{"version 1.2", "GET / HTTP/1.2\r\n" + host + "\r\n", ErrVersionNew},
		{"version 2.0", "GET / HTTP/2.0\r\n" + host + "\r\n", ErrVersionNew},
		{"version in lower case", "GET / http/1.1\r\n" + host + "\r\n", ErrVersion},
		{"version with two digits", "GET / HTTP/1.10\r\n" + host + "\r\n", ErrVersion},
		{"version with a space", "GET / HTTP /1.1\r\n" + host + "\r\n", ErrVersion},
		{"version of another name", "GET / HTPP/1.1\r\n" + host + "\r\n", ErrVersion},
		{"version with a plus", "GET / HTTP/+1.1\r\n" + host + "\r\n", ErrVersion},
		{"version without a dot", "GET / HTTP/11\r\n" + host + "\r\n", ErrVersion},
		{"fragment in the target", "GET /a#b HTTP/1.1\r\n" + host + "\r\n", ErrTarget},
		{"NUL in the target", "GET /\x00 HTTP/1.1\r\n" + host + "\r\n", ErrTarget},
		{"control in the target", "GET /\x1b HTTP/1.1\r\n" + host + "\r\n", ErrTarget},
		{"DEL in the target", "GET /\x7f HTTP/1.1\r\n" + host + "\r\n", ErrTarget},
		{"byte above ASCII in the target", "GET /\xff HTTP/1.1\r\n" + host + "\r\n", ErrTarget},
		{"relative target", "GET a HTTP/1.1\r\n" + host + "\r\n", ErrTarget},
		{"asterisk with GET", "GET * HTTP/1.1\r\n" + host + "\r\n", ErrTarget},
		{"asterisk with a path", "OPTIONS */a HTTP/1.1\r\n" + host + "\r\n", ErrTarget},
		{"authority with GET", "GET a:80 HTTP/1.1\r\n" + host + "\r\n", ErrTarget},
		{"CONNECT to a path", "CONNECT / HTTP/1.1\r\n" + host + "\r\n", ErrTarget},
		{"CONNECT without a port", "CONNECT a HTTP/1.1\r\n" + host + "\r\n", ErrTarget},
		{"CONNECT with an empty port", "CONNECT a: HTTP/1.1\r\n" + host + "\r\n", ErrTarget},
		{"CONNECT with user information", "CONNECT u@a:1 HTTP/1.1\r\n" + host + "\r\n", ErrTarget},
		{"CONNECT with a length", "CONNECT a:1 HTTP/1.1\r\n" + host + "Content-Length: 1\r\n\r\n", ErrUpgradeBody},
		{"CONNECT with chunks", "CONNECT a:1 HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n", ErrUpgradeBody},
		{"absolute target of another scheme", "GET ftp://a/ HTTP/1.1\r\n" + host + "\r\n", ErrTarget},
		{"absolute target without a host", "GET http:///a HTTP/1.1\r\n" + host + "\r\n", ErrTarget},
		{"absolute target with user information", "GET http://u@a/ HTTP/1.1\r\n" + host + "\r\n", ErrTarget},
		{"absolute target with a bad port", "GET http://a:b/ HTTP/1.1\r\n" + host + "\r\n", ErrTarget},
		{"bare LF after the request line", "GET / HTTP/1.1\n" + host + "\r\n", ErrBareLF},
		{"bare LF after a field", "GET / HTTP/1.1\r\nHost: a\n\r\n", ErrBareLF},
		{"bare LF as the end", "GET / HTTP/1.1\r\nHost: a\r\n\n", ErrBareLF},
		{"all bare LF", "GET / HTTP/1.1\nHost: a\n\n", ErrBareLF},
		{"bare CR in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", ErrValue},
		{"two CR before LF", "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", ErrValue},
		{"CR in the request line", "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", ErrVersion},
		{"NUL in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", ErrValue},
		{"control in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: \x07\r\n\r\n", ErrValue},
		{"DEL in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n", ErrValue},
		{"NUL in a name", "GET / HTTP/1.1\r\nHost: a\r\nX\x00: a\r\n\r\n", ErrName},
		{"space before the colon", "GET / HTTP/1.1\r\nHost : a\r\n\r\n", ErrName},
		{"tab before the colon", "GET / HTTP/1.1\r\nHost\t: a\r\n\r\n", ErrName},
		{"space within a name", "GET / HTTP/1.1\r\nHost: a\r\nX Y: a\r\n\r\n", ErrName},
		{"empty name", "GET / HTTP/1.1\r\nHost: a\r\n: a\r\n\r\n", ErrName},
		{"no colon", "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", ErrName},
		{"name above ASCII", "GET / HTTP/1.1\r\nHost: a\r\nX\xe9: a\r\n\r\n", ErrName},
		{"name in brackets", "GET / HTTP/1.1\r\nHost: a\r\n[X]: a\r\n\r\n", ErrName},
		{"folded line", "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", ErrFold},
		{"line folded by a tab", "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n\tb\r\n\r\n", ErrFold},
		{"first field folded", "GET / HTTP/1.1\r\n X: a\r\nHost: a\r\n\r\n", ErrFold},
		{"no Host", "GET / HTTP/1.1\r\nX: a\r\n\r\n", ErrHostMissing},
		{"no field at all", "GET / HTTP/1.1\r\n\r\n", ErrHostMissing},
		{"absolute target without Host", "GET http://a/ HTTP/1.1\r\n\r\n", ErrHostMissing},
		{"HTTP/1.0 without a host", "GET / HTTP/1.0\r\n\r\n", ErrHostMissing},
		{"two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", ErrHostTwice},
		{"two equal Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", ErrHostTwice},
		{"two Hosts in HTTP/1.0", "GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", ErrHostTwice},
		{"empty Host", "GET / HTTP/1.1\r\nHost: \r\n\r\n", ErrHost},
		{"Host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", ErrHost},
		{"Host with user information", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", ErrHost},
		{"Host with a space", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", ErrHost},
		{"Host as a list", "GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", ErrHost},
		{"Host with a query", "GET / HTTP/1.1\r\nHost: a?b\r\n\r\n", ErrHost},
		{"Host with a bad port", "GET / HTTP/1.1\r\nHost: a:x\r\n\r\n", ErrHost},
		{"Host with two ports", "GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", ErrHost},
		{"Host of a port only", "GET / HTTP/1.1\r\nHost: :80\r\n\r\n", ErrHost},
		{"Host with a long port", "GET / HTTP/1.1\r\nHost: a:123456\r\n\r\n", ErrHost},
		{"Host with an open bracket", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", ErrHost},
		{"Host with bytes behind the bracket", "GET / HTTP/1.1\r\nHost: [::1]a\r\n\r\n", ErrHost},
		{"Host above ASCII", "GET / HTTP/1.1\r\nHost: \xe9\r\n\r\n", ErrHost},
		{"both lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", ErrBothLengths},
		{"both lengths the other way round", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", ErrBothLengths},
		{"both lengths, zero", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n", ErrBothLengths},
		{"two lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", ErrLengthTwice},
		{"two equal lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", ErrLengthTwice},
		{"length as a list", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n", ErrLength},
		{"empty length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n", ErrLength},
		{"negative length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", ErrLength},
		{"length with a plus", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", ErrLength},
		{"hexadecimal length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\n", ErrLength},
		{"length with an underscore", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\n", ErrLength},
		{"length with a space", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 0\r\n\r\n", ErrLength},
		{"fractional length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1.0\r\n\r\n", ErrLength},
		{"length beyond 63 bits", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551617\r\n\r\n", ErrLength},
		{"quoted length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \"1\"\r\n\r\n", ErrLength},
		{"coding gzip", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", ErrCoding},
		{"coding identity", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", ErrCoding},
		{"empty coding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \r\n\r\n", ErrCoding},
		{"chunked is not last", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", ErrCoding},
		{"chunked twice in a list", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", ErrCoding},
		{"chunked with a parameter", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n", ErrCoding},
		{"quoted chunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n", ErrCoding},
		{"xchunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", ErrCoding},
		{"vertical tab before chunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", ErrValue},
		{"gzip, then chunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", ErrCodingOther},
		{"two codings", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", ErrCodingTwice},
		{"identity, then chunked in another field", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n", ErrCodingTwice},
		{"coding in HTTP/1.0", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", ErrCodingOld},
		{"unknown expectation", "POST / HTTP/1.1\r\nHost: a\r\nExpect: miracles\r\n\r\n", ErrExpect},
		{"Connection nominates Host", "GET / HTTP/1.1\r\nHost: a\r\nConnection: host\r\n\r\n", ErrNominated},
		{"Connection nominates Content-Length", "GET / HTTP/1.1\r\nHost: a\r\nConnection: content-length\r\n\r\n", ErrNominated},
		{"Connection nominates x-forwarded-for", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Forwarded-For\r\n\r\n", ErrNominated},
		{"Connection nominates what is no token", "GET / HTTP/1.1\r\nHost: a\r\nConnection: a b\r\n\r\n", ErrValue},
		{"five Connection fields", "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("Connection: x\r\n", 5) + "\r\n", ErrFieldCount},
		{"101 fields", "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: 1\r\n", 100) + "\r\n", ErrFieldCount},
		{"header section beyond the limit", "GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("a", 60<<10) + "\r\n\r\n", ErrHeadLarge},
		{"target beyond the limit", "GET /" + strings.Repeat("a", 61<<10), ErrTargetLong},
		{"two empty lines before the request", "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", ErrMethod},
		{"TLS to a plaintext port", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n", ErrBareLF},
	}
	seen := map[string]bool{}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if seen[c.name] {
				t.Fatal("a case of that name is there already")
			}
			seen[c.name] = true
			var h message.Head
			var f Framing
			if _, err := parseRequest(c.raw, &h, &f); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

// summary is what a parsed request is, in one line.
func summary(h *message.Head, f *Framing) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s len=%d", h.Method, h.Path, h.Authority, f.Length)
	for name, on := range map[string]bool{" chunked": f.Chunked} {
		if on {
			b.WriteString(name)
		}
	}
	if f.Close {
		b.WriteString(" close")
	}
	if len(f.Upgrade) > 0 {
		b.WriteString(" upgrade=" + string(f.Upgrade))
	}
	if f.Expect100 {
		b.WriteString(" expect")
	}
	for _, field := range h.Fields() {
		if len(field.Name) > 0 {
			fmt.Fprintf(&b, " %s=%s", field.Name, field.Value)
		}
	}
	return b.String()
}

func TestRequestsThatAreTaken(t *testing.T) {
	cases := []struct{ name, raw, want string }{
		{"plain", "GET /a?b HTTP/1.1\r\nHost: a\r\n\r\n", "GET /a?b a len=-1"},
		{"names become lower case, values stay", "GET / HTTP/1.1\r\nHOST: A\r\nX-Y: Z\r\n\r\n", "GET / A len=-1 x-y=Z"},
		{"no space after the colon", "GET / HTTP/1.1\r\nHost:a\r\n\r\n", "GET / a len=-1"},
		{"white space around values", "GET / HTTP/1.1\r\nHost: \t a \t\r\nX:  b c \r\n\r\n", "GET / a len=-1 x=b c"},
		{"empty value", "GET / HTTP/1.1\r\nHost: a\r\nX:\r\n\r\n", "GET / a len=-1 x="},
		{"bytes above ASCII in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: \xe9\r\n\r\n", "GET / a len=-1 x=\xe9"},
		{"one empty line before", "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / a len=-1"},
		{"own method", "BREW / HTTP/1.1\r\nHost: a\r\n\r\n", "BREW / a len=-1"},
		{"method in lower case is another method", "get / HTTP/1.1\r\nHost: a\r\n\r\n", "get / a len=-1"},
		{"target with odd characters", "GET /{a|b}\"<>` HTTP/1.1\r\nHost: a\r\n\r\n", "GET /{a|b}\"<>` a len=-1"},
		{"length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 42\r\n\r\n", "POST / a len=42 content-length=42"},
		{"length with leading zeros", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 007\r\n\r\n", "POST / a len=7 content-length=007"},
		{"chunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "POST / a len=-1 chunked"},
		{"chunked in capitals", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n", "POST / a len=-1 chunked"},
		{"host with a port", "GET / HTTP/1.1\r\nHost: a:8080\r\n\r\n", "GET / a:8080 len=-1"},
		{"host with an empty port", "GET / HTTP/1.1\r\nHost: a:\r\n\r\n", "GET / a: len=-1"},
		{"IPv6 host", "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "GET / [::1]:80 len=-1"},
		{"absolute target wins over Host", "GET http://b:1/x?y HTTP/1.1\r\nHost: a\r\n\r\n", "GET /x?y b:1 len=-1"},
		{"absolute target without a path", "GET http://b HTTP/1.1\r\nHost: a\r\n\r\n", "GET / b len=-1"},
		{"absolute target with only a query", "GET http://b?x HTTP/1.1\r\nHost: a\r\n\r\n", "GET /?x b len=-1"},
		{"absolute https target", "GET HTTPS://b/ HTTP/1.1\r\nHost: a\r\n\r\n", "GET / b len=-1"},
		{"OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS * a len=-1"},
		{"OPTIONS of a server by absolute target", "OPTIONS http://b HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS * b len=-1"},
		{"CONNECT", "CONNECT b:443 HTTP/1.1\r\nHost: a\r\n\r\n", "CONNECT  b:443 len=-1"},
		{"HTTP/1.0 closes", "GET / HTTP/1.0\r\nHost: a\r\n\r\n", "GET / a len=-1 close"},
		{"HTTP/1.0 with an absolute target needs no Host", "GET http://b/ HTTP/1.0\r\n\r\n", "GET / b len=-1 close"},
		{"HTTP/1.0 with keep-alive", "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", "GET / a len=-1"},
		{"HTTP/1.0 expects nothing", "POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n", "POST / a len=1 content-length=1"},
		{"close", "GET / HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n", "GET / a len=-1 close"},
		{"close among others", "GET / HTTP/1.1\r\nHost: a\r\nConnection: x, ,close\r\n\r\n", "GET / a len=-1 close"},
		{"nominated field is dropped", "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nConnection: X-a\r\nX-B: 2\r\n\r\n", "GET / a len=-1 x-b=2"},
		{"hop-by-hop fields are dropped", "GET / HTTP/1.1\r\nHost: a\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nTE: trailers\r\nUpgrade: x\r\n\r\n", "GET / a len=-1"},
		{"upgrade", "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n", "GET / a len=-1 upgrade=websocket connection=upgrade upgrade=WebSocket"},
		{"upgrade to h2c is ignored", "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", "GET / a len=-1"},
		{"expect", "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\n", "POST / a len=1 expect content-length=1"},
		{"100 fields", "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("x: 1\r\n", 99) + "\r\n", "GET / a len=-1" + strings.Repeat(" x=1", 99)},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var h message.Head
			var f Framing
			rest, err := parseRequest(c.raw+"rest", &h, &f)
			if err != nil || rest != "rest" {
				t.Fatalf("%v, rest %q", err, rest)
			}
			if got := summary(&h, &f); got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestAHeadThatComesByteByByteIsScannedOnce(t *testing.T) {
	raw := "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n"
	var s Scan
	for i := 1; i < len(raw); i++ {
		if _, err := s.End([]byte(raw[:i]), Limits{}); !errors.Is(err, ErrMore) {
			t.Fatalf("after %d bytes: %v", i, err)
		}
	}
	if end, err := s.End([]byte(raw), Limits{}); err != nil || end != len(raw) {
		t.Errorf("%d, %v", end, err)
	}
}

func TestHeadLimitIsExact(t *testing.T) {
	for size, want := range map[int]error{99: nil, 100: nil, 101: ErrHeadLarge} {
		raw := "GET / HTTP/1.1\r\nX: "
		raw += strings.Repeat("a", size-len(raw)-4) + "\r\n\r\n"
		var s Scan
		if _, err := s.End([]byte(raw), Limits{HeadBytesMax: 100}); !errors.Is(err, want) {
			t.Errorf("%d bytes: %v, want %v", size, err, want)
		}
	}
}

func TestResponses(t *testing.T) {
	cases := []struct {
		name, raw, method string
		status            int
		kind              BodyKind
		err               error
	}{
		{"length", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "GET", 200, LengthBody, nil},
		{"zero length", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "GET", 200, NoBody, nil},
		{"chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "GET", 200, ChunkedBody, nil},
		{"neither", "HTTP/1.1 200 OK\r\n\r\n", "GET", 200, CloseBody, nil},
		{"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "HEAD", 200, NoBody, nil},
		{"204", "HTTP/1.1 204 No Content\r\n\r\n", "GET", 204, NoBody, nil},
		{"304", "HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", "GET", 304, NoBody, nil},
		{"100", "HTTP/1.1 100 Continue\r\n\r\n", "GET", 100, NoBody, nil},
		{"CONNECT", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "CONNECT", 200, NoBody, nil},
		{"no reason", "HTTP/1.1 200\r\nContent-Length: 3\r\n\r\n", "GET", 200, LengthBody, nil},
		{"empty reason", "HTTP/1.1 200 \r\nContent-Length: 3\r\n\r\n", "GET", 200, LengthBody, nil},
		{"HTTP/1.0", "HTTP/1.0 200 OK\r\n\r\n", "GET", 200, CloseBody, nil},
		{"both lengths", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", "GET", 0, 0, ErrBothLengths},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", "GET", 0, 0, ErrLengthTwice},
		{"coding in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "GET", 0, 0, ErrCodingOld},
		{"coding gzip", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "GET", 0, 0, ErrCoding},
		{"status of two digits", "HTTP/1.1 20 OK\r\n\r\n", "GET", 0, 0, ErrStatus},
		{"status of four digits", "HTTP/1.1 2000 OK\r\n\r\n", "GET", 0, 0, ErrStatus},
		{"status 099", "HTTP/1.1 099 OK\r\n\r\n", "GET", 0, 0, ErrStatus},
		{"status 600", "HTTP/1.1 600 OK\r\n\r\n", "GET", 0, 0, ErrStatus},
		{"status with a sign", "HTTP/1.1 +20 OK\r\n\r\n", "GET", 0, 0, ErrStatus},
		{"no space after the version", "HTTP/1.1200 OK  \r\n\r\n", "GET", 0, 0, ErrStatus},
		{"version 2", "HTTP/2.0 200 OK\r\n\r\n", "GET", 0, 0, ErrVersionNew},
		{"other protocol", "ICAP/1.0 200 OK\r\n\r\n", "GET", 0, 0, ErrVersion},
		{"control in the reason", "HTTP/1.1 200 O\x00K\r\n\r\n", "GET", 0, 0, ErrStatus},
		{"folded line", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", "GET", 0, 0, ErrFold},
		{"bare LF", "HTTP/1.1 200 OK\nX: a\r\n\r\n", "GET", 0, 0, ErrBareLF},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var s Scan
			var h message.Head
			var f Framing
			end, err := s.End([]byte(c.raw), Limits{})
			if err == nil {
				err = ParseResponse([]byte(c.raw)[:end], Limits{}, &h, &f)
			}
			if !errors.Is(err, c.err) {
				t.Fatalf("got %v, want %v", err, c.err)
			}
			if err != nil {
				return
			}
			var b Body
			b.StartResponse(&h, &f, []byte(c.method))
			if h.Status != c.status || b.Kind() != c.kind {
				t.Errorf("status %d, kind %d; want %d, %d", h.Status, b.Kind(), c.status, c.kind)
			}
		})
	}
}

// readBody decodes a body that comes in pieces of n bytes.
func readBody(b *Body, raw string, n int) (data, rest string, err error) {
	for len(raw) > 0 && !b.Done() {
		piece := []byte(raw[:min(n, len(raw))])
		raw = raw[len(piece):]
		for len(piece) > 0 && !b.Done() {
			d, used, err := b.Next(piece)
			if err != nil {
				return data, "", err
			}
			data += string(d)
			piece = piece[used:]
		}
		raw = string(piece) + raw
	}
	return data, raw, nil
}

func TestChunkedBodies(t *testing.T) {
	cases := []struct {
		name, raw, data, rest string
		err                   error
	}{
		{"one chunk", "3\r\nabc\r\n0\r\n\r\nrest", "abc", "rest", nil},
		{"two chunks", "1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", "abc", "", nil},
		{"empty", "0\r\n\r\nrest", "", "rest", nil},
		{"hexadecimal in both cases", "a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789", "", nil},
		{"leading zeros", "0003\r\nabc\r\n00\r\n\r\n", "abc", "", nil},
		{"extension", "3;a\r\nabc\r\n0;b=c\r\n\r\n", "abc", "", nil},
		{"quoted extension", "3;a=\"b;\\\" c\"\r\nabc\r\n0\r\n\r\n", "abc", "", nil},
		{"several extensions", "3;a;b=c;d=\"e\"\r\nabc\r\n0\r\n\r\n", "abc", "", nil},
		{"trailers", "0\r\nX: 1\r\nY: 2\r\n\r\nrest", "", "rest", nil},
		{"prefix 0x", "0x3\r\nabc\r\n0\r\n\r\n", "", "", ErrChunk},
		{"plus", "+3\r\nabc\r\n0\r\n\r\n", "", "", ErrChunk},
		{"minus", "-3\r\nabc\r\n0\r\n\r\n", "", "", ErrChunk},
		{"no size", "\r\nabc\r\n0\r\n\r\n", "", "", ErrChunk},
		{"leading space", " 3\r\nabc\r\n0\r\n\r\n", "", "", ErrChunk},
		{"trailing space", "3 \r\nabc\r\n0\r\n\r\n", "", "", ErrChunk},
		{"trailing tab", "3\t\r\nabc\r\n0\r\n\r\n", "", "", ErrChunk},
		{"underscore", "1_0\r\nabc\r\n0\r\n\r\n", "", "", ErrChunk},
		{"not hexadecimal", "g\r\nabc\r\n0\r\n\r\n", "", "", ErrChunk},
		{"bare LF after the size", "3\nabc\r\n0\r\n\r\n", "", "", ErrChunk},
		{"bare CR after the size", "3\rabc\r\n0\r\n\r\n", "", "", ErrChunk},
		{"bare LF after the data", "3\r\nabc\n0\r\n\r\n", "abc", "", ErrChunk},
		{"more data than the size says", "3\r\nabcd\r\n0\r\n\r\n", "abc", "", ErrChunk},
		{"less data than the size says", "5\r\nabc\r\n0\r\n\r\n", "abc\r\n", "", ErrChunk},
		{"bare semicolon", "3;\r\nabc\r\n0\r\n\r\n", "", "", ErrChunk},
		{"space before the extension", "3 ;a\r\nabc\r\n0\r\n\r\n", "", "", ErrChunk},
		{"bad extension name", "3;a[\r\nabc\r\n0\r\n\r\n", "", "", ErrChunk},
		{"empty extension value", "3;a=\r\nabc\r\n0\r\n\r\n", "", "", ErrChunk},
		{"NUL in an extension", "3;a=\"\x00\"\r\nabc\r\n0\r\n\r\n", "", "", ErrChunk},
		{"LF in an extension", "3;a\nabc\r\n0\r\n\r\n", "", "", ErrChunk},
		{"CR LF in a quoted extension", "3;a=\"\r\n\"\r\nabc\r\n0\r\n\r\n", "", "", ErrChunk},
		{"bytes after a quoted extension", "3;a=\"b\"c\r\nabc\r\n0\r\n\r\n", "", "", ErrChunk},
		{"size beyond 60 bits", "1000000000000000\r\n", "", "", ErrChunkLong},
		{"many leading zeros", strings.Repeat("0", 16) + "\r\n", "", "", ErrChunkLong},
		{"long extension", "3;" + strings.Repeat("a", 300) + "\r\nabc\r\n0\r\n\r\n", "", "", ErrChunkLong},
		{"many extensions", strings.Repeat("1;"+strings.Repeat("a", 200)+"\r\nx\r\n", 400), strings.Repeat("x", 326), "", ErrChunkLong},
		{"bare LF in the trailers", "0\r\nX: 1\n\r\n", "", "", ErrBareLF},
		{"trailers beyond the limit", "0\r\nX: " + strings.Repeat("a", 9<<10) + "\r\n\r\n", "", "", ErrHeadLarge},
	}
	for _, c := range cases {
		for _, n := range []int{1, 2, 7, 1 << 20} {
			t.Run(fmt.Sprintf("%s in pieces of %d", c.name, n), func(t *testing.T) {
				var b Body
				b.StartRequest(&Framing{Length: -1, Chunked: true})
				data, rest, err := readBody(&b, c.raw, n)
				if !errors.Is(err, c.err) || data != c.data && c.err == nil {
					t.Fatalf("%.60q, %v; want %.60q, %v", data, err, c.data, c.err)
				}
				if err == nil && (!b.Done() || rest != c.rest) {
					t.Errorf("done %v, rest %q; want %q", b.Done(), rest, c.rest)
				}
			})
		}
	}
}

// Of a response they are left out, unless they frame: gRPC's trailers are what
// applications say, and those who say what was said to them repeat our own fields.
func TestTrailersThatCouldDeceiveAreRefusedOrLeftOut(t *testing.T) {
	const refuse, drop = false, true
	for name, frames := range map[string]bool{"Content-Length: 1": true, "Transfer-Encoding: chunked": true, "Connection: close": true, "Upgrade: x": true, "TE: trailers": true,
		"Host: a": false, "Authorization: x": false, "Trailer: x": false, "Set-Cookie: a": false, "X-Forwarded-Client-Cert: a": false} {
		var h message.Head
		lines := []byte("Grpc-Status: 0\r\n" + name + "\r\n\r\n")
		if err := ParseTrailers(bytes.Clone(lines), Limits{}, &h, refuse); !errors.Is(err, ErrTrailer) {
			t.Errorf("%s: %v", name, err)
		}
		if err := ParseTrailers(lines, Limits{}, &h, drop); errors.Is(err, ErrTrailer) != frames || !frames && h.Len() != 1 {
			t.Errorf("%s of a response: %d fields, %v", name, h.Len(), err)
		}
	}
	var h message.Head
	if err := ParseTrailers([]byte("Grpc-Status: 0\r\nX: y\r\n\r\n"), Limits{}, &h, refuse); err != nil || h.Len() != 2 {
		t.Errorf("%d fields, %v", h.Len(), err)
	}
}

func TestPutChunkEqualsAppendChunk(t *testing.T) {
	for _, n := range []int{1, 9, 15, 16, 255, 256, 4095, 4096, 16000} {
		buf := bytes.Repeat([]byte("x"), ChunkRoom+n+ChunkTail)
		want := AppendChunk(nil, buf[ChunkRoom:ChunkRoom+n])
		if got := PutChunk(buf, n); !bytes.Equal(got, want) {
			t.Errorf("%d bytes: %.20q, want %.20q", n, got, want)
		}
	}
	if got := AppendChunk(nil, nil); len(got) != 0 {
		t.Errorf("an empty chunk %q would end the body", got)
	}
}

func TestWrittenHeadsReadBack(t *testing.T) {
	h := &message.Head{Protocol: fact.HTTP11, Method: []byte("POST"), Path: []byte("/a"), Authority: []byte("b")}
	h.Append([]byte("x"), []byte("y"))
	h.Append([]byte("gone"), []byte("y"))
	h.Remove("gone")
	if got := string(AppendRequest(nil, h, true)); got != "POST /a HTTP/1.1\r\nhost: b\r\nx: y\r\ntransfer-encoding: chunked\r\n\r\n" {
		t.Errorf("got %q", got)
	}
	h.Status = 599
	if got := string(AppendResponse(nil, h, false, CloseAfter)); got != "HTTP/1.1 599 \r\nx: y\r\nconnection: close\r\n\r\n" {
		t.Errorf("got %q", got)
	}
	h.Status = 200
	if got := string(AppendResponse(nil, h, true, KeepOld)); got != "HTTP/1.1 200 OK\r\nx: y\r\ntransfer-encoding: chunked\r\nconnection: keep-alive\r\n\r\n" {
		t.Errorf("got %q", got)
	}
	h.Method, h.Authority = []byte("CONNECT"), []byte("b:1")
	if got := string(AppendRequest(nil, h, false)); got != "CONNECT b:1 HTTP/1.1\r\nhost: b:1\r\nx: y\r\n\r\n" {
		t.Errorf("got %q", got)
	}
}

func TestParsingDoesNotAllocate(t *testing.T) {
	raw := []byte("GET /products?page=1 HTTP/1.1\r\nhost: shop\r\nuser-agent: curl\r\naccept: */*\r\nx-request-id: 1\r\nconnection: keep-alive\r\n\r\n")
	var h message.Head
	var f Framing
	n := testing.AllocsPerRun(100, func() {
		var s Scan
		end, err := s.End(raw, Limits{})
		if err == nil {
			err = ParseRequest(raw[:end], Limits{}, &h, &f)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func BenchmarkParseRequest(b *testing.B) {
	raw := []byte("GET /products?page=1 HTTP/1.1\r\nhost: shop\r\nuser-agent: curl\r\naccept: */*\r\nx-request-id: 1\r\nconnection: keep-alive\r\n\r\n")
	var h message.Head
	var f Framing
	b.ReportAllocs()
	for b.Loop() {
		var s Scan
		end, _ := s.End(raw, Limits{})
		_ = ParseRequest(raw[:end], Limits{}, &h, &f)
	}
}

// What is accepted means the same when it is written and read again, and is
// never longer than one message.
func FuzzRequest(f *testing.F) {
	for _, seed := range []string{
		"GET /a HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n", "POST http://b/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;a=\"b\"\r\nabc\r\n0\r\nX: y\r\n\r\n",
		"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.0\r\nConnection: keep-alive, x\r\nX: 1\r\n\r\n", "\r\nOPTIONS * HTTP/1.1\r\nHost: [::1]:8\r\nContent-Length: 3\r\n\r\nabc",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		var h, again message.Head
		var fr, frAgain Framing
		rest, err := parseRequest(raw, &h, &fr)
		if err != nil {
			return
		}
		written := string(AppendRequest(nil, &h, fr.Chunked))
		left, err := parseRequest(written, &again, &frAgain)
		if err != nil || left != "" {
			t.Fatalf("%q was written as %q: %v, %q left", raw, written, err, left)
		}
		if !bytes.Equal(h.Method, again.Method) || !bytes.Equal(h.Path, again.Path) || !bytes.Equal(h.Authority, again.Authority) ||
			fr.Length != frAgain.Length || fr.Chunked != frAgain.Chunked || h.Len() != again.Len() {
			t.Fatalf("%q was written as %q: %s, then %s", raw, written, summary(&h, &fr), summary(&again, &frAgain))
		}
		var whole, pieces Body
		whole.StartRequest(&fr)
		pieces.StartRequest(&fr)
		data, tail, errWhole := readBody(&whole, rest, len(rest)+1)
		data2, tail2, errPieces := readBody(&pieces, rest, 1)
		if (errWhole == nil) != (errPieces == nil) || errWhole == nil && (data != data2 || tail != tail2 || whole.Done() != pieces.Done()) {
			t.Fatalf("body %q: %q %q %v as a whole, %q %q %v in pieces", rest, data, tail, errWhole, data2, tail2, errPieces)
		}
	})
}

func FuzzResponse(f *testing.F) {
	f.Add("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")
	f.Add("HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
	f.Fuzz(func(t *testing.T, raw string) {
		var s Scan
		var h message.Head
		var fr Framing
		end, err := s.End([]byte(raw), Limits{})
		if err != nil {
			return
		}
		if ParseResponse([]byte(raw)[:end], Limits{}, &h, &fr) != nil {
			return
		}
		if h.Status < 100 || h.Status > 599 || fr.Chunked && fr.Length >= 0 {
			t.Fatalf("%q became %d %+v", raw, h.Status, fr)
		}
	})
}
