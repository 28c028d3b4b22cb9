package http1_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/testkit/rawhttp"
)

// Each limit of internal/limit that a client of HTTP/1.1 can reach, below it, at
// it and above it.
func TestLimitsOfRequestsAreExact(t *testing.T) {
	t.Parallel()
	fill := func(prefix, suffix string, n int) string {
		return prefix + strings.Repeat("a", n-len(prefix)-len(suffix)) + suffix
	}
	lines := func(n int, line string) string { return strings.Repeat(line, n) }
	cases := []struct {
		name   string
		limit  int
		status int
		raw    func(n int) string
	}{
		{"HeadBytesMax in one field", limit.HeadBytesMax, 431, func(n int) string { return fill(getA+"X: ", "\r\n\r\n", n) }},
		{"HeadBytesMax in a name", limit.HeadBytesMax, 431, func(n int) string { return fill(getA, ": y\r\n\r\n", n) }},
		{"HeadBytesMax in the target", limit.HeadBytesMax, 431, func(n int) string { return fill("GET /", " HTTP/1.1\r\nHost: a\r\n\r\n", n) }},
		{"HeadBytesMax in a query", limit.HeadBytesMax, 431, func(n int) string { return fill("GET /?", " HTTP/1.1\r\nHost: a\r\n\r\n", n) }},
		{"HeadBytesMax in an absolute target", limit.HeadBytesMax, 431, func(n int) string { return fill("GET http://a/", " HTTP/1.1\r\nHost: a\r\n\r\n", n) }},
		{"HeadFieldsMax", limit.HeadFieldsMax, 431, func(n int) string { return getA + lines(n-1, "X: y\r\n") + "\r\n" }},
		{"HeadFieldsMax of empty fields", limit.HeadFieldsMax, 431, func(n int) string { return getA + lines(n-1, "X:\r\n") + "\r\n" }},
		{"ConnectionFieldsMax", limit.ConnectionFieldsMax, 431, func(n int) string { return getA + lines(n, "Connection: x-a\r\n") + "\r\n" }},
		{"MethodBytesMax", limit.MethodBytesMax, 501, func(n int) string { return strings.Repeat("M", n) + " / HTTP/1.1\r\nHost: a\r\n\r\n" }},
		{"LeadingLinesMax", limit.LeadingLinesMax, 400, func(n int) string { return lines(n, "\r\n") + getA + "\r\n" }},
		{"ChunkDigitsMax", limit.ChunkDigitsMax, 400, func(n int) string { return postA + chunked + "\r\n" + fill0("5", n) + "\r\nhello\r\n0\r\n\r\n" }},
		{"ChunkDigitsMax of the last chunk", limit.ChunkDigitsMax, 400, func(n int) string { return postA + chunked + "\r\n5\r\nhello\r\n" + fill0("0", n) + "\r\n\r\n" }},
		{"ChunkExtensionBytesMax", limit.ChunkExtensionBytesMax, 400, func(n int) string { return postA + chunked + "\r\n5" + fill(";", "", n) + "\r\nhello\r\n0\r\n\r\n" }},
		{"ChunkExtensionBytesMax in quotes", limit.ChunkExtensionBytesMax, 400, func(n int) string {
			return postA + chunked + "\r\n5" + fill(";a=\"", "\"", n) + "\r\nhello\r\n0\r\n\r\n"
		}},
		{"ExtensionsBytesMax", limit.ExtensionsBytesMax, 400, func(n int) string {
			var b strings.Builder
			b.WriteString(postA + chunked + "\r\n")
			for n > 0 {
				k := min(n, 200)
				if n-k == 1 {
					k-- // an extension has a name
				}
				b.WriteString("1" + fill(";", "", k) + "\r\nx\r\n")
				n -= k
			}
			return b.String() + "0\r\n\r\n"
		}},
		{"TrailerBytesMax", limit.TrailerBytesMax, 431, func(n int) string { return postA + chunked + "\r\n0\r\n" + fill("X: ", "\r\n\r\n", n) }},
		{"HeadFieldsMax of trailers", limit.HeadFieldsMax, 431, func(n int) string { return postA + chunked + "\r\n0\r\n" + lines(n, "X: y\r\n") + "\r\n" }},
	}
	for _, c := range cases {
		for _, n := range []int{c.limit - 1, c.limit, c.limit + 1} {
			t.Run(fmt.Sprintf("%s is %d: %d", c.name, c.limit, n), func(t *testing.T) {
				for how, size := range pieces {
					b, _ := newStrict(t).(*strict)
					p := startProxy(t, asIstio(), b.addr())
					r := rawhttp.Request{Raw: c.raw(n)}
					got, end := send(t, p, &r, size(r.Raw))
					p.stop()
					saw := b.seen()
					if n <= c.limit {
						if end != nil || len(got) != 2 || got[0].status != 200 || len(saw) != 2 {
							t.Errorf("%s: answers %v, %v; the backend saw %d messages", how, statuses(got), end, len(saw))
						}
					} else if end != nil || len(got) != 1 || got[0].status != c.status || len(saw) != 0 {
						t.Errorf("%s: answers %v, %v, want %d; the backend saw %.300q", how, statuses(got), end, c.status, saw)
					}
				}
			})
		}
	}
}

