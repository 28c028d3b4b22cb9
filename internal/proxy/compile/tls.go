package compile

import (
	"crypto/tls"
	"fmt"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/tullemesh/tulle/internal/match"
	engtls "github.com/tullemesh/tulle/internal/proxy/engine/tls"
)

// parameters are what both sides of TLS share.
type parameters struct {
	certificates []string
	validation   string
	sans         []match.String
	alpn         []string
	min, max     uint16
	suites       []string
	curves       []string
}

func (v *conv) serverTLS(m *tlsv3.DownstreamTlsContext, path string) *engtls.ServerSpec {
	p := v.common(m.GetCommonTlsContext(), join(path, "common_tls_context"))
	s := &engtls.ServerSpec{
		Certificates: p.certificates, Validation: p.validation, SANs: p.sans, ALPN: p.alpn,
		MinVersion: p.min, MaxVersion: p.max, CipherSuites: p.suites, Curves: p.curves,
		RequireClientCert: m.GetRequireClientCertificate().GetValue(),
	}
	if len(s.Certificates) == 0 {
		v.report.invalid(join(path, "common_tls_context"), "a server needs a certificate")
	}
	if s.RequireClientCert && s.Validation == "" {
		v.report.refuse(join(path, "require_client_certificate"), "a client certificate is required, and there are no roots to verify it by")
	}
	return s
}

func (v *conv) upstreamTLS(m *tlsv3.UpstreamTlsContext, path string) *engtls.ClientSpec {
	p := v.common(m.GetCommonTlsContext(), join(path, "common_tls_context"))
	s := &engtls.ClientSpec{
		Validation: p.validation, SANs: p.sans, SNI: m.GetSni(), ALPN: p.alpn,
		MinVersion: p.min, MaxVersion: p.max, CipherSuites: p.suites, Curves: p.curves,
	}
	switch len(p.certificates) {
	case 0:
	case 1:
		s.Certificate = p.certificates[0]
	default:
		v.report.refuse(join(path, "common_tls_context"), "a client has one certificate")
	}
	return s
}

func (v *conv) common(m *tlsv3.CommonTlsContext, path string) parameters {
	p := parameters{alpn: m.GetAlpnProtocols()}
	v.tlsParams(&p, m.GetTlsParams(), join(path, "tls_params"))
	for i, c := range m.GetTlsCertificateSdsSecretConfigs() {
		p.certificates = append(p.certificates, v.sdsName(c, fmt.Sprintf("%s.tls_certificate_sds_secret_configs[%d]", path, i)))
	}
	for i, c := range m.GetTlsCertificates() {
		at := fmt.Sprintf("%s.tls_certificates[%d]", path, i)
		p.certificates = append(p.certificates, v.inline(v.certificate(c, at), at))
	}
	switch t := m.GetValidationContextType().(type) {
	case nil:
	case *tlsv3.CommonTlsContext_ValidationContext:
		v.validation(&p, t.ValidationContext, "", join(path, "validation_context"))
	case *tlsv3.CommonTlsContext_ValidationContextSdsSecretConfig:
		p.validation = v.sdsName(t.ValidationContextSdsSecretConfig, join(path, "validation_context_sds_secret_config"))
	case *tlsv3.CommonTlsContext_CombinedValidationContext:
		at := join(path, "combined_validation_context")
		name := v.sdsName(t.CombinedValidationContext.GetValidationContextSdsSecretConfig(), join(at, "validation_context_sds_secret_config"))
		v.validation(&p, t.CombinedValidationContext.GetDefaultValidationContext(), name, join(at, "default_validation_context"))
	default:
		v.report.refuse(path, "this validation context is not supported")
	}
	return p
}

// validation reads a validation context. sds names the secret that brings the
// roots; without it the context must.
func (v *conv) validation(p *parameters, m *tlsv3.CertificateValidationContext, sds, path string) {
	p.sans = v.sans(m, path)
	p.validation = sds
	if sds != "" {
		if m.GetTrustedCa() != nil || m.GetCrl() != nil {
			v.report.refuse(path, "roots both inline and by SDS are not supported")
		}
		return
	}
	if m.GetTrustedCa() == nil {
		if len(p.sans) > 0 || m.GetCrl() != nil {
			v.report.invalid(path, "names and revocations are checked only against trusted roots, and there are none")
		}
		return
	}
	p.validation = v.inline(&engtls.Secret{
		Roots: v.data(m.GetTrustedCa(), join(path, "trusted_ca")), CRL: v.data(m.GetCrl(), join(path, "crl")),
	}, path)
}

