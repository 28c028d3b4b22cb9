package engine

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/generation"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

func TestTheInspectorsH2cChoosesTheChain(t *testing.T) {
	at := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Proto) })
	s := &setup{
		routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{speaking(false, "cart", at)},
		chain: listener.Chain{Match: listener.ChainMatch{ApplicationProtos: []string{"h2c"}}},
		extra: func(p *generation.Parts) { p.Listeners[0].Spec().InspectHTTP = true },
	}
	p := start(t, s)
	if res, body := do(t, client(t, true), "GET", "http://"+p.addr()+"/", nil, nil); res.StatusCode != 200 || body != "HTTP/1.1" {
		t.Errorf("%d %q", res.StatusCode, body)
	}
	if got := p.talk(t, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); got != "" && !strings.Contains(got, "reset") {
		t.Errorf("HTTP/1.1 was answered: %q", got)
	}
}

func TestAListenerOfOneCodecRefusesTheOther(t *testing.T) {
	at := serveHTTP(t, func(http.ResponseWriter, *http.Request) {})
	for codec, refused := range map[listener.Codec]bool{listener.CodecHTTP1: true, listener.CodecHTTP2: false} {
		p := start(t, &setup{manager: &listener.HTTPManager{Codec: codec}, routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{speaking(false, "cart", at)}})
		for _, two := range []bool{true, false} {
			res, err := client(t, two).Get("http://" + p.addr() + "/")
			ok := err == nil && res.StatusCode == 200
			if err == nil {
				res.Body.Close()
			}
			if ok == (two == refused) {
				t.Errorf("codec %d, %s: %v", codec, version(two), err)
			}
		}
	}
}

func TestInformationalResponsesPass(t *testing.T) {
	eachPair(t, func(t *testing.T, down, up bool) {
		at := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "</a.css>")
			w.WriteHeader(http.StatusEarlyHints)
			n, _ := io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, n)
		})
		p := start(t, &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{speaking(up, "cart", at)}})
		c := client(t, down)
		c.Transport.(*http.Transport).ExpectContinueTimeout = 15 * time.Second
		hints, continued := 0, false
		trace := &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				if code == http.StatusEarlyHints && h.Get("Link") == "</a.css>" {
					hints++
				}
				return nil
			},
			Got100Continue: func() { continued = true },
		}
		began := time.Now()
		res, body := do(t, c, "POST", "http://"+p.addr()+"/", strings.NewReader("hello"), func(r *http.Request) {
			r.Header.Set("Expect", "100-Continue") // it has no case (RFC 9110 §10.1.1)
			*r = *r.WithContext(httptrace.WithClientTrace(r.Context(), trace))
		})
		if res.StatusCode != 200 || body != "5" || hints != 1 || !continued || time.Since(began) > 14*time.Second {
			t.Errorf("%d %q, %d hints, continued %v", res.StatusCode, body, hints, continued)
		}
	})
}

func TestConnectionsThatSayGoAwayLoseNoRequest(t *testing.T) {
	var served atomic.Int32
	var conns sync.Map
	at := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		conns.Store(r.RemoteAddr, true)
		if served.Add(1)%50 == 0 {
			w.Header().Set("Connection", "close") // net/http sends GOAWAY then
		}
		fmt.Fprint(w, "ok")
	})
	p := start(t, &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{speaking(true, "cart", at)}})
	c := client(t, true)
	// Few enough at once that nobody meets three such connections in a row: the
	// third failure is the client's.
	var work sync.WaitGroup
	for range 10 {
		work.Go(func() {
			for range 40 {
				res, err := c.Post("http://"+p.addr()+"/", "text/plain", strings.NewReader("once"))
				if err != nil {
					t.Error(err)
					return
				}
				res.Body.Close()
				if res.StatusCode != 200 {
					t.Error(res.Status)
				}
			}
		})
	}
	work.Wait()
	used := 0
	conns.Range(func(any, any) bool { used++; return true })
	if used < 2 {
		t.Errorf("%d connections: no GOAWAY was sent", used)
	}
}

func TestHTTP2TimeoutsEndStreamsNotConnections(t *testing.T) {
	hang := make(chan struct{})
	at := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/quick" {
			return
		}
		_, _ = w.Write([]byte("begun"))
		_ = http.NewResponseController(w).Flush()
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	})
	defer close(hang)
	p := start(t, &setup{manager: &listener.HTTPManager{StreamIdleTimeout: 100 * time.Millisecond},
		routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{speaking(true, "cart", at)}})
	c := client(t, true)
	conns := map[string]bool{}
	get := func(path string) error {
		r, _ := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			GotConn: func(i httptrace.GotConnInfo) { conns[i.Conn.LocalAddr().String()] = true },
		}), "GET", "http://"+p.addr()+path, nil)
		res, err := c.Do(r)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		_, err = io.ReadAll(res.Body)
		return err
	}
	if err := get("/hang"); err == nil || !strings.Contains(err.Error(), "INTERNAL_ERROR") {
		t.Errorf("a response that stops: %v", err)
	}
	if err := get("/quick"); err != nil {
		t.Errorf("the next one: %v", err)
	}
	if len(conns) != 1 {
		t.Errorf("%d connections", len(conns))
	}
	eventually(t, "a log line", func() bool { return strings.Contains(p.log.String(), "GET /hang 200 SI ") })
}

