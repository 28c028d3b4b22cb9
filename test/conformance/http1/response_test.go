package http1_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/tullemesh/tulle/internal/testkit/rawhttp"
)

// String is the form in which tables say what a client saw. What the proxy adds
// to every response is left out, and so is the length that the body has.
func (a answer) String() string {
	var b strings.Builder
	b.WriteString(strconv.Itoa(a.status))
	coded := false
	fields := slices.DeleteFunc(slices.Clone(a.fields), func(f string) bool {
		name, value, _ := strings.Cut(f, ": ")
		coded = coded || name == "transfer-encoding"
		return name == "date" || name == "server" || name == "x-envoy-upstream-service-time" || name == "transfer-encoding" ||
			name == "connection" && value == "close" || a.body != "" && f == fmt.Sprintf("content-length: %d", len(a.body))
	})
	writePart(&b, " (", fields, ")")
	if coded {
		b.WriteString(" chunked")
	}
	if len(a.body) > 80 {
		fmt.Fprintf(&b, " %q... %d bytes", a.body[:10], len(a.body))
	} else if a.body != "" && a.status != http.StatusBadGateway {
		fmt.Fprintf(&b, " %q", a.body)
	}
	writePart(&b, " {", a.trailers, "}")
	if !a.whole {
		return "broken " + b.String()
	}
	if a.status == http.StatusBadGateway {
		return "502"
	}
	return b.String()
}

func TestResponsesMeanTheSameToClientAndServer(t *testing.T) {
	total := 0
	for theme, cases := range rawhttp.Responses() {
		total += len(cases)
		t.Run(theme, func(t *testing.T) {
			t.Parallel()
			for i := range cases {
				c := &cases[i]
				t.Run(c.Name, func(t *testing.T) {
					for how, size := range pieces {
						if n := size(c.Raw); n < len(c.Raw) && c.AtOnce {
							continue
						}
						judgeResponse(t, how, c, ask(t, c, size(c.Raw)))
					}
				})
			}
		})
	}
	t.Logf("%d cases of responses", total)
}

// saying is a server that answers a case's request with its bytes in pieces of
// n, and the marker with its name.
func saying(t *testing.T, c *rawhttp.Response, n int) *server {
	return serve(t, func(conn *net.TCPConn) {
		r := reader{bufio.NewReader(conn)}
		for {
			m, err := r.request()
			if err != nil {
				return
			}
			if m.target == "/marker" {
				if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nmarker"); err != nil {
					return
				}
				continue
			}
			for raw := c.Raw; len(raw) > 0; {
				k := min(n, len(raw))
				if _, err := io.WriteString(conn, raw[:k]); err != nil {
					return
				}
				raw = raw[k:]
			}
			if c.Closes {
				return
			}
		}
	})
}

// ask sends the case's request and the marker, and returns all that comes.
func ask(t *testing.T, c *rawhttp.Response, n int) []byte {
	t.Helper()
	s := saying(t, c, n)
	p := startProxy(t, asIstio(), s.at)
	defer s.close()
	defer p.stop()
	conn := dial(t, p.at)
	defer conn.Close()
	method := c.Method
	if method == "" {
		method = http.MethodGet
	}
	if _, err := io.WriteString(conn, method+" /case HTTP/1.1\r\nHost: a\r\n"+c.Fields+"\r\n"+marker); err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(conn)
	var late net.Error
	if errors.As(err, &late) && late.Timeout() {
		t.Errorf("%s: nothing more after %q", c.Name, clip(string(all)))
	}
	if err != nil {
		all = append(all, 0) // no parser takes this for an orderly end
	}
	return all
}

// strictly and loosely read what came as a client would, with parsers that are
// not the engine's.
func strictly(all []byte, method string) (out []string) {
	r := reader{bufio.NewReader(bytes.NewReader(all))}
	for {
		a, err := r.response(method)
		switch {
		case errors.Is(err, io.EOF):
			return out
		case a.status == 0:
			return append(out, "broken")
		}
		out = append(out, a.String())
		if err != nil {
			return out
		}
		if a.status >= 200 {
			method = http.MethodGet
		}
	}
}

func loosely(all []byte, method string) (out []string) {
	r := bufio.NewReader(bytes.NewReader(all))
	for {
		if _, err := r.Peek(1); err != nil {
			return out
		}
		res, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			return append(out, "broken")
		}
		a := answer{status: res.StatusCode, fields: flat(res.Header)}
		if len(res.TransferEncoding) > 0 {
			a.fields = append(a.fields, "transfer-encoding: "+res.TransferEncoding[0])
		}
		body, err := io.ReadAll(res.Body)
		a.body, a.whole, a.trailers = string(body), err == nil, flat(res.Trailer)
		out = append(out, a.String())
		if err != nil {
			return out
		}
		if a.status >= 200 {
			method = http.MethodGet
		}
	}
}

func judgeResponse(t *testing.T, how string, c *rawhttp.Response, all []byte) {
	t.Helper()
	want := slices.Clone(c.Saw)
	if !c.Ends {
		want = append(want, `200 "marker"`)
	}
	for parser, read := range map[string]func([]byte, string) []string{"strict": strictly, "net/http": loosely} {
		got := read(all, c.Method)
		if c.Broken && (len(got) == 1 && strings.HasPrefix(got[0], "broken") || slices.Equal(got, []string{"502", `200 "marker"`})) {
			continue
		}
		if c.Broken || !slices.Equal(got, want) {
			t.Errorf("%s (%s), %s client:\n%q\nthe client saw\n  %s\nwant\n  %s\nin\n%q", how, c.RFC, parser, clip(c.Raw), strings.Join(got, "\n  "), strings.Join(want, "\n  "), clip(string(all)))
		}
	}
}

// What a server sends while no request waits is nobody's answer, however soon
// the next request comes (RFC 9112 §9.3).
func TestBytesThatCameUnaskedAnswerNobody(t *testing.T) {
	t.Parallel()
	for name, more := range map[string]string{"a response": "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", "a byte": "x", "a 1xx": "HTTP/1.1 103 X\r\n\r\n", "a timeout's notice": "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"} {
		for _, method := range []string{"GET", "POST"} {
			t.Run(name+" before "+method, func(t *testing.T) {
				send, sent := make(chan struct{}), make(chan struct{})
				var first sync.Once
				s := serve(t, func(conn *net.TCPConn) {
					r := reader{bufio.NewReader(conn)}
					for {
						m, err := r.request()
						if err != nil {
							return
						}
						if _, err := io.WriteString(conn, okFor(m.method, m.target)); err != nil {
							return
						}
						first.Do(func() {
							<-send
							_, _ = io.WriteString(conn, more)
							close(sent)
						})
					}
				})
				conn := dial(t, startProxy(t, asIstio(), s.at).at)
				r := reader{bufio.NewReader(conn)}
				for i, want := range []string{"/1", "/2"} {
					if i == 1 {
						close(send)
						<-sent
					}
					if _, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", method, want); err != nil {
						t.Fatal(err)
					}
					if a, err := r.response(method); err != nil || a.status != 200 || a.body != want {
						t.Fatalf("%s is answered %s, %v", want, a, err)
					}
				}
			})
		}
	}
}
