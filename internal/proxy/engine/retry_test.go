package engine

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/observe"
	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/exchange"
	"github.com/tullemesh/tulle/internal/proxy/engine/generation"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

// eachVersion runs a test for all pairs of versions of HTTP.
func eachVersion(t *testing.T, f func(t *testing.T, down, up bool)) {
	eachPair(t, f)
	t.Run("h1 to h1", func(t *testing.T) { f(t, false, false) })
}

// attempts is a backend that answers each attempt as a script says and keeps
// what came.
type attempts struct {
	answer func(n int, w http.ResponseWriter, r *http.Request, body string)

	mu   sync.Mutex
	seen []string // attempt count and body
}

func (a *attempts) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the proxy left
	}
	a.mu.Lock()
	a.seen = append(a.seen, r.Header.Get("X-Envoy-Attempt-Count")+" "+string(body))
	n := len(a.seen)
	a.mu.Unlock()
	a.answer(n, w, r, string(body))
}

func (a *attempts) all() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]string(nil), a.seen...)
}

// retrying starts a proxy whose only route has a retry policy.
func retrying(t *testing.T, up bool, a *attempts, r *router.Retry, edit func(*router.Forward, *cluster.Spec)) *proxy {
	t.Helper()
	route := to("/", "cart")
	route.Forward.Retry = r
	spec := speaking(up, "cart", serveHTTP(t, a.ServeHTTP))
	if edit != nil {
		edit(route.Forward, spec)
	}
	counted, err := router.NewTable("routes", []*router.VirtualHost{{Name: "all", Domains: []string{"*"}, Routes: []*router.Route{route}, AttemptCount: true}}, router.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return start(t, &setup{routes: []*router.Route{route}, clusters: []*cluster.Spec{spec},
		extra: func(p *generation.Parts) { p.Tables["routes"] = counted }})
}

func failing(times, status int) func(int, http.ResponseWriter, *http.Request, string) {
	return func(n int, w http.ResponseWriter, _ *http.Request, body string) {
		if n <= times {
			w.WriteHeader(status)
			return
		}
		_, _ = io.WriteString(w, "got "+body)
	}
}

func TestAPolicyRepeatsWhatItsConditionsName(t *testing.T) {
	const three = 3
	eachVersion(t, func(t *testing.T, down, up bool) {
		for _, c := range []struct {
			name           string
			retry          router.Retry
			fails, status  int
			attempts, want int
			flag           string
		}{
			{"a 503 that passes", router.Retry{On: router.On5xx, Retries: three}, 2, 503, 3, 200, "-"},
			{"a 503 that stays", router.Retry{On: router.OnGatewayError, Retries: 2}, 9, 503, 3, 503, "URX"},
			{"another status", router.Retry{On: router.OnGatewayError, Retries: 2}, 9, 500, 1, 500, "-"},
			{"a status by its number", router.Retry{On: router.OnStatuses, Statuses: []int{404}, Retries: 1}, 1, 404, 2, 200, "-"},
			{"a conflict", router.Retry{On: router.OnRetriable4xx, Retries: 1}, 1, 409, 2, 200, "-"},
		} {
			t.Run(c.name, func(t *testing.T) {
				a := &attempts{answer: failing(c.fails, c.status)}
				p := retrying(t, up, a, &c.retry, nil)
				res, body := do(t, client(t, down), "POST", "http://"+p.addr()+"/pay", strings.NewReader("amount"), nil)
				if res.StatusCode != c.want || c.want == 200 && body != "got amount" {
					t.Errorf("%d %q, want %d", res.StatusCode, body, c.want)
				}
				var want []string
				for i := range c.attempts {
					want = append(want, fmt.Sprintf("%d amount", i+1))
				}
				if got := a.all(); strings.Join(got, ",") != strings.Join(want, ",") {
					t.Errorf("the backend saw %q, want %q", got, want)
				}
				if log := p.logged(); !strings.Contains(log, fmt.Sprintf(" %d %s ", c.want, c.flag)) {
					t.Errorf("log %q, want flag %s", log, c.flag)
				}
				if n := p.registry.Sum("tulle_requests_retried_total"); int(n) != c.attempts-1 {
					t.Errorf("%v retries counted", n)
				}
				if n := p.registry.Sum("istio_requests_total"); n != 1 {
					t.Errorf("%v requests counted, want 1", n)
				}
			})
		}
	})
}

func TestAPolicyRepeatsGRPCStatuses(t *testing.T) {
	eachVersion(t, func(t *testing.T, down, up bool) {
		for _, c := range []struct {
			on     router.RetryOn
			status string
			want   int // attempts
		}{
			{router.OnUnavailable, "14", 2}, {router.OnCancelled, "1", 2}, {router.OnDeadlineExceeded, "4", 2},
			{router.OnInternal, "13", 2}, {router.OnResourceExhausted, "8", 2}, {router.OnUnavailable, "13", 1},
		} {
			a := &attempts{answer: func(n int, w http.ResponseWriter, _ *http.Request, _ string) {
				w.Header().Set("Content-Type", "application/grpc")
				w.Header().Set("Grpc-Status", "0")
				if n == 1 {
					w.Header().Set("Grpc-Status", c.status)
				}
			}}
			p := retrying(t, up, a, &router.Retry{On: c.on, Retries: 1}, nil)
			res, _ := do(t, client(t, down), "POST", "http://"+p.addr()+"/test.Pay/Do", nil, func(r *http.Request) { r.Header.Set("Content-Type", "application/grpc") })
			want := "0"
			if c.want == 1 {
				want = c.status
			}
			if got := res.Header.Get("Grpc-Status"); got != want || len(a.all()) != c.want {
				t.Errorf("grpc-status %s after %d attempts, want %s after %d", got, len(a.all()), want, c.want)
			}
			p.stop()
		}
	})
}

func TestEachAttemptHasItsBound(t *testing.T) {
	eachVersion(t, func(t *testing.T, down, up bool) {
		left := make(chan struct{}, 4)
		a := &attempts{answer: func(n int, w http.ResponseWriter, r *http.Request, _ string) {
			if n <= 2 {
				<-r.Context().Done() // the proxy gives up
				left <- struct{}{}
			}
		}}
		p := retrying(t, up, a, &router.Retry{On: router.On5xx, Retries: 2, PerTry: 50 * time.Millisecond}, nil)
		if res, _ := do(t, client(t, down), "GET", "http://"+p.addr()+"/", nil, nil); res.StatusCode != 200 {
			t.Errorf("%d", res.StatusCode)
		}
		<-left
		<-left
		b := &attempts{answer: func(_ int, _ http.ResponseWriter, r *http.Request, _ string) { <-r.Context().Done() }}
		p = retrying(t, up, b, &router.Retry{On: router.On5xx, Retries: 1, PerTry: 30 * time.Millisecond}, nil)
		res, _ := do(t, client(t, down), "GET", "http://"+p.addr()+"/", nil, nil)
		if log := p.logged(); res.StatusCode != 504 || !strings.Contains(log, " 504 UT,URX ") {
			t.Errorf("%d, log %q", res.StatusCode, log)
		}
	})
}

func TestTheRouteTimeoutCoversAllAttempts(t *testing.T) {
	eachVersion(t, func(t *testing.T, down, up bool) {
		a := &attempts{answer: func(_ int, w http.ResponseWriter, _ *http.Request, _ string) { w.WriteHeader(503) }}
		p := retrying(t, up, a, &router.Retry{On: router.On5xx, Retries: 1 << 20, BackOff: 20 * time.Millisecond, BackOffMax: 20 * time.Millisecond},
			func(f *router.Forward, _ *cluster.Spec) { f.Timeout = 300 * time.Millisecond })
		begun := time.Now()
		res, _ := do(t, client(t, down), "GET", "http://"+p.addr()+"/", nil, nil)
		if took := time.Since(begun); res.StatusCode != 504 || took > 5*time.Second {
			t.Errorf("%d after %v", res.StatusCode, took)
		}
		if n := len(a.all()); n < 3 {
			t.Errorf("%d attempts in 300 ms", n)
		}
		if log := p.logged(); !strings.Contains(log, " 504 UT ") {
			t.Errorf("log %q", log)
		}
	})
}

func TestABodyThatWasKeptIsSentAgainAndALargerOneIsNot(t *testing.T) {
	eachVersion(t, func(t *testing.T, down, up bool) {
		for size, want := range map[int]int{exchange.ReplayBytesMax / 2: 200, 4 * exchange.ReplayBytesMax: 503} {
			a := &attempts{answer: failing(1, 503)}
			p := retrying(t, up, a, &router.Retry{On: router.On5xx, Retries: 1}, nil)
			sentBody := strings.Repeat("x", size)
			r, w := io.Pipe() // chunked, in two parts
			go func() {
				_, _ = io.WriteString(w, sentBody[:size/2])
				_, _ = io.WriteString(w, sentBody[size/2:])
				w.Close()
			}()
			res, body := do(t, client(t, down), "POST", "http://"+p.addr()+"/", r, nil)
			if res.StatusCode != want || want == 200 && body != "got "+sentBody {
				t.Errorf("%d bytes: %d with %d bytes, want %d", size, res.StatusCode, len(body), want)
			}
			if n := p.registry.Sum("tulle_retries_abandoned_total"); (n == 1) != (want == 503) {
				t.Errorf("%d bytes: %v retries abandoned", size, n)
			}
			p.stop()
		}
	})
}

func TestAClusterBoundsItsRetries(t *testing.T) {
	held := make(chan struct{})
	first := make(chan struct{})
	a := &attempts{}
	a.answer = func(n int, w http.ResponseWriter, r *http.Request, _ string) {
		switch {
		case r.URL.Path == "/held" && n == 2: // its retry is under way
			close(first)
			<-held
		default:
			w.WriteHeader(503)
		}
	}
	p := retrying(t, false, a, &router.Retry{On: router.On5xx, Retries: 1}, func(_ *router.Forward, s *cluster.Spec) { s.MaxRetries = 1 })
	var wg sync.WaitGroup
	wg.Go(func() { do(t, client(t, false), "GET", "http://"+p.addr()+"/held", nil, nil) })
	<-first
	res, _ := do(t, client(t, false), "GET", "http://"+p.addr()+"/other", nil, nil)
	close(held)
	wg.Wait()
	if got := len(a.all()); res.StatusCode != 503 || got != 3 {
		t.Errorf("%d, %d attempts; want the second request's 503 without a retry", res.StatusCode, got)
	}
	p.stop() // counting comes after the answer
	if n := p.registry.Sum("istio_requests_total", observe.Label{Name: "response_flags", Value: "UO"}); n != 1 {
		t.Errorf("%v requests with flag UO", n)
	}
}

func TestConnectFailuresAreRepeatedByPolicyToo(t *testing.T) {
	eachVersion(t, func(t *testing.T, down, up bool) {
		route := to("/", "cart")
		route.Forward.Retry = &router.Retry{On: router.OnConnectFailure, Retries: 5}
		p := start(t, &setup{routes: []*router.Route{route}, clusters: []*cluster.Spec{speaking(up, "cart", dead(t))}})
		res, _ := do(t, client(t, down), "POST", "http://"+p.addr()+"/", strings.NewReader("x"), nil)
		if log := p.logged(); res.StatusCode != 503 || !strings.Contains(log, " 503 UF,URX ") {
			t.Errorf("%d, log %q", res.StatusCode, log)
		}
		if n := p.registry.Sum("tulle_requests_retried_total"); n != 5 {
			t.Errorf("%v retries", n)
		}
	})
}
