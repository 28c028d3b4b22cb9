package engine

import (
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/match"
	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/generation"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
	etls "github.com/tullemesh/tulle/internal/proxy/engine/tls"
)

// outboundSpeaking is outbound with a protocol and the application protocols
// that are configured for it.
func outboundSpeaking(t testing.TB, a *authority, target *proxy, protocol cluster.Protocol, alpn ...string) *proxy {
	t.Helper()
	spec := static("cart", target.Listening()[listenAny()])
	spec.Protocol = protocol
	spec.TLS = []cluster.TLSMatch{{Spec: &etls.ClientSpec{Certificate: "default", Validation: "ROOTCA", ALPN: alpn,
		SANs: []match.String{match.Exact(cartID, match.CaseSensitive)}, SNI: "outbound_.80_._.cart.shop.svc"}}}
	return start(t, &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{spec}, extra: func(p *generation.Parts) {
		p.Secrets = map[string]*etls.Secret{"default": a.issue(t, "default", otherID), "ROOTCA": a.roots()}
	}})
}

func TestTwoSidecarsSpeakHTTP2OverMutualTLS(t *testing.T) {
	for _, c := range []struct {
		name     string
		protocol cluster.Protocol
		alpn     []string
		two      bool // the client
		inside   string
	}{
		{"HTTP/2 of the mesh", cluster.HTTP2, []string{"istio-peer-exchange", "istio"}, true, "2"},
		{"HTTP/2 for an HTTP/1.1 client", cluster.HTTP2, []string{"istio"}, false, "2"},
		{"HTTP/2 without ALPN configured", cluster.HTTP2, nil, true, "2"},
		{"the client's protocol, HTTP/2", cluster.Downstream, []string{"istio"}, true, "2"},
		{"the client's protocol, HTTP/1.1", cluster.Downstream, []string{"istio"}, false, "1.1"},
		{"by ALPN", cluster.Auto, []string{"h2", "http/1.1"}, false, "2"},
		{"HTTP/1.1 for an HTTP/2 client", cluster.HTTP1, []string{"istio"}, true, "1.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newAuthority(t)
			b := echo(t)
			in, s := inbound(t, a, b)
			s.manager.AccessLog = []listener.AccessLog{{Path: "log", Format: "%PROTOCOL% %RESPONSE_CODE%\n"}}
			if err := in.Apply(s.config(t)); err != nil {
				t.Fatal(err)
			}
			out := outboundSpeaking(t, a, in, c.protocol, c.alpn...)
			hc := client(t, c.two)
			for range 3 {
				res, body := do(t, hc, "GET", "http://"+out.addr()+"/x", nil, nil)
				if res.StatusCode != 200 || !strings.Contains(body, "x-forwarded-client-cert: ") || !strings.Contains(body, "URI="+otherID) {
					t.Fatalf("%d %s", res.StatusCode, body)
				}
			}
			if n := b.accepted(); n > 3 {
				t.Errorf("%d connections to the application", n)
			}
			out.stop()
			if log := in.logged(); strings.Count(log, "HTTP/"+c.inside+" 200\n") != 3 {
				t.Errorf("inside: %s", log)
			}
		})
	}
}
