package listener_test

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"net/netip"
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
)

const proxySignature = "\r\n\r\n\x00\r\nQUIT\n"

// v2 is a header of version 2 whose length is right.
func v2(command, family byte, body string) string {
	b := append([]byte(proxySignature), 0x20|command, family)
	return string(binary.BigEndian.AppendUint16(b, uint16(len(body)))) + body
}

// field is one type-length-value field.
func field(kind byte, value string) string {
	return string(binary.BigEndian.AppendUint16([]byte{kind}, uint16(len(value)))) + value
}

// summed fills in the checksum of a header whose last field holds it.
func summed(h string) string {
	b := []byte(h)
	sum := crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))
	binary.BigEndian.PutUint32(b[len(b)-4:], sum)
	return string(b)
}

const (
	four = "\x0a\x00\x00\x01\x0a\x00\x00\x02\x12\x34\x00\x50"
	six  = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x12\x34\x00\x50"
)

func TestProxyHeaders(t *testing.T) {
	t.Parallel()
	const from4, to4 = "10.0.0.1:4660", "10.0.0.2:80"
	const from6, to6 = "[2001:db8::1]:4660", "[2001:db8::2]:80"
	for _, c := range []struct{ name, raw, from, to string }{
		{"v1 IPv4", "PROXY TCP4 10.0.0.1 10.0.0.2 4660 80\r\n", from4, to4},
		{"v1 IPv6", "PROXY TCP6 2001:db8::1 2001:db8::2 4660 80\r\n", from6, to6},
		{"v1 IPv6 in full", "PROXY TCP6 2001:0db8:0:0:0:0:0:1 2001:DB8::2 4660 80\r\n", from6, to6},
		{"v1 longest", "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
			"[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"},
		{"v1 port 0", "PROXY TCP4 10.0.0.1 10.0.0.2 0 80\r\n", "10.0.0.1:0", to4},
		{"v1 unknown", "PROXY UNKNOWN\r\n", "", ""},
		{"v1 unknown with more", "PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", "", ""},
		{"v1 unknown, longest", "PROXY UNKNOWN " + strings.Repeat("f", 107-16) + "\r\n", "", ""},
		{"v2 IPv4", v2(1, 0x11, four), from4, to4},
		{"v2 IPv6", v2(1, 0x21, six), from6, to6},
		{"v2 mapped IPv4", v2(1, 0x21, strings.Repeat("\x00", 10)+"\xff\xff\x0a\x00\x00\x01"+strings.Repeat("\x00", 10)+"\xff\xff\x0a\x00\x00\x02\x12\x34\x00\x50"), from4, to4},
		{"v2 with fields", v2(1, 0x11, four+field(1, "h2")+field(2, "shop.example")+field(4, "")), from4, to4},
		{"v2 with a checksum", summed(v2(1, 0x11, four+field(2, "a")+field(3, "\x00\x00\x00\x00"))), from4, to4},
		{"v2 local", v2(0, 0, ""), "", ""},
		{"v2 local with addresses", v2(0, 0x11, four), "", ""},
		{"v2 local with less than addresses", v2(0, 0x11, four[:5]), "", ""},
		{"v2 local with what is no field", v2(0, 0, "??"), "", ""},
		{"v2 local of a family that there is not", v2(0, 0xff, four), "", ""},
		{"v2 local of a socket file", v2(0, 0x31, strings.Repeat("a", 216)), "", ""},
		{"v2 unspecified", v2(1, 0, ""), "", ""},
		{"v2 unspecified with a field", v2(1, 0, field(4, "pad")), "", ""},
		{"v2 at the limit", v2(1, 0x11, four+field(4, strings.Repeat("a", limit.ProxyHeaderBytesMax-16-12-3))), from4, to4},
		{"v2 one below the limit", v2(1, 0x11, four+field(4, strings.Repeat("a", limit.ProxyHeaderBytesMax-1-16-12-3))), from4, to4},
	} {
		p := &listener.ProxyProtocol{}
		for i := range len(c.raw) {
			if _, _, s, err := p.ReadProxyHeader([]byte(c.raw[:i])); s != listener.NeedMore || err != nil {
				t.Fatalf("%s: after %d of %d bytes: %v, %v", c.name, i, len(c.raw), s, err)
			}
		}
		h, n, s, err := p.ReadProxyHeader([]byte(c.raw + "GET"))
		if err != nil || s != listener.Yes || n != len(c.raw) {
			t.Errorf("%s: %d bytes, %v, %v", c.name, n, s, err)
			continue
		}
		if c.from == "" {
			if h.Known() || h.Destination.IsValid() {
				t.Errorf("%s: %+v", c.name, h)
			}
			continue
		}
		if h.Source.String() != c.from || h.Destination.String() != c.to {
			t.Errorf("%s: %s to %s", c.name, h.Source, h.Destination)
		}
	}
}

