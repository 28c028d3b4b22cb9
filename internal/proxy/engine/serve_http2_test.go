package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

// serveHTTP is a backend of net/http that speaks HTTP/1.1 and HTTP/2 without
// TLS.
func serveHTTP(t testing.TB, h http.HandlerFunc) netip.AddrPort {
	t.Helper()
	var p http.Protocols
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = &p
	s.Start()
	t.Cleanup(s.Close)
	return netip.MustParseAddrPort(s.Listener.Addr().String())
}

// client speaks only HTTP/2 without TLS, or only HTTP/1.1.
func client(t testing.TB, two bool) *http.Client {
	t.Helper()
	var p http.Protocols
	p.SetHTTP1(!two)
	p.SetUnencryptedHTTP2(two)
	tr := &http.Transport{Protocols: &p}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// speaking is a cluster whose endpoints get one version of HTTP.
func speaking(two bool, name string, addrs ...netip.AddrPort) *cluster.Spec {
	c := static(name, addrs...)
	if two {
		c.Protocol = cluster.HTTP2
	}
	return c
}

func version(two bool) string {
	if two {
		return "h2"
	}
	return "h1"
}

// eachPair runs a test for all pairs of versions that involve HTTP/2.
func eachPair(t *testing.T, f func(t *testing.T, down, up bool)) {
	for _, down := range []bool{true, false} {
		for _, up := range []bool{true, false} {
			if !down && !up {
				continue
			}
			t.Run(version(down)+" to "+version(up), func(t *testing.T) { f(t, down, up) })
		}
	}
}

func do(t *testing.T, c *http.Client, method, url string, body io.Reader, edit func(*http.Request)) (*http.Response, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	if edit != nil {
		edit(r)
	}
	res, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(b)
}

func TestHTTP2RequestsPassLikeAnyOther(t *testing.T) {
	eachPair(t, func(t *testing.T, down, up bool) {
		at := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			w.Header().Set("X-Saw", fmt.Sprintf("%s %s %s %s", r.Proto, r.Method, r.Host, r.URL))
			w.Header().Set("X-Cookie", r.Header.Get("Cookie"))
			w.WriteHeader(http.StatusCreated)
			fmt.Fprintf(w, "got %d bytes", len(b))
		})
		p := start(t, &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{speaking(up, "cart", at)}})
		proto := "HTTP/1.1"
		if up {
			proto = "HTTP/2.0"
		}
		for i, body := range []string{"", "hello", strings.Repeat("x", 300<<10)} {
			res, got := do(t, client(t, down), "POST", "http://"+p.addr()+"/a?b=c", strings.NewReader(body), func(r *http.Request) {
				r.Host = "cart.shop"
				r.Header.Set("Cookie", "a=1; b=2")
			})
			if res.StatusCode != 201 || got != fmt.Sprintf("got %d bytes", len(body)) {
				t.Errorf("body %d: %d %q", i, res.StatusCode, got)
			}
			if saw := res.Header.Get("X-Saw"); saw != proto+" POST cart.shop /a?b=c" {
				t.Errorf("body %d: the upstream saw %q", i, saw)
			}
			if c := res.Header.Get("X-Cookie"); c != "a=1; b=2" {
				t.Errorf("cookie came as %q", c)
			}
		}
		p.stop()
		if want := "POST /a?b=c 201 - 5 11 cart\n"; !strings.Contains(p.logged(), want) {
			t.Errorf("log %q lacks %q", p.logged(), want)
		}
	})
}

