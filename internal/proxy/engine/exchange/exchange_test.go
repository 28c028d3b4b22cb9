package exchange

import (
	"crypto/x509"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/observe"
	"github.com/tullemesh/tulle/internal/proxy/engine/access"
	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
	"github.com/tullemesh/tulle/internal/proxy/engine/generation"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/telemetry"
	"github.com/tullemesh/tulle/internal/proxy/engine/tls"
)

// newConn is a connection of a client at 10.0.0.9 as its exchanges see it: there
// is no socket, and no route either.
func newConn(m *listener.HTTPManager) *Conn {
	r := observe.NewRegistry()
	s := &Shared{
		Clock: conn.NewClock(), Store: tls.NewStore(), Logs: access.NewLogs(nil, r),
		Meters: telemetry.New(r, telemetry.Workload{}), Peers: telemetry.NewPeers(nil),
	}
	empty := generation.NewConfig(generation.Parts{})
	s.Config.Store(empty)
	d := &Conn{Shared: s, Place: &Place{}, Spec: &listener.Spec{}}
	d.Place.Last.Store(empty)
	d.Facts.Remote = netip.MustParseAddrPort("10.0.0.9:4711")
	d.Peer = s.Peers.Of(&d.Facts)
	d.Chain.Store(&listener.Chain{HTTP: m})
	return d
}

// asked is an exchange of GET / with headers, "name: value", before its admission.
func asked(d *Conn, headers ...string) *Exchange {
	x := &Exchange{}
	x.Begin(d, d.Clock.Now())
	x.Req.Protocol, x.Req.Method, x.Req.Authority, x.Req.Path = fact.HTTP11, []byte("GET"), []byte("shop"), []byte("/")
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		x.Req.Add(name, []byte(value))
	}
	return x
}

// header is a request's header as the upstream would get it; "-": it is absent.
func header(x *Exchange, name string) string {
	v, present := x.Req.Get(name)
	if !present {
		return "-"
	}
	return string(v)
}

func TestTheClientsAddressComesFromWhomIsTrusted(t *testing.T) {
	cases := []struct {
		name       string
		edge       bool
		hops       uint32
		said       string
		remote     string
		appended   string
		scheme     string // of x-forwarded-proto: https
		skipAppend bool
	}{
		{name: "an edge believes nobody", edge: true, said: "1.1.1.1", remote: "10.0.0.9", appended: "1.1.1.1,10.0.0.9", scheme: "http"},
		{name: "an edge behind one proxy believes its last word", edge: true, hops: 1, said: "1.1.1.1, 2.2.2.2", remote: "2.2.2.2", appended: "1.1.1.1, 2.2.2.2,10.0.0.9", scheme: "https"},
		{name: "an edge behind two proxies", edge: true, hops: 2, said: "1.1.1.1, 2.2.2.2", remote: "1.1.1.1", appended: "1.1.1.1, 2.2.2.2,10.0.0.9", scheme: "https"},
		{name: "fewer words than hops", edge: true, hops: 3, said: "1.1.1.1", remote: "10.0.0.9", appended: "1.1.1.1,10.0.0.9", scheme: "https"},
		{name: "no word", edge: true, hops: 1, remote: "10.0.0.9", appended: "10.0.0.9", scheme: "https"},
		{name: "a word that is no address", edge: true, hops: 1, said: "1.1.1.1, unknown", remote: "10.0.0.9", appended: "1.1.1.1, unknown,10.0.0.9", scheme: "https"},
		{name: "an edge that does not say who came", edge: true, said: "1.1.1.1", remote: "10.0.0.9", appended: "1.1.1.1", scheme: "http", skipAppend: true},
		{name: "a sidecar takes what the edge said", said: "1.1.1.1, 2.2.2.2", remote: "2.2.2.2", appended: "1.1.1.1, 2.2.2.2", scheme: "https"},
		{name: "a sidecar with one more hop", hops: 1, said: "1.1.1.1, ::ffff:2.2.2.2", remote: "1.1.1.1", appended: "1.1.1.1, ::ffff:2.2.2.2", scheme: "https"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			d := newConn(&listener.HTTPManager{UseRemoteAddress: c.edge, XFFTrustedHops: c.hops, SkipXFFAppend: c.skipAppend})
			headers := []string{"x-forwarded-proto: https"}
			if c.said != "" {
				headers = append(headers, "x-forwarded-for: "+c.said)
			}
			x := asked(d, headers...)
			x.Admit()
			if got := x.record().Remote.String(); got != c.remote {
				t.Errorf("the client is %s, want %s", got, c.remote)
			}
			if got := header(x, "x-forwarded-for"); got != c.appended {
				t.Errorf("x-forwarded-for %q, want %q", got, c.appended)
			}
			if got := header(x, "x-forwarded-proto"); got != c.scheme || string(x.Req.Scheme) != c.scheme {
				t.Errorf("x-forwarded-proto %q, scheme %q, want %q", got, x.Req.Scheme, c.scheme)
			}
			if got := header(x, "x-envoy-external-address"); c.edge && got != c.remote || !c.edge && got != "-" {
				t.Errorf("x-envoy-external-address %q", got)
			}
		})
	}
}

