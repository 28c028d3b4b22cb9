package model

import (
	"fmt"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/control/registry"
)

// annotationGatewayService names a Gateway's services, where Istio made the
// Gateway of other objects (pilot/pkg/model InternalGatewayServiceAnnotation).
const annotationGatewayService = "internal.istio.io/gateway-service"

// convertGateway puts a Gateway into our words.
func convertGateway(o *apis.Object, spec *networking.Gateway) *Gateway {
	g := &Gateway{Origin: Origin{Key: o.Key, Path: "spec"}, Name: o.Key.Name, Namespace: o.Key.Namespace, Selector: spec.Selector, Created: o.Created}
	if s := o.Annotations[annotationGatewayService]; s != "" {
		g.Services = strings.Split(s, ",")
	}
	for i, s := range spec.Servers {
		server := &Server{
			Origin: Origin{Key: o.Key, Path: fmt.Sprintf("spec.servers[%d]", i)}, Name: s.Name, Port: int(s.GetPort().GetNumber()), PortName: s.GetPort().GetName(),
			Protocol: registry.ParseProtocol(s.GetPort().GetProtocol()), Bind: s.Bind, TLS: serverTLS(s.Tls),
			TargetPort: int(s.GetPort().GetTargetPort()), //nolint:staticcheck // deprecated, and still honoured by Istio
		}
		for _, h := range s.Hosts {
			server.Hosts = append(server.Hosts, gatewayHost(h, o.Key.Namespace))
		}
		g.Servers = append(g.Servers, server)
	}
	return g
}

func gatewayHost(h, namespace string) GatewayHost {
	ns, name, ok := strings.Cut(h, "/")
	if !ok {
		return GatewayHost{Namespace: "*", Host: strings.ToLower(h)}
	}
	if ns == "." {
		ns = namespace
	}
	return GatewayHost{Namespace: ns, Host: strings.ToLower(name)}
}

func serverTLS(t *networking.ServerTLSSettings) *ServerTLS {
	if t == nil {
		return nil
	}
	out := &ServerTLS{
		Mode: t.Mode.String(), HTTPSRedirect: t.HttpsRedirect, CredentialNames: slices.Clone(t.CredentialNames),
		CertFile: t.ServerCertificate, KeyFile: t.PrivateKey, CAFile: t.CaCertificates,
	}
	if t.CredentialName != "" && !slices.Contains(out.CredentialNames, t.CredentialName) {
		out.CredentialNames = append([]string{t.CredentialName}, out.CredentialNames...)
	}
	for _, suite := range t.CipherSuites {
		if !slices.Contains(out.CipherSuites, suite) { // Envoy refuses one that stands twice
			out.CipherSuites = append(out.CipherSuites, suite)
		}
	}
	if t.MinProtocolVersion != networking.ServerTLSSettings_TLS_AUTO {
		out.MinVersion = t.MinProtocolVersion.String()
	}
	if t.MaxProtocolVersion != networking.ServerTLSSettings_TLS_AUTO {
		out.MaxVersion = t.MaxProtocolVersion.String()
	}
	return out
}

// gatewayIndex holds Gateways oldest first.
type gatewayIndex struct {
	list   []*Gateway
	byName map[string]*Gateway // "namespace/name"
}

func buildGateways(list []*Gateway) gatewayIndex {
	slices.SortFunc(list, func(a, b *Gateway) int { return compareAge(a.Origin.Key, b.Origin.Key, a.Created.Compare(b.Created)) })
	x := gatewayIndex{list: list, byName: make(map[string]*Gateway, len(list))}
	for _, g := range list {
		x.byName[g.Namespace+"/"+g.Name] = g
	}
	return x
}

// selected lists the Gateways that apply to a workload: by its labels, or by
// the services that it serves. A Gateway without a selector applies to all that
// ask (Istio's default PILOT_SCOPE_GATEWAY_TO_NAMESPACE=false: the workload's
// namespace does not matter).
func (x *gatewayIndex) selected(labels map[string]string, serves []Instance) []*Gateway {
	var out []*Gateway
	for _, g := range x.list {
		if len(g.Services) == 0 && selects(g.Selector, labels) || len(g.Services) > 0 && slices.ContainsFunc(serves, g.Fronts) {
			out = append(out, g)
		}
	}
	return out
}

// Fronts reports whether the ports of a Gateway are those of the instance's
// service: any service of the workload, unless the Gateway names its own.
func (g *Gateway) Fronts(in Instance) bool {
	return len(g.Services) == 0 || in.Service.Namespace == g.Namespace && slices.Contains(g.Services, in.Service.Hostname)
}
