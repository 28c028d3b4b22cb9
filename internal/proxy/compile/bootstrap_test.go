package compile_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tullemesh/tulle/internal/proxy/compile"
	"github.com/tullemesh/tulle/internal/proxy/engine/generation"
	"github.com/tullemesh/tulle/internal/wire"
)

func boot(t testing.TB, file string) *compile.Boot {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	b, report, err := compile.New().Bootstrap(data)
	if err != nil {
		t.Fatal(err)
	}
	if report.Refused() {
		t.Fatal(report.Error())
	}
	return b
}

// A static bootstrap, JSON, as Envoy runs it: plaintext, TLS of both sides with
// inline certificates, HTTP/2, TCP, authorization.
func TestStaticBootstrapRuns(t *testing.T) {
	t.Parallel()
	b := boot(t, "static.json")
	if b.ADS != nil || b.Admin != netip.MustParseAddrPort("127.0.0.1:19009") {
		t.Errorf("%+v", b)
	}
	w := newWorld(t)
	for typeURL, list := range b.Static {
		if r := w.Apply(typeURL, list, nil, time.Time{}); len(r) > 0 {
			t.Fatalf("%s: %v", typeURL, r)
		}
	}
	cfg, wait := w.Build(time.Time{})
	if wait != 0 {
		t.Errorf("waits for %v", wait)
	}
	for _, c := range []struct {
		method, path string
		tenant       string
		want         decided
	}{
		{"GET", "/api/x", "blue", decided{Outcome: generation.Forward, Cluster: "be", VirtualHost: "v"}},
		{"GET", "/api/x", "green", decided{Outcome: generation.Direct, Status: 404, VirtualHost: "v"}},
		{"GET", "/api/x", "red", decided{Outcome: generation.Reject, Status: 404, Error: generation.NoRoute, VirtualHost: "v"}},
		{"PUT", "/api/x", "blue", decided{Outcome: generation.Deny, Status: 403, VirtualHost: "v"}},
		{"PUT", "/bulk/x", "", decided{Outcome: generation.Forward, Cluster: "be", VirtualHost: "v"}},
	} {
		conn := inbound("127.0.0.1:19000", nil)
		conn.Direct = conn.Local
		got := generation.Decide(cfg, conn, request(c.method, "a", c.path, headers{"x-tenant": c.tenant}), nil)
		if diff := cmp.Diff(c.want, summary(got)); diff != "" {
			t.Errorf("%s %s as %s: %s", c.method, c.path, c.tenant, diff)
		}
	}
	// The TLS cluster's key, chain and roots came along under names of their own.
	spec := cfg.Cluster("mtls").TLS[0].Spec
	for _, name := range []string{spec.Certificate, spec.Validation} {
		if cfg.Secrets()[name] == nil {
			t.Errorf("secret %q is missing", name)
		}
	}
	if got := cfg.Secrets()[spec.Certificate].Key.File; got != "/certs/a.key" {
		t.Errorf("key file %q", got)
	}
	if names := w.Wants()[wire.SecretType]; len(names) != 0 {
		t.Errorf("asks SDS for inline secrets: %v", names)
	}
}

func TestDynamicBootstrapNamesTheServer(t *testing.T) {
	t.Parallel()
	b := boot(t, "dynamic.yaml")
	if b.Node.GetId() != "sidecar~10.0.0.1~web-1.shop~shop.svc.cluster.local" || b.Node.GetMetadata().GetFields()["NAMESPACE"].GetStringValue() != "shop" {
		t.Errorf("node %v", b.Node)
	}
	want := &compile.Server{Target: "127.0.0.1:15010", Delta: true}
	if diff := cmp.Diff(want, b.ADS); diff != "" {
		t.Error(diff)
	}
	if !b.Listeners || !b.Clusters {
		t.Error("LDS and CDS come by ADS")
	}
	if n := len(b.Static[wire.ClusterType]); n != 1 {
		t.Errorf("%d static clusters, want the one that is not the way to the server", n)
	}
}

func TestBootstrapRefusals(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, path string }{
		"overload manager":    {`overload_manager: {resource_monitors: [{name: x}]}`, "overload_manager"},
		"hot restart":         {`static_resources: {listeners: [{name: l, socket_options: [{}]}]}`, "static_resources.listeners[0].socket_options"},
		"REST server":         {`dynamic_resources: {ads_config: {api_type: REST, transport_api_version: V3}}`, "dynamic_resources.ads_config.api_type"},
		"v2":                  {`dynamic_resources: {ads_config: {api_type: GRPC}}`, "dynamic_resources.ads_config.transport_api_version"},
		"server nobody knows": {`dynamic_resources: {ads_config: {api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: x}}]}}`, "dynamic_resources.ads_config.grpc_services"},
		"listeners in a file": {`dynamic_resources: {lds_config: {path: /x}, ads_config: {api_type: GRPC, transport_api_version: V3}}`, "dynamic_resources.lds_config.path"},
		"cluster twice":       {`static_resources: {clusters: [{name: a}, {name: a}]}`, "static_resources.clusters[1].name"},
		"cluster unnamed":     {`static_resources: {clusters: [{type: STATIC}]}`, "static_resources.clusters[0].name"},
		"admin at a pipe":     {`admin: {address: {pipe: {path: /x}}}`, "admin.address"},
	} {
		b, report, err := compile.New().Bootstrap([]byte(c.text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if b != nil || !slices.ContainsFunc(report.Problems, func(p compile.Problem) bool { return p.Path == c.path }) {
			t.Errorf("%s: no problem at %s: %s", name, c.path, report.Error())
		}
	}
	for name, text := range map[string]string{
		"no YAML":       "a: [",
		"unknown field": "listeners: []",
		"a list":        "- a",
		"wrong type":    "admin: 5",
		"alias bomb":    "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e]",
		"key not text":  "1: 2",
	} {
		if _, _, err := compile.New().Bootstrap([]byte(text)); !errors.Is(err, compile.ErrBootstrapSyntax) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := compile.New().Bootstrap([]byte(strings.Repeat("#", 17<<20))); !errors.Is(err, compile.ErrBootstrapLarge) {
		t.Errorf("17 MiB: %v", err)
	}
}
