//go:build conformance

package envoy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/testkit/chains"
	"github.com/tullemesh/tulle/internal/testkit/program"
)

type object = map[string]any

func typed(name, kind string, fields object) object {
	config := object{"@type": "type.googleapis.com/" + kind}
	for k, v := range fields {
		config[k] = v
	}
	return object{"name": name, "typed_config": config}
}

// saying is a filter chain that says its name and closes.
func saying(name string) object {
	return object{"name": name, "filters": []any{typed("say", "envoy.extensions.filters.network.direct_response.v3.Config",
		object{"response": object{"inline_string": name}})}}
}

func ranges(list []netip.Prefix) []object {
	var out []object
	for _, p := range list {
		out = append(out, object{"address_prefix": p.Addr().String(), "prefix_len": p.Bits()})
	}
	return out
}

// envoyListener is a set as stock Envoy reads it. A PROXY header gives each
// connection the addresses of its case.
func envoyListener(s *chains.Set) object {
	var list []object
	for _, c := range s.Chains {
		m := object{"source_type": [...]string{"ANY", "SAME_IP_OR_LOOPBACK", "EXTERNAL"}[c.Match.SourceType], "prefix_ranges": ranges(c.Match.DestinationPrefix),
			"server_names": c.Match.ServerNames, "transport_protocol": c.Match.Transport, "application_protocols": c.Match.ApplicationProtos,
			"direct_source_prefix_ranges": ranges(c.Match.DirectSourcePrefix), "source_prefix_ranges": ranges(c.Match.SourcePrefix), "source_ports": c.Match.SourcePorts}
		if c.Match.DestinationPort != 0 {
			m["destination_port"] = c.Match.DestinationPort
		}
		one := saying(c.Name)
		one["filter_chain_match"] = m
		list = append(list, one)
	}
	return object{
		"name": s.Name, "address": object{"socket_address": object{"address": "127.0.0.1", "port_value": 0}},
		"listener_filters": []any{
			typed("proxy", "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol", nil),
			typed("tls", "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector", nil),
			typed("http", "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector", nil),
		},
		"filter_chains": list, "default_filter_chain": saying("default"),
	}
}

// envoyListening runs stock Envoy with listeners and returns their addresses.
func envoyListening(t *testing.T, listeners []object) map[string]string {
	t.Helper()
	dir := t.TempDir()
	config, admin := filepath.Join(dir, "envoy.json"), filepath.Join(dir, "admin")
	text, err := json.Marshal(object{"admin": object{"address": object{"socket_address": object{"address": "127.0.0.1", "port_value": 0}}},
		"static_resources": object{"listeners": listeners}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	program.Start(t, envoyBinary(t), "-c", config, "--admin-address-path", admin, "--concurrency", "1", "--use-dynamic-base-id", "-l", "error")
	at := map[string]string{}
	poll(t, func() string { return "stock Envoy listens" }, func() bool {
		address, err := os.ReadFile(admin)
		if err != nil {
			return false
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+strings.TrimSpace(string(address))+"/listeners?format=json", nil)
		if err != nil {
			return false
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		var answer struct {
			Statuses []struct {
				Name  string `json:"name"`
				Local struct {
					Socket struct {
						Address string `json:"address"`
						Port    uint16 `json:"port_value"`
					} `json:"socket_address"`
				} `json:"local_address"`
			} `json:"listener_statuses"`
		}
		if json.NewDecoder(resp.Body).Decode(&answer) != nil {
			return false
		}
		for _, l := range answer.Statuses {
			at[l.Name] = netip.AddrPortFrom(netip.MustParseAddr(l.Local.Socket.Address), l.Local.Socket.Port).String()
		}
		return len(at) == len(listeners)
	})
	return at
}

// firstWords are the bytes of a client with these facts.
func firstWords(t *testing.T, c *chains.Conn) []byte {
	t.Helper()
	if !c.Facts.TLS {
		if len(c.Facts.ALPN) == 0 {
			return []byte(strings.Repeat("\x00\x01\x02\x03", 32)) // Envoy waits for as many bytes as the preface of HTTP/2 has
		}
		return []byte(map[string]string{"http/1.1": "GET / HTTP/1.1\r\nhost: a\r\n\r\n", "http/1.0": "GET / HTTP/1.0\r\n\r\n", "h2c": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"}[c.Facts.ALPN[0]])
	}
	client, server := net.Pipe()
	done := make(chan []byte)
	go func() {
		b := make([]byte, 16<<10)
		n, _ := server.Read(b)
		server.Close()
		done <- b[:n]
	}()
	_ = tls.Client(client, &tls.Config{ServerName: c.Facts.SNI, NextProtos: c.Facts.ALPN, InsecureSkipVerify: true}).HandshakeContext(t.Context()) // ends with the pipe
	client.Close()
	return <-done
}

// The table of filter chain matching that our matcher is held to is what stock
// Envoy does.
func TestStockEnvoyMatchesFilterChainsAsTheTableSays(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "internal", "proxy", "engine", "listener", "testdata", "chains.txt"))
	if err != nil {
		t.Fatal(err)
	}
	sets, err := chains.Parse(string(text))
	if err != nil {
		t.Fatal(err)
	}
	var listeners []object
	for i := range sets {
		listeners = append(listeners, envoyListener(&sets[i]))
	}
	at := envoyListening(t, listeners)
	cases := 0
	for i := range sets {
		for j := range sets[i].Conns {
			c := &sets[i].Conns[j]
			cases++
			if got := askChain(t, at[sets[i].Name], c); got != c.Want {
				t.Errorf("%s, %s: stock Envoy takes %q, the table says %q", sets[i].Name, c.Name, got, c.Want)
			}
		}
	}
	if cases < 100 {
		t.Errorf("%d cases", cases)
	}
}

// askChain connects as a case says and returns the name that the chain says.
func askChain(t *testing.T, at string, c *chains.Conn) string {
	t.Helper()
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.Facts.DirectRemote.Addr(), 0))}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	conn, err := d.DialContext(ctx, "tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Write(append(listener.AppendProxyHeader(nil, 2, c.Facts.Remote, c.Facts.Local), firstWords(t, c)...)); err != nil {
		t.Fatal(err)
	}
	said, _ := io.ReadAll(bufio.NewReader(conn)) // a reset may follow
	return string(said)
}
