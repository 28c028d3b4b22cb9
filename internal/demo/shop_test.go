package demo_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/demo"
)

// shop runs all services of the shop on loopback ports of the kernel's choice and tells each where the others are, by environment.
type shop struct {
	run string // TULLE_RUN

	mu      sync.Mutex
	address map[string]string // service → host:port
	ended   map[string]chan error
	stop    map[string]context.CancelFunc
}

// hosts of the shop by the service that serves them, as callers write them.
func hostOf(service string) string {
	if service == "provider" {
		return "provider.bank.example"
	}
	return service
}

func (s *shop) addressOf(service string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.address[service]
}

// env is the environment of a service: extra first, then where the other services are, unless there is an HTTP proxy.
func (s *shop) env(service string, extra map[string]string) func(string) string {
	return func(name string) string {
		if v, ok := extra[name]; ok {
			return v
		}
		switch name {
		case "PORT":
			return "0"
		case "TULLE_RUN":
			return s.run
		case "TULLE_WORKLOAD":
			return service
		}
		for _, other := range demo.Names() {
			prefix := strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(hostOf(other))) + "_SERVICE_"
			if name != prefix+"HOST" && name != prefix+"PORT" || extra["HTTP_PROXY"] != "" && other != "ledger" {
				continue
			}
			host, port, err := net.SplitHostPort(s.addressOf(other))
			if err != nil {
				return ""
			}
			return map[string]string{"HOST": host, "PORT": port}[strings.TrimPrefix(name, prefix)]
		}
		return ""
	}
}

// start starts one service and waits until it accepts.
func (s *shop) start(t *testing.T, service string, extra map[string]string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	started, ended := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		ended <- demo.Run(ctx, service, demo.Options{Env: s.env(service, extra), Started: func(a net.Addr) { started <- a }})
	}()
	select {
	case a := <-started:
		s.mu.Lock()
		s.address[service], s.ended[service], s.stop[service] = a.String(), ended, cancel
		s.mu.Unlock()
	case err := <-ended:
		cancel()
		t.Fatalf("start %s: %v", service, err)
	}
	t.Cleanup(cancel)
}

func newShop(t *testing.T, extra map[string]map[string]string) *shop {
	t.Helper()
	s := &shop{run: t.TempDir(), address: map[string]string{}, ended: map[string]chan error{}, stop: map[string]context.CancelFunc{}}
	for _, n := range demo.Names() {
		s.start(t, n, extra[n])
	}
	t.Cleanup(func() {
		for n, ended := range s.ended {
			s.stop[n]()
			if err, open := <-ended; err != nil && open && !errors.Is(err, demo.ErrCrashed) {
				t.Errorf("%s ended with %v", n, err)
			}
		}
	})
	return s
}

// do sends one request to web and returns status and body.
func (s *shop) do(t *testing.T, method, path string, header http.Header) (int, []byte) {
	t.Helper()
	return request(t, method, "http://"+s.addressOf("web")+path, header)
}

func request(t *testing.T, method, target string, header http.Header) (int, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, b
}

// controlOf is the control socket of a service.
func (s *shop) controlOf(service string) string { return demo.ControlSocket(s.run, service) }

func TestShopSellsByServiceVariables(t *testing.T) {
	s := newShop(t, nil)
	status, body := s.do(t, "GET", "/", nil)
	var page demo.Page
	if err := json.Unmarshal(body, &page); err != nil || status != 200 {
		t.Fatalf("status %d, %v: %s", status, err, body)
	}
	if len(page.Products) != 4 || len(page.Recommendations) != 3 || page.Version != "v1" {
		t.Errorf("page %+v", page)
	}
	for entry := uint64(1); entry <= 3; entry++ {
		status, body = s.do(t, "POST", "/checkout", nil)
		var r demo.Receipt
		if err := json.Unmarshal(body, &r); err != nil || status != 200 {
			t.Fatalf("status %d, %v: %s", status, err, body)
		}
		if r.Entry != entry || r.Version != "v1" || r.Cents != 5900 || r.Authorization != "A5900" || r.Risk != nil {
			t.Errorf("receipt %+v, want entry %d", r, entry)
		}
	}
	if status, body = s.do(t, "GET", "/", http.Header{"Accept": {"text/html"}}); status != 200 || !strings.Contains(string(body), "Mosquito net") {
		t.Errorf("page for a browser: status %d: %s", status, body)
	}
}

