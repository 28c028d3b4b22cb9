package load_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tullemesh/tulle/internal/demo/load"
)

// runFor runs a load for d of (virtual) time and returns its counts.
func runFor(t *testing.T, d time.Duration, c load.Config) load.Stats {
	t.Helper()
	g, err := load.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if err := g.Run(ctx); err != nil {
		t.Fatal(err)
	}
	return g.Stats()
}

// after is a server that answers status 200 after d.
func after(d time.Duration) func(context.Context, uint64) load.Result {
	return func(ctx context.Context, _ uint64) load.Result {
		select {
		case <-time.After(d):
			return load.Result{Status: 200}
		case <-ctx.Done():
			return load.Result{Err: ctx.Err()}
		}
	}
}

func TestRateIsKeptWhateverTheServerDoes(t *testing.T) {
	for _, answer := range []time.Duration{0, 3 * time.Millisecond, 700 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			s := runFor(t, 10*time.Second+time.Millisecond, load.Config{Rate: 50, InFlight: 100, Timeout: time.Second, Send: after(answer)})
			if s.Sent != 501 || s.Dropped != 0 { // at 0 s, 0.02 s ... 10 s
				t.Errorf("answers after %v: sent %d, dropped %d, want 501 and 0", answer, s.Sent, s.Dropped)
			}
			if s.Success() != 1 || s.Failed != 0 {
				t.Errorf("answers after %v: success %v, failed %d", answer, s.Success(), s.Failed)
			}
			if s.P50 < answer || float64(s.P50) > float64(answer)*1.125+1e6 {
				t.Errorf("answers after %v: p50 %v", answer, s.P50)
			}
		})
	}
}

func TestFullFlightDropsAndCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := runFor(t, 995*time.Millisecond, load.Config{Rate: 100, InFlight: 7, Timeout: time.Hour, Send: after(time.Minute)})
		if s.Sent != 7 || s.Dropped != 93 || s.Answered() != 0 {
			t.Errorf("sent %d, dropped %d, answered %d, want 7, 93, 0", s.Sent, s.Dropped, s.Answered())
		}
	})
}

func TestTimeoutIsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := runFor(t, 5*time.Second, load.Config{Rate: 1, InFlight: 10, Timeout: 500 * time.Millisecond, Send: after(time.Minute)})
		if s.Failed != 5 || s.OK != 0 || s.LastError != context.DeadlineExceeded.Error() || s.Success() != 0 {
			t.Errorf("got %+v", s)
		}
		if s.Max != 500*time.Millisecond {
			t.Errorf("latency of a timeout is %v, want 500ms", s.Max)
		}
	})
}

func TestStatusesAndVersionsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := runFor(t, 9*time.Second+time.Millisecond, load.Config{Rate: 10, InFlight: 1, Timeout: time.Second, Send: func(_ context.Context, n uint64) load.Result {
			switch {
			case n%10 == 0:
				return load.Result{Status: 503}
			case n%10 == 1:
				return load.Result{Status: 404}
			case n%10 == 2:
				return load.Result{Err: errors.New("refused")}
			}
			return load.Result{Status: 200, Version: fmt.Sprintf("v%d", n%30)}
		}})
		if s.ServerErrors != 10 || s.ClientErrors != 9 || s.Failed != 9 || s.OK != 63 {
			t.Errorf("5xx %d, 4xx %d, failed %d, ok %d, want 10, 9, 9, 63", s.ServerErrors, s.ClientErrors, s.Failed, s.OK)
		}
		if len(s.Versions) != 17 || s.Versions["other"] == 0 || s.Versions["v3"] != 3 {
			t.Errorf("versions %v, want 16 by name and the rest as other", s.Versions)
		}
	})
}

func TestConfigOutsideItsBoundsIsRefused(t *testing.T) {
	good := load.Config{Rate: load.RateMax, InFlight: load.InFlightMax, Timeout: time.Second, Send: after(0)}
	if _, err := load.New(good); err != nil {
		t.Fatalf("at the limit: %v", err)
	}
	for name, change := range map[string]func(*load.Config){
		"no rate":           func(c *load.Config) { c.Rate = 0 },
		"rate above":        func(c *load.Config) { c.Rate = load.RateMax + 1 },
		"rate is no number": func(c *load.Config) { c.Rate = math.NaN() },
		"nothing in flight": func(c *load.Config) { c.InFlight = 0 },
		"flight above":      func(c *load.Config) { c.InFlight = load.InFlightMax + 1 },
		"no timeout":        func(c *load.Config) { c.Timeout = 0 },
		"no sender":         func(c *load.Config) { c.Send = nil },
	} {
		c := good
		change(&c)
		if _, err := load.New(c); !errors.Is(err, load.ErrConfig) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := load.NewHTTP(); !errors.Is(err, load.ErrConfig) {
		t.Errorf("no target: got %v", err)
	}
}

func TestHTTPTargetsAreTakenInTurn(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && r.Header.Get("End-User") == "tester" {
			_, _ = w.Write([]byte("v2"))
			return
		}
		w.WriteHeader(http.StatusTeapot)
	}))
	defer srv.Close()
	h, err := load.NewHTTP(load.Target{URL: srv.URL}, load.Target{
		Method: http.MethodPost, URL: srv.URL, Header: http.Header{"End-User": {"tester"}}, Version: func(b []byte) string { return string(b) },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for n, want := range []load.Result{{Status: 418}, {Status: 200, Version: "v2"}, {Status: 418}} {
		if got := h.Send(t.Context(), uint64(n)); got != want {
			t.Errorf("request %d: got %+v, want %+v", n, got, want)
		}
	}
	srv.Close()
	if got := h.Send(t.Context(), 0); got.Err == nil || got.Status != 0 {
		t.Errorf("server gone: got %+v", got)
	}
}
