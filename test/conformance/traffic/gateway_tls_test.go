package traffic_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/tullemesh/tulle/internal/testkit/proxyrun"
)

// How a server of a gateway ends TLS. The certificates are ECDSA's.
func TestGatewaysEndTLSAsTheirServersSay(t *testing.T) {
	authority := proxyrun.NewAuthority(t)
	own, caller, stranger := authority.Issue(t, "gateway", "a.example.com"), authority.Issue(t, "caller"), proxyrun.NewAuthority(t).Issue(t, "caller")
	at := app(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "served") })
	files := fmt.Sprintf("serverCertificate: %s, privateKey: %s, caCertificates: %s", own.Chain, own.Key, own.Roots)
	const closed = "closed"
	type attempt struct {
		name   string
		change func(*tls.Config)
		want   string
	}
	plain := attempt{"no certificate", func(*tls.Config) {}, "served"}
	with := func(name string, c *proxyrun.Credentials, want string) attempt {
		return attempt{name, func(cfg *tls.Config) { cfg.Certificates = trusting(t, c).Certificates }, want}
	}
	refused := func(a attempt) attempt { a.want = closed; return a }
	known, unknown := with("a certificate of the CA", caller, "served"), with("another's certificate", stranger, closed)
	old := attempt{"TLS 1.2", func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, "served"}
	suite := func(name string, id uint16, want string) attempt {
		return attempt{name, func(c *tls.Config) { c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{id} }, want}
	}
	for _, c := range []struct {
		tls      string
		attempts []attempt
	}{
		{"mode: SIMPLE, " + files, []attempt{plain, with("a certificate that nobody asks for", stranger, "served"), old}},
		{"mode: MUTUAL, " + files, []attempt{refused(plain), known, unknown}},
		{"mode: OPTIONAL_MUTUAL, " + files, []attempt{plain, known, unknown}},
		{"mode: ISTIO_MUTUAL", []attempt{refused(plain), known, unknown}},
		{"mode: SIMPLE, minProtocolVersion: TLSV1_3, " + files, []attempt{plain, refused(old)}},
		{"mode: SIMPLE, maxProtocolVersion: TLSV1_2, " + files, []attempt{old, {"TLS 1.3", func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 }, closed}}},
		{"mode: SIMPLE, cipherSuites: [ECDHE-ECDSA-AES256-GCM-SHA384, ECDHE-ECDSA-AES128-SHA], " + files, []attempt{
			suite("the first suite", tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, "served"), suite("the second", tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, "served"),
			suite("one that is not named", tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, closed), {"TLS 1.3, whose suites are not chosen", func(*tls.Config) {}, "served"},
		}},
	} {
		p := start(t, "", workload("127.0.0.1", int(at.Port()), plaintext, "http",
			`{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: g, namespace: demo}, spec: {selector: {app: gateway}, servers: [{port: {number: 443, name: https, protocol: HTTPS}, hosts: ["a.example.com"], tls: {`+c.tls+`}}]}}`,
			`{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: all, namespace: demo}, spec: {hosts: ["*"], gateways: [g], http: [{route: [{destination: {host: web}}]}]}}`),
			node{kind: "router", at: "127.0.0.10", name: "gateway", secrets: own, appPorts: map[string]string{"443": secureGateway}})
		for _, a := range c.attempts {
			t.Run(c.tls[:min(len(c.tls), 40)]+"/"+a.name, func(t *testing.T) {
				cfg := trusting(t, caller)
				cfg.Certificates = nil
				a.change(cfg)
				if got := say(t, p.at(t, secureGateway), "", cfg); got != a.want {
					t.Errorf("%s, want %s", got, a.want)
				}
			})
		}
	}
}
