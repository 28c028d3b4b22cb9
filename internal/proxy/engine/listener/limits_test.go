package listener

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/limit"
)

func TestALineWithoutAnEndIsWaitedForUpToItsLimit(t *testing.T) {
	for n, want := range map[int]Sniffed{limit.SniffLineBytesMax - 1: NeedMore, limit.SniffLineBytesMax: NeedMore, limit.SniffLineBytesMax + 1: No} {
		if _, got := InspectHTTP([]byte("GET /" + strings.Repeat("a", n-len("GET /")))); got != want {
			t.Errorf("%d bytes: %v, want %v", n, got, want)
		}
	}
}

func TestProxyHeadersAreReadUpToTheirLimit(t *testing.T) {
	const most, head, addresses, field = limit.ProxyHeaderBytesMax, 16, 12, 3
	for _, n := range []int{most - 1, most, most + 1} {
		raw := binary.BigEndian.AppendUint16([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11"), uint16(n-head))
		raw = append(raw, "\x0a\x00\x00\x01\x0a\x00\x00\x02\x00\x01\x00\x02\x04"...) // IPv4, and a field of type NOOP
		raw = binary.BigEndian.AppendUint16(raw, uint16(n-head-addresses-field))
		raw = append(raw, make([]byte, n-len(raw))...)
		h, used, s, err := (&ProxyProtocol{}).ReadProxyHeader(raw)
		read := s == Yes && used == n && err == nil && h.Known()
		refused := s == No && errors.Is(err, ErrProxyHeader)
		if n > most && !refused || n <= most && !read {
			t.Errorf("a header of %d bytes, the limit is %d: %v, %d bytes used, %v", n, most, s, used, err)
		}
	}
}
