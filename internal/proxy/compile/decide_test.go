package compile_test

import (
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tullemesh/tulle/internal/proxy/compile"
	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
	"github.com/tullemesh/tulle/internal/proxy/engine/generation"
	"github.com/tullemesh/tulle/internal/wire"
)

// headers are a request's headers in a test.
type headers map[string]string

func (h headers) Get(name string) ([]byte, bool) {
	v, ok := h[name]
	return []byte(v), ok
}

func request(method, host, path string, h headers) *fact.Request {
	return &fact.Request{Protocol: fact.HTTP11, Method: []byte(method), Scheme: []byte("http"), Authority: []byte(host), Path: []byte(path), Headers: h}
}

// outbound is a connection that an application made, redirected to 15001.
func outbound(to string) *fact.Conn {
	return &fact.Conn{
		Local: netip.MustParseAddrPort(to), Direct: netip.MustParseAddrPort("127.0.0.1:15001"),
		Remote: netip.MustParseAddrPort("10.10.1.1:40000"), ALPN: []string{"http/1.1"},
	}
}

// inbound is a connection to the workload, redirected to 15006.
func inbound(to string, edit func(*fact.Conn)) *fact.Conn {
	c := &fact.Conn{
		Local: netip.MustParseAddrPort(to), Direct: netip.MustParseAddrPort("127.0.0.1:15006"),
		Remote: netip.MustParseAddrPort("10.10.3.1:40000"), ALPN: []string{"http/1.1"},
	}
	if edit != nil {
		edit(c)
	}
	return c
}

func recordedConfig(t testing.TB, scenario, client string, edits ...string) *generation.Config {
	t.Helper()
	s := stream{}
	base := filepath.Join(recordings(t), scenario, client+"-delta")
	s.replay(t, base+".bin")
	for _, e := range edits {
		s.replay(t, base+"."+e+".bin")
	}
	withoutUnbuilt(t, s)
	b := compile.NewBuilder(compile.New())
	s.feed(b, stream{}, time.Time{})
	cfg, _ := b.Build(time.Time{}.Add(time.Hour))
	return cfg
}

type decided struct {
	Outcome     generation.Outcome
	Status      int
	Error       generation.ErrorKind
	VirtualHost string
	Cluster     string
	Weights     map[string]uint32
	Location    string
	Origin      string
}

func summary(d generation.Decision) decided {
	out := decided{Outcome: d.Outcome, Status: d.Status, Error: d.Error, Cluster: d.Cluster, Location: d.Location, Origin: d.Origin()}
	if d.VirtualHost != nil {
		out.VirtualHost = d.VirtualHost.Name
	}
	if len(d.Weights) > 1 {
		out.Weights = d.Weights
	}
	return out
}

const (
	reviews   = "outbound|9080||reviews.bookinfo.svc.cluster.local"
	reviewsV1 = "outbound|9080|v1|reviews.bookinfo.svc.cluster.local"
	reviewsV2 = "outbound|9080|v2|reviews.bookinfo.svc.cluster.local"
	reviewsV3 = "outbound|9080|v3|reviews.bookinfo.svc.cluster.local"
)

