package sds

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tullemesh/tulle/internal/identity"
)

// The secrets' names, as Istio's agent has them.
const (
	// Default is the workload's certificate chain and key.
	Default = "default"
	// RootCA is the validation context with the mesh's roots.
	RootCA = "ROOTCA"
)

func known(name string) bool { return name == Default || name == RootCA }

// secret is a resource to send.
type secret struct {
	name    string
	version string
	body    *anypb.Any
}

// build returns the secrets of a bundle, none for nil. A version is a hash of
// the certificates only, so that it tells nothing of the key: no two chains
// share a key.
func build(b *identity.Bundle) ([]secret, error) {
	if b == nil {
		return nil, nil
	}
	inline := func(data []byte) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: data}}
	}
	var out []secret
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
		out = append(out, secret{name: x.message.GetName(), version: hex.EncodeToString(sum[:8]), body: body})
	}
	return out, nil
}
