package translate_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/tullemesh/tulle/internal/control/translate"
	"github.com/tullemesh/tulle/internal/control/translate/view"
	"github.com/tullemesh/tulle/internal/wire"
)

// TestStockEnvoyAcceptsEveryResource hands what proxies get to a stock Envoy's
// "--mode validate" as static configuration. It opens no connection.
func TestStockEnvoyAcceptsEveryResource(t *testing.T) {
	envoy := os.Getenv("ENVOY")
	if envoy == "" {
		path, err := exec.LookPath("envoy")
		if err != nil {
			t.Skip("no envoy in $ENVOY or in the path")
		}
		envoy = path
	}
	for form := range 4 {
		s := snapshotOf(t, "accessLogFile: /dev/stdout", wholeMesh(form))
		tr := translate.New(s, nil)
		for _, name := range sorted(nodes) {
			if name == "grpc" || name == "vhds" {
				continue // not for Envoy
			}
			file := filepath.Join(t.TempDir(), "envoy.json")
			if err := os.WriteFile(file, bootstrap(t, tr, viewOf(t, s, nodes[name], "")), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command(envoy, "--mode", "validate", "-l", "error", "-c", file).CombinedOutput(); err != nil {
				t.Errorf("mesh %d, %s: %v\n%s", form, name, err, out)
			}
		}
	}
}

// bootstrap is all that a proxy gets as static resources. Route configurations,
// which static listeners only name, get listeners that hold them.
func bootstrap(t *testing.T, tr *translate.Translator, v *view.View) []byte {
	t.Helper()
	all := func(typeURL string) (out []json.RawMessage) {
		for _, n := range tr.Names(v, typeURL) {
			b, err := protojson.Marshal(build(t, tr, v, typeURL, n))
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, b)
		}
		return out
	}
	clusters, listeners := all(wire.ClusterType), all(wire.ListenerType)
	for _, name := range []string{"sds-grpc", "xds"} {
		clusters = append(clusters, json.RawMessage(strings.ReplaceAll(grpcCluster, "NAME", name)))
	}
	for _, rc := range all(wire.RouteType) {
		listeners = append(listeners, json.RawMessage(strings.ReplaceAll(routeListener, "ROUTES", string(rc))))
	}
	b, err := json.Marshal(map[string]any{
		"node":             map[string]any{"id": "x", "cluster": "x"},
		"static_resources": map[string]any{"listeners": listeners, "clusters": clusters},
		"dynamic_resources": map[string]any{"ads_config": json.RawMessage(
			`{"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]}`)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const grpcCluster = `{"name": "NAME", "type": "STATIC", "connect_timeout": "1s", "typed_extension_protocol_options": {
 "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {"@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
  "explicit_http_config": {"http2_protocol_options": {}}}}}`

const routeListener = `{"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}, "filter_chains": [{"filters": [{
 "name": "envoy.filters.network.http_connection_manager", "typed_config": {
  "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
  "stat_prefix": "x", "route_config": ROUTES, "upgrade_configs": [{"upgrade_type": "CONNECT"}],
  "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}}]}]}`