func TestMalformedProxyHeaders(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, raw string }{
		{"none", "GET / HTTP/1.1\r\n"},
		{"TLS", "\x16\x03\x01\x00\x05hello"},
		{"v1 in lower case", "proxy TCP4 10.0.0.1 10.0.0.2 1 2\r\n"},
		{"v1 without a blank", "PROXY\r\n"},
		{"v1 without words", "PROXY \r\n"},
		{"v1 of UDP", "PROXY UDP4 10.0.0.1 10.0.0.2 1 2\r\n"},
		{"v1 too few words", "PROXY TCP4 10.0.0.1 10.0.0.2 1\r\n"},
		{"v1 too many words", "PROXY TCP4 10.0.0.1 10.0.0.2 1 2 3\r\n"},
		{"v1 two blanks", "PROXY TCP4  10.0.0.1 10.0.0.2 1 2\r\n"},
		{"v1 blank at the end", "PROXY TCP4 10.0.0.1 10.0.0.2 1 2 \r\n"},
		{"v1 tab", "PROXY TCP4\t10.0.0.1 10.0.0.2 1 2\r\n"},
		{"v1 bare LF", "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\n"},
		{"v1 other family", "PROXY TCP4 ::1 ::2 1 2\r\n"},
		{"v1 IPv4 as IPv6", "PROXY TCP6 10.0.0.1 10.0.0.2 1 2\r\n"},
		{"v1 octal", "PROXY TCP4 010.0.0.1 10.0.0.2 1 2\r\n"},
		{"v1 address out of range", "PROXY TCP4 256.0.0.1 10.0.0.2 1 2\r\n"},
		{"v1 zone", "PROXY TCP6 fe80::1%lo fe80::2 1 2\r\n"},
		{"v1 name", "PROXY TCP4 localhost 10.0.0.2 1 2\r\n"},
		{"v1 port out of range", "PROXY TCP4 10.0.0.1 10.0.0.2 65536 2\r\n"},
		{"v1 negative port", "PROXY TCP4 10.0.0.1 10.0.0.2 -1 2\r\n"},
		{"v1 port with a sign", "PROXY TCP4 10.0.0.1 10.0.0.2 +1 2\r\n"},
		{"v1 port with a zero before", "PROXY TCP4 10.0.0.1 10.0.0.2 01 2\r\n"},
		{"v1 hexadecimal port", "PROXY TCP4 10.0.0.1 10.0.0.2 0x1 2\r\n"},
		{"v1 empty port", "PROXY TCP4 10.0.0.1 10.0.0.2  2\r\n"},
		{"v1 NUL", "PROXY TCP4 10.0.0.1\x00 10.0.0.2 1 2\r\n"},
		{"v1 unknown in another word", "PROXY UNKNOWNS\r\n"},
		{"v1 one beyond the longest", "PROXY UNKNOWN " + strings.Repeat("f", 107-15) + "\r\n"},
		{"v1 without an end", "PROXY TCP4 " + strings.Repeat("1", 107)},
		{"v2 version 1", proxySignature + "\x11\x11\x00\x00"},
		{"v2 version 3", proxySignature + "\x31\x11\x00\x00"},
		{"v2 no such command", v2(2, 0x11, four)},
		{"v2 UDP", v2(1, 0x12, four)},
		{"v2 UDP of IPv6", v2(1, 0x22, six)},
		{"v2 socket file", v2(1, 0x31, strings.Repeat("a", 216))},
		{"v2 no such family", v2(1, 0x41, four)},
		{"v2 no such transport", v2(1, 0x13, four)},
		{"v2 stream without a family", v2(1, 0x01, four)},
		{"v2 addresses cut off", v2(1, 0x11, four[:11])},
		{"v2 IPv6 addresses cut off", v2(1, 0x21, six[:35])},
		{"v2 half a field", v2(1, 0x11, four+"\x01\x00")},
		{"v2 field beyond the end", v2(1, 0x11, four+"\x01\x00\x05abc")},
		{"v2 field by one beyond the end", v2(1, 0x11, four+field(2, "a")+"\x01\x00\x01")},
		{"v2 wrong checksum", v2(1, 0x11, four+field(3, "\x01\x02\x03\x04"))},
		{"v2 checksum of another length", v2(1, 0x11, four+field(3, "\x01\x02\x03"))},
		{"v2 changed after it was summed", strings.Replace(summed(v2(1, 0x11, four+field(3, "\x00\x00\x00\x00"))), "\x0a\x00\x00\x01", "\x0a\x00\x00\x07", 1)},
		{"v2 one beyond the limit", v2(1, 0x11, four+field(4, strings.Repeat("a", limit.ProxyHeaderBytesMax+1-16-12-3)))},
		{"v2 as long as can be said", v2(1, 0x11, strings.Repeat("a", 65535))},
		{"v2 almost", "\r\n\r\n\x00\r\nQUIT\r"},
	} {
		h, n, s, err := (&listener.ProxyProtocol{}).ReadProxyHeader([]byte(c.raw))
		if !errors.Is(err, listener.ErrProxyHeader) || s != listener.No || n != 0 || h != (listener.ProxyHeader{}) {
			t.Errorf("%s: %+v, %d bytes, %v, %v", c.name, h, n, s, err)
		}
	}
}

