//go:build conformance

package http2_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/tullemesh/tulle/internal/testkit/proxyrun"
)

// misdeed is a server that does something wrong, or at least odd, and what must come of it.
type misdeed struct {
	name string
	// method of the request, GET unless said; body of it.
	method, body string
	// hello is sent in place of SETTINGS.
	hello func(w *wire)
	// answer is done for each request, in place of a good answer.
	answer func(w *wire, stream uint32)
	// route and cluster are merged into theirs.
	route, cluster proxyrun.Object
	want           want
}

// any is what does not matter: it depends on which frames come together.
const any = "any"

// want is the outcome.
type want struct {
	// client is the status, the flags and the body that the client gets, "cut" where the body is not whole.
	client string
	// two is what a client of HTTP/2 gets, where it learns more: its messages end by themselves.
	two string
	// reset is the code of the proxy's RST_STREAM; empty: none; any: it doesn't matter.
	reset string
	// conn is what becomes of the connection: kept (it serves the next request), closed, or GOAWAY with a code.
	conn string
	// tries is how many requests the server sees.
	tries int
}

// lookTime is how long what follows an answer may take: a line in the access log, the end of a connection.
const lookTime = 20 * time.Second

// misbehaving is a running server.
type misbehaving struct {
	do misdeed

	mu     sync.Mutex
	good   bool // the misdeed is over
	tries  int
	last   int // the connection of the last request
	conns  int
	resets []string
	ends   map[int]string
	why    []error
}

// handle is one connection.
func (s *misbehaving) handle(n int, w *wire) {
	s.mu.Lock()
	s.conns++
	good := s.good
	s.mu.Unlock()
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(w, preface); err != nil || string(preface) != http2.ClientPreface {
		s.end(n, ending{err: err})
		return
	}
	if s.do.hello != nil && !good {
		s.do.hello(w)
	} else {
		w.settings()
	}
	for {
		f, err := w.next()
		if err != nil {
			s.end(n, ending{err: err})
			return
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			if len(f.PseudoFields()) > 0 { // no trailers
				s.request(n, w, f.StreamID)
			}
		case *http2.RSTStreamFrame:
			if s.ended(n) == "" { // behind GOAWAY it says nothing
				s.mu.Lock()
				s.resets = append(s.resets, f.ErrCode.String())
				s.mu.Unlock()
			}
		case *http2.GoAwayFrame:
			if f.ErrCode != http2.ErrCodeNo {
				s.end(n, ending{goAway: f.ErrCode, said: true})
			}
		}
	}
}

func (s *misbehaving) request(n int, w *wire, stream uint32) {
	s.mu.Lock()
	good := s.good
	s.last = n
	if !good {
		s.tries++
	}
	s.mu.Unlock()
	if good || s.do.answer == nil {
		fine(w, stream)
		return
	}
	s.do.answer(w, stream)
}

// end notes how a connection ended, for the first time.
func (s *misbehaving) end(n int, e ending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.err != nil {
		s.why = append(s.why, e.err)
	}
	if _, known := s.ends[n]; !known {
		s.ends[n] = e.String()
	}
}

// ended is how a connection ended, or empty.
func (s *misbehaving) ended(n int) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ends[n]
}

// errs are the errors that ended connections.
func (s *misbehaving) errs() (all []error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.why)
}

// behave ends the misdeed, and returns the connection of the last request.
func (s *misbehaving) behave() (last int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.good = true
	return s.last
}

// fine is a good answer.
func fine(w *wire, stream uint32) {
	w.headers(stream, 0, ":status", "200", "content-type", "text/plain")
	w.data(stream, endStream, "fine")
}

// head begins a good answer.
func head(w *wire, stream uint32) { w.headers(stream, 0, ":status", "200") }

