package listener

import (
	"slices"
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/limit"
)

// firstBytes are beginnings of connections in several protocols.
func firstBytes() []string {
	return []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "POST http://a/b HTTP/1.0\r\n\r\n", "OPTIONS * HTTP/1.1\n", "CONNECT a:443 HTTP/1.1\r\n", "M-SEARCH * HTTP/1.1\r\n", "VERSION_CONTROL / HTTP/1.1\r\n",
		"GET / HTTP/0.9\r\n", "GET / HTTP/2.0\r\n", "GET /\r\n", "GET\r\n", "get / HTTP/1.1\r\n", "GET  / HTTP/1.1\r\n", "\r\nGET / HTTP/1.1\r\n", "GET /\x00 HTTP/1.1\r\n",
		preface, preface[:18], "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", "PRI / HTTP/1.1\r\n",
		"EHLO mail\r\n", "SSH-2.0-OpenSSH_9.9\r\n", "*1\r\n$4\r\nPING\r\n", "\x00\x00\x00\x08\x04\xd2\x16\x2f", "\x16\x03\x01\x00\x05hello", "\x16\x03", "",
		strings.Repeat("M", 33) + " / HTTP/1.1\r\n", "GET /" + strings.Repeat("a", limit.SniffLineBytesMax),
	}
}

// Bytes that come later never change what was found out, and something is
// found out within the bound.
func FuzzInspectHTTP(f *testing.F) {
	for _, seed := range firstBytes() {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		whole, last := InspectHTTP(b)
		if known := whole == "http/1.0" || whole == "http/1.1" || whole == "h2c"; known != (last == Yes) {
			t.Fatalf("%q: %q, %d", b, whole, last)
		}
		if last == NeedMore && len(b) > limit.SniffLineBytesMax {
			t.Fatalf("%d bytes are not enough", len(b))
		}
		for n := range len(b) {
			protocol, s := InspectHTTP(b[:n])
			if s != NeedMore && (s != last || protocol != whole) {
				t.Fatalf("%q: %q, %d after %d bytes; %q, %d in the end", b, protocol, s, n, whole, last)
			}
		}
	})
}

// The same for ClientHellos.
func FuzzInspectTLS(f *testing.F) {
	for _, seed := range firstBytes() {
		f.Add([]byte(seed))
	}
	hello := "\x01\x00\x00\x49\x03\x03" + strings.Repeat("r", 32) + "\x00\x00\x02\x13\x01\x01\x00\x00\x1e" +
		"\x00\x00\x00\x06\x00\x04\x00\x00\x01A" + "\x00\x10\x00\x0c\x00\x0a\x02h2\x06http/1" + "\xfa\xfa\x00\x00"
	f.Add([]byte("\x16\x03\x01\x00\x4d" + hello))
	f.Add([]byte("\x16\x03\x01\x00\x05" + hello[:5] + "\x16\x03\x01\x00\x48" + hello[5:]))
	f.Fuzz(func(t *testing.T, b []byte) {
		whole, last := InspectTLS(b)
		if last != Yes && (whole.SNI != "" || whole.ALPN != nil) {
			t.Fatalf("%q: %+v, %d", b, whole, last)
		}
		for n := range len(b) {
			h, s := InspectTLS(b[:n])
			if s != NeedMore && (s != last || h.SNI != whole.SNI || !slices.Equal(h.ALPN, whole.ALPN)) {
				t.Fatalf("%q: %+v, %d after %d bytes; %+v, %d in the end", b, h, s, n, whole, last)
			}
		}
	})
}