// sans reads the names of which the peer must have one.
func (v *conv) sans(m *tlsv3.CertificateValidationContext, path string) []match.String {
	var out []match.String
	for i, s := range m.GetMatchSubjectAltNames() { // deprecated, and still sent
		out = append(out, v.text(s, fmt.Sprintf("%s.match_subject_alt_names[%d]", path, i)))
	}
	for i, s := range m.GetMatchTypedSubjectAltNames() {
		at := fmt.Sprintf("%s.match_typed_subject_alt_names[%d]", path, i)
		// A name is compared whatever its type, so only patterns that no other
		// type of name fulfils are taken.
		if s.GetSanType() != tlsv3.SubjectAltNameMatcher_URI || !beginsAsURI(s.GetMatcher()) {
			v.report.refuse(at, "only URIs by exact text or prefix are supported")
		}
		out = append(out, v.text(s.GetMatcher(), join(at, "matcher")))
	}
	return out
}

func beginsAsURI(m *matcherv3.StringMatcher) bool {
	return strings.Contains(m.GetExact(), "://") || strings.Contains(m.GetPrefix(), "://")
}

// inlinePrefix begins the names of inline secrets; SDS never asks for them.
const inlinePrefix = "inline:"

// inline keeps a secret that stands in the configuration under a name that its
// place gives it.
func (v *conv) inline(s *engtls.Secret, path string) string {
	s.Name = inlinePrefix + v.owner + "#" + path
	v.secrets = append(v.secrets, s)
	return s.Name
}

func (v *conv) sdsName(m *tlsv3.SdsSecretConfig, path string) string {
	if m.GetName() == "" {
		v.report.invalid(join(path, "name"), "a secret's name is needed")
	}
	return m.GetName()
}

func (v *conv) certificate(m *tlsv3.TlsCertificate, path string) *engtls.Secret {
	s := &engtls.Secret{
		Chain: v.data(m.GetCertificateChain(), join(path, "certificate_chain")),
		Key:   v.data(m.GetPrivateKey(), join(path, "private_key")),
	}
	if s.Chain.Empty() || s.Key.Empty() {
		v.report.invalid(path, "a certificate needs a chain and a key")
	}
	return s
}

func (v *conv) data(m *corev3.DataSource, path string) engtls.Data {
	switch d := m.GetSpecifier().(type) {
	case nil:
	case *corev3.DataSource_Filename:
		return engtls.Data{File: d.Filename}
	case *corev3.DataSource_InlineBytes:
		return engtls.Data{Inline: d.InlineBytes}
	case *corev3.DataSource_InlineString:
		return engtls.Data{Inline: []byte(d.InlineString)}
	default:
		v.report.refuse(path, "only files and inline bytes are supported")
	}
	return engtls.Data{}
}

func (v *conv) secret(m *tlsv3.Secret) *engtls.Secret {
	s := &engtls.Secret{}
	switch t := m.GetType().(type) {
	case *tlsv3.Secret_TlsCertificate:
		s = v.certificate(t.TlsCertificate, "tls_certificate")
	case *tlsv3.Secret_ValidationContext:
		c := t.ValidationContext
		s.Roots, s.CRL = v.data(c.GetTrustedCa(), "validation_context.trusted_ca"), v.data(c.GetCrl(), "validation_context.crl")
		s.SANs = v.sans(c, "validation_context")
		if s.Roots.Empty() {
			v.report.invalid("validation_context.trusted_ca", "trusted roots are needed")
		}
	default:
		v.report.refuse("", "only certificates and validation contexts are supported")
	}
	s.Name = m.GetName()
	return s
}

func (v *conv) tlsParams(p *parameters, m *tlsv3.TlsParameters, path string) {
	p.min = v.version(m.GetTlsMinimumProtocolVersion(), join(path, "tls_minimum_protocol_version"))
	p.max = v.version(m.GetTlsMaximumProtocolVersion(), join(path, "tls_maximum_protocol_version"))
	if p.min > p.max && p.max != 0 {
		v.report.invalid(path, "the minimum version is above the maximum")
	}
	p.suites, p.curves = m.GetCipherSuites(), m.GetEcdhCurves()
	if err := engtls.Check(p.suites, p.curves); err != nil {
		v.report.refuse(path, err.Error())
	}
}

func (v *conv) version(p tlsv3.TlsParameters_TlsProtocol, path string) uint16 {
	switch p {
	case tlsv3.TlsParameters_TLS_AUTO:
		return 0
	case tlsv3.TlsParameters_TLSv1_0:
		return tls.VersionTLS10
	case tlsv3.TlsParameters_TLSv1_1:
		return tls.VersionTLS11
	case tlsv3.TlsParameters_TLSv1_2:
		return tls.VersionTLS12
	case tlsv3.TlsParameters_TLSv1_3:
		return tls.VersionTLS13
	}
	v.report.invalid(path, "no such version")
	return 0
}
