//go:build conformance

// Package sds_test puts stock Envoy beside our agent: Envoy takes its
// certificate and roots from the agent's socket, serves mutual TLS with them,
// and follows every rotation without dropping a connection.
package sds_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/agent/sds"
	"github.com/tullemesh/tulle/internal/control/ca"
	"github.com/tullemesh/tulle/internal/identity"
	"github.com/tullemesh/tulle/internal/testkit/program"
)

func newAuthority(t *testing.T) *ca.Authority {
	t.Helper()
	domains, err := identity.NewTrustDomains("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	a, err := ca.LoadOrCreate(filepath.Join(t.TempDir(), "ca"), ca.Options{TrustDomains: domains})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func issue(t *testing.T, a *ca.Authority, account string) *identity.Bundle {
	t.Helper()
	b, err := a.Issue(identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: account}, nil, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// serve serves source on a socket and returns its path.
func serve(t *testing.T, source identity.Source) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sds")
	l, err := sds.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- sds.New(source, nil).Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return path
}

const bootstrap = `
node: {id: sidecar~127.0.0.1~cart.shop~shop.svc.cluster.local, cluster: cart.shop}
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
static_resources:
  listeners:
  - name: inbound
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context:
            tls_certificate_sds_secret_configs: [{name: default, sds_config: &sds {resource_api_version: V3, api_config_source: {api_type: %s, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: sds-grpc}}]}}}]
            combined_validation_context:
              default_validation_context: {}
              validation_context_sds_secret_config: {name: ROOTCA, sds_config: *sds}
      filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: inbound
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: served}}}]}]}
          http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
  clusters:
  - name: sds-grpc
    type: STATIC
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment:
      cluster_name: sds-grpc
      endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: %s}}}}]}]
`

// startEnvoy returns the address of Envoy's TLS listener.
func startEnvoy(t *testing.T, form, socket string) string {
	t.Helper()
	binary, err := program.Find(t.Context(), "ENVOY", filepath.Join("..", "..", "envoy.sh"))
	if err != nil {
		t.Fatal(err)
	}
	directory := t.TempDir()
	config, admin := filepath.Join(directory, "bootstrap.yaml"), filepath.Join(directory, "admin")
	if err := os.WriteFile(config, fmt.Appendf(nil, bootstrap, form, socket), 0o600); err != nil {
		t.Fatal(err)
	}
	program.Start(t, binary, "-c", config, "--admin-address-path", admin, "--concurrency", "1", "--disable-hot-restart", "-l", "warning")
	var address string
	poll(t, "Envoy's listener", func() bool {
		place, err := os.ReadFile(admin)
		if err != nil || len(place) == 0 {
			return false
		}
		address = listener(t, string(place))
		return address != ""
	})
	return address
}

// listener asks Envoy's admin port for the bound address; empty while unknown.
func listener(t *testing.T, admin string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+admin+"/listeners?format=json", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		return ""
	}
	defer response.Body.Close()
	var body struct {
		Listeners []struct {
			Address struct {
				Socket struct {
					Address string `json:"address"`
					Port    int    `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	if json.NewDecoder(response.Body).Decode(&body) != nil || len(body.Listeners) != 1 {
		return ""
	}
	return fmt.Sprintf("%s:%d", body.Listeners[0].Address.Socket.Address, body.Listeners[0].Address.Socket.Port)
}

// poll waits until ok, 20 s at most.
func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("%s: not within 20 s", what)
		case <-tick.C:
		}
	}
}

// connect opens a connection as own, requests once and returns the connection
// and the serial number of Envoy's certificate.
func connect(t *testing.T, address string, own *identity.Bundle) (*tls.Conn, string, error) {
	t.Helper()
	config := &tls.Config{
		InsecureSkipVerify: true, // VerifyConnection judges
		VerifyConnection: identity.Verifier{
			Roots: own.Pool(), Peer: identity.Server, Names: []string{"spiffe://cluster.local/ns/shop/sa/cart"},
		}.VerifyConnection,
		Certificates: []tls.Certificate{*own.Certificate()},
	}
	raw, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		return nil, "", err
	}
	_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
	c := tls.Client(raw, config)
	if err := errors.Join(c.HandshakeContext(t.Context()), ask(c)); err != nil {
		raw.Close()
		return nil, "", err
	}
	return c, c.ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
}

// ask requests once over an open connection.
func ask(c *tls.Conn) error {
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: cart\r\n\r\n"); err != nil {
		return err
	}
	const body = "served"
	var got []byte
	for buffer := make([]byte, 4096); !bytes.HasSuffix(got, []byte(body)); {
		n, err := c.Read(buffer)
		if err != nil {
			return err
		}
		got = append(got, buffer[:n]...)
	}
	return nil
}

func TestStockEnvoyServesWithTheAgentsCertificates(t *testing.T) {
	for _, form := range []string{"GRPC", "DELTA_GRPC"} {
		t.Run(form, func(t *testing.T) {
			mesh, other := newAuthority(t), newAuthority(t)
			var source identity.Publisher
			address := startEnvoy(t, form, serve(t, &source))
			web := issue(t, mesh, "web")
			if _, _, err := connect(t, address, web); err == nil {
				t.Error("Envoy served without a certificate")
			}
			// The first certificate comes when Envoy waits already.
			serial := func(b *identity.Bundle) string { return b.Certificate().Leaf.SerialNumber.String() }
			serves := func(b, peer *identity.Bundle) (c *tls.Conn) {
				t.Helper()
				source.Publish(b)
				poll(t, "the published certificate", func() bool {
					var got string
					var err error
					if c, got, err = connect(t, address, peer); err != nil {
						return false
					}
					if got != serial(b) {
						c.Close()
					}
					return got == serial(b)
				})
				return c
			}
			open := serves(issue(t, mesh, "cart"), web)
			defer open.Close()
			if _, _, err := connect(t, address, issue(t, other, "web")); err == nil {
				t.Error("a client of another root was served")
			}
			// Rotations under an open connection.
			for range 10 {
				serves(issue(t, mesh, "cart"), web).Close()
				_ = open.SetDeadline(time.Now().Add(10 * time.Second))
				if err := ask(open); err != nil {
					t.Fatalf("the open connection after a rotation: %v", err)
				}
			}
			// A new root: who has the old one is refused from now on.
			serves(issue(t, other, "cart"), issue(t, other, "web")).Close()
			if _, _, err := connect(t, address, web); err == nil {
				t.Error("a client of the old root was served after the roots changed")
			}
		})
	}
}
