package translate

import (
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/tullemesh/tulle/internal/identity"
)

// secretNames lists nothing: secrets are given to who asks by name.
func (t *Translator) secretNames(*reader) []string { return nil }

// secret builds a gateway credential, "kubernetes://NAME" or
// "kubernetes://NAME-cacert"; nil where there is none, and always nil unless
// an authenticated gateway asks for a secret of its own namespace that one of
// its servers names.
func (t *Translator) secret(r *reader, name string) (*tlsv3.Secret, error) {
	plain, ok := strings.CutPrefix(name, credentialPrefix)
	if !ok || r.role() != RoleGateway {
		return nil, nil
	}
	id, err := identity.Parse(r.ask(askIdentity, "").(string))
	if err != nil || id.Namespace != r.namespace() {
		return nil, nil
	}
	if !t.namesCredential(r, plain) {
		return nil, nil
	}
	if c := t.snap.Credential(id.Namespace, plain); c != nil && len(c.Certificate) > 0 {
		return &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
			CertificateChain: inline(c.Certificate), PrivateKey: inline(c.Key.Reveal()),
		}}}, nil
	}
	base, ok := strings.CutSuffix(plain, caSuffix)
	if !ok {
		return nil, nil
	}
	// The root may stand in a secret of its own or beside the certificate.
	for _, n := range []string{plain, base} {
		if c := t.snap.Credential(id.Namespace, n); c != nil && len(c.CA) > 0 {
			return &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
				TrustedCa: inline(c.CA),
			}}}, nil
		}
	}
	return nil, nil
}

// namesCredential reports whether a server of the gateway uses the secret.
func (t *Translator) namesCredential(r *reader, name string) bool {
	base := strings.TrimSuffix(name, caSuffix)
	for _, l := range t.gatewayPlanOf(r, r.v).listeners {
		for _, s := range l.servers {
			if s.TLS == nil {
				continue
			}
			for _, c := range s.TLS.CredentialNames {
				if c == name || c == base {
					return true
				}
			}
		}
	}
	return false
}

func inline(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}
