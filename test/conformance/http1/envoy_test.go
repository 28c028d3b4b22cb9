//go:build conformance

package http1_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/testkit/proxyrun"
)

const envoyManager = `{"name": %q, "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}, "filter_chains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": {
"@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": "a",
"normalize_path": %t, "merge_slashes": %t, "path_with_escaped_slashes_action": %q,
"use_remote_address": %t, "xff_num_trusted_hops": %d, "skip_xff_append": %t, "preserve_external_request_id": %t,
"http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
"route_config": {"virtual_hosts": [{"name": "a", "domains": ["*"], "routes": [{"match": {"prefix": ""}, "direct_response": {"status": 200}, "response_headers_to_add": [
{"header": {"key": "x-path", "value": "%%REQ(:PATH)%%"}},
{"header": {"key": "x-forwarded", "value": "%%REQ(X-FORWARDED-FOR)%%|%%REQ(X-FORWARDED-PROTO)%%|%%REQ(X-ENVOY-EXTERNAL-ADDRESS)%%|%%REQ(X-REQUEST-ID)%%"}}]}]}]}}}]}]}`

// stockEnvoy runs Envoy with a listener for each manager. Its answers tell what
// became of a request's path and forwarding fields.
func stockEnvoy(t *testing.T, managers map[string]*listener.HTTPManager) map[string]string {
	t.Helper()
	var listeners []proxyrun.Object
	for name, m := range managers {
		escaped := "KEEP_UNCHANGED"
		if m.EscapedSlashes == listener.UnescapeAndForward {
			escaped = "UNESCAPE_AND_FORWARD"
		}
		text := fmt.Appendf(nil, envoyManager, name, m.NormalizePath, m.MergeSlashes, escaped,
			m.UseRemoteAddress, m.XFFTrustedHops, m.SkipXFFAppend, m.PreserveRequestID)
		var l proxyrun.Object
		if err := json.Unmarshal(text, &l); err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, l)
	}
	bootstrap := proxyrun.Bootstrap(nil, nil)
	bootstrap["static_resources"] = proxyrun.Object{"listeners": listeners}
	envoy, at := proxyrun.Envoy(t, filepath.Join("..", "..", "envoy.sh"), bootstrap), map[string]string{}
	for name := range managers {
		at[name] = envoy.At(t, name)
	}
	return at
}

// forwardedFields is what a backend sees of a request, as Envoy above tells it.
func forwardedFields(m seen) string {
	values := make([]string, 4)
	for i, name := range []string{"x-forwarded-for", "x-forwarded-proto", "x-envoy-external-address", "x-request-id"} {
		for _, f := range m.fields {
			if v, ok := strings.CutPrefix(f, name+": "); ok {
				values[i] = v
			}
		}
	}
	return strings.Join(values, "|")
}

func TestForwardingFieldsBecomeWhatStockEnvoyMakesOfThem(t *testing.T) {
	managers := map[string]*listener.HTTPManager{}
	for hops := range uint32(4) {
		for _, edge := range []bool{false, true} {
			for _, skip := range []bool{false, true} {
				m := asIstio()
				m.UseRemoteAddress, m.XFFTrustedHops, m.SkipXFFAppend, m.PreserveRequestID = edge, hops, skip, skip
				managers[fmt.Sprintf("edge %t, %d trusted hops, skips %t", edge, hops, skip)] = m
			}
		}
	}
	at := stockEnvoy(t, managers)
	s := serve(t, func(c *net.TCPConn) {
		r := reader{bufio.NewReader(c)}
		for {
			m, err := r.request()
			if err != nil {
				return
			}
			body := forwardedFields(m)
			_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		}
	})
	// Without a scheme that is none: we replace it, Envoy passes it on.
	var heads []string
	for _, xff := range []string{"", "1.2.3.4", "1.2.3.4, 5.6.7.8", "1.2.3.4,5.6.7.8 , 9.9.9.9", "10.0.0.1", "192.168.1.1, 10.0.0.1", "2001:db8::1", "1.2.3.4, junk", "junk, 1.2.3.4", ",", "1.2.3.4,", " 1.2.3.4 ,, 5.6.7.8", "1.2.3.4:80", "[2001:db8::1]"} {
		for _, more := range []string{"", "X-Forwarded-Proto: https\r\n", "X-Request-Id: theirs\r\n", "X-Envoy-External-Address: 7.7.7.7\r\nX-Request-Id: theirs\r\n"} {
			if xff != "" {
				more += "X-Forwarded-For: " + xff + "\r\n"
			}
			heads = append(heads, more)
		}
	}
	for name, m := range managers {
		t.Run(name, func(t *testing.T) {
			ours := startProxy(t, m, s.at).at
			for _, head := range heads {
				want := askFrom2(t, at[name], head, func(a answer) string { return a.field("x-forwarded") })
				got := askFrom2(t, ours, head, func(a answer) string { return a.body })
				if got != want {
					t.Errorf("%q becomes %s, want %s", head, got, want)
				}
			}
		})
	}
}

// askFrom2 asks from 127.0.0.2: of 127.0.0.1 Envoy writes its own address.
func askFrom2(t *testing.T, at, head string, tell func(answer) string) string {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}, Timeout: patience}
	c, err := d.DialContext(t.Context(), "tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, getA+"Connection: close\r\n"+head+"\r\n"); err != nil {
		t.Fatal(err)
	}
	a, err := reader{bufio.NewReader(c)}.response("GET")
	if err != nil || a.status != 200 {
		t.Fatalf("%q: %s, %v", head, a, err)
	}
	parts := strings.Split(tell(a), "|")
	if id := parts[len(parts)-1]; len(id) == 36 {
		parts[len(parts)-1] = "new"
	}
	return strings.Join(parts, "|")
}
