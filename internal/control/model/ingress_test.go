package model_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/registry"
)

func TestSidecarIngress(t *testing.T) {
	for _, c := range []struct {
		name, listener string
		want           model.IngressListener
	}{
		{"loopback", "{port: {number: 80, name: http, protocol: HTTP}, defaultEndpoint: '127.0.0.1:8080'}",
			model.IngressListener{Port: 80, PortName: "http", Protocol: registry.HTTP, Endpoint: netip.MustParseAddrPort("127.0.0.1:8080")}},
		{"the workload's address", "{port: {number: 80, name: tcp, protocol: TCP}, defaultEndpoint: '0.0.0.0:8080', bind: 10.0.0.1, captureMode: NONE}",
			model.IngressListener{Port: 80, PortName: "tcp", Protocol: registry.TCP, Endpoint: netip.MustParseAddrPort("0.0.0.0:8080"), Bind: "10.0.0.1", Capture: model.CaptureNone}},
		{"no address", "{port: {number: 80, name: tcp, protocol: TCP}, defaultEndpoint: ':8080', captureMode: IPTABLES}",
			model.IngressListener{Port: 80, PortName: "tcp", Protocol: registry.TCP, Endpoint: netip.MustParseAddrPort("0.0.0.0:8080"), Capture: model.CaptureRedirect}},
		{"IPv6", "{port: {number: 80, name: grpc, protocol: GRPC}, defaultEndpoint: '[::1]:8080'}",
			model.IngressListener{Port: 80, PortName: "grpc", Protocol: registry.GRPC, Endpoint: netip.MustParseAddrPort("[::1]:8080")}},
		{"a socket", "{port: {number: 80, name: tcp, protocol: TCP}, defaultEndpoint: 'unix:///run/x'}",
			model.IngressListener{Port: 80, PortName: "tcp", Protocol: registry.TCP, Pipe: "/run/x"}},
		{"where the connection went", "{port: {number: 80, name: tcp, protocol: TCP}}",
			model.IngressListener{Port: 80, PortName: "tcp", Protocol: registry.TCP}},
		{"TLS ends here", "{port: {number: 443, name: https, protocol: HTTPS}, tls: {mode: SIMPLE, serverCertificate: /c, privateKey: /k}}",
			model.IngressListener{Port: 443, PortName: "https", Protocol: registry.HTTP, TLS: &model.ServerTLS{Mode: "SIMPLE", CertFile: "/c", KeyFile: "/k"}}},
		{"TLS goes on to the app", "{port: {number: 443, name: https, protocol: HTTPS}}",
			model.IngressListener{Port: 443, PortName: "https", Protocol: registry.HTTPS}},
	} {
		s, problems := build(t, object("Sidecar", "a", "s", fmt.Sprintf("{ingress: [%s], egress: [{hosts: ['./*']}]}", c.listener)))
		if len(problems) > 0 {
			t.Errorf("%s: %v", c.name, problems)
		}
		got := s.Scope("a", nil).Ingress
		if diff := cmp.Diff([]model.IngressListener{c.want}, got, cmpopts.IgnoreFields(model.IngressListener{}, "Origin"), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
		if len(got) == 1 && got[0].Origin.Path != "spec.ingress[0]" {
			t.Errorf("%s: comes from %q", c.name, got[0].Origin.Path)
		}
	}
}