func TestShopSellsThroughAnHTTPProxy(t *testing.T) {
	var s *shop
	var mu sync.Mutex
	seen := map[string]http.Header{}
	ready := make(chan struct{})
	proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		<-ready
		mu.Lock()
		seen[r.In.URL.Host] = r.In.Header.Clone()
		mu.Unlock()
		for _, n := range demo.Names() {
			if r.In.URL.Hostname() == hostOf(n) {
				r.SetURL(&url.URL{Scheme: "http", Host: s.addressOf(n)})
			}
		}
	}})
	defer proxy.Close()
	env := map[string]string{"HTTP_PROXY": proxy.URL}
	s = newShop(t, map[string]map[string]string{"web": env, "payment": env})
	close(ready)
	trace := http.Header{
		"X-Request-Id": {"r1"}, "Traceparent": {"00-1-2-01"}, "Tracestate": {"a=b"}, "B3": {"1-2-1"}, "X-B3-Traceid": {"1"}, "X-B3-Spanid": {"2"},
		"X-B3-Parentspanid": {"3"}, "X-B3-Sampled": {"1"}, "X-B3-Flags": {"0"}, "X-Ot-Span-Context": {"c"}, "End-User": {"tester"},
	}
	sent := trace.Clone()
	sent.Set("Cookie", "secret")
	if status, body := s.do(t, "POST", "/checkout", sent); status != 200 {
		t.Fatalf("checkout: status %d: %s", status, body)
	}
	if status, body := s.do(t, "GET", "/", sent); status != 200 {
		t.Fatalf("page: status %d: %s", status, body)
	}
	for _, host := range []string{"payment:8080", "provider.bank.example", "catalog:8080", "recommendations:8080"} {
		got, ok := seen[host]
		if !ok {
			t.Errorf("no call to %s passed the proxy, only to %d others", host, len(seen))
			continue
		}
		for k, v := range trace {
			if got.Get(k) != v[0] {
				t.Errorf("call to %s carries %s %q, want %q", host, k, got.Get(k), v[0])
			}
		}
		if got.Get("Cookie") != "" {
			t.Errorf("call to %s carries the user's cookie", host)
		}
	}
}

func TestPaymentV2KnowsTheRisk(t *testing.T) {
	s := newShop(t, map[string]map[string]string{"payment": {"VERSION": "v2"}})
	_, body := s.do(t, "POST", "/checkout", nil)
	if demo.ReceiptVersion(body) != "v2" || !strings.Contains(string(body), `"risk":0`) {
		t.Errorf("got %s", body)
	}
	if v := demo.ReceiptVersion([]byte(`{"error":"no"}`)); v != "" {
		t.Errorf("version of an error is %q", v)
	}
}

func TestPageLivesWithoutRecommendationsButNotWithoutCatalog(t *testing.T) {
	s := newShop(t, nil)
	if err := demo.SetSwitches(t.Context(), s.controlOf("recommendations"), demo.Switches{FailPercent: 100, Version: "v1"}); err != nil {
		t.Fatal(err)
	}
	if status, body := s.do(t, "GET", "/", nil); status != 200 || strings.Contains(string(body), "tutu\"]") {
		t.Errorf("without recommendations: status %d: %s", status, body)
	}
	if err := demo.SetSwitches(t.Context(), s.controlOf("catalog"), demo.Switches{FailPercent: 100, Version: "v1"}); err != nil {
		t.Fatal(err)
	}
	if status, body := s.do(t, "GET", "/", nil); status != 502 || !strings.Contains(string(body), "fail switch") {
		t.Errorf("without catalog: status %d: %s", status, body)
	}
}