func TestTrailersPassBothWays(t *testing.T) {
	eachPair(t, func(t *testing.T, down, up bool) {
		at := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Trailer", "X-Sum")
			// A length would leave no place for trailers in HTTP/1.1.
			_ = http.NewResponseController(w).EnableFullDuplex()
			_ = http.NewResponseController(w).Flush()
			_, _ = io.Copy(w, r.Body)
			w.Header().Set("X-Sum", "echo "+r.Trailer.Get("X-Req"))
		})
		p := start(t, &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{speaking(up, "cart", at)}})
		pr, pw := io.Pipe()
		go func() {
			_, _ = pw.Write([]byte("abc"))
			pw.Close()
		}()
		res, got := do(t, client(t, down), "POST", "http://"+p.addr()+"/", pr, func(r *http.Request) {
			r.Trailer = http.Header{"X-Req": {"7"}}
		})
		if got != "abc" || res.Trailer.Get("X-Sum") != "echo 7" {
			t.Errorf("body %q, trailer %q", got, res.Trailer)
		}
	})
}

// What only proxies and heads may say is left out of a response's trailers: the
// response is the application's, and whole without it.
func TestTrailersThatMayNotPassSpoilNoResponse(t *testing.T) {
	pass := func(t *testing.T, down, up bool) {
		at := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write([]byte("abc"))
			_ = http.NewResponseController(w).Flush()
			for _, name := range []string{"X-Forwarded-For", "X-Envoy-Attempt-Count", "Authorization", "X-Sum"} {
				w.Header().Set(http.TrailerPrefix+name, "1")
			}
		})
		p := start(t, &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{speaking(up, "cart", at)}})
		res, got := do(t, client(t, down), "GET", "http://"+p.addr()+"/", nil, nil)
		if got != "abc" || len(res.Trailer) != 1 || res.Trailer.Get("X-Sum") != "1" {
			t.Errorf("body %q, trailer %q", got, res.Trailer)
		}
	}
	eachPair(t, pass)
	t.Run("h1 to h1", func(t *testing.T) { pass(t, false, false) })
}

func TestBigBodiesPassUnderFlowControl(t *testing.T) {
	const size = 5 << 20
	eachPair(t, func(t *testing.T, down, up bool) {
		at := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
			b, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			_, _ = w.Write(b)
		})
		p := start(t, &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{speaking(up, "cart", at)}})
		body := bytes.Repeat([]byte("0123456789abcdef"), size/16)
		_, got := do(t, client(t, down), "POST", "http://"+p.addr()+"/", bytes.NewReader(body), nil)
		if got != string(body) {
			t.Errorf("%d bytes came back", len(got))
		}
	})
}

func TestManyStreamsShareAConnection(t *testing.T) {
	var conns atomic.Int32
	at := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.Path) })
	p := start(t, &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{speaking(true, "cart", at)}})
	c := client(t, true)
	c.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conns.Add(1)
		var d net.Dialer
		return d.DialContext(ctx, network, addr)
	}
	do(t, c, "GET", "http://"+p.addr()+"/warm", nil, nil)
	const n = 200
	errs := make(chan error, n)
	for i := range n {
		go func() {
			path := fmt.Sprintf("/%d", i)
			res, err := c.Get("http://" + p.addr() + path)
			if err != nil {
				errs <- err
				return
			}
			defer res.Body.Close()
			b, err := io.ReadAll(res.Body)
			if err == nil && string(b) != path {
				err = fmt.Errorf("%s answered %q", path, b)
			}
			errs <- err
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if got := conns.Load(); got != 1 {
		t.Errorf("%d connections", got)
	}
}

func TestHTTP2FaultsAnswerWithEnvoysStatusAndFlag(t *testing.T) {
	hang := make(chan struct{})
	slow := serveHTTP(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-hang:
		}
	})
	defer close(hang)
	abort := serveHTTP(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	late := to("/late", "slow")
	late.Forward.Timeout = 50 * time.Millisecond
	p := start(t, &setup{
		routes: []*router.Route{to("/down", "down"), late, to("/abort", "abort"), to("/none", "none"), to("/gone", "gone")},
		clusters: []*cluster.Spec{
			speaking(true, "down", dead(t)), speaking(true, "slow", slow), speaking(true, "abort", abort), speaking(true, "none"),
		},
	})
	for path, want := range map[string]string{
		"/down": "503 UF", "/late": "504 UT", "/abort": "503 UR", "/none": "503 UH", "/gone": "503 NC", "/nowhere": "404 NR",
	} {
		for _, two := range []bool{true, false} {
			res, _ := do(t, client(t, two), "POST", "http://"+p.addr()+path, nil, nil)
			if got := fmt.Sprint(res.StatusCode); !strings.HasPrefix(want, got) {
				t.Errorf("%s over %s: status %s, want %s", path, version(two), got, want)
			}
		}
	}
	p.stop()
	for path, want := range map[string]string{
		"/down": "503 UF", "/late": "504 UT", "/abort": "503 UR", "/none": "503 UH", "/gone": "503 NC", "/nowhere": "404 NR",
	} {
		if n := strings.Count(p.logged(), "POST "+path+" "+want+" "); n != 2 {
			t.Errorf("%s: %d lines with %s in %s", path, n, want, p.logged())
		}
	}
}