func TestRecordedRoutingDecidesAsIstioMeans(t *testing.T) {
	t.Parallel()
	plain := recordedConfig(t, "s1-plain", "sidecar")
	routing := recordedConfig(t, "s2-routing", "sidecar")
	edited := recordedConfig(t, "s2-routing", "sidecar", "edit-1-virtualservice")
	const reviewsVIP = "10.96.0.3:9080"
	cases := map[string]struct {
		cfg  *generation.Config
		conn *fact.Conn
		req  *fact.Request
		want func(*decided)
	}{
		"a service by its host": {cfg: plain, conn: outbound(reviewsVIP), req: request("GET", "reviews:9080", "/reviews/0", nil), want: func(d *decided) {
			d.Outcome, d.Cluster, d.VirtualHost = generation.Forward, reviews, "reviews.bookinfo.svc.cluster.local:9080"
		}},
		"a host nobody registered passes through": {cfg: plain, conn: outbound("192.0.2.1:9080"), req: request("GET", "example.org", "/", nil), want: func(d *decided) {
			d.Outcome, d.Cluster, d.VirtualHost = generation.Passthrough, wire.PassthroughCluster, wire.AllowAny
		}},
		"bytes to an unknown port pass through": {cfg: plain, conn: outbound("192.0.2.1:5432"), want: func(d *decided) {
			d.Outcome, d.Cluster = generation.Passthrough, wire.PassthroughCluster
		}},
		"jason sees v2": {cfg: routing, conn: outbound(reviewsVIP), req: request("GET", "reviews", "/reviews/0", headers{"end-user": "jason"}), want: func(d *decided) {
			d.Outcome, d.Cluster, d.VirtualHost = generation.Forward, reviewsV2, "reviews.bookinfo.svc.cluster.local:9080"
			d.Origin = "VirtualService/bookinfo/reviews#"
		}},
		"everybody else is split 90/10": {cfg: routing, conn: outbound(reviewsVIP), req: request("GET", "reviews", "/reviews/0", nil), want: func(d *decided) {
			d.Outcome, d.Cluster, d.VirtualHost = generation.Forward, reviewsV1, "reviews.bookinfo.svc.cluster.local:9080"
			d.Weights = map[string]uint32{reviewsV1: 90, reviewsV3: 10}
			d.Origin = "VirtualService/bookinfo/reviews#"
		}},
		"the first edit makes it 50/50": {cfg: edited, conn: outbound(reviewsVIP), req: request("GET", "reviews", "/reviews/0", nil), want: func(d *decided) {
			d.Outcome, d.Cluster, d.VirtualHost = generation.Forward, reviewsV1, "reviews.bookinfo.svc.cluster.local:9080"
			d.Weights = map[string]uint32{reviewsV1: 50, reviewsV3: 50}
			d.Origin = "VirtualService/bookinfo/reviews#"
		}},
		"a redirect": {cfg: routing, conn: outbound("10.96.0.2:9080"), req: request("GET", "details", "/old?q=1", nil), want: func(d *decided) {
			d.Outcome, d.Status, d.VirtualHost = generation.Redirect, 308, "details.bookinfo.svc.cluster.local:9080"
			d.Location, d.Origin = "https://details.example.com:8443/new?q=1", "VirtualService/bookinfo/details#"
		}},
		"a direct response": {cfg: routing, conn: outbound("10.96.0.2:9080"), req: request("GET", "details", "/gone", nil), want: func(d *decided) {
			d.Outcome, d.Status, d.VirtualHost = generation.Direct, 410, "details.bookinfo.svc.cluster.local:9080"
			d.Origin = "VirtualService/bookinfo/details#"
		}},
		"inbound plaintext under PERMISSIVE": {cfg: plain, conn: inbound("10.10.1.1:9080", nil), req: request("GET", "productpage:9080", "/", nil), want: func(d *decided) {
			d.Outcome, d.Cluster, d.VirtualHost = generation.Forward, "inbound|9080||", "inbound|http|9080"
		}},
		"inbound mutual TLS": {cfg: plain, conn: inbound("10.10.1.1:9080", func(c *fact.Conn) {
			c.TLS, c.Verified, c.Peer, c.ALPN = true, true, "spiffe://cluster.local/ns/bookinfo/sa/default", []string{"istio-peer-exchange", "istio"}
		}), req: request("GET", "productpage:9080", "/", nil), want: func(d *decided) {
			d.Outcome, d.Cluster, d.VirtualHost = generation.Forward, "inbound|9080||", "inbound|http|9080"
		}},
		"inbound to a port nobody declared": {cfg: plain, conn: inbound("10.10.1.1:7777", func(c *fact.Conn) { c.ALPN = nil }), want: func(d *decided) {
			d.Outcome, d.Cluster = generation.Passthrough, wire.InboundPassthroughCluster
		}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var tr fact.Trace
			d := generation.Decide(c.cfg, c.conn, c.req, &tr)
			var want decided
			c.want(&want)
			if diff := cmp.Diff(want, summary(d)); diff != "" {
				t.Errorf("(-want +got):\n%s\ntrace: %+v", diff, tr.Steps)
			}
			if again := generation.Decide(c.cfg, c.conn, c.req, nil); !cmp.Equal(summary(d), summary(again)) {
				t.Errorf("without a trace: %+v", summary(again))
			}
		})
	}
}

// The split of the recorded route comes out as written, over many draws.
func TestRecordedSplitIsNinetyToTen(t *testing.T) {
	t.Parallel()
	cfg := recordedConfig(t, "s2-routing", "sidecar")
	const draws = 10_000
	counts := map[string]int{}
	req := request("GET", "reviews", "/reviews/0", nil)
	for i := range uint64(draws) {
		req.Random = i * 0x9e3779b97f4a7c15
		counts[generation.Decide(cfg, outbound("10.96.0.3:9080"), req, nil).Cluster]++
	}
	if n := counts[reviewsV1]; n < draws*89/100 || n > draws*91/100 {
		t.Errorf("v1 got %d of %d, want 90 %%", n, draws)
	}
}