func TestClientCertificatesAreToldAsTheManagerSays(t *testing.T) {
	const said, own = "By=spiffe://a;URI=spiffe://b", "Hash=e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855;URI=spiffe://mesh/ns/shop/sa/cart;DNS=cart.shop"
	cases := []struct {
		name             string
		mode             listener.XFCCMode
		proved, unproved string
	}{
		{"sanitize", listener.XFCCSanitize, "-", "-"},
		{"forward only", listener.XFCCForwardOnly, said, "-"},
		{"append and forward", listener.XFCCAppendForward, said + "," + own, "-"},
		{"sanitize and set", listener.XFCCSanitizeSet, own, "-"},
		{"always forward only", listener.XFCCAlwaysForwardOnly, said, said},
	}
	id, err := url.Parse("spiffe://mesh/ns/shop/sa/cart")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			m := &listener.HTTPManager{ForwardClientCert: listener.ForwardClientCert{Mode: c.mode, URI: true, DNS: true}}
			for _, verified := range []bool{true, false} {
				d, want := newConn(m), c.unproved
				if verified {
					want = c.proved
					d.Facts.Verified, d.Facts.Peer = true, id.String()
					d.PeerCert = &x509.Certificate{URIs: []*url.URL{id}, DNSNames: []string{"cart.shop"}}
				}
				for range 2 { // the second request takes what the connection kept
					x := asked(d, "x-forwarded-client-cert: "+said)
					x.Admit()
					if got := header(x, "x-forwarded-client-cert"); got != want {
						t.Errorf("verified: %t: %q, want %q", verified, got, want)
					}
				}
			}
		})
	}
}

func TestRequestIDsAreKeptOrMade(t *testing.T) {
	const theirs = "0bad"
	cases := []struct {
		name string
		m    listener.HTTPManager
		said bool
		want string // "": a new one
	}{
		{"a sidecar keeps it", listener.HTTPManager{GenerateRequestID: true}, true, theirs},
		{"a sidecar makes one", listener.HTTPManager{GenerateRequestID: true}, false, ""},
		{"an edge replaces it", listener.HTTPManager{GenerateRequestID: true, UseRemoteAddress: true}, true, ""},
		{"an edge that preserves keeps it", listener.HTTPManager{GenerateRequestID: true, UseRemoteAddress: true, PreserveRequestID: true}, true, theirs},
		{"none is made where none is wanted", listener.HTTPManager{}, false, "-"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var headers []string
			if c.said {
				headers = []string{"x-request-id: " + theirs}
			}
			x := asked(newConn(&c.m), headers...)
			x.Admit()
			got := header(x, "x-request-id")
			made := len(got) == 36 && got[14] == '4' && strings.Count(got, "-") == 4
			if c.want == "" && !made || c.want != "" && got != c.want {
				t.Errorf("x-request-id %q", got)
			}
		})
	}
}

func TestAnswersOfOursSpeakTheClientsLanguage(t *testing.T) {
	cases := []struct {
		name, contentType string
		status            int
		grpc, body        string
	}{
		{"plain HTTP has a status and a text", "text/plain", http.StatusServiceUnavailable, "-", failureText(failure.Overflow)},
		{"gRPC has trailers only", "application/grpc", http.StatusOK, "14", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			x := asked(newConn(&listener.HTTPManager{}), "content-type: "+c.contentType)
			if x.Admit() != ActAnswer || x.Res.Status != http.StatusNotFound {
				t.Fatalf("without a route: status %d", x.Res.Status)
			}
			x.Fail(failure.Failure{Kind: failure.Overflow})
			x.Local()
			status, present := x.Res.Get("grpc-status")
			if x.Res.Status != c.status || string(x.Body) != c.body || present != (c.grpc != "-") || present && string(status) != c.grpc {
				t.Errorf("status %d, grpc-status %q, body %q", x.Res.Status, status, x.Body)
			}
			if v, _ := x.Res.Get("x-envoy-overloaded"); string(v) != "true" {
				t.Errorf("x-envoy-overloaded %q", v)
			}
		})
	}
}

func failureText(k failure.Kind) string { return (&failure.Failure{Kind: k}).Answer().Body }

// TestMemoryIsUsedAgainWithoutARest: what one request led to is not the next one's.
func TestMemoryIsUsedAgainWithoutARest(t *testing.T) {
	d := newConn(&listener.HTTPManager{})
	x := asked(d, "x-a: 1")
	x.Admit()
	x.Local()
	x.Finish(d.Clock.Now())
	x.Begin(d, d.Clock.Now())
	if x.Req.Len() != 0 || x.Res.Len() != 0 || x.Res.Status != 0 || x.End != 0 || x.Action != ActForward || x.record().Flag != "" {
		t.Errorf("left: %d and %d headers, status %d, flag %q", x.Req.Len(), x.Res.Len(), x.Res.Status, x.record().Flag)
	}
}
