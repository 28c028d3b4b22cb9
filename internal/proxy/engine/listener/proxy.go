package listener

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"strconv"
	"strings"

	"github.com/tullemesh/tulle/internal/limit"
)

// ProxyProtocol says how a listener reads the header of the PROXY protocol
// (haproxy's proxy-protocol.txt, versions 1 and 2) in front of each
// connection (Envoy: listener.proxy_protocol.v3.ProxyProtocol).
type ProxyProtocol struct {
	// Optional: connections may begin without one.
	Optional bool
	// WithoutV1 and WithoutV2 disallow a version.
	WithoutV1, WithoutV2 bool
}

// ProxyHeader is what a header says. Without Source and Destination the
// connection is the sender's own, or the sender does not know: its socket's
// addresses hold.
type ProxyHeader struct {
	Source, Destination netip.AddrPort
	Version             int
}

// Known reports whether the header names addresses.
func (h *ProxyHeader) Known() bool { return h.Source.IsValid() }

// ErrProxyHeader means that a connection begins with a header that breaks the
// rules of the PROXY protocol, or with none where one is needed.
var ErrProxyHeader = errors.New("malformed PROXY protocol header")

const (
	proxyV1 = "PROXY"
	proxyV2 = "\r\n\r\n\x00\r\nQUIT\n"
	// proxyLineMax is the longest line of version 1 with its end (§2.1).
	proxyLineMax = 107
	// proxyFixed is what stands before the addresses in version 2 (§2.2).
	proxyFixed = 16
)

// ReadProxyHeader reads a header from the first bytes of a connection: n are
// its bytes. No: there is none, and p allows that. ErrProxyHeader comes with
// No too.
func (p *ProxyProtocol) ReadProxyHeader(b []byte) (h ProxyHeader, n int, s Sniffed, err error) {
	switch version, known := p.version(b); {
	case !known:
		return h, 0, NeedMore, nil
	case version == 0 && p.Optional:
		return h, 0, No, nil
	case version == 1 && !p.WithoutV1:
		h.Version = 1
		n, s, err = h.readLine(b)
	case version == 2 && !p.WithoutV2:
		h.Version = 2
		n, s, err = h.readBinary(b)
	case version == 0:
		return h, 0, No, fmt.Errorf("%w: there is none", ErrProxyHeader)
	default:
		return h, 0, No, fmt.Errorf("%w: version %d is not allowed here", ErrProxyHeader, version)
	}
	if err != nil {
		return ProxyHeader{}, 0, No, fmt.Errorf("%w: %w", ErrProxyHeader, err)
	}
	return h, n, s, nil
}

// version tells a header by its first bytes; 0: these begin none. An allowed
// absence must not take "PROXYING" for a header, so the blank counts, and what
// is not allowed is not looked for (Envoy: disallowed_versions).
func (p *ProxyProtocol) version(b []byte) (version int, known bool) {
	for i, signature := range [...]string{proxyV1 + " ", proxyV2} {
		if p.Optional && (i == 0 && p.WithoutV1 || i == 1 && p.WithoutV2) {
			continue
		}
		if n := min(len(b), len(signature)); string(b[:n]) == signature[:n] {
			return i + 1, n == len(signature)
		}
	}
	return 0, true
}

// readLine reads version 1: one line of words, each with one blank before it.
func (h *ProxyHeader) readLine(b []byte) (n int, s Sniffed, err error) {
	end := bytes.IndexByte(b[:min(len(b), proxyLineMax)], '\n')
	switch {
	case end < 0 && len(b) >= proxyLineMax:
		return 0, No, errors.New("the line has no end")
	case end < 0:
		return 0, NeedMore, nil
	case b[end-1] != '\r':
		return 0, No, errors.New("the line ends without CR")
	}
	words := strings.Split(string(b[len(proxyV1)+1:end-1]), " ")
	if words[0] == "UNKNOWN" {
		return end + 1, Yes, nil // the rest of the line is ignored (§2.1)
	}
	if len(words) != 5 || words[0] != "TCP4" && words[0] != "TCP6" {
		return 0, No, errors.New("the line is not protocol, addresses and ports")
	}
	v4 := words[0] == "TCP4"
	if h.Source, err = proxyAddress(words[1], words[3], v4); err != nil {
		return 0, No, err
	}
	if h.Destination, err = proxyAddress(words[2], words[4], v4); err != nil {
		return 0, No, err
	}
	return end + 1, Yes, nil
}

