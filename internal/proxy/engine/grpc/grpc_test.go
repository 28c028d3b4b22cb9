package grpc

import (
	"encoding/binary"
	"strings"
	"testing"
	"time"
)

// framed is messages with their prefixes.
func framed(messages ...string) string {
	var b []byte
	for i, m := range messages {
		b = binary.BigEndian.AppendUint32(append(b, byte(i%2)), uint32(len(m)))
		b = append(b, m...)
	}
	return string(b)
}

// inPieces gives the bytes in pieces of a size, copied, because some are
// changed in place.
func inPieces(s string, size int, f func(p []byte)) {
	for len(s) > 0 {
		n := min(size, len(s))
		f([]byte(s[:n]))
		s = s[n:]
	}
}

func TestMessagesAreFoundWhereverReadsSplitThem(t *testing.T) {
	three := framed("first", "", strings.Repeat("x", 300))
	for _, c := range []struct {
		name, bytes string
		want        uint64
	}{
		{"nothing", "", 0},
		{"an empty message", framed(""), 1},
		{"three messages", three, 3},
		{"a prefix that does not end", three + "\x00\x00\x00", 3},
		{"a message that does not end", three + "\x00\x00\x00\x00\x09half", 4},
		{"the longest message", "\x00\xff\xff\xff\xff" + three, 1},
		{"a flag that is none", "\x02" + three, 0},
		{"a flag that is none behind messages", three + "\x80" + three, 3},
		{"text", "<html>upstream connect error</html>", 0},
	} {
		for size := 1; size <= max(1, len(c.bytes)); size++ {
			counter := Counter{On: true}
			found := false
			inPieces(c.bytes, size, func(p []byte) { found = counter.Count(p) || found })
			if n := counter.Pending(); n != c.want || found != (n > 0) {
				t.Errorf("%s, %d bytes a read: %d messages, want %d", c.name, size, n, c.want)
			}
			if counter.Take() != c.want || counter.Take() != 0 {
				t.Errorf("%s: not taken once", c.name)
			}
		}
	}
}

func TestContentTypesOfGRPC(t *testing.T) {
	for ct, want := range map[string]bool{
		"application/grpc": true, "application/grpc+proto": true, "application/grpc;charset=utf-8": true,
		"application/grpc-web": false, "application/grpc-web-text+proto": false, "application/grpcx": false, "application/json": false, "": false,
	} {
		if IsType([]byte(ct)) != want {
			t.Errorf("%q: %v", ct, !want)
		}
	}
}

func TestStatusesOfHTTPAreThoseOfGRPC(t *testing.T) {
	for status, want := range map[int]int{400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14, 200: 2, 302: 2, 500: 2, 501: 2} {
		if got := Code(status); got != want {
			t.Errorf("%d: %d, want %d", status, got, want)
		}
	}
}

func TestMessagesOfStatusesAreEncoded(t *testing.T) {
	for message, want := range map[string]string{
		"plain, with ~ and space": "plain, with ~ and space", "100 %": "100 %25", "a\r\nb": "a%0D%0Ab", "ü": "%C3%BC", "\x7f\x00": "%7F%00",
	} {
		if got := string(AppendMessage(nil, []byte(message))); got != want {
			t.Errorf("%q: %q, want %q", message, got, want)
		}
	}
}

func TestTimeoutsAreRead(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"1H": time.Hour, "2M": 2 * time.Minute, "3S": 3 * time.Second, "4m": 4 * time.Millisecond, "5u": 5 * time.Microsecond, "6n": 6,
		"99999999S": 99999999 * time.Second, "99999999H": (1 << 20) * time.Hour, "0n": 1,
		"": 0, "S": 0, "1": 0, "1s": 0, "-1S": 0, "1.5S": 0, "999999999S": 0, " 1S": 0,
	} {
		if got := Timeout([]byte(value)); got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
}