func TestHTTP2ClientThatLeavesCancelsTheUpstreamsWork(t *testing.T) {
	eachPair(t, func(t *testing.T, down, up bool) {
		if !down {
			t.Skip("over HTTP/1.1 leaving is closing the connection: TestClientThatLeavesCancelsTheUpstreamsWork")
		}
		began, ended := make(chan struct{}), make(chan struct{})
		at := serveHTTP(t, func(_ http.ResponseWriter, r *http.Request) {
			close(began)
			<-r.Context().Done()
			close(ended)
		})
		p := start(t, &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{speaking(up, "cart", at)}})
		ctx, cancel := context.WithCancel(context.Background())
		r, err := http.NewRequestWithContext(ctx, "GET", "http://"+p.addr()+"/slow", nil)
		if err != nil {
			t.Fatal(err)
		}
		failed := make(chan error, 1)
		go func() {
			res, err := client(t, true).Do(r)
			if err == nil {
				res.Body.Close()
			}
			failed <- err
		}()
		<-began
		cancel()
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Errorf("the client got %v", err)
		}
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Fatal("the upstream still works")
		}
		eventually(t, "a log line", func() bool { return strings.Contains(p.log.String(), "GET /slow 0 DR ") })
	})
}

func TestDrainLetsStreamsEndAndTakesNoMore(t *testing.T) {
	began, release := make(chan struct{}), make(chan struct{})
	at := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(began)
			<-release
		}
		fmt.Fprint(w, "done")
	})
	p := start(t, &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{speaking(true, "cart", at)}})
	got := make(chan string, 1)
	c := client(t, true)
	go func() {
		res, err := c.Get("http://" + p.addr() + "/slow")
		if err != nil {
			got <- err.Error()
			return
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		got <- string(b)
	}()
	<-began
	addr := p.addr()
	drained := make(chan error, 1)
	go func() { drained <- p.Drain(context.Background()) }()
	eventually(t, "a drain", func() bool { return p.draining.Load() })
	if res, err := c.Get("http://" + addr + "/new"); err == nil {
		res.Body.Close() // it may ride on the notice's round trip
	}
	close(release)
	if s := <-got; s != "done" {
		t.Errorf("the stream in progress got %q", s)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

func TestIdleHTTP2ConnectionsEndAtADrain(t *testing.T) {
	at := serveHTTP(t, func(http.ResponseWriter, *http.Request) {})
	p := start(t, &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{speaking(true, "cart", at)}})
	do(t, client(t, true), "GET", "http://"+p.addr()+"/", nil, nil)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := p.Drain(ctx); err != nil {
		t.Error(err)
	}
}

func TestResponseMayComeBeforeTheHTTP2RequestEnds(t *testing.T) {
	eachPair(t, func(t *testing.T, down, up bool) {
		at := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
			rc := http.NewResponseController(w)
			_ = rc.EnableFullDuplex()
			_ = rc.Flush()
			b := make([]byte, 16)
			for {
				n, err := r.Body.Read(b)
				if n > 0 {
					_, _ = w.Write(bytes.ToUpper(b[:n]))
					_ = rc.Flush()
				}
				if err != nil {
					return
				}
			}
		})
		p := start(t, &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{speaking(up, "cart", at)}})
		pr, pw := io.Pipe()
		r, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+p.addr()+"/", pr)
		if err != nil {
			t.Fatal(err)
		}
		res, err := client(t, down).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b := make([]byte, 3)
		for _, word := range []string{"one", "two", "six"} {
			_, _ = pw.Write([]byte(word))
			if _, err := io.ReadFull(res.Body, b); err != nil || string(b) != strings.ToUpper(word) {
				t.Fatalf("%q came back as %q: %v", word, b, err)
			}
		}
		pw.Close()
		if rest, err := io.ReadAll(res.Body); len(rest) > 0 || err != nil {
			t.Errorf("then %q, %v", rest, err)
		}
	})
}