func proxyAddress(ip, port string, v4 bool) (netip.AddrPort, error) {
	a, err := netip.ParseAddr(ip)
	if err != nil || a.Is4() != v4 || a.Zone() != "" {
		return netip.AddrPort{}, errors.New("an address is not of its family")
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || strconv.FormatUint(n, 10) != port {
		return netip.AddrPort{}, errors.New("a port is not a decimal number below 65536") // nor with zeros before it (§2.1)
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(n)), nil
}

// readBinary reads version 2.
func (h *ProxyHeader) readBinary(b []byte) (n int, s Sniffed, err error) {
	if len(b) > 12 && b[12]>>4 != 2 {
		return 0, No, errors.New("the version is not 2")
	}
	if len(b) < proxyFixed {
		return 0, NeedMore, nil
	}
	n = proxyFixed + int(binary.BigEndian.Uint16(b[14:16]))
	if n > limit.ProxyHeaderBytesMax {
		return 0, No, fmt.Errorf("%d bytes are more than %d", n, limit.ProxyHeaderBytesMax)
	}
	if len(b) < n {
		return 0, NeedMore, nil
	}
	body := b[proxyFixed:n]
	size, err := h.readAddresses(b[12]&0xf, b[13], body)
	if err != nil {
		return 0, No, err
	}
	return n, Yes, checkFields(b[:n], proxyFixed+size)
}

// readAddresses reads what command and family ask for; size is how much of the
// body that is.
func (h *ProxyHeader) readAddresses(command, family byte, body []byte) (size int, err error) {
	switch command {
	case 0: // LOCAL: what follows is discarded, the family included (§2.2)
		return len(body), nil
	case 1:
	default:
		return 0, errors.New("no such command")
	}
	switch family {
	case 0x00: // unspecified: the sender does not know
		return 0, nil
	case 0x11:
		size = 12
	case 0x21:
		size = 36
	default:
		return 0, errors.New("the connection is not TCP")
	}
	if len(body) < size {
		return 0, errors.New("the addresses are cut off")
	}
	each := (size - 4) / 2
	from, _ := netip.AddrFromSlice(body[:each])
	to, _ := netip.AddrFromSlice(body[each : 2*each])
	h.Source = netip.AddrPortFrom(from.Unmap(), binary.BigEndian.Uint16(body[2*each:]))
	h.Destination = netip.AddrPortFrom(to.Unmap(), binary.BigEndian.Uint16(body[2*each+2:]))
	return size, nil
}

// proxyCRC is the field that holds CRC32C of the header (§2.2.3).
const proxyCRC = 0x03

// checkFields walks the fields behind the addresses, which we do not use, and
// verifies the checksum if one is among them.
func checkFields(header []byte, at int) error {
	for at < len(header) {
		if len(header)-at < 3 {
			return errors.New("a field is cut off")
		}
		kind, size := header[at], int(binary.BigEndian.Uint16(header[at+1:at+3]))
		at += 3
		if size > len(header)-at {
			return errors.New("a field is cut off")
		}
		if kind == proxyCRC {
			if size != 4 {
				return errors.New("the checksum has not four bytes")
			}
			sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
			sum.Write(header[:at])
			sum.Write(make([]byte, 4)) // it counts as zero
			sum.Write(header[at+4:])
			if sum.Sum32() != binary.BigEndian.Uint32(header[at:]) {
				return errors.New("the checksum is wrong")
			}
		}
		at += size
	}
	return nil
}

// AppendProxyHeader writes a header for a connection from source to
// destination; without addresses it says that they are not known. Version 1
// has no form for one address of each family, so that counts as unknown.
func AppendProxyHeader(dst []byte, version int, source, destination netip.AddrPort) []byte {
	from, to := source.Addr().Unmap().WithZone(""), destination.Addr().Unmap().WithZone("")
	known := from.IsValid() && to.IsValid()
	v4 := from.Is4() && to.Is4()
	if version == 1 {
		switch {
		case !known || from.Is4() != to.Is4():
			return append(dst, proxyV1+" UNKNOWN\r\n"...)
		case v4:
			dst = append(dst, proxyV1+" TCP4 "...)
		default:
			dst = append(dst, proxyV1+" TCP6 "...)
		}
		dst = append(from.AppendTo(dst), ' ')
		dst = append(to.AppendTo(dst), ' ')
		dst = append(strconv.AppendUint(dst, uint64(source.Port()), 10), ' ')
		return append(strconv.AppendUint(dst, uint64(destination.Port()), 10), '\r', '\n')
	}
	dst = append(dst, proxyV2...)
	switch {
	case !known:
		return append(dst, 0x20, 0, 0, 0) // LOCAL
	case v4:
		dst = append(dst, 0x21, 0x11, 0, 12)
		a, b := from.As4(), to.As4()
		dst = append(append(dst, a[:]...), b[:]...)
	default:
		dst = append(dst, 0x21, 0x21, 0, 36)
		a, b := from.As16(), to.As16()
		dst = append(append(dst, a[:]...), b[:]...)
	}
	dst = binary.BigEndian.AppendUint16(dst, source.Port())
	return binary.BigEndian.AppendUint16(dst, destination.Port())
}
