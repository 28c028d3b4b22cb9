package message

import (
	"maps"
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	proxysocketv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/proxy_protocol/v3"
	rawbufferv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/control/translate/plan"
	"github.com/tullemesh/tulle/internal/identity"
	"github.com/tullemesh/tulle/internal/wire"
)

// Names of Istio's workload certificate and root, which the agent beside the
// proxy serves on the cluster sds-grpc of the bootstrap.
const (
	workloadSecret = "default"
	rootSecret     = "ROOTCA"
	sdsCluster     = "sds-grpc"
)

const (
	tlsSocket = "envoy.transport_sockets.tls"
	rawSocket = "envoy.transport_sockets.raw_buffer"
	// proxySocket wraps another (Istio: wellknown.TransportSocketPROXY).
	proxySocket = "envoy.transport_sockets.upstream_proxy_protocol"
	// tlsModeKey marks endpoints that take mutual TLS (Istio's label
	// security.istio.io/tlsMode).
	tlsModeKey      = "tlsMode"
	socketMatchMeta = "envoy.transport_socket_match"
	modeIstio       = "istio"
)

// secure gives a cluster its transport: what the destination rule says, else
// mutual TLS to those endpoints that take it (MeshConfig.enableAutoMtls).
func (w *Writer) secure(c *clusterv3.Cluster, g plan.Target, subset string, policy model.TrafficPolicy) {
	mutual := func() *corev3.TransportSocket {
		return socket(tlsSocket, w.upstreamTLS(g, wire.SNI(g.Port.Number, subset, g.Service.Hostname)))
	}
	switch policy.TLSMode {
	case "DISABLE":
		return
	case "ISTIO_MUTUAL":
		c.TransportSocket = mutual()
		return
	}
	if !w.snap.Mesh().AutoMTLS || g.Service.External ||
		w.snap.PeerAuth(g.Service.Namespace, nil).Mode == model.MTLSDisable {
		return
	}
	if c.GetType() == clusterv3.Cluster_ORIGINAL_DST {
		// No endpoint metadata to choose by: all endpoints or none.
		if w.allTakeMutualTLS(g) {
			c.TransportSocket = mutual()
		}
		return
	}
	c.TransportSocketMatches = []*clusterv3.Cluster_TransportSocketMatch{
		{Name: "tlsMode-istio", Match: object(tlsModeKey, structpb.NewStringValue(modeIstio)), TransportSocket: mutual()},
		{Name: "tlsMode-disabled", Match: &structpb.Struct{}, TransportSocket: socket(rawSocket, &rawbufferv3.RawBuffer{})},
	}
}

// tellClient lets a cluster's connections begin with a PROXY header of a
// version, 0 for none, whatever their transport (DestinationRule:
// trafficPolicy.proxyProtocol).
func tellClient(c *clusterv3.Cluster, version int) {
	if version == 0 {
		return
	}
	config := &corev3.ProxyProtocolConfig{Version: corev3.ProxyProtocolConfig_Version(version - 1)}
	wrap := func(inner *corev3.TransportSocket) *corev3.TransportSocket {
		return socket(proxySocket, &proxysocketv3.ProxyProtocolUpstreamTransport{Config: config, TransportSocket: inner})
	}
	for _, m := range c.GetTransportSocketMatches() {
		m.TransportSocket = wrap(m.GetTransportSocket())
	}
	switch {
	case c.GetTransportSocket() != nil:
		c.TransportSocket = wrap(c.GetTransportSocket())
	case len(c.GetTransportSocketMatches()) == 0:
		c.TransportSocket = wrap(socket(rawSocket, &rawbufferv3.RawBuffer{}))
	}
}

func (w *Writer) allTakeMutualTLS(g plan.Target) bool {
	endpoints := w.snap.Endpoints(g.Service, g.Port.Number)
	for _, e := range endpoints {
		if e.TLSMode != modeIstio {
			return false
		}
	}
	return len(endpoints) > 0
}

