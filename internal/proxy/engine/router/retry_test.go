package router

import (
	"testing"
	"time"
)

func TestRetryConditionsHoldForTheirResponsesOnly(t *testing.T) {
	named := func(names ...string) (on RetryOn) {
		for _, n := range names {
			c, ok := RetryOnNamed(n)
			if !ok {
				t.Fatalf("%q is no condition", n)
			}
			on |= c
		}
		return on
	}
	for _, c := range []struct {
		on      RetryOn
		status  int
		grpc    string
		limited bool
		want    bool
	}{
		{named("5xx"), 500, "", false, true},
		{named("5xx"), 599, "", false, true},
		{named("5xx"), 499, "", false, false},
		{named("5xx"), 503, "", true, false}, // rate-limited responses are not repeated
		{named("5xx", "envoy-ratelimited"), 429, "", true, true},
		{named("envoy-ratelimited"), 503, "", false, false},
		{named("gateway-error"), 501, "", false, false},
		{named("gateway-error"), 502, "", false, true},
		{named("gateway-error"), 504, "", false, true},
		{named("gateway-error"), 505, "", false, false},
		{named("retriable-4xx"), 409, "", false, true},
		{named("retriable-4xx"), 408, "", false, false},
		{named("retriable-status-codes"), 404, "", false, true},
		{named("retriable-status-codes"), 405, "", false, false},
		{named("cancelled"), 200, "1", false, true},
		{named("deadline-exceeded"), 200, "4", false, true},
		{named("resource-exhausted"), 200, "8", false, true},
		{named("internal"), 200, "13", false, true},
		{named("unavailable"), 200, "14", false, true},
		{named("unavailable"), 200, "13", false, false},
		{named("unavailable"), 200, "", false, false},
		{named("connect-failure", "refused-stream", "reset", "reset-before-request", "retriable-headers", "http3-post-connect-failure"), 503, "14", false, false},
	} {
		r := &Retry{On: c.on, Statuses: []int{404}}
		if got := r.OnResponse(c.status, c.grpc, c.limited); got != c.want {
			t.Errorf("%b on %d %q %t: %t", c.on, c.status, c.grpc, c.limited, got)
		}
	}
	if _, ok := RetryOnNamed("sometimes"); ok {
		t.Error("sometimes is a condition")
	}
}

func TestPausesGrowToTheirMaximumAndAreJittered(t *testing.T) {
	r := &Retry{BackOff: 25 * time.Millisecond, BackOffMax: 250 * time.Millisecond}
	const most = ^uint64(0)
	for n, bound := range map[uint32]time.Duration{1: 25, 2: 75, 3: 175, 4: 250, 31: 250, 32: 250, 1000: 250} {
		bound *= time.Millisecond
		if got := r.Pause(n, uint64(bound-1)); got != bound-1 {
			t.Errorf("retry %d: %v, want just below %v", n, got, bound)
		}
		if got := r.Pause(n, uint64(bound)); got != 0 {
			t.Errorf("retry %d: %v for a random number at the bound", n, got)
		}
		if got := r.Pause(n, most); got >= bound {
			t.Errorf("retry %d: %v is beyond %v", n, got, bound)
		}
	}
	if got := (&Retry{}).Pause(3, 7); got != 0 {
		t.Errorf("without a back-off: %v", got)
	}
}
