package listener

import (
	"crypto/tls"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/limit"
)

// clientHello records what crypto/tls sends first.
func clientHello(t testing.TB, c *tls.Config) []byte {
	t.Helper()
	client, server := net.Pipe()
	done := make(chan []byte)
	go func() {
		buf := make([]byte, limit.HelloBytesMax)
		n, _ := server.Read(buf)
		server.Close()
		done <- buf[:n]
	}()
	_ = tls.Client(client, c).Handshake() // ends when the pipe does
	client.Close()
	return <-done
}

func TestTLSInspectorReadsNameAndProtocols(t *testing.T) {
	hello := clientHello(t, &tls.Config{ServerName: "Shop.Example", NextProtos: []string{"istio", "h2"}, InsecureSkipVerify: true})
	for i := range hello {
		if _, s := InspectTLS(hello[:i]); s != NeedMore {
			t.Fatalf("after %d of %d bytes: %v", i, len(hello), s)
		}
	}
	h, s := InspectTLS(append(hello, "more"...))
	if s != Yes || h.SNI != "shop.example" || !slices.Equal(h.ALPN, []string{"istio", "h2"}) {
		t.Errorf("%+v, %v", h, s)
	}
}

func TestTLSInspectorReadsAHelloInManyRecords(t *testing.T) {
	hello := clientHello(t, &tls.Config{ServerName: "a.b", InsecureSkipVerify: true})
	var split []byte
	for body := hello[5:]; len(body) > 0; {
		n := min(50, len(body))
		split = append(split, 22, 3, 1, 0, byte(n))
		split = append(split, body[:n]...)
		body = body[n:]
	}
	if h, s := InspectTLS(split); s != Yes || h.SNI != "a.b" {
		t.Errorf("%+v, %v", h, s)
	}
}

func TestTLSInspectorSaysNo(t *testing.T) {
	cases := map[string]string{
		"HTTP":                 "GET / HTTP/1.1\r\n",
		"other version":        "\x16\x02\x00\x00\x05hello",
		"alert":                "\x15\x03\x01\x00\x02\x01\x00",
		"empty record":         "\x16\x03\x01\x00\x00",
		"server hello":         "\x16\x03\x01\x00\x04\x02\x00\x00\x00",
		"hello beyond limit":   "\x16\x03\x01\x00\x04\x01\xff\xff\xff",
		"truncated extensions": "\x16\x03\x01\x00\x06\x01\x00\x00\x02\x03\x03",
	}
	for name, raw := range cases {
		if h, s := InspectTLS([]byte(raw)); s != No {
			t.Errorf("%s: %+v, %v", name, h, s)
		}
	}
}

func TestHTTPInspector(t *testing.T) {
	cases := []struct {
		name, raw, protocol string
		want                Sniffed
	}{
		{"nothing yet", "", "", NeedMore},
		{"part of a method", "GE", "", NeedMore},
		{"part of a line", "GET / HTTP/1.", "", NeedMore},
		{"HTTP/1.1", "GET / HTTP/1.1\r\n", "http/1.1", Yes},
		{"HTTP/1.0", "POST /a HTTP/1.0\r\n", "http/1.0", Yes},
		{"part of the preface", "PRI * HTTP/2.0\r\n\r\n", "", NeedMore},
		{"HTTP/2", preface + "x", "h2c", Yes},
		{"own method", "M-SEARCH * HTTP/1.1\r\n", "http/1.1", Yes},
		{"line protocol", "credit 5\n", "", No},
		{"capital line protocol", "QUIT\r\n", "", No},
		{"binary", "\x00\x01\x02", "", No},
		{"MySQL client", "\x20\x00\x00\x01", "", No},
		{"target with a control", "GET \x01", "", No},
		{"long line", "GET /" + strings.Repeat("a", limit.SniffLineBytesMax), "", No},
	}
	for _, c := range cases {
		if protocol, s := InspectHTTP([]byte(c.raw)); protocol != c.protocol || s != c.want {
			t.Errorf("%s: %q, %v; want %q, %v", c.name, protocol, s, c.protocol, c.want)
		}
	}
}

// Bytes that come in pieces get the same answer, and an answer stays.
func FuzzInspect(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\n"))
	f.Add([]byte("\x16\x03\x01\x00\x04\x01\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, tlsAll := InspectTLS(b)
		_, httpAll := InspectHTTP(b)
		for i := range b {
			if _, s := InspectTLS(b[:i]); s != NeedMore && s != tlsAll {
				t.Fatalf("TLS: %v after %d bytes, %v after all", s, i, tlsAll)
			}
			if _, s := InspectHTTP(b[:i]); s != NeedMore && s != httpAll {
				t.Fatalf("HTTP: %v after %d bytes, %v after all", s, i, httpAll)
			}
		}
	})
}
