package cli

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tullemesh/tulle/internal/app"
	"github.com/tullemesh/tulle/internal/cli/call"
	"github.com/tullemesh/tulle/internal/wire"
)

func TestOneMistakeIsToldOnceHoweverManyProxiesRefuseIt(t *testing.T) {
	rejected := func(names ...string) []wire.Rejection {
		var out []wire.Rejection
		for _, n := range names {
			out = append(out, wire.Rejection{Name: n, Reason: "route r: a regular expression is too long"})
		}
		return out
	}
	proxies := []app.ProxyStatus{
		{Name: "web-v1.default", Type: "sidecar", Connected: time.Now(), Types: []app.TypeStatus{{Type: "RDS", Resources: 5, State: "NACKED", Rejected: rejected("80", "81", "82", "83", "84")}}},
		{Name: "pay-v1.default", Type: "sidecar", Connected: time.Now(), Types: []app.TypeStatus{{Type: "RDS", Resources: 2, State: "NACKED", Rejected: rejected("80", "85")}}},
		{Name: "old.default", Type: "router", Connected: time.Now(), Types: []app.TypeStatus{{Type: "LDS", State: "NACKED", Message: "no listener for me"}}},
	}
	var out bytes.Buffer
	c := &console{Streams: call.Streams{Out: &out}}
	if err := c.writeProxies(proxies); err != nil {
		t.Fatal(err)
	}
	want := `NAME            TYPE     CDS  LDS         EDS  RDS         VHDS  CONNECTED  IDENTITY
web-v1.default  sidecar  -    -           -    NACKED (5)  -     0s         plaintext
pay-v1.default  sidecar  -    -           -    NACKED (2)  -     0s         plaintext
old.default     router   -    NACKED (0)  -    -           -     0s         plaintext

RDS refused by web-v1.default, pay-v1.default: 80, 81, 82 and 3 more
  route r: a regular expression is too long

LDS refused by old.default: the whole response
  no listener for me
`
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Error(d)
	}
}

func TestLiveViewShowsSignalsAndTheShareOfEachVersion(t *testing.T) {
	s := &app.MeshStatus{Services: []app.ServiceStatus{
		{Name: "pay", Ready: 2, Endpoints: 2, MTLS: "STRICT", Traffic: &app.Traffic{PerSecond: 10, Success: 0.95, P50: 2.5, P95: 12, Versions: map[string]float64{"v1": 0.9, "v2": 0.1}}},
		{Name: "ledger", Ready: 0, Endpoints: 1, MTLS: "STRICT"},
		{Name: "web", Ready: 1, Endpoints: 1, MTLS: "STRICT", Traffic: &app.Traffic{Success: 1}},
	}}
	got := view(s, []app.ProcessState{{Name: "ledger-v1", Phase: app.PhaseFailed}, {Name: "web-v1", Phase: app.PhaseServing}}, "20 rps")
	want := `SERVICE  STATE   ENDPOINTS  MTLS    RPS   SUCCESS  P50    P95   VERSIONS
pay      ready   2/2        STRICT  10.0  95.00%   2.5ms  12ms  v1 90% v2 10%
ledger   failed  0/1        STRICT  -     -        -      -     -
web      ready   1/1        STRICT  0.0   -        -      -     -

load   20 rps
`
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
