package model_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	meshconfig "istio.io/api/mesh/v1alpha1"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/apis/problem"
	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/registry"
)

func TestActionsOfARoute(t *testing.T) {
	s, _ := build(t, service("a", "x")+object("VirtualService", "x", "vs", `{hosts: [a], http: [
  {name: redirect, redirect: {uri: /new, authority: other, scheme: https, port: 8443, redirectCode: 308}},
  {name: default-redirect, redirect: {derivePort: FROM_REQUEST_PORT}},
  {name: direct, directResponse: {status: 418, body: {string: teapot}}},
  {name: rewrite, rewrite: {uri: /, authority: b}, timeout: 2s, headers: {request: {set: {b: '2', a: '1'}, remove: [c]}, response: {add: {d: '4'}}}, route: [{destination: {host: a}, headers: {response: {set: {e: '5'}}}}]},
  {name: regex, rewrite: {uriRegexRewrite: {match: '^/x(.*)', rewrite: '/y\1'}}, route: [{destination: {host: a, port: {number: 80}}}]}]}`))
	http := s.GatewayRules(model.MeshGateway, "x")[0].HTTP
	want := []any{
		&model.Redirect{URI: "/new", Authority: "other", Scheme: "https", Port: 8443, Code: 308},
		&model.Redirect{PortFromRequest: true, Code: 301},
		&model.Direct{Status: 418, Body: []byte("teapot")},
		&model.Rewrite{URI: "/", HasURI: true, Authority: "b"},
		&model.Rewrite{RegexMatch: "^/x(.*)", RegexSubst: `/y\1`},
	}
	got := []any{http[0].Redirect, http[1].Redirect, http[2].Direct, http[3].Rewrite, http[4].Rewrite}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	ops := model.HeaderOps{Set: []model.Header{{Name: "a", Value: "1"}, {Name: "b", Value: "2"}}, Remove: []string{"c"}}
	if diff := cmp.Diff(ops, http[3].RequestHeaders); diff != "" {
		t.Error(diff)
	}
	if http[3].Timeout != 2*time.Second || http[3].ResponseHeaders.Add[0].Name != "d" || http[3].Destinations[0].ResponseHeaders.Set[0].Name != "e" {
		t.Errorf("%+v", http[3])
	}
	if http[4].Destinations[0].Port != 80 {
		t.Errorf("%+v", http[4].Destinations)
	}
}

func TestConditionsOfARoute(t *testing.T) {
	s, _ := build(t, service("a", "x")+object("VirtualService", "x", "vs", `{hosts: [a], gateways: [mesh, g], http: [{match: [{
    name: m, uri: {exact: /Path}, ignoreUriCase: true, scheme: {exact: http}, method: {regex: 'GET|HEAD'}, authority: {prefix: a.},
    headers: {present: {}, any: {regex: '.*'}, equal: {exact: v}}, withoutHeaders: {gone: {prefix: x}}, queryParams: {q: {exact: '1'}},
    port: 80, sourceLabels: {app: s}, sourceNamespace: n, gateways: [g]}], route: [{destination: {host: a}}]}]}`))
	m := s.GatewayRules(model.MeshGateway, "x")[0].HTTP[0].Matches[0]
	if !m.URI.Compiled.MatchString("/path") || m.URI.Value != "/Path" || !m.IgnoreURICase {
		t.Errorf("uri %+v", m.URI)
	}
	if !m.Method.Compiled.MatchString("HEAD") || m.Method.Compiled.MatchString("HEADER") || m.Method.Kind != model.Regex {
		t.Errorf("method %+v", m.Method)
	}
	var headers []string
	for _, h := range m.Headers {
		text := h.Name
		if h.Value != nil {
			text += "=" + h.Value.Value
		}
		if h.Invert {
			text = "not " + text
		}
		headers = append(headers, text)
	}
	if diff := cmp.Diff([]string{"any", "equal=v", "present", "not gone=x"}, headers); diff != "" {
		t.Errorf("a condition that every value meets asks for presence:\n%s", diff)
	}
	if m.Port != 80 || m.SourceLabels["app"] != "s" || m.SourceNamespace != "n" || m.Gateways[0] != "x/g" || m.Query[0].Name != "q" || m.Authority.Kind != model.Prefix {
		t.Errorf("%+v", m)
	}
	if m.Origin.Path != "spec.http[0].match[0]" {
		t.Errorf("origin %v", m.Origin)
	}
}

