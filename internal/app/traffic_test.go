package app

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// exposition is what a proxy's admin port would show.
func exposition(reporter, service, version, code string, total int, buckets ...string) string {
	labels := fmt.Sprintf(`reporter=%q,destination_version=%q,destination_service_name=%q,destination_service_namespace="shop",response_code=%q,note="a,b=\"c\" }"`, reporter, version, service, code)
	text := fmt.Sprintf("# TYPE istio_requests_total counter\nistio_requests_total{%s} %d\n", labels, total)
	for _, b := range buckets {
		le, n, _ := strings.Cut(b, ":")
		text += fmt.Sprintf("istio_request_duration_milliseconds_bucket{%s,le=%q} %s\n", labels, le, n)
	}
	return text + "up 1\nbroken{ 3\n"
}

func sample(at time.Duration, texts ...string) *TrafficSample {
	s := &TrafficSample{at: time.Unix(0, 0).Add(at), received: map[serviceKey]*signals{}, sent: map[serviceKey]*signals{}}
	for _, t := range texts {
		s.add([]byte(t))
	}
	return s
}

func TestTrafficIsWhatGrewBetweenTwoLooks(t *testing.T) {
	before := sample(0,
		exposition("destination", "pay", "v1", "200", 100, "1:100", "5:100", "+Inf:100"),
		exposition("source", "pay", "v1", "200", 100),
		exposition("source", "bank", "unknown", "200", 7))
	now := sample(2*time.Second,
		exposition("destination", "pay", "v1", "200", 170, "1:100", "5:170", "+Inf:170"),
		exposition("destination", "pay", "v2", "200", 20, "1:20", "5:20", "+Inf:20"),
		exposition("destination", "pay", "v2", "503", 10, "1:0", "5:10", "+Inf:10"),
		exposition("source", "pay", "v1", "200", 900), // both sides count: one is enough
		exposition("source", "bank", "unknown", "200", 9))
	traffic := now.Since(before)
	about := cmpopts.EquateApprox(0, 0.01)
	// 100 requests: 20 within 1 ms, 80 between 1 and 5 ms.
	want := &Traffic{PerSecond: 50, Success: 0.9, P50: 1 + 4*30.0/80, P95: 1 + 4*75.0/80, Versions: map[string]float64{"v1": 0.7, "v2": 0.3}}
	if d := cmp.Diff(want, traffic("pay", "shop"), about); d != "" {
		t.Error(d)
	}
	if got := traffic("bank", "shop"); got == nil || got.PerSecond != 1 {
		t.Errorf("a service without a proxy is known by its callers: %+v", got)
	}
	if got := traffic("nobody", "shop"); got != nil {
		t.Errorf("a service that nobody counts: %+v", got)
	}
}

func TestRestartedProxyCountsFromZero(t *testing.T) {
	before := sample(0, exposition("destination", "pay", "v1", "503", 100, "1:100", "+Inf:100"))
	now := sample(time.Second, exposition("destination", "pay", "v1", "503", 3, "1:3", "+Inf:3"))
	got := now.Since(before)("pay", "shop")
	if got.PerSecond != 0 || got.Success != 1 || got.P50 != 0 {
		t.Errorf("%+v", got)
	}
	if rps, success, p50, p95 := got.Cells(); rps != "0.0" || success != "-" || p50 != "-" || p95 != "-" {
		t.Error(rps, success, p50, p95)
	}
}

func TestQuantileOfTheOverflowBucketIsItsLowerBound(t *testing.T) {
	if got := quantile(map[float64]float64{10: 0, math.Inf(1): 4}, 0.5); got != 10 {
		t.Errorf("got %v, want 10", got)
	}
}

func TestStatusReadsTheRunningProxies(t *testing.T) {
	var looks atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/stats/prometheus" {
			http.NotFound(w, r)
			return
		}
		_, _ = fmt.Fprint(w, exposition("destination", "pay", "v1", "200", int(100*looks.Add(1)), "1:0", "+Inf:0"))
	}))
	defer proxy.Close()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	s := &MeshStatus{Services: []ServiceStatus{{Name: "pay", Namespace: "shop"}, {Name: "quiet", Namespace: "shop"}}}
	s.WatchTraffic(context.Background(), &Running{Proxies: []RunningProxy{{Admin: proxy.Listener.Addr().String()}, {Admin: gone.Listener.Addr().String()}}})
	if got := s.Services[0].Traffic; got == nil || got.PerSecond < 50 || got.PerSecond > 101 {
		t.Errorf("pay: %+v, want 100 requests in a second", got)
	}
	if got := s.Services[1].Traffic; got != nil {
		t.Errorf("quiet: %+v", got)
	}
}
