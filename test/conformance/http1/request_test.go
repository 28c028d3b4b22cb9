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
	"github.com/tullemesh/tulle/internal/testkit/rawhttp"
)

// settings are the managers of cases.
func settings() map[rawhttp.Setting]func(*listener.HTTPManager) {
	return map[rawhttp.Setting]func(*listener.HTTPManager){
		rawhttp.Sidecar:       func(*listener.HTTPManager) {},
		rawhttp.HTTP10:        func(m *listener.HTTPManager) { m.AcceptHTTP10 = true },
		rawhttp.HTTP1Only:     func(m *listener.HTTPManager) { m.Codec = listener.CodecHTTP1 },
		rawhttp.PathAsIs:      func(m *listener.HTTPManager) { m.NormalizePath = false },
		rawhttp.AnswersExpect: func(m *listener.HTTPManager) { m.Proxy100Continue = false },
		rawhttp.Gateway: func(m *listener.HTTPManager) {
			m.UseRemoteAddress, m.ForwardClientCert.Mode = true, listener.XFCCSanitizeSet
		},
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
	for theme, cases := range rawhttp.Requests() {
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
		for theme, cases := range rawhttp.Requests() {
			t.Run(theme, func(t *testing.T) { runRequests(t, cases, func(testing.TB) backend { return n }) })
		}
	})
	t.Logf("%d cases of requests", total)
}

func runRequests(t *testing.T, cases []rawhttp.Request, start func(testing.TB) backend) {
	for i := range cases {
		c := &cases[i]
		t.Run(c.Name, func(t *testing.T) {
			for how, size := range pieces {
				b := start(t)
				m := asIstio()
				settings()[c.As](m)
				p := startProxy(t, m, b.addr())
				got, end := send(t, p, c, size(c.Raw))
				p.stop()
				judge(t, how, c, got, end, b.seen())
			}
		})
	}
}

// send sends a case in pieces of n bytes and reads all answers. end is how the
// connection ended: nil in an orderly way.
func send(t *testing.T, p *proxy, c *rawhttp.Request, n int) (got []answer, end error) {
	conn := dial(t, p.at)
	defer conn.Close()
	sent := make(chan struct{})
	defer func() { <-sent }()
	go func() {
		defer close(sent)
		raw := c.Raw
		if !c.Alone {
			raw += marker
		}
		for len(raw) > 0 {
			k := min(n, len(raw))
			if _, err := io.WriteString(conn, raw[:k]); err != nil {
				return // refused early: what comes back tells
			}
			raw = raw[k:]
		}
		if c.Alone {
			_ = conn.CloseWrite()
		}
	}()
	defer conn.Close() // before the wait for the sender
	r := reader{bufio.NewReader(conn)}
	for i := 0; ; i++ {
		method := http.MethodGet
		if i < len(c.Saw) {
			method, _, _ = strings.Cut(c.Saw[i], " ")
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
func judge(t *testing.T, how string, c *rawhttp.Request, got []answer, end error, saw []string) {
	t.Helper()
	want := slices.Clone(c.Saw)
	if c.Status == 0 && !c.Ends && !c.Alone {
		want = append(want, markerSeen)
	}
	var statuses, wanted []int
	for _, a := range got {
		statuses = append(statuses, a.status)
	}
	for range want {
		wanted = append(wanted, http.StatusOK)
	}
	if c.Status != 0 {
		wanted = append(wanted, c.Status)
	}
	for i, m := range saw {
		if strings.HasPrefix(m, markerSeen+" ") {
			saw[i] = markerSeen // with what the manager adds
		}
	}
	if errors.Is(end, syscall.ECONNRESET) && c.Ends {
		end = nil // the client said that it closes, and sent more (RFC 9112 §9.6)
	}
	if !slices.Equal(saw, want) {
		t.Errorf("%s (%s):\n%q\nthe backend saw\n  %s\nwant\n  %s", how, c.RFC, clip(c.Raw), strings.Join(saw, "\n  "), strings.Join(want, "\n  "))
	}
	if !slices.Equal(statuses, wanted) || end != nil {
		t.Errorf("%s (%s):\n%q\nthe client saw %v, %v; want %v", how, c.RFC, clip(c.Raw), statuses, end, wanted)
	}
	if c.Status != 0 && len(got) > 0 && got[len(got)-1].field("connection") != "close" {
		t.Errorf("%s: the refusal does not announce the end: %q", how, got[len(got)-1].fields)
	}
}

func clip(raw string) string {
	if len(raw) > 400 {
		return raw[:200] + "..." + raw[len(raw)-100:]
	}
	return raw
}
