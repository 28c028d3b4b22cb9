package wire_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tullemesh/tulle/internal/wire"
)

// TestEntriesAreDiscoveryResponses: what the hand-made encoding says is what
// protobuf reads.
func TestEntriesAreDiscoveryResponses(t *testing.T) {
	packed, err := wire.NewResource("a", &clusterv3.Cluster{Name: "a", AltStatName: "x"})
	if err != nil {
		t.Fatal(err)
	}
	resources := map[string]*wire.Resource{
		"built":          packed,
		"empty":          wire.PackResource("a", wire.ClusterType, nil),
		"literal":        {Name: "a", Version: "1", Body: &anypb.Any{TypeUrl: wire.ClusterType, Value: []byte("\n\x01a")}},
		"large":          wire.PackResource(strings.Repeat("n", 300), wire.ClusterType, make([]byte, 70_000)),
		"without a type": {Name: "a", Version: "1", Body: &anypb.Any{}},
	}
	for name, r := range resources {
		t.Run(name, func(t *testing.T) {
			var delta discoveryv3.DeltaDiscoveryResponse
			aliased := append(r.AliasHead("other"), r.SotwEntry()...)
			if err := proto.Unmarshal(append(slices.Clone(r.DeltaEntry()), aliased...), &delta); err != nil {
				t.Fatal(err)
			}
			var sotw discoveryv3.DiscoveryResponse
			if err := proto.Unmarshal(r.SotwEntry(), &sotw); err != nil {
				t.Fatal(err)
			}
			want := &discoveryv3.Resource{Name: r.Name, Version: r.Version, Resource: r.Body}
			if len(delta.Resources) != 2 || !proto.Equal(delta.Resources[0], want) {
				t.Errorf("delta reads %v", delta.Resources)
			}
			want.Aliases = []string{"other"}
			if !proto.Equal(delta.Resources[1], want) {
				t.Errorf("with an alias: %v", delta.Resources[1])
			}
			if len(sotw.Resources) != 1 || !proto.Equal(sotw.Resources[0], r.Body) {
				t.Errorf("state of the world reads %v", sotw.Resources)
			}
		})
	}
}

func TestVersionIsOfTheContent(t *testing.T) {
	a := wire.PackResource("a", wire.ClusterType, []byte("1"))
	if b := wire.PackResource("b", wire.ClusterType, []byte("1")); a.Version != b.Version {
		t.Errorf("equal content, versions %s and %s", a.Version, b.Version)
	}
	if c := wire.PackResource("a", wire.ClusterType, []byte("2")); a.Version == c.Version {
		t.Error("other content has the same version")
	}
}