// upstreamTLS is mutual TLS to a service: our certificate, the mesh's root,
// and only the identities that run the service.
func (w *Writer) upstreamTLS(g plan.Target, sni string) *tlsv3.UpstreamTlsContext {
	alpn := []string{"istio"}
	if g.Port.Protocol.IsHTTP2() {
		alpn = append(alpn, "h2")
	}
	validation := &tlsv3.CertificateValidationContext{}
	for _, id := range w.accounts(g.Service) {
		// deprecated: match_subject_alt_names is what Istio sends
		validation.MatchSubjectAltNames = append(validation.MatchSubjectAltNames, exactly(id))
	}
	return &tlsv3.UpstreamTlsContext{
		Sni: sni,
		CommonTlsContext: &tlsv3.CommonTlsContext{
			AlpnProtocols: alpn,
			TlsParams: &tlsv3.TlsParameters{
				TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2,
				TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
			},
			TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{agentSecret(workloadSecret)},
			ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{
				CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
					DefaultValidationContext:         validation,
					ValidationContextSdsSecretConfig: agentSecret(rootSecret),
				},
			},
		},
	}
}

// accounts are the identities that may answer for a service: those of its
// endpoints, in every spelling of the trust domain, and those it declares.
func (w *Writer) accounts(svc *registry.Service) []string {
	mesh := w.snap.Mesh()
	set := make(map[string]struct{})
	for _, p := range svc.Ports {
		for _, e := range w.snap.Endpoints(svc, p.Number) {
			if e.Account == "" {
				continue
			}
			id := identity.ID{TrustDomain: mesh.TrustDomain, Namespace: e.WorkloadNamespace, ServiceAccount: e.Account}
			set[id.String()] = struct{}{}
			for _, alias := range mesh.TrustDomainAliases {
				id.TrustDomain = alias
				set[id.String()] = struct{}{}
			}
		}
	}
	for _, a := range svc.Accounts {
		set[a] = struct{}{}
	}
	return slices.Sorted(maps.Keys(set))
}

// downstreamMutual is what a sidecar's inbound side asks of its callers: a
// certificate of the mesh.
func (w *Writer) downstreamMutual() *tlsv3.DownstreamTlsContext {
	mesh := w.snap.Mesh()
	validation := &tlsv3.CertificateValidationContext{}
	for _, td := range append([]string{mesh.TrustDomain}, mesh.TrustDomainAliases...) {
		// deprecated: match_subject_alt_names is what Istio sends
		validation.MatchSubjectAltNames = append(validation.MatchSubjectAltNames, &matcherv3.StringMatcher{
			MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: "spiffe://" + td + "/"},
		})
	}
	return &tlsv3.DownstreamTlsContext{
		RequireClientCertificate: wrapperspb.Bool(true),
		CommonTlsContext: &tlsv3.CommonTlsContext{
			AlpnProtocols:                  httpALPN(),
			TlsParams:                      meshTLSParams(),
			TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{agentSecret(workloadSecret)},
			ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{
				CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
					DefaultValidationContext:         validation,
					ValidationContextSdsSecretConfig: agentSecret(rootSecret),
				},
			},
		},
	}
}

// meshTLSParams are Istio's for mutual TLS within the mesh.
func meshTLSParams() *tlsv3.TlsParameters {
	return &tlsv3.TlsParameters{
		TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2,
		TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
		CipherSuites: []string{
			"ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384",
			"ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256",
			"AES256-GCM-SHA384", "AES128-GCM-SHA256",
		},
	}
}

// agentSecret says: ask the agent beside the proxy. Keys never leave it.
func agentSecret(name string) *tlsv3.SdsSecretConfig {
	return &tlsv3.SdsSecretConfig{
		Name: name,
		SdsConfig: &corev3.ConfigSource{
			ConfigSourceSpecifier: &corev3.ConfigSource_ApiConfigSource{ApiConfigSource: &corev3.ApiConfigSource{
				ApiType:                   corev3.ApiConfigSource_GRPC,
				TransportApiVersion:       corev3.ApiVersion_V3,
				SetNodeOnFirstMessageOnly: true,
				GrpcServices: []*corev3.GrpcService{{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
					EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: sdsCluster},
				}}},
			}},
			InitialFetchTimeout: durationpb.New(0),
			ResourceApiVersion:  corev3.ApiVersion_V3,
		},
	}
}

func socket(name string, config proto.Message) *corev3.TransportSocket {
	return &corev3.TransportSocket{Name: name, ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: pack(config)}}
}

// httpALPN are the protocols that our HTTP servers speak inside TLS.
func httpALPN() []string { return []string{"h2", "http/1.1"} }