func TestProxyHeadersThatMayBeAbsentOrAreNotAllowed(t *testing.T) {
	t.Parallel()
	const one = "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n"
	two := v2(1, 0x11, four)
	for _, c := range []struct {
		name, raw string
		p         listener.ProxyProtocol
		want      listener.Sniffed
		refused   bool
	}{
		{"absent", "GET /", listener.ProxyProtocol{Optional: true}, listener.No, false},
		{"absent, not known yet", "PROX", listener.ProxyProtocol{Optional: true}, listener.NeedMore, false},
		{"a method that begins alike", "PROXYING /", listener.ProxyProtocol{Optional: true}, listener.No, false},
		{"absent, CR LF", "\r\n\r\nGET", listener.ProxyProtocol{Optional: true}, listener.No, false},
		{"present all the same", one, listener.ProxyProtocol{Optional: true}, listener.Yes, false},
		{"present and malformed", "PROXY TCP4 x\r\n", listener.ProxyProtocol{Optional: true}, listener.No, true},
		{"version 1 not allowed", one, listener.ProxyProtocol{WithoutV1: true}, listener.No, true},
		{"version 2 not allowed", two, listener.ProxyProtocol{WithoutV2: true}, listener.No, true},
		{"version 1 allowed", one, listener.ProxyProtocol{WithoutV2: true}, listener.Yes, false},
		{"version 2 allowed", two, listener.ProxyProtocol{WithoutV1: true}, listener.Yes, false},
		{"version 1 not looked for", one, listener.ProxyProtocol{Optional: true, WithoutV1: true}, listener.No, false},
		{"version 2 not looked for", two, listener.ProxyProtocol{Optional: true, WithoutV2: true}, listener.No, false},
	} {
		if _, _, s, err := c.p.ReadProxyHeader([]byte(c.raw)); s != c.want || errors.Is(err, listener.ErrProxyHeader) != c.refused {
			t.Errorf("%s: %v, %v", c.name, s, err)
		}
	}
}

