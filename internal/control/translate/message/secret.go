package message

import (
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/tullemesh/tulle/internal/control/translate/plan"
	"github.com/tullemesh/tulle/internal/control/translate/view"
	"github.com/tullemesh/tulle/internal/identity"
)

// secret builds a gateway credential, "kubernetes://NAME" or
// "kubernetes://NAME-cacert"; nil where there is none, and always nil unless
// an authenticated gateway asks for a secret of its own namespace that one of
// its servers names.
func (w *Writer) secret(r *view.Reader, name string) *tlsv3.Secret {
	plain, ok := strings.CutPrefix(name, CredentialPrefix)
	if !ok || r.Role() != view.RoleGateway {
		return nil
	}
	id, err := identity.Parse(r.Identity())
	if err != nil || id.Namespace != r.Namespace() {
		return nil
	}
	if !w.namesCredential(r, plain) {
		return nil
	}
	if c := w.snap.Credential(id.Namespace, plain); c != nil && len(c.Certificate) > 0 {
		return &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
			CertificateChain: inline(c.Certificate), PrivateKey: inline(c.Key.Reveal()),
		}}}
	}
	base, ok := strings.CutSuffix(plain, CASuffix)
	if !ok {
		return nil
	}
	// The root may stand in a secret of its own or beside the certificate.
	for _, n := range []string{plain, base} {
		if c := w.snap.Credential(id.Namespace, n); c != nil && len(c.CA) > 0 {
			return &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
				TrustedCa: inline(c.CA),
			}}}
		}
	}
	return nil
}

// namesCredential reports whether a server of the gateway uses the secret.
func (w *Writer) namesCredential(r *view.Reader, name string) bool {
	base := strings.TrimSuffix(name, CASuffix)
	for _, l := range plan.GatewayOf(r).Listeners {
		for _, s := range l.Servers {
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