// TestServersThatMisbehave runs all misdeeds behind one proxy; each has a cluster and a route of its own, for clients of either version.
func TestServersThatMisbehave(t *testing.T) {
	all := slices.Concat(settingsMisdeeds(), frameMisdeeds(), streamMisdeeds(), headMisdeeds(), bodyMisdeeds(), endMisdeeds(), flowMisdeeds(), floodMisdeeds())
	if len(all) < 60 {
		t.Fatalf("only %d misdeeds", len(all))
	}
	seen := map[string]bool{}
	for _, m := range all {
		if seen[m.name] {
			t.Fatalf("two misdeeds are named %q", m.name)
		}
		seen[m.name] = true
	}
	var routes []proxyrun.Object
	var clusters []proxyrun.Cluster
	servers := map[string]*misbehaving{}
	for i, m := range all {
		for _, two := range []bool{true, false} {
			name := fmt.Sprintf("%s-%d", version(two), i)
			s := &misbehaving{do: m, ends: map[int]string{}, last: -1}
			servers[name] = s
			route := proxyrun.Object{"timeout": "5s"}
			for k, v := range m.route {
				route[k] = v
			}
			// When the server behaves, nothing is to end the wait for it, however busy the machine is.
			routes = append(routes, proxyrun.Forward("/"+name+"/again", name, proxyrun.Object{"timeout": "30s"}), proxyrun.Forward("/"+name+"/", name, route))
			clusters = append(clusters, proxyrun.Cluster{Name: name, To: []string{serveWire(t, s.handle)}, HTTP2: true, More: m.cluster})
		}
	}
	p := proxyrun.Start(t, tulle, proxyrun.Bootstrap([]proxyrun.Listener{{Name: "front", Routes: routes}}, clusters))
	front := "http://" + p.At(t, "front") + "/"
	t.Run("group", func(t *testing.T) { // it ends when all parallel ones have
		for i, m := range all {
			for _, two := range []bool{true, false} {
				name := fmt.Sprintf("%s-%d", version(two), i)
				t.Run(m.name+" to "+version(two), func(t *testing.T) {
					t.Parallel()
					meet(t, p, servers[name], two, front+name+"/")
				})
			}
		}
	})
}

// meet asks a misbehaving server, and once more when it behaves.
func meet(t *testing.T, p *proxyrun.Proxy, s *misbehaving, two bool, url string) {
	c := newClient(t, two)
	method := s.do.method
	if method == "" {
		method = http.MethodGet
	}
	got := ask(t, c, method, url+"first", s.do.body)
	first := s.behave()
	again := ask(t, c, http.MethodGet, url+"again", "")
	flags := flagsOf(t, p, strings.TrimPrefix(url, "http://")+"first")
	status, rest, _ := strings.Cut(got, " ")
	if rest != "fine" && rest != "cut" {
		rest = "" // the words of our own answers are the engine's tests' business
	}
	got = strings.TrimSpace(status + " " + flags + " " + rest)
	told := s.do.want.client
	if two && s.do.want.two != "" {
		told = s.do.want.two
	}
	if got != told {
		t.Errorf("the client got %q, want %q", got, told)
	}
	if again != "200 fine" {
		t.Errorf("then the client got %q; connections ended by %v", again, s.errs())
	}
	s.mu.Lock()
	tries, resets, second := s.tries, strings.Join(slices.Compact(slices.Clone(s.resets)), " "), s.last
	s.mu.Unlock()
	if tries != s.do.want.tries {
		t.Errorf("the server saw %d requests, want %d", tries, s.do.want.tries)
	}
	conn := "kept"
	if first != second && s.do.want.conn != any {
		p.Await(t, lookTime, "the connection ends", func() bool { return s.ended(max(first, 0)) != "" })
		conn = s.ended(max(first, 0))
	}
	if conn != s.do.want.conn && s.do.want.conn != any {
		t.Errorf("the connection: %s, want %s", conn, s.do.want.conn)
	}
	if s.do.want.reset != resets && s.do.want.reset != any {
		p.Await(t, lookTime, "RST_STREAM "+s.do.want.reset, func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			resets = strings.Join(slices.Compact(slices.Clone(s.resets)), " ")
			return resets == s.do.want.reset
		})
	}
	const connsMax = 6 // three attempts for each of the two requests
	if s.mu.Lock(); s.conns > connsMax {
		t.Errorf("%d connections were made", s.conns)
	}
	s.mu.Unlock()
}

func version(two bool) string {
	if two {
		return "h2"
	}
	return "h1"
}

// newClient speaks one version and keeps no connection.
func newClient(t *testing.T, two bool) *http.Client {
	t.Helper()
	var ps http.Protocols
	ps.SetHTTP1(!two)
	ps.SetUnencryptedHTTP2(two)
	tr := &http.Transport{Protocols: &ps}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: wireTime}
}

// ask sends a request and says in a line what came.
func ask(t *testing.T, c *http.Client, method, url, body string) string {
	t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(context.Background(), method, url, r)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		return "error " + err.Error()
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Sprintf("%d cut", resp.StatusCode)
	}
	if len(got) > 100 {
		got = fmt.Appendf(nil, "%d bytes", len(got))
	}
	return strings.TrimSpace(fmt.Sprintf("%d %s", resp.StatusCode, got))
}

// flagsOf waits for the access log's line of a path, which must be unique, and returns the flags.
func flagsOf(t *testing.T, p *proxyrun.Proxy, address string) string {
	t.Helper()
	path := address[strings.IndexByte(address, '/'):]
	flags := ""
	p.Await(t, lookTime, "a line in the access log for "+path, func() bool {
		for line := range strings.Lines(p.AccessLog()) {
			if f := strings.Fields(line); len(f) > 4 && f[1] == path {
				flags = f[4]
				return true
			}
		}
		return false
	})
	return flags
}