// What we write we read back.
func TestProxyHeadersAreWritten(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, from, to string
		known          [2]bool // by version
	}{
		{"IPv4", "10.0.0.1:4660", "10.0.0.2:80", [2]bool{true, true}},
		{"IPv6", "[2001:db8::1]:4660", "[2001:db8::2]:80", [2]bool{true, true}},
		{"mapped", "[::ffff:10.0.0.1]:4660", "10.0.0.2:80", [2]bool{true, true}},
		{"one of each", "10.0.0.1:4660", "[2001:db8::2]:80", [2]bool{false, true}},
		{"zone", "[fe80::1%lo]:1", "[fe80::2%lo]:2", [2]bool{true, true}},
		{"nothing known", "", "", [2]bool{false, false}},
	} {
		var from, to netip.AddrPort
		if c.from != "" {
			from, to = netip.MustParseAddrPort(c.from), netip.MustParseAddrPort(c.to)
		}
		for i, known := range c.known {
			raw := listener.AppendProxyHeader(nil, i+1, from, to)
			h, n, s, err := (&listener.ProxyProtocol{}).ReadProxyHeader(raw)
			if err != nil || s != listener.Yes || n != len(raw) || h.Version != i+1 || h.Known() != known {
				t.Errorf("%s, version %d: %+v, %v, %v", c.name, i+1, h, s, err)
				continue
			}
			if known && (h.Source.Addr() != from.Addr().Unmap().WithZone("") || h.Source.Port() != from.Port() ||
				h.Destination.Addr() != to.Addr().Unmap().WithZone("") || h.Destination.Port() != to.Port()) {
				t.Errorf("%s, version %d: %s to %s", c.name, i+1, h.Source, h.Destination)
			}
		}
	}
}

// Bytes that come in pieces get the same answer, an answer stays whatever
// follows, and nothing beyond the limit is waited for.
func FuzzReadProxyHeader(f *testing.F) {
	for _, s := range []string{"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n", "PROXY UNKNOWN\r\n", "GET /", v2(1, 0x11, four), v2(0, 0, ""), v2(1, 0x21, six+field(2, "a")),
		summed(v2(1, 0x11, four+field(3, "\x00\x00\x00\x00")))} {
		f.Add([]byte(s), false)
		f.Add([]byte(s), true)
	}
	f.Fuzz(func(t *testing.T, b []byte, optional bool) {
		p := &listener.ProxyProtocol{Optional: optional}
		h, n, s, err := p.ReadProxyHeader(b)
		if s == listener.NeedMore && len(b) >= limit.ProxyHeaderBytesMax {
			t.Fatalf("more than %d bytes are wanted", len(b))
		}
		if n > len(b) || (s == listener.Yes) != (n > 0) || err != nil && s != listener.No || s == listener.No && err == nil && !optional {
			t.Fatalf("%d bytes, %v, %v", n, s, err)
		}
		if s == listener.NeedMore {
			return
		}
		for i := range b {
			if hi, ni, si, _ := p.ReadProxyHeader(b[:i]); si != listener.NeedMore && (si != s || ni != n || hi != h) {
				t.Fatalf("%+v, %v after %d bytes; %+v, %v after all", hi, si, i, h, s)
			}
		}
		if !h.Known() {
			return
		}
		again, _, _, err := (&listener.ProxyProtocol{}).ReadProxyHeader(listener.AppendProxyHeader(nil, 2, h.Source, h.Destination))
		if err != nil || again.Source != h.Source || again.Destination != h.Destination {
			t.Fatalf("%+v is written as %+v: %v", h, again, err)
		}
	})
}