func TestRoutesOfConnections(t *testing.T) {
	s, _ := build(t, service("a", "x")+object("VirtualService", "x", "vs", `{hosts: [a, a.example], tls: [{match: [{sniHosts: [a.example], port: 443, sourceNamespace: n}], route: [{destination: {host: a}, weight: 1}]}],
  tcp: [{match: [{destinationSubnets: [10.1.0.0/16, 10.2.0.1], port: 80}], route: [{destination: {host: a, subset: v1}}]}]}`))
	r := s.GatewayRules(model.MeshGateway, "x")[0]
	if m := r.TLS[0].Matches[0]; m.SNIHosts[0] != "a.example" || m.Port != 443 || m.SourceNamespace != "n" {
		t.Errorf("%+v", m)
	}
	want := []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("10.2.0.1/32")}
	m := r.TCP[0].Matches[0]
	if len(m.DestinationSubnets) != 2 || m.DestinationSubnets[0] != want[0] || m.DestinationSubnets[1] != want[1] {
		t.Errorf("%+v", m)
	}
	if d := r.TCP[0].Destinations[0]; d.Subset != "v1" || d.Origin.Path != "spec.tcp[0].route[0]" {
		t.Errorf("%+v", d)
	}
}

func TestServersOfAGateway(t *testing.T) {
	s, _ := build(t, object("Gateway", "x", "g", `{selector: {istio: gw}, servers: [
  {port: {number: 443, name: https, protocol: HTTPS}, bind: 10.0.0.1, name: s, hosts: ['./A.example', 'y/b.example', '*/c.example', d.example], tls: {mode: SIMPLE, credentialName: cert, minProtocolVersion: TLSV1_2}},
  {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*'], tls: {httpsRedirect: true}}]}`))
	g := s.Gateway("x/g")
	if g == nil || len(s.Gateways(map[string]string{"istio": "gw"}, nil)) != 1 || len(s.Gateways(nil, nil)) != 0 {
		t.Fatal("selection")
	}
	one := g.Servers[0]
	want := []model.GatewayHost{{Namespace: "x", Host: "a.example"}, {Namespace: "y", Host: "b.example"}, {Namespace: "*", Host: "c.example"}, {Namespace: "*", Host: "d.example"}}
	if diff := cmp.Diff(want, one.Hosts); diff != "" {
		t.Error(diff)
	}
	if one.Port != 443 || one.Protocol != registry.HTTPS || one.Bind != "10.0.0.1" || one.Name != "s" {
		t.Errorf("%+v", one)
	}
	if diff := cmp.Diff(&model.ServerTLS{Mode: "SIMPLE", CredentialNames: []string{"cert"}, MinVersion: "TLSV1_2"}, one.TLS); diff != "" {
		t.Error(diff)
	}
	if !g.Servers[1].TLS.HTTPSRedirect {
		t.Error("redirect")
	}
}

func TestMeshConfiguration(t *testing.T) {
	m := model.MeshFrom(nil)
	if m.TrustDomain != "cluster.local" || m.RootNamespace != "istio-system" || !m.AutoMTLS || m.RegistryOnly || m.ConnectTimeout != 10*time.Second || m.ServiceExportTo[0] != "*" {
		t.Errorf("defaults: %+v", m)
	}
	m = model.MeshFrom(&meshconfig.MeshConfig{
		TrustDomain: "td", RootNamespace: "root", EnableAutoMtls: wrapperspb.Bool(false), ConnectTimeout: durationpb.New(time.Second),
		OutboundTrafficPolicy:  &meshconfig.MeshConfig_OutboundTrafficPolicy{Mode: meshconfig.MeshConfig_OutboundTrafficPolicy_REGISTRY_ONLY},
		DefaultServiceExportTo: []string{"."}, AccessLogFile: "/dev/stdout", ProtocolDetectionTimeout: durationpb.New(time.Minute),
	})
	if m.TrustDomain != "td" || m.RootNamespace != "root" || m.AutoMTLS || !m.RegistryOnly || m.ConnectTimeout != time.Second || m.ServiceExportTo[0] != "." ||
		m.AccessLogFile != "/dev/stdout" || m.ProtocolDetectionTimeout != time.Minute {
		t.Errorf("%+v", m)
	}
}

