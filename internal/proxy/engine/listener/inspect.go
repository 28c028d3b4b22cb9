package listener

import (
	"bytes"
	"strings"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
)

// Inspects reports which inspectors run for connections to a port.
func (s *Spec) Inspects(port uint16) (tls, http bool) {
	return s.InspectTLS && !s.InspectTLSExcept.Contains(port), s.InspectHTTP && !s.InspectHTTPExcept.Contains(port)
}

// Seen limits the facts of a connection to what the listener's inspectors find
// out: without them TLS is bytes like any others.
func (s *Spec) Seen(c *fact.Conn) *fact.Conn {
	tls, http := s.Inspects(c.Local.Port())
	if c.TLS && tls || !c.TLS && (http || len(c.ALPN) == 0) {
		return c
	}
	seen := *c
	seen.TLS, seen.SNI, seen.ALPN = false, "", nil
	return &seen
}

// Sniffed says how far an inspector has come.
type Sniffed uint8

// The results of an inspector.
const (
	NeedMore Sniffed = iota
	No
	Yes
)

// Hello is what a ClientHello tells in the clear.
type Hello struct {
	// SNI in lower case.
	SNI  string
	ALPN []string
}

// InspectTLS reads a ClientHello (RFC 8446 §4.1.2) from the first bytes of a
// connection without consuming them. A malformed one is No: then it is not
// TLS that we could terminate.
func InspectTLS(b []byte) (Hello, Sniffed) {
	var message []byte
	for {
		// A record: handshake, version 3.x, length.
		if len(b) > 0 && b[0] != 22 || len(b) > 1 && b[1] != 3 {
			return Hello{}, No
		}
		if len(b) < 5 {
			return Hello{}, NeedMore
		}
		n := int(b[3])<<8 | int(b[4])
		if n == 0 || n > 1<<14 {
			return Hello{}, No
		}
		part := b[5:min(len(b), 5+n)]
		message = append(message, part...)
		if len(message) > 0 && message[0] != 1 || len(message) > limit.HelloBytesMax {
			return Hello{}, No
		}
		if len(message) >= 4 {
			size := int(message[1])<<16 | int(message[2])<<8 | int(message[3])
			if size > limit.HelloBytesMax {
				return Hello{}, No
			}
			if len(message) >= 4+size {
				return parseHello(message[4 : 4+size])
			}
		}
		if len(part) < n {
			return Hello{}, NeedMore
		}
		b = b[5+n:]
	}
}

// reader takes length-prefixed parts; ok turns false at the first that does
// not fit.
type reader struct {
	b  []byte
	ok bool
}

func (r *reader) take(n int) []byte {
	if !r.ok || n > len(r.b) {
		r.ok = false
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

// vector takes a part whose length stands before it in size bytes.
func (r *reader) vector(size int) []byte {
	n := 0
	for _, c := range r.take(size) {
		n = n<<8 | int(c)
	}
	return r.take(n)
}

func parseHello(b []byte) (Hello, Sniffed) {
	r := reader{b, true}
	r.take(2 + 32) // version, random
	r.vector(1)    // session
	r.vector(2)    // cipher suites
	r.vector(1)    // compression
	if !r.ok {
		return Hello{}, No
	}
	var h Hello
	if len(r.b) == 0 {
		return h, Yes // TLS 1.2 without extensions
	}
	extensions := reader{r.vector(2), true}
	for r.ok && len(extensions.b) > 0 {
		kind := extensions.take(2)
		body := extensions.vector(2)
		if !extensions.ok {
			return Hello{}, No
		}
		switch {
		case kind[0] == 0 && kind[1] == 0:
			h.SNI = serverName(body)
		case kind[0] == 0 && kind[1] == 16:
			h.ALPN = protocols(body)
		}
	}
	if !r.ok {
		return Hello{}, No
	}
	return h, Yes
}

// serverName reads RFC 6066 §3's list; only host names exist.
func serverName(b []byte) string {
	list := reader{b, true}
	list = reader{list.vector(2), list.ok}
	for list.ok && len(list.b) > 0 {
		kind := list.take(1)
		name := list.vector(2)
		if list.ok && kind[0] == 0 {
			return strings.ToLower(string(name))
		}
	}
	return ""
}

// protocols reads RFC 7301 §3.1's list.
func protocols(b []byte) []string {
	list := reader{b, true}
	list = reader{list.vector(2), list.ok}
	var out []string
	for list.ok && len(list.b) > 0 {
		if name := list.vector(1); list.ok {
			out = append(out, string(name))
		}
	}
	return out
}

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// InspectHTTP tells from the first bytes whether a plaintext connection speaks
// HTTP: protocol is "http/1.0", "http/1.1" or "h2c".
func InspectHTTP(b []byte) (protocol string, s Sniffed) {
	if len(b) == 0 {
		return "", NeedMore
	}
	if n := min(len(b), len(preface)); string(b[:n]) == preface[:n] {
		if n == len(preface) {
			return "h2c", Yes
		}
		return "", NeedMore
	}
	end := bytes.IndexByte(b, '\n')
	line := b
	if end >= 0 {
		line = bytes.TrimSuffix(b[:end], []byte("\r"))
	}
	method, rest, spaced := bytes.Cut(line, []byte(" "))
	if len(method) == 0 || len(method) > 32 {
		return "", No
	}
	for _, c := range method {
		if (c < 'A' || c > 'Z') && c != '-' && c != '_' {
			return "", No
		}
	}
	if spaced && len(rest) > 0 && (rest[0] < '!' || rest[0] > '~') {
		return "", No
	}
	if end < 0 {
		if len(b) > limit.SniffLineBytesMax {
			return "", No
		}
		return "", NeedMore
	}
	switch {
	case bytes.HasSuffix(rest, []byte(" HTTP/1.1")):
		return "http/1.1", Yes
	case bytes.HasSuffix(rest, []byte(" HTTP/1.0")):
		return "http/1.0", Yes
	}
	return "", No
}