// fill0 is a number with leading zeros in n digits.
const (
	getA    = "GET / HTTP/1.1\r\nHost: a\r\n"
	postA   = "POST /p HTTP/1.1\r\nHost: a\r\n"
	chunked = "Transfer-Encoding: chunked\r\n"
	ok      = "HTTP/1.1 200 OK\r\n"
	abc     = "Content-Length: 3\r\n\r\nabc"
)

func fill0(digit string, n int) string { return strings.Repeat("0", n-1) + digit }

func statuses(got []answer) (out []int) {
	for _, a := range got {
		out = append(out, a.status)
	}
	return out
}

// A request line that fits while the head does not is a large head; one that
// does not fit is a long target (RFC 9110 §15.5.15, RFC 6585 §5).
func TestLongTargetsAreToldFromLargeHeads(t *testing.T) {
	t.Parallel()
	for _, before := range []string{"", "\r\n"} {
		for extra, want := range map[int]int{-1: 431, 0: 431, 1: 414, 10_000: 414} {
			line := before + "GET /"
			line += strings.Repeat("a", limit.HeadBytesMax+extra-len(line)-len(" HTTP/1.1\r\n")) + " HTTP/1.1\r\n"
			b, _ := newStrict(t).(*strict)
			p := startProxy(t, asIstio(), b.addr())
			r := rawhttp.Request{Raw: line + "Host: a\r\n\r\n"}
			got, end := send(t, p, &r, 4000)
			p.stop()
			if end != nil || len(got) != 1 || got[0].status != want || len(b.seen()) != 0 {
				t.Errorf("a line of %d bytes more than the limit: %v, %v; want %d", extra, statuses(got), end, want)
			}
		}
	}
}

// Requests that wait behind another are not kept in memory: they are read when
// it is their turn, whatever their number.
func TestPipelinesHaveNoDepth(t *testing.T) {
	t.Parallel()
	const n = 3000
	b, _ := newStrict(t).(*strict)
	p := startProxy(t, asIstio(), b.addr())
	r := rawhttp.Request{Raw: strings.Repeat(getA+"\r\n", n)}
	got, end := send(t, p, &r, len(r.Raw))
	p.stop()
	if saw := b.seen(); end != nil || len(got) != n+1 || len(saw) != n+1 {
		t.Errorf("%d answers, %v; the backend saw %d messages; want %d", len(got), end, len(saw), n+1)
	}
}

func TestLimitsOfResponsesAreExact(t *testing.T) {
	t.Parallel()
	fill := func(prefix, suffix string, n int) string {
		return prefix + strings.Repeat("a", n-len(prefix)-len(suffix)) + suffix
	}
	cases := []struct {
		name  string
		limit int
		raw   func(n int) string
		late  bool // the head has gone on when the limit is seen
	}{
		{"HeadBytesMax", limit.HeadBytesMax, func(n int) string { return fill(ok+"Content-Length: 3\r\nX: ", "\r\n\r\n", n) + "abc" }, false},
		{"HeadBytesMax of a 1xx", limit.HeadBytesMax, func(n int) string { return fill("HTTP/1.1 103 X\r\nX: ", "\r\n\r\n", n) + ok + abc }, false},
		{"HeadFieldsMax", limit.HeadFieldsMax, func(n int) string { return ok + strings.Repeat("X: y\r\n", n-1) + abc }, false},
		{"ChunkDigitsMax", limit.ChunkDigitsMax, func(n int) string { return ok + chunked + "\r\n" + fill0("3", n) + "\r\nabc\r\n0\r\n\r\n" }, true},
		{"ChunkExtensionBytesMax", limit.ChunkExtensionBytesMax, func(n int) string { return ok + chunked + "\r\n3" + fill(";", "", n) + "\r\nabc\r\n0\r\n\r\n" }, true},
		{"TrailerBytesMax", limit.TrailerBytesMax, func(n int) string { return ok + chunked + "\r\n3\r\nabc\r\n0\r\n" + fill("X: ", "\r\n\r\n", n) }, true},
		{"HeadFieldsMax of trailers", limit.HeadFieldsMax, func(n int) string {
			return ok + chunked + "\r\n3\r\nabc\r\n0\r\n" + strings.Repeat("X: y\r\n", n) + "\r\n"
		}, true},
	}
	for _, c := range cases {
		for _, n := range []int{c.limit - 1, c.limit, c.limit + 1} {
			t.Run(fmt.Sprintf("%s is %d: %d", c.name, c.limit, n), func(t *testing.T) {
				for how, size := range pieces {
					r := rawhttp.Response{Name: c.name, Raw: c.raw(n)}
					got := strictly(ask(t, &r, size(r.Raw)), "GET")
					whole := len(got) >= 2 && strings.HasPrefix(got[len(got)-2], "200 ") && got[len(got)-1] == `200 "marker"`
					broken := len(got) == 1 && strings.HasPrefix(got[0], "broken")
					refused := len(got) == 2 && got[0] == "502" && got[1] == `200 "marker"`
					if n <= c.limit && !whole || n > c.limit && !refused && !(c.late && broken) {
						t.Errorf("%s: the client saw %.200q", how, got)
					}
				}
			})
		}
	}
}
