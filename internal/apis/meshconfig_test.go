package apis_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	meshconfig "istio.io/api/mesh/v1alpha1"

	"github.com/tullemesh/tulle/internal/apis"
)

func TestAnEmptyMeshConfigIsIstiosDefault(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "{}\n"} {
		c, problems := apis.DecodeMeshConfig("mesh.yaml", []byte(text))
		if len(problems) > 0 || !proto.Equal(c, apis.DefaultMeshConfig()) {
			t.Errorf("%q: %v", text, problems)
		}
	}
	c := apis.DefaultMeshConfig()
	if c.TrustDomain != "cluster.local" || c.RootNamespace != "istio-system" || c.ConnectTimeout.AsDuration() != 10*time.Second || !c.EnableAutoMtls.GetValue() ||
		c.OutboundTrafficPolicy.Mode != meshconfig.MeshConfig_OutboundTrafficPolicy_ALLOW_ANY || c.DefaultConfig.DrainDuration.AsDuration() != 45*time.Second {
		t.Errorf("default is %v", c)
	}
}

func TestWrittenFieldsStandOverDefaults(t *testing.T) {
	c, problems := apis.DecodeMeshConfig("mesh.yaml", []byte(`
trustDomain: shop.example
accessLogFile: /dev/stdout
defaultServiceExportTo: ["."]
outboundTrafficPolicy: {mode: REGISTRY_ONLY}
defaultConfig:
  discoveryAddress: 127.0.0.1:15012
`))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	if c.TrustDomain != "shop.example" || c.AccessLogFile != "/dev/stdout" || strings.Join(c.DefaultServiceExportTo, " ") != "." ||
		c.OutboundTrafficPolicy.Mode != meshconfig.MeshConfig_OutboundTrafficPolicy_REGISTRY_ONLY {
		t.Errorf("config is %v", c)
	}
	if c.DefaultConfig.DiscoveryAddress != "127.0.0.1:15012" || c.DefaultConfig.StatusPort != 15020 || len(c.ExtensionProviders) != 3 {
		t.Errorf("the proxies' defaults are lost: %v", c.DefaultConfig)
	}
}

func TestAMisfitFieldOfTheMeshConfigKeepsItsDefault(t *testing.T) {
	c, problems := apis.DecodeMeshConfig("mesh.yaml", []byte(`trustDomain: shop.example
connectTimeout: 5
rootNamepace: istio-config
outboundTrafficPolicy: {mode: NOBODY}
accessLogEncoding: JSON
inboundClusterStatName: x
defaultConfig: {concurrency: 2, proxyAdminPort: x}
`))
	want := []string{
		`error[TUL1102] mesh.yaml:2:17 MeshConfig/mesh connectTimeout: wants a duration, found a whole number "5"`,
		`error[TUL1101] mesh.yaml:3:1 MeshConfig/mesh rootNamepace: MeshConfig has no field "rootNamepace"`,
		`error[TUL1103] mesh.yaml:4:31 MeshConfig/mesh outboundTrafficPolicy.mode: "NOBODY" is not a value of this field`,
		`unsupported[TUL1204] mesh.yaml:5:20 MeshConfig/mesh accessLogEncoding: accessLogEncoding: JSON is not enforced yet`,
		`unsupported[TUL1204] mesh.yaml:6:25 MeshConfig/mesh inboundClusterStatName: inboundClusterStatName is not enforced yet`,
		`unsupported[TUL1204] mesh.yaml:7:30 MeshConfig/mesh defaultConfig.concurrency: concurrency is not enforced yet`,
		`error[TUL1102] mesh.yaml:7:49 MeshConfig/mesh defaultConfig.proxyAdminPort: wants a whole number, found text "x"`,
	}
	var got []string
	for _, p := range problems {
		got = append(got, p.String())
		if p.Effect == "" {
			t.Errorf("no effect: %s", p)
		}
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("said\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	d := apis.DefaultMeshConfig()
	if c.TrustDomain != "shop.example" || !proto.Equal(c.OutboundTrafficPolicy, d.OutboundTrafficPolicy) || c.AccessLogEncoding != d.AccessLogEncoding ||
		!proto.Equal(c.ConnectTimeout, d.ConnectTimeout) || c.DefaultConfig.ProxyAdminPort != d.DefaultConfig.ProxyAdminPort {
		t.Errorf("config is %v", c)
	}
}

func TestNonsenseInTheMeshConfigIsRefused(t *testing.T) {
	for text, path := range map[string]string{
		"trustDomain: a_b\n":                           "trustDomain",
		"rootNamespace: a.b\n":                         "rootNamespace",
		"connectTimeout: 2h\n":                         "connectTimeout",
		"connectTimeout: 0s\n":                         "connectTimeout",
		"dnsRefreshRate: 1ms\n":                        "dnsRefreshRate",
		"protocolDetectionTimeout: 1us\n":              "protocolDetectionTimeout",
		"defaultServiceExportTo: ['*', a]\n":           "defaultServiceExportTo",
		"defaultVirtualServiceExportTo: [a_b]\n":       "defaultVirtualServiceExportTo[0]",
		"defaultConfig: {discoveryAddress: istiod}\n":  "defaultConfig.discoveryAddress",
		"defaultConfig: {discoveryAddress: 'a_b:1'}\n": "defaultConfig.discoveryAddress",
		"tcpKeepalive: {time: 1us}\n":                  "tcpKeepalive.time",
		"tcpKeepalive: {interval: -1s}\n":              "tcpKeepalive.interval",
		"defaultConfig: {statusPort: 70000}\n":         "defaultConfig.statusPort",
	} {
		c, problems := apis.DecodeMeshConfig("mesh.yaml", []byte(text))
		if len(problems) != 1 || problems[0].Path != path || problems[0].Level != apis.LevelError || problems[0].Position.Line != 1 || problems[0].Position.Column == 0 {
			t.Errorf("%q: %v", text, problems)
		}
		if !proto.Equal(c, apis.DefaultMeshConfig()) {
			t.Errorf("%q is used: %v", text, c)
		}
	}
}

func TestBrokenMeshConfigsLeaveTheDefault(t *testing.T) {
	for _, text := range []string{"- a list\n", "a: [\n", "trustDomain: a\n---\ntrustDomain: b\n", "apiVersion: v1\nkind: ConfigMap\n"} {
		c, problems := apis.DecodeMeshConfig("mesh.yaml", []byte(text))
		if c == nil || len(problems) == 0 || problems[0].Position.Line < 1 {
			t.Errorf("%q: %v, %v", text, c, problems)
		}
	}
}