func TestRequestsPerConnectionAreBounded(t *testing.T) {
	at := serveHTTP(t, func(http.ResponseWriter, *http.Request) {})
	p := start(t, &setup{manager: &listener.HTTPManager{MaxRequestsPerConnection: 2},
		routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{speaking(true, "cart", at)}})
	c := client(t, true)
	conns := map[string]int{}
	for range 6 {
		do(t, c, "GET", "http://"+p.addr()+"/", nil, func(r *http.Request) {
			*r = *r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
				GotConn: func(i httptrace.GotConnInfo) { conns[i.Conn.LocalAddr().String()]++ },
			}))
		})
	}
	if len(conns) < 2 {
		t.Errorf("requests by connection: %v", conns)
	}
}

// silentDNS answers nobody until it is let go.
type silentDNS chan struct{}

func (s silentDNS) Lookup(ctx context.Context, host string, _ cluster.DNSFamily) ([]netip.Addr, time.Duration, error) {
	select {
	case <-s:
	case <-ctx.Done():
	}
	return nil, 0, fmt.Errorf("%s: no answer", host)
}

// Who waits for DNS waits alone: the other streams of the connection go on.
func TestAStreamThatWaitsForDNSStopsNoOther(t *testing.T) {
	at := serveHTTP(t, func(http.ResponseWriter, *http.Request) {})
	slow := speaking(true, "slow")
	slow.Kind = cluster.StrictDNS
	slow.Endpoints.Localities[0].Endpoints = []cluster.Endpoint{{Host: "slow.example", Port: 80}}
	dns := make(silentDNS)
	p := start(t, &setup{routes: []*router.Route{to("/slow", "slow"), to("/", "cart")}, clusters: []*cluster.Spec{slow, speaking(true, "cart", at)}, resolver: dns})
	c := client(t, true)
	do(t, c, "GET", "http://"+p.addr()+"/", nil, nil)
	waited, sent := make(chan int, 1), make(chan struct{})
	r, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		WroteRequest: func(httptrace.WroteRequestInfo) { close(sent) },
	}), "GET", "http://"+p.addr()+"/slow", nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		res, err := c.Do(r)
		if err != nil {
			t.Error(err)
			waited <- 0
			return
		}
		res.Body.Close()
		waited <- res.StatusCode
	}()
	<-sent
	for range 3 {
		do(t, c, "GET", "http://"+p.addr()+"/", nil, nil)
	}
	select {
	case status := <-waited:
		t.Errorf("the others waited for the first one, which got %d", status)
	default:
	}
	close(dns)
	if status := <-waited; status != http.StatusServiceUnavailable {
		t.Errorf("the first one got %d", status)
	}
}

// Where the endpoint answers expectations, its answer decides whether the body
// is sent (Envoy: proxy_100_continue).
func TestExpectationsThatAreTheEndpointsToAnswer(t *testing.T) {
	pass := func(t *testing.T, down, up bool) {
		at := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/refused" {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			n, _ := io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, n)
		})
		p := start(t, &setup{manager: &listener.HTTPManager{Proxy100Continue: true}, routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{speaking(up, "cart", at)}})
		c := client(t, down)
		c.Transport.(*http.Transport).ExpectContinueTimeout = 15 * time.Second
		for path, want := range map[string]string{"/taken": "200 5", "/refused": "403 "} {
			sent := &readCount{Reader: strings.NewReader("hello")}
			begun := time.Now()
			res, body := do(t, c, "POST", "http://"+p.addr()+path, sent, func(r *http.Request) { r.Header.Set("Expect", "100-continue") })
			if got := fmt.Sprint(res.StatusCode, " ", body); got != want || time.Since(begun) > 14*time.Second {
				t.Errorf("%s: %q after %v", path, got, time.Since(begun))
			}
			if n := sent.n.Load(); (n > 0) != (res.StatusCode == 200) {
				t.Errorf("%s: %d bytes were sent", path, n)
			}
		}
	}
	eachPair(t, pass)
	t.Run("h1 to h1", func(t *testing.T) { pass(t, false, false) })
}

// readCount counts the bytes that are read.
type readCount struct {
	io.Reader
	n atomic.Int64
}

func (r *readCount) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.n.Add(int64(n))
	return n, err
}

func TestARouteMayTakeTheManagersBoundsOff(t *testing.T) {
	at := serveHTTP(t, func(http.ResponseWriter, *http.Request) { <-time.After(300 * time.Millisecond) })
	free := to("/free", "cart")
	free.Forward.IdleTimeout, free.Forward.MaxStreamDuration = router.NoBound, router.NoBound
	for name, m := range map[string]*listener.HTTPManager{
		"idle":     {StreamIdleTimeout: 100 * time.Millisecond},
		"duration": {MaxStreamDuration: 100 * time.Millisecond},
	} {
		p := start(t, &setup{manager: m, routes: []*router.Route{free, to("/", "cart")}, clusters: []*cluster.Spec{speaking(false, "cart", at)}})
		for _, down := range []bool{true, false} {
			for path, want := range map[string]int{"/free": 200, "/": 504} {
				if res, _ := do(t, client(t, down), "GET", "http://"+p.addr()+path, nil, nil); res.StatusCode != want {
					t.Errorf("%s, %s %s: %d, want %d", name, version(down), path, res.StatusCode, want)
				}
			}
		}
	}
}