func TestSwitchesChangeARunningService(t *testing.T) {
	s := newShop(t, nil)
	socket := s.controlOf("ledger")
	if err := demo.SetSwitches(t.Context(), socket, demo.Switches{FailPercent: 100, Version: "v9"}); err != nil {
		t.Fatal(err)
	}
	if status, body := s.do(t, "POST", "/checkout", nil); status != 502 || !strings.Contains(string(body), "ledger answered") {
		t.Errorf("ledger failing: status %d: %s", status, body)
	}
	if got, err := demo.GetSwitches(t.Context(), socket); err != nil || got != (demo.Switches{FailPercent: 100, Version: "v9"}) {
		t.Errorf("switches %+v, %v", got, err)
	}
	if err := demo.SetSwitches(t.Context(), socket, demo.Switches{SlowMillis: 80, Version: "v9"}); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if status, _ := s.do(t, "POST", "/checkout", nil); status != 200 || time.Since(start) < 80*time.Millisecond {
		t.Errorf("ledger slow: status %d after %v, want 200 after 80ms or more", status, time.Since(start))
	}
	for name, bad := range map[string]demo.Switches{
		"slow below": {SlowMillis: -1, Version: "v1"}, "slow above": {SlowMillis: 60_001, Version: "v1"}, "fail above": {FailPercent: 101, Version: "v1"},
		"no version": {}, "version is a path": {Version: "../v1"},
	} {
		if err := demo.SetSwitches(t.Context(), socket, bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if got, err := demo.GetSwitches(t.Context(), socket); err != nil || got.SlowMillis != 80 {
		t.Errorf("after refused changes: %+v, %v", got, err)
	}
}

func TestCrashEndsTheServiceAndARestartTakesItsSocketOver(t *testing.T) {
	s := newShop(t, nil)
	if err := demo.Crash(t.Context(), s.controlOf("catalog")); err != nil {
		t.Fatal(err)
	}
	if err := <-s.ended["catalog"]; !errors.Is(err, demo.ErrCrashed) {
		t.Fatalf("ended with %v", err)
	}
	if status, _ := s.do(t, "GET", "/", nil); status != 502 {
		t.Errorf("catalog is gone: status %d, want 502", status)
	}
	var lc net.ListenConfig // what a killed service leaves: a socket file that nobody serves
	left, err := lc.Listen(t.Context(), "unix", s.controlOf("catalog"))
	if err != nil {
		t.Fatal(err)
	}
	left.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = left.Close()
	s.start(t, "catalog", nil)
	if status, _ := s.do(t, "GET", "/", nil); status != 200 {
		t.Errorf("catalog is back: status %d, want 200", status)
	}
	if _, err := demo.GetSwitches(t.Context(), s.controlOf("catalog")); err != nil {
		t.Errorf("control socket of the restarted service: %v", err)
	}
}

func TestRunningRequestsFinishAtShutdown(t *testing.T) {
	s := newShop(t, nil)
	if err := demo.SetSwitches(t.Context(), s.controlOf("web"), demo.Switches{SlowMillis: 150, Version: "v1"}); err != nil {
		t.Fatal(err)
	}
	type answer struct {
		status int
		body   []byte
	}
	got := make(chan answer, 1)
	conn := make(chan struct{})
	go func() {
		close(conn)
		status, body := s.do(t, "POST", "/checkout", nil)
		got <- answer{status, body}
	}()
	<-conn
	wait := time.NewTimer(50 * time.Millisecond) // the request has arrived and is waiting in its switch
	defer wait.Stop()
	<-wait.C
	s.stop["web"]()
	if a := <-got; a.status != 200 {
		t.Errorf("request during shutdown: status %d: %s", a.status, a.body)
	}
}

func TestLedgerSpeaksFirstAndRefusesNonsense(t *testing.T) {
	s := newShop(t, nil)
	var d net.Dialer
	c, err := d.DialContext(t.Context(), "tcp", s.addressOf("ledger"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := bufio.NewReader(c)
	say := func(line string) string {
		t.Helper()
		if line != "" {
			if _, err := io.WriteString(c, line+"\n"); err != nil {
				t.Fatal(err)
			}
		}
		got, err := r.ReadString('\n')
		if err != nil {
			t.Fatalf("after %q: %v", line, err)
		}
		return strings.TrimSpace(got)
	}
	for _, step := range []struct{ say, want string }{
		{"", "LEDGER 1 v1"},
		{"POST 100", "OK 1 100"}, {"POST 1\r", "OK 2 101"}, {"POST 100000000", "OK 3 100000101"},
		{"POST 0", "ERR amount"}, {"POST -5", "ERR amount"}, {"POST 100000001", "ERR amount"}, {"POST", "ERR amount"}, {"POST 1 2", "ERR amount"},
		{"post 1", "ERR unknown verb"}, {" ", "ERR unknown verb"},
		{"QUIT", "BYE"},
	} {
		if got := say(step.say); !strings.HasPrefix(got, step.want) {
			t.Errorf("%q: got %q, want %q", step.say, got, step.want)
		}
	}
	if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("after BYE: %v, want the end", err)
	}
}

func TestLedgerLineLimit(t *testing.T) {
	s := newShop(t, nil)
	for length, want := range map[int]string{255: "ERR unknown verb", 256: "ERR a line is at most 256 bytes"} {
		var d net.Dialer
		c, err := d.DialContext(t.Context(), "tcp", s.addressOf("ledger"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(c, "%s\n", strings.Repeat("x", length)); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(c)
		_, _ = r.ReadString('\n')
		if got, _ := r.ReadString('\n'); !strings.HasPrefix(got, want) {
			t.Errorf("line of %d bytes: got %q, want %q", length, got, want)
		}
		_ = c.Close()
	}
}

func TestPaymentRefusesOddAmounts(t *testing.T) {
	s := newShop(t, nil)
	for _, q := range []string{"", "?cents=0", "?cents=-1", "?cents=x", "?cents=100000001", "?cents=99999999999999999999"} {
		if status, body := request(t, "GET", "http://"+s.addressOf("payment")+"/pay"+q, nil); status != 400 {
			t.Errorf("%q: status %d: %s", q, status, body)
		}
	}
}

func TestUnknownServiceAndTakenPortAreErrors(t *testing.T) {
	if err := demo.Run(t.Context(), "nginx", demo.Options{}); !errors.Is(err, demo.ErrUnknownService) {
		t.Errorf("unknown service: %v", err)
	}
	s := newShop(t, nil)
	_, port, _ := net.SplitHostPort(s.addressOf("web"))
	err := demo.Run(t.Context(), "web", demo.Options{Env: func(n string) string { return map[string]string{"PORT": port}[n] }})
	if err == nil || !strings.Contains(err.Error(), "listen for demo service web") {
		t.Errorf("taken port: %v", err)
	}
	err = demo.Run(t.Context(), "web", demo.Options{Env: func(n string) string {
		return map[string]string{"TULLE_RUN": filepath.Join(s.run, "missing"), "TULLE_WORKLOAD": "web"}[n]
	}})
	if err == nil || !strings.Contains(err.Error(), "control socket") {
		t.Errorf("no run directory: %v", err)
	}
}
