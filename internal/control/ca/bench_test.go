package ca_test

import (
	"testing"

	securityapi "istio.io/api/security/v1alpha1"

	"github.com/tullemesh/tulle/internal/control/ca"
)

// One certificate without the network: what a restart of the whole mesh costs
// the authority for each proxy. Times Rates.PerSecond it is the most that
// callers can make the authority work.
func BenchmarkCreateCertificate(b *testing.B) {
	server := ca.NewServer(newAuthority(b, ca.Options{}), ca.ServerOptions{
		Authenticators: []ca.Authenticator{everybodyIsCart{}},
		Rates:          ca.Rates{PerSecond: 1e9, Burst: 1e9, IdentityPerSecond: 1e9, IdentityBurst: 1e9},
	})
	csr, _ := request(b, nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := server.CreateCertificate(b.Context(), &securityapi.IstioCertificateRequest{Csr: string(csr)}); err != nil {
			b.Fatal(err)
		}
	}
}
