// Package secret puts a workload's certificates into the form of Envoy's
// secrets.
//
// In comes an identity.Bundle, out go the two resources that Istio's agent
// serves. It has no state. It stands apart from agent/sds, so that a proxy that
// takes them directly does not carry that service's generated code.
package secret

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tullemesh/tulle/internal/identity"
	"github.com/tullemesh/tulle/internal/wire"
)

// The secrets' names, as Istio's agent has them.
const (
	// Default is the workload's certificate chain and key.
	Default = "default"
	// RootCA is the validation context with the mesh's roots.
	RootCA = "ROOTCA"
)

// Known tells whether an agent has a secret of this name.
func Known(name string) bool { return name == Default || name == RootCA }

// Resources are the secrets of a bundle, none for nil: what the socket serves,
// and what a proxy in the agent's own process takes directly. A version is a
// hash of the certificates only, so that it tells nothing of the key; no two
// chains share a key.
func Resources(b *identity.Bundle) ([]*wire.Resource, error) {
	if b == nil {
		return nil, nil
	}
	inline := func(data []byte) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: data}}
	}
	var out []*wire.Resource
	for _, x := range []struct {
		message *tlsv3.Secret
		hashed  []byte
	}{
		{&tlsv3.Secret{Name: Default, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
			CertificateChain: inline(b.Chain), PrivateKey: inline(b.Key.PEM()),
		}}}, b.Chain},
		{&tlsv3.Secret{Name: RootCA, Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
			TrustedCa: inline(b.Roots),
		}}}, b.Roots},
	} {
		body, err := anypb.New(x.message)
		if err != nil {
			return nil, fmt.Errorf("encode secret %s: %w", x.message.GetName(), err)
		}
		sum := sha256.Sum256(x.hashed)
		out = append(out, &wire.Resource{Name: x.message.GetName(), Version: hex.EncodeToString(sum[:8]), Body: body})
	}
	return out, nil
}
