package certs_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/test/bufconn"
	securityapi "istio.io/api/security/v1alpha1"

	"github.com/tullemesh/tulle/internal/agent/certs"
	"github.com/tullemesh/tulle/internal/control/ca"
	"github.com/tullemesh/tulle/internal/identity"
	"github.com/tullemesh/tulle/internal/limit"
)

// scripted is the service as Istio's own generated code reads and writes it.
type scripted struct {
	securityapi.UnimplementedIstioCertificateServiceServer
	answer *securityapi.IstioCertificateResponse
	got    chan *securityapi.IstioCertificateRequest
}

func (s scripted) CreateCertificate(_ context.Context, r *securityapi.IstioCertificateRequest) (*securityapi.IstioCertificateResponse, error) {
	s.got <- r
	return s.answer, nil
}

// ask sends one request to a server that gives the answer, and returns what the
// server saw and what the client made of the answer.
func ask(t *testing.T, csr string, ttl time.Duration, answer *securityapi.IstioCertificateResponse) (*securityapi.IstioCertificateRequest, []string, error) {
	t.Helper()
	m := newMesh(t, 0)
	m.stop()
	certificate, err := ca.NewServerCertificate(m.authority, []string{serverName}, 0)
	if err != nil {
		t.Fatal(err)
	}
	m.listener = bufconn.Listen(1 << 16)
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(certificate.TLSConfig())))
	service := scripted{answer: answer, got: make(chan *securityapi.IstioCertificateRequest, 1)}
	securityapi.RegisterIstioCertificateServiceServer(server, service)
	served := make(chan error, 1)
	go func() { served <- server.Serve(m.listener) }()
	chain, err := m.client(m.authority.Roots()).Create(t.Context(), []byte(csr), ttl, certs.Credential{Token: identity.NewToken("x")})
	server.Stop()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	select {
	case r := <-service.got:
		return r, chain, err
	default:
		t.Fatalf("no request arrived: %v", err)
		return nil, nil, nil
	}
}

func TestRequestIsReadByIstiosOwnCode(t *testing.T) {
	for _, c := range []struct {
		situation string
		ttl       time.Duration
		seconds   int64
	}{
		{"no wish", 0, 0},
		{"whole seconds", time.Hour, 3600},
		{"a fraction is rounded up", 1500 * time.Millisecond, 2},
	} {
		t.Run(c.situation, func(t *testing.T) {
			got, _, err := ask(t, "request of\nlines", c.ttl, &securityapi.IstioCertificateResponse{})
			if err != nil {
				t.Fatal(err)
			}
			if got.GetCsr() != "request of\nlines" || got.GetValidityDuration() != c.seconds || len(got.ProtoReflect().GetUnknown()) > 0 {
				t.Errorf("the server read %v", got)
			}
		})
	}
}

func TestAnswerIsReadAsIstiosOwnCodeWritesIt(t *testing.T) {
	const most = limit.ChainCertificatesMax + limit.RootCertificatesMax
	several := func(n int) []string {
		var all []string
		for i := range n {
			all = append(all, fmt.Sprintf("certificate %d", i))
		}
		return all
	}
	for _, c := range []struct {
		situation string
		chain     []string
		unknown   string // fields of a newer version, on the wire
		refused   string
	}{
		{situation: "nothing"},
		{situation: "two certificates", chain: several(2)},
		{situation: "an empty one keeps its place", chain: []string{"a", "", "b"}},
		{situation: "a newer field of each kind", chain: several(2), unknown: "\x10\x05" + "\x1a\x01x" + "\x25abcd" + "\x29abcdefgh"},
		{situation: "the chain's number with another kind", chain: several(1), unknown: "\x08\x05"},
		{situation: "as many as may be", chain: several(most)},
		{situation: "one more", chain: several(most + 1), refused: "more than"},
	} {
		t.Run(c.situation, func(t *testing.T) {
			answer := &securityapi.IstioCertificateResponse{CertChain: c.chain}
			answer.ProtoReflect().SetUnknown([]byte(c.unknown))
			_, chain, err := ask(t, "x", 0, answer)
			if c.refused != "" {
				if err == nil || !strings.Contains(err.Error(), c.refused) {
					t.Fatalf("got %d certificates, error %v; want it to say %q", len(chain), err, c.refused)
				}
				return
			}
			if err != nil || !slices.Equal(chain, c.chain) {
				t.Errorf("got %q, error %v; want %q", chain, err, c.chain)
			}
		})
	}
}