func TestHTTP2LocalAnswersAndHeadLimits(t *testing.T) {
	at := serveHTTP(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "5") })
	direct := &router.Route{Name: "direct", Match: router.Match{Path: router.PathMatch{Kind: router.PathPrefix, Value: "/direct"}},
		Direct: &router.Direct{Status: 418, Body: []byte("short and stout")}}
	p := start(t, &setup{manager: &listener.HTTPManager{HeaderCountMax: 50},
		routes: []*router.Route{direct, to("/", "cart")}, clusters: []*cluster.Spec{speaking(true, "cart", at)}})
	c := client(t, true)
	if res, body := do(t, c, "GET", "http://"+p.addr()+"/direct", nil, nil); res.StatusCode != 418 || body != "short and stout" {
		t.Errorf("direct: %d %q", res.StatusCode, body)
	}
	if res, body := do(t, c, "HEAD", "http://"+p.addr()+"/direct", nil, nil); res.StatusCode != 418 || body != "" {
		t.Errorf("direct HEAD: %d %q", res.StatusCode, body)
	}
	if res, _ := do(t, c, "HEAD", "http://"+p.addr()+"/", nil, nil); res.ContentLength != 5 {
		t.Errorf("HEAD: length %d", res.ContentLength)
	}
	res, _ := do(t, c, "GET", "http://"+p.addr()+"/", nil, func(r *http.Request) {
		for i := range 60 {
			r.Header.Set(fmt.Sprintf("x-%d", i), "v")
		}
	})
	if res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("60 fields of 50: %d", res.StatusCode)
	}
}

// limited is a backend of HTTP/2 that takes few streams at once.
func limited(t testing.TB, streams int, h http.HandlerFunc) netip.AddrPort {
	t.Helper()
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = &p
	s.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: streams}
	s.Start()
	t.Cleanup(s.Close)
	return netip.MustParseAddrPort(s.Listener.Addr().String())
}

func TestStreamsBeyondTheUpstreamsLimitWaitOrTakeAnotherConnection(t *testing.T) {
	for _, most := range []uint32{0, 1} {
		var conns sync.Map
		at := limited(t, 2, func(w http.ResponseWriter, r *http.Request) {
			conns.Store(r.RemoteAddr, true)
			fmt.Fprint(w, "ok")
		})
		spec := speaking(true, "cart", at)
		spec.MaxConnections = most
		p := start(t, &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{spec}})
		c := client(t, true)
		const n = 60
		errs := make(chan error, n)
		for range n {
			go func() {
				res, err := c.Get("http://" + p.addr() + "/")
				if err == nil {
					res.Body.Close()
					if res.StatusCode != 200 {
						err = errors.New(res.Status)
					}
				}
				errs <- err
			}()
		}
		for range n {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		used := 0
		conns.Range(func(any, any) bool { used++; return true })
		if most > 0 && used > int(most) {
			t.Errorf("%d connections of %d", used, most)
		}
		p.stop()
	}
}
