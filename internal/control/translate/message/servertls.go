package message

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tullemesh/tulle/internal/control/model"
)

const (
	// CredentialPrefix names a Kubernetes secret of the gateway's namespace in
	// SDS (Istio, credentialName).
	CredentialPrefix = "kubernetes://"
	// CASuffix names the secret that verifies callers.
	CASuffix = "-cacert"
	// filePrefix and rootFilePrefix name files, which the agent reads.
	filePrefix     = "file-cert:"
	rootFilePrefix = "file-root:"
	fileSeparator  = "~"
)

// serverTLS is the TLS of a server that ends connections: a gateway's, or a
// Sidecar's ingress listener. It names the versions of HTTP even where bytes are
// forwarded: clients of gRPC insist on an answer, and what is within may be HTTP
// (Istio: BuildListenerTLSContext).
func (w *Writer) serverTLS(s *model.ServerTLS) *corev3.TransportSocket {
	if s.Mode == "ISTIO_MUTUAL" {
		ctx := w.downstreamMutual()
		ctx.CommonTlsContext.TlsParams = tlsParams(s)
		return socket(tlsSocket, ctx)
	}
	common := &tlsv3.CommonTlsContext{TlsParams: tlsParams(s), AlpnProtocols: httpALPN()}
	var root *tlsv3.SdsSecretConfig
	if len(s.CredentialNames) > 0 {
		for _, name := range s.CredentialNames {
			common.TlsCertificateSdsSecretConfigs = append(common.TlsCertificateSdsSecretConfigs, gatewaySecret(CredentialPrefix+name))
		}
		root = gatewaySecret(CredentialPrefix + s.CredentialNames[0] + CASuffix)
	} else {
		common.TlsCertificateSdsSecretConfigs = []*tlsv3.SdsSecretConfig{
			agentSecret(filePrefix + s.CertFile + fileSeparator + s.KeyFile),
		}
		root = agentSecret(rootFilePrefix + s.CAFile)
	}
	ctx := &tlsv3.DownstreamTlsContext{CommonTlsContext: common, RequireClientCertificate: wrapperspb.Bool(s.Mode == "MUTUAL")}
	if s.Mode == "MUTUAL" || s.Mode == "OPTIONAL_MUTUAL" {
		common.ValidationContextType = &tlsv3.CommonTlsContext_CombinedValidationContext{
			CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext: &tlsv3.CertificateValidationContext{}, ValidationContextSdsSecretConfig: root,
			},
		}
	}
	return socket(tlsSocket, ctx)
}

// gatewaySecret says: ask the control plane.
func gatewaySecret(name string) *tlsv3.SdsSecretConfig {
	return &tlsv3.SdsSecretConfig{Name: name, SdsConfig: adsSource()}
}

// tlsParams are the versions that a server takes, 1.2 and newer where the
// Gateway does not say otherwise (ServerTLSSettings.minProtocolVersion), and the
// cipher suites, which bind version 1.2 only.
func tlsParams(s *model.ServerTLS) *tlsv3.TlsParameters {
	out := &tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2, CipherSuites: s.CipherSuites}
	if v, ok := tlsVersion(s.MinVersion); ok {
		out.TlsMinimumProtocolVersion = v
	}
	if v, ok := tlsVersion(s.MaxVersion); ok {
		out.TlsMaximumProtocolVersion = v
	}
	return out
}

func tlsVersion(name string) (tlsv3.TlsParameters_TlsProtocol, bool) {
	switch name {
	case "TLSV1_0":
		return tlsv3.TlsParameters_TLSv1_0, true
	case "TLSV1_1":
		return tlsv3.TlsParameters_TLSv1_1, true
	case "TLSV1_2":
		return tlsv3.TlsParameters_TLSv1_2, true
	case "TLSV1_3":
		return tlsv3.TlsParameters_TLSv1_3, true
	}
	return 0, false
}