func TestDanglingReferencesAreTold(t *testing.T) {
	_, problems := build(t, service("reviews", "x")+object("DestinationRule", "x", "reviews", "{host: reviews, subsets: [{name: v1, labels: {v: '1'}}]}")+
		object("DestinationRule", "x", "typo", "{host: reviewz}")+object("Gateway", "x", "front", "{selector: {a: b}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [web.example]}]}")+
		object("VirtualService", "x", "vs", `{hosts: [reviews], gateways: [mesh, frnt, front], http: [
  {match: [{uri: {prefix: /a}}], route: [{destination: {host: revews}}]},
  {match: [{uri: {prefix: /b}}], route: [{destination: {host: reviews, subset: v11}}]},
  {route: [{destination: {host: reviews, port: {number: 81}}}]}]}`))
	for _, c := range []struct{ code, key, path, hint string }{
		{problem.CodeNotFound, "VirtualService/x/vs", "spec.http[0].route[0].destination.host", `did you mean "reviews"?`},
		{problem.CodeNotFound, "VirtualService/x/vs", "spec.http[1].route[0].destination.subset", `did you mean "v1", of DestinationRule/x/reviews?`},
		{problem.CodeNotFound, "VirtualService/x/vs", "spec.http[2].route[0].destination.port.number", "its ports are 80"},
		{problem.CodeNotFound, "VirtualService/x/vs", "spec.gateways[1]", `did you mean "x/front"?`},
		{problem.CodeHostNotInGateway, "VirtualService/x/vs", "spec.gateways[2]", "add a host to the Gateway's servers, or correct spec.hosts"},
		{problem.CodeUnknownHost, "DestinationRule/x/typo", "spec.host", `did you mean "reviews"?`},
	} {
		if p := wantProblem(t, problems, c.code, c.key, c.path); p.Hint != c.hint {
			t.Errorf("%s %s: hint %q", c.code, c.path, p.Hint)
		}
	}
	if len(problems) != 6 {
		t.Errorf("problems: %v", problems)
	}
}

func TestPositionsFollowTheFile(t *testing.T) {
	m := newMesh(t)
	yaml := service("a", "x") + object("VirtualService", "x", "vs", "\n  hosts: [a]\n  http:\n  - route:\n    - destination:\n        host: a\n")
	first, _ := m.apply(yaml)
	origin := first.GatewayRules(model.MeshGateway, "x")[0].HTTP[0].Destinations[0].Origin
	line := first.Position(origin).Line
	second, _ := m.apply("# a comment\n" + yaml)
	if got := second.Position(origin).Line; line == 0 || got != line+1 {
		t.Errorf("line %d, after a comment %d", line, got)
	}
	changes := second.Changed(first)
	if !changes.Empty() || second.GatewayRules(model.MeshGateway, "x")[0] != first.GatewayRules(model.MeshGateway, "x")[0] {
		t.Errorf("a comment changed the model: %+v", changes)
	}
	if first.Object(apis.Key{Kind: "Service", Namespace: "x", Name: "nobody"}) != nil {
		t.Error("an object that is not there")
	}
}

func TestChangesAreNamedPrecisely(t *testing.T) {
	m := newMesh(t)
	entry := func(address string) string {
		return object("WorkloadEntry", "x", "w", "{address: "+address+", labels: {app: a}}")
	}
	rules := func(timeout string) string {
		return object("VirtualService", "x", "vs", "{hosts: [a], http: [{timeout: "+timeout+", route: [{destination: {host: a}}]}]}")
	}
	base := service("a", "x") + service("b", "x") + object("VirtualService", "x", "b", "{hosts: [b], gateways: [mesh, g], http: [{route: [{destination: {host: b}}]}]}") +
		object("Gateway", "x", "g", "{selector: {a: b}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}")
	last, _ := m.apply(base + entry("10.0.0.1") + rules("1s"))
	a := model.ServiceKey{Namespace: "x", Hostname: "a.x.svc.cluster.local"}
	for _, c := range []struct {
		name, yaml string
		want       model.Changes
		edited     []string
	}{
		{"an endpoint", base + entry("10.0.0.2") + rules("1s"), model.Changes{
			Endpoints: map[model.ServiceKey]struct{}{a: {}}, Workloads: map[apis.Key]struct{}{{Kind: "WorkloadEntry", Namespace: "x", Name: "w"}: {}}}, nil},
		{"rules", base + entry("10.0.0.2") + rules("2s"), model.Changes{RuleHosts: map[string]struct{}{a.Hostname: {}}}, []string{"vs"}},
		{"nothing", base + entry("10.0.0.2") + rules("2s"), model.Changes{}, nil},
		{"rules of a gateway", base + entry("10.0.0.2") + rules("2s") + object("VirtualService", "x", "more", "{hosts: [c.example], gateways: [g], http: [{route: [{destination: {host: a}}]}]}"),
			model.Changes{GatewayRules: map[string]struct{}{"x/g": {}}}, nil},
	} {
		next, _ := m.apply(c.yaml)
		got := next.Changed(last)
		var edited []string
		for old, now := range got.RuleEdits {
			if old == now || old.Origin != now.Origin {
				t.Errorf("%s: %v became %v", c.name, old, now)
			}
			edited = append(edited, now.Origin.Key.Name)
		}
		if got.RuleEdits = nil; !slices.Equal(edited, c.edited) {
			t.Errorf("%s: %q were edited in their place, want %q", c.name, edited, c.edited)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
		last = next
	}
	if c := last.Changed(nil); !c.All {
		t.Error("everything is new without an earlier Snapshot")
	}
}