func metadata(t testing.TB, fields map[string]any) *structpb.Struct {
	s, err := structpb.NewStruct(fields)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestNodeOfIstiosBootstrap(t *testing.T) {
	n, err := wire.ParseNode(&corev3.Node{
		Id: "sidecar~10.10.1.1~productpage-v1.0.bookinfo~bookinfo.svc.cluster.local", Cluster: "productpage.bookinfo",
		Locality:       &corev3.Locality{Region: "r", Zone: "z", SubZone: "s"},
		ClientFeatures: []string{wire.FeatureVHDS, "envoy.lb.does_not_support_overprovisioning"}, UserAgentName: "tulle",
		Metadata: metadata(t, map[string]any{
			"NAMESPACE": "bookinfo", "CLUSTER_ID": "Kubernetes", "INSTANCE_IPS": "10.10.1.1,fd00::1", "DNS_CAPTURE": "true", "DNS_AUTO_ALLOCATE": true,
			"LABELS": map[string]any{"app": "productpage"}, "ISTIO_VERSION": "1.31.0", "HTTP_PROXY_PORT": "15080", "REQUESTED_NETWORK_VIEW": "n1, n2",
			"SERVICE_ACCOUNT": "bookinfo-productpage", "INTERCEPTION_MODE": "REDIRECT",
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	if n.Type != wire.Sidecar || n.Name != "productpage-v1.0" || n.Namespace != "bookinfo" || n.Domain != "bookinfo.svc.cluster.local" {
		t.Errorf("identity %+v", n)
	}
	if len(n.IPs) != 2 || n.IPs[1].String() != "fd00::1" || n.Region+n.Zone+n.SubZone != "rzs" {
		t.Errorf("place %+v", n)
	}
	if !n.Supports(wire.FeatureVHDS) || n.Supports(wire.FeatureRanks) {
		t.Errorf("features %v", n.Features)
	}
	m := n.Metadata
	if !m.DNSCapture || !m.DNSAutoAllocate || m.HTTPProxyPort != 15080 || !slices.Equal(m.NetworkViews, []string{"n1", "n2"}) || m.Labels["app"] != "productpage" || m.ServiceAccount != "bookinfo-productpage" {
		t.Errorf("metadata %+v", m)
	}
	if id := wire.NodeID(n.Type, n.IPs[0], n.Name, n.Namespace, n.Domain); id != n.ID {
		t.Errorf("id %q, want %q", id, n.ID)
	}
}

func TestNodesThatAreRefused(t *testing.T) {
	const good = "sidecar~10.0.0.1~web.shop~shop.svc.cluster.local"
	tests := map[string]struct {
		node *corev3.Node
		want string
	}{
		"none":                {nil, "the first request has none"},
		"three parts":         {&corev3.Node{Id: "sidecar~10.0.0.1~web.shop"}, "is not TYPE~IP~NAME.NAMESPACE~DOMAIN"},
		"an unknown type":     {&corev3.Node{Id: "proxy~10.0.0.1~web.shop~d"}, `type "proxy" is neither sidecar nor router`},
		"a bad address":       {&corev3.Node{Id: "sidecar~10.0.0.256~web.shop~d"}, "10.0.0.256"},
		"no namespace":        {&corev3.Node{Id: "sidecar~10.0.0.1~web~d"}, `"web" is not NAME.NAMESPACE`},
		"an empty name":       {&corev3.Node{Id: "sidecar~10.0.0.1~.shop~d"}, "is not NAME.NAMESPACE"},
		"no address":          {&corev3.Node{Id: "sidecar~~web.shop~d"}, "has no address"},
		"a bad instance ip":   {&corev3.Node{Id: good, Metadata: metadata(t, map[string]any{"INSTANCE_IPS": "10.0.0.1,x"})}, "INSTANCE_IPS"},
		"two namespaces":      {&corev3.Node{Id: good, Metadata: metadata(t, map[string]any{"NAMESPACE": "bank"})}, `metadata NAMESPACE is "bank"`},
		"300 kB of metadata":  {&corev3.Node{Id: good, Metadata: metadata(t, map[string]any{"X": strings.Repeat("x", 300<<10)})}, "the limit is 262144"},
		"metadata of the max": {&corev3.Node{Id: good, Metadata: metadata(t, map[string]any{"X": strings.Repeat("x", 250<<10)})}, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := wire.ParseNode(tt.node)
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if !errors.Is(err, wire.ErrNode) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func FuzzParseNode(f *testing.F) {
	good, err := proto.Marshal(&corev3.Node{Id: "sidecar~10.0.0.1~web.shop~d", Metadata: metadata(f, map[string]any{"INSTANCE_IPS": "10.0.0.1", "HTTP_PROXY_PORT": 1e300, "LABELS": map[string]any{"a": nil}})})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		var p corev3.Node
		if proto.Unmarshal(b, &p) != nil {
			return
		}
		n, err := wire.ParseNode(&p)
		if err != nil {
			return
		}
		if n.Name == "" || n.Namespace == "" || len(n.IPs) == 0 || strings.Contains(n.Namespace, ".") {
			t.Fatalf("accepted %q as %+v", p.Id, n)
		}
	})
}

func TestRejectionsRoundTrip(t *testing.T) {
	long := strings.Repeat("é", 2000)
	in := []wire.Rejection{{Name: "outbound|80||a", Reason: "two\nlines: and a colon"}, {Reason: "no name"}, {Name: "b", Reason: long}}
	out := wire.ParseRejections(wire.FormatRejections(in))
	if len(out) != 3 || out[0].Name != "outbound|80||a" || out[0].Reason != "two; lines: and a colon" || out[1] != in[1] || out[2].Name != "b" {
		t.Fatalf("read %+v", out)
	}
	if n := len(out[2].Reason); n > 1100 || n < 1000 {
		t.Errorf("a long reason has %d bytes", n)
	}
	many := make([]wire.Rejection, 1000)
	for i := range many {
		many[i] = wire.Rejection{Name: "x", Reason: "y"}
	}
	if out := wire.ParseRejections(wire.FormatRejections(many)); len(out) != 64 {
		t.Errorf("%d rejections of 1000", len(out))
	}
}

func TestRejectionsOfEnvoy(t *testing.T) {
	tests := map[string]wire.Rejection{
		"Error adding/updating listener(s) 0.0.0.0_80: Didn't find a registered implementation": {Name: "0.0.0.0_80", Reason: "Didn't find a registered implementation"},
		"Error adding/updating cluster(s) outbound|80||a: no such host":                         {Name: "outbound|80||a", Reason: "no such host"},
		"Proto constraint validation failed (field: value must not be empty)":                   {Reason: "Proto constraint validation failed (field: value must not be empty)"},
	}
	for message, want := range tests {
		if got := wire.ParseRejections(message); len(got) != 1 || got[0] != want {
			t.Errorf("%q reads as %+v", message, got)
		}
	}
	if got := wire.ParseRejections(""); got != nil {
		t.Errorf("nothing reads as %+v", got)
	}
}

func TestClusterNames(t *testing.T) {
	const name = "outbound|80|v1|reviews.default.svc.cluster.local"
	d, port, subset, host, ok := wire.ParseClusterName(name)
	if !ok || d != wire.Outbound || port != 80 || subset != "v1" || host != "reviews.default.svc.cluster.local" {
		t.Errorf("%v %v %v %v %v", d, port, subset, host, ok)
	}
	if got := wire.ClusterName(d, port, subset, host); got != name {
		t.Errorf("name %q", got)
	}
	for _, foreign := range []string{"", wire.PassthroughCluster, "outbound|80|v1", "sideways|80||a", "outbound|x||a", "outbound|65536||a", "outbound|-1||a", "outbound|80||a|b"} {
		if _, _, _, _, ok := wire.ParseClusterName(foreign); ok {
			t.Errorf("%q was taken for one of Istio's", foreign)
		}
	}
}

func TestOriginFitsAndComesBack(t *testing.T) {
	short := wire.Origin{Kind: "VirtualService", Namespace: "shop", Name: "web", Path: "spec.http[0]"}
	long := wire.Origin{Kind: "VirtualService", Namespace: strings.Repeat("n", 63), Name: "web", Path: "spec.http[12].route[3].destination.subset"}
	deep := wire.Origin{Kind: "AuthorizationPolicy", Namespace: strings.Repeat("n", 63), Name: "p", Path: strings.Repeat("from", 40)}
	for _, o := range []wire.Origin{short, long, deep} {
		text := o.Encode()
		if len(text) > 64 {
			t.Errorf("%q has %d bytes", text, len(text))
		}
		back, ok := wire.ParseOrigin(text)
		if !ok || !wire.OriginMatches(back, o.Kind, o.Namespace, o.Name) || !strings.HasPrefix(o.Path, back.Path) {
			t.Errorf("%q reads as %+v", text, back)
		}
		if wire.OriginMatches(back, o.Kind, o.Namespace, "other") || wire.OriginMatches(back, "Gateway", o.Namespace, o.Name) {
			t.Errorf("%q matches another object", text)
		}
	}
	if (wire.Origin{}).Encode() != "" || !(wire.Origin{}).IsZero() {
		t.Error("no origin is not empty")
	}
	for _, bad := range []string{"", "a/b/c", "a/b#p"} {
		if o, ok := wire.ParseOrigin(bad); ok {
			t.Errorf("%q reads as %+v", bad, o)
		}
	}
}

func TestTypesHaveIstioctlsShortNames(t *testing.T) {
	for url, want := range map[string]string{wire.ClusterType: "CDS", wire.EndpointType: "EDS", wire.ListenerType: "LDS", wire.RouteType: "RDS", wire.VirtualHostType: "VHDS", wire.SecretType: "SDS", wire.NameTableType: "NDS", wire.ExtensionType: "ECDS", "type.googleapis.com/x": "type.googleapis.com/x"} {
		if got := wire.ShortType(url); got != want {
			t.Errorf("%s is called %s, want %s", url, got, want)
		}
	}
}
