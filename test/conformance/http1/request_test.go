package http1_test

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
)

// request is a case of a client's bytes.
type request struct {
	name string // the situation
	rfc  string // the rule's place
	raw  string // what the client sends; the marker request follows
	// status refuses: this answer comes last, the connection ends, and no
	// backend sees a complete message behind those of saw. 0: all is forwarded.
	status int
	// saw are the messages that a backend sees, without the marker, in the form
	// of seen.String.
	saw []string
	// ends: the proxy closes the connection after the last message of saw, and
	// the marker is nobody's.
	ends bool
	// alone: no marker follows, the client closes its half.
	alone bool
	// as changes the connection manager.
	as func(*listener.HTTPManager)
}

// requests are all tables of requests by theme.
func requests() map[string][]request {
	return map[string][]request{
		"framing":   framingRequests(),
		"chunks":    chunkRequests(),
		"lines":     lineRequests(),
		"fields":    fieldRequests(),
		"targets":   targetRequests(),
		"hops":      hopRequests(),
		"smuggling": smugglingRequests(),
		"pipelines": pipelineRequests(),
	}
}

const (
	marker     = "GET /marker HTTP/1.1\r\nHost: marker\r\nConnection: close\r\n\r\n"
	markerSeen = "GET /marker marker"
)

// pieces are the ways in which a client's bytes come.
var pieces = map[string]func(raw string) int{
	"in one piece": func(raw string) int { return len(raw) },
	"byte by byte": func(raw string) int {
		if len(raw) > 2000 {
			return 509
		}
		return 1
	},
}

func TestRequestsMeanTheSameToProxyAndBackend(t *testing.T) {
	total := 0
	for theme, cases := range requests() {
		total += len(cases)
		t.Run(theme, func(t *testing.T) {
			for backends, start := range map[string]func(testing.TB) backend{"strict": newStrict, "net-http": newGopher} {
				t.Run(backends, func(t *testing.T) {
					t.Parallel()
					runRequests(t, cases, start)
				})
			}
		})
	}
	t.Run("node", func(t *testing.T) {
		n := startNode(t)
		if n == nil {
			t.Skip("Node.js is not installed")
		}
		for theme, cases := range requests() {
			t.Run(theme, func(t *testing.T) { runRequests(t, cases, func(testing.TB) backend { return n }) })
		}
	})
	t.Logf("%d cases of requests", total)
}

func runRequests(t *testing.T, cases []request, start func(testing.TB) backend) {
	for i := range cases {
		c := &cases[i]
		t.Run(c.name, func(t *testing.T) {
			for how, size := range pieces {
				b := start(t)
				m := asIstio()
				if c.as != nil {
					c.as(m)
				}
				p := startProxy(t, m, b.addr())
				got, end := send(t, p, c, size(c.raw))
				p.stop()
				judge(t, how, c, got, end, b.seen())
			}
		})
	}
}

// send sends a case in pieces of n bytes and reads all answers. end is how the
// connection ended: nil in an orderly way.
func send(t *testing.T, p *proxy, c *request, n int) (got []answer, end error) {
	conn := dial(t, p.at)
	defer conn.Close()
	sent := make(chan struct{})
	defer func() { <-sent }()
	go func() {
		defer close(sent)
		raw := c.raw
		if !c.alone {
			raw += marker
		}
		for len(raw) > 0 {
			k := min(n, len(raw))
			if _, err := io.WriteString(conn, raw[:k]); err != nil {
				return // refused early: what comes back tells
			}
			raw = raw[k:]
		}
		if c.alone {
			_ = conn.CloseWrite()
		}
	}()
	defer conn.Close() // before the wait for the sender
	r := reader{bufio.NewReader(conn)}
	for i := 0; ; i++ {
		method := http.MethodGet
		if i < len(c.saw) {
			method, _, _ = strings.Cut(c.saw[i], " ")
		}
		a, err := r.response(method)
		for err == nil && a.status < 200 {
			a, err = r.response(method)
		}
		if errors.Is(err, io.EOF) {
			return got, nil
		}
		if err != nil {
			return got, err
		}
		got = append(got, a)
	}
}

// judge compares what client and backend saw with what the case says.
func judge(t *testing.T, how string, c *request, got []answer, end error, saw []string) {
	t.Helper()
	want := slices.Clone(c.saw)
	if c.status == 0 && !c.ends && !c.alone {
		want = append(want, markerSeen)
	}
	var statuses, wanted []int
	for _, a := range got {
		statuses = append(statuses, a.status)
	}
	for range want {
		wanted = append(wanted, http.StatusOK)
	}
	if c.status != 0 {
		wanted = append(wanted, c.status)
	}
	for i, m := range saw {
		if strings.HasPrefix(m, markerSeen+" ") {
			saw[i] = markerSeen // with what the manager adds
		}
	}
	if errors.Is(end, syscall.ECONNRESET) && c.ends {
		end = nil // the client said that it closes, and sent more (RFC 9112 §9.6)
	}
	if !slices.Equal(saw, want) {
		t.Errorf("%s (%s):\n%q\nthe backend saw\n  %s\nwant\n  %s", how, c.rfc, clip(c.raw), strings.Join(saw, "\n  "), strings.Join(want, "\n  "))
	}
	if !slices.Equal(statuses, wanted) || end != nil {
		t.Errorf("%s (%s):\n%q\nthe client saw %v, %v; want %v", how, c.rfc, clip(c.raw), statuses, end, wanted)
	}
	if c.status != 0 && len(got) > 0 && got[len(got)-1].field("connection") != "close" {
		t.Errorf("%s: the refusal does not announce the end: %q", how, got[len(got)-1].fields)
	}
}

func clip(raw string) string {
	if len(raw) > 400 {
		return raw[:200] + "..." + raw[len(raw)-100:]
	}
	return raw
}
