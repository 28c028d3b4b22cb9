package message

import (
	"net"
	"slices"
	"strconv"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/translate/plan"
	"github.com/tullemesh/tulle/internal/control/translate/view"
	"github.com/tullemesh/tulle/internal/wire"
)

// grpcInbound is how gRPC servers ask for their listener, with "host:port"
// behind it (Istio, server_listener_resource_name_template).
const grpcInbound = "xds.istio.io/grpc/lds/inbound/"

// grpcListener builds what a gRPC client ("host:port") or server asks for.
func (w *Writer) grpcListener(r *view.Reader, name string) *listenerv3.Listener {
	if at, ok := strings.CutPrefix(name, grpcInbound); ok {
		return w.grpcServer(r, name, at)
	}
	host, port, ok := plan.SplitRouteName(name)
	if !ok {
		return nil
	}
	svc := plan.ServiceCalled(r, host, port)
	if svc == nil {
		return nil
	}
	address := "0.0.0.0"
	if a := plan.VIPs(svc, r.Families(), r.DNSCapture()); len(a) > 0 {
		address = a[0].Addr().String()
	}
	routes := wire.ClusterName(wire.Outbound, port, "", svc.Hostname)
	m := &hcmv3.HttpConnectionManager{
		HttpFilters: []*hcmv3.HttpFilter{
			{Name: "envoy.filters.http.fault", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(&faultv3.HTTPFault{})}},
			grpcRouter(),
		},
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{ConfigSource: grpcSource(), RouteConfigName: routes}},
	}
	return &listenerv3.Listener{
		Name: name, Address: socketAddress(address, port), ApiListener: &listenerv3.ApiListener{ApiListener: pack(m)},
	}
}

func grpcRouter() *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{Name: "envoy.filters.http.router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(&routerv3.Router{})}}
}

func grpcSource() *corev3.ConfigSource {
	return &corev3.ConfigSource{ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}}
}

// grpcServer is the inbound side of a gRPC server. A server cannot tell TLS
// from plaintext on one port: all modes but DISABLE mean mutual TLS, to which
// the application may add plaintext as its fallback (Istio).
func (w *Writer) grpcServer(r *view.Reader, name, at string) *listenerv3.Listener {
	host, portText, err := net.SplitHostPort(at)
	if err != nil {
		return nil
	}
	port, err := strconv.Atoi(portText)
	if err != nil || port < 1 || port > 65535 {
		return nil
	}
	instances, pa := r.Inbound()
	if !slices.ContainsFunc(instances, func(in model.Instance) bool { return in.TargetPort == port }) {
		return nil
	}
	kind := "mtls"
	chain := &listenerv3.FilterChain{}
	if modeOf(pa, port) == model.MTLSDisable {
		kind = "plaintext"
	} else {
		chain.TransportSocket = socket(tlsSocket, grpcServerTLS())
	}
	chain.Name = "inbound-" + kind
	action := &routev3.Route{Match: routeMatch(nil), Action: &routev3.Route_NonForwardingAction{NonForwardingAction: &routev3.NonForwardingAction{}}}
	if pa.Deny {
		// gRPC refuses what no route takes.
		action = nil
	}
	vh := &routev3.VirtualHost{Domains: []string{"*"}}
	if action != nil {
		vh.Routes = []*routev3.Route{action}
	}
	chain.Filters = []*listenerv3.Filter{networkFilter("inbound-hcm"+kind, proto.Message(&hcmv3.HttpConnectionManager{
		HttpFilters: []*hcmv3.HttpFilter{grpcRouter()},
		RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{
			Name: "inbound", VirtualHosts: []*routev3.VirtualHost{vh},
		}},
	}))}
	return &listenerv3.Listener{Name: name, Address: socketAddress(host, port), FilterChains: []*listenerv3.FilterChain{chain}}
}

func grpcServerTLS() *tlsv3.DownstreamTlsContext {
	return &tlsv3.DownstreamTlsContext{RequireClientCertificate: wrapperspb.Bool(true), CommonTlsContext: grpcTLS(&tlsv3.CertificateValidationContext{})}
}

// grpcTLS takes certificates from the provider "default" of gRPC's bootstrap,
// in the old fields and the new ones, as gRPC versions read either.
func grpcTLS(validation *tlsv3.CertificateValidationContext) *tlsv3.CommonTlsContext {
	const provider = "default"
	validation.CaCertificateProviderInstance = &tlsv3.CertificateProviderPluginInstance{InstanceName: provider, CertificateName: rootSecret}
	instance := func(name string) *tlsv3.CommonTlsContext_CertificateProviderInstance {
		return &tlsv3.CommonTlsContext_CertificateProviderInstance{InstanceName: provider, CertificateName: name}
	}
	return &tlsv3.CommonTlsContext{
		TlsCertificateCertificateProviderInstance: instance(workloadSecret),
		TlsCertificateProviderInstance:            &tlsv3.CertificateProviderPluginInstance{InstanceName: provider, CertificateName: workloadSecret},
		ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{
			CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext:                     validation,
				ValidationContextCertificateProviderInstance: instance(rootSecret),
			},
		},
	}
}

// grpcCluster builds a cluster of a gRPC client. TLS is used where a
// destination rule says ISTIO_MUTUAL: gRPC does not choose it by endpoint.
func (w *Writer) grpcCluster(name string, g plan.Target) *clusterv3.Cluster {
	c := &clusterv3.Cluster{
		Name: name, AltStatName: name + ";", ClusterDiscoveryType: kindOf(clusterv3.Cluster_EDS),
		EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{EdsConfig: grpcSource(), ServiceName: name},
	}
	policy := g.Policy()
	if policy.Pool != nil && policy.Pool.MaxRequests > 0 {
		// The one threshold that gRPC clients know (gRFC A32).
		c.CircuitBreakers = &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{MaxRequests: wrapperspb.UInt32(policy.Pool.MaxRequests)}}}
	}
	if policy.TLSMode == "ISTIO_MUTUAL" {
		validation := &tlsv3.CertificateValidationContext{}
		for _, id := range w.accounts(g.Service) {
			// deprecated: match_subject_alt_names is what gRPC reads
			validation.MatchSubjectAltNames = append(validation.MatchSubjectAltNames, exactly(id))
		}
		c.TransportSocket = socket(tlsSocket, &tlsv3.UpstreamTlsContext{CommonTlsContext: grpcTLS(validation)})
	}
	return c
}
