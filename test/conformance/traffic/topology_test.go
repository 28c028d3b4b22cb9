package traffic_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/testkit/proxyrun"
)

const (
	plainGateway  = "127.0.0.12:0"
	secureGateway = "127.0.0.13:0"
)

// gateway starts one that leads every request to an application that tells
// what the gateway told it, at one port in plaintext and at one under mutual
// TLS.
func gateway(t *testing.T, topology string, a *proxyrun.Authority) *proxy {
	t.Helper()
	at := app(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "for %s of %s cert %s", r.Header.Get("X-Forwarded-For"), r.Header.Get("X-Envoy-External-Address"), r.Header.Get("X-Forwarded-Client-Cert"))
	})
	own := a.Issue(t, "gateway", "a.example.com")
	objects := workload("127.0.0.1", int(at.Port()), plaintext, "http", fmt.Sprintf(`{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: g, namespace: demo}, spec: {selector: {app: gateway}, servers: [
  {port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]},
  {port: {number: 443, name: https, protocol: HTTPS}, hosts: ["*"], tls: {mode: MUTUAL, serverCertificate: %s, privateKey: %s, caCertificates: %s}}]}}`, own.Chain, own.Key, own.Roots),
		`{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: all, namespace: demo}, spec: {hosts: ["*"], gateways: [g], http: [{route: [{destination: {host: web}}]}]}}`)
	return start(t, "defaultConfig: {gatewayTopology: "+topology+"}\n", objects,
		node{kind: "router", at: "127.0.0.10", name: "gateway", secrets: own, appPorts: map[string]string{"80": plainGateway, "443": secureGateway}})
}

// say begins a connection with a header, perhaps goes on under TLS, and asks.
func say(t *testing.T, at, header string, secure *tls.Config, fields ...string) string {
	t.Helper()
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, header); err != nil {
		t.Fatal(err)
	}
	if secure != nil {
		c = tls.Client(c, secure)
	}
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.example.com\r\nConnection: close\r\n"+strings.Join(fields, "\r\n")+"\r\n\r\n"); err != nil {
		return "closed"
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return "closed"
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// trusting is the TLS of a client with a certificate of its own.
func trusting(t *testing.T, c *proxyrun.Credentials) *tls.Config {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(c.Chain, c.Key)
	if err != nil {
		t.Fatal(err)
	}
	roots, err := os.ReadFile(c.Roots)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(roots)
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool, ServerName: "a.example.com", MinVersion: tls.VersionTLS12}
}

func TestGatewaysBelieveTheHeaderOfThePROXYProtocol(t *testing.T) {
	const header = "PROXY TCP4 203.0.113.7 192.0.2.1 40000 443\r\n"
	a := proxyrun.NewAuthority(t)
	secure := trusting(t, a.Issue(t, "caller"))
	for _, c := range []struct {
		name, topology, header, want string
	}{
		{"told", "{proxyProtocol: {}}", header, "for 203.0.113.7 of 203.0.113.7"},
		{"not told what it must be", "{proxyProtocol: {}}", "", "closed"},
		{"not asked for", "{numTrustedProxies: 0}", "", "for 127.0.0.1 of"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := gateway(t, c.topology, a)
			if got := say(t, p.at(t, plainGateway), c.header, nil); !strings.HasPrefix(got, c.want) {
				t.Errorf("plaintext: %q, want %q", got, c.want)
			}
			if got := say(t, p.at(t, secureGateway), c.header, secure); !strings.HasPrefix(got, c.want) {
				t.Errorf("TLS: %q, want %q", got, c.want)
			}
		})
	}
	t.Run("told what is not asked for", func(t *testing.T) {
		if got := say(t, gateway(t, "{}", a).at(t, plainGateway), header, nil); got != "Bad Request" {
			t.Errorf("%q", got)
		}
	})
}

func TestGatewaysTrustProxiesBeforeThem(t *testing.T) {
	a := proxyrun.NewAuthority(t)
	const claimed = "X-Forwarded-For: 203.0.113.7, 198.51.100.4"
	for topology, want := range map[string]string{
		"{}":                     "for 203.0.113.7, 198.51.100.4,127.0.0.1 of ",
		"{numTrustedProxies: 1}": "for 203.0.113.7, 198.51.100.4,127.0.0.1 of 198.51.100.4 ",
		"{numTrustedProxies: 2}": "for 203.0.113.7, 198.51.100.4,127.0.0.1 of 203.0.113.7 ",
	} {
		t.Run(topology, func(t *testing.T) {
			if got := say(t, gateway(t, topology, a).at(t, plainGateway), "", nil, claimed); !strings.HasPrefix(got, want) {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
}

// What a client says of certificates is believed as far as the mesh says.
func TestGatewaysPassOnClientCertificatesAsTold(t *testing.T) {
	a := proxyrun.NewAuthority(t)
	secure := trusting(t, a.Issue(t, "caller"))
	const (
		claimed = "URI=spiffe://cluster.local/ns/x/sa/claimed"
		own     = "URI=spiffe://cluster.local/ns/demo/sa/caller"
	)
	for mode, want := range map[string]struct{ plain, mutual [2]bool }{ // claimed, own
		"UNDEFINED":           {[2]bool{false, false}, [2]bool{false, true}},
		"SANITIZE":            {[2]bool{false, false}, [2]bool{false, false}},
		"FORWARD_ONLY":        {[2]bool{false, false}, [2]bool{true, false}},
		"APPEND_FORWARD":      {[2]bool{false, false}, [2]bool{true, true}},
		"SANITIZE_SET":        {[2]bool{false, false}, [2]bool{false, true}},
		"ALWAYS_FORWARD_ONLY": {[2]bool{true, false}, [2]bool{true, false}},
	} {
		t.Run(mode, func(t *testing.T) {
			p := gateway(t, "{forwardClientCertDetails: "+mode+"}", a)
			for _, c := range []struct {
				name, at string
				secure   *tls.Config
				want     [2]bool
			}{{"plaintext", plainGateway, nil, want.plain}, {"mutual TLS", secureGateway, secure, want.mutual}} {
				got := say(t, p.at(t, c.at), "", c.secure, "X-Forwarded-Client-Cert: "+claimed)
				if has := [2]bool{strings.Contains(got, claimed), strings.Contains(got, own)}; has != c.want {
					t.Errorf("%s: %q: the claimed one and its own %v, want %v", c.name, got, has, c.want)
				}
			}
		})
	}
}
