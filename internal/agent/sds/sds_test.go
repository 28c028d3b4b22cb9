package sds_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tullemesh/tulle/internal/agent/sds"
	"github.com/tullemesh/tulle/internal/agent/secret"
	"github.com/tullemesh/tulle/internal/control/ca"
	"github.com/tullemesh/tulle/internal/identity"
	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/wire"
)

// issuer makes certificates for the tests.
type issuer struct{ authority *ca.Authority }

func newIssuer(t *testing.T) issuer {
	t.Helper()
	domains, err := identity.NewTrustDomains("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	a, err := ca.LoadOrCreate(filepath.Join(t.TempDir(), "ca"), ca.Options{TrustDomains: domains})
	if err != nil {
		t.Fatal(err)
	}
	return issuer{a}
}

func (i issuer) bundle(t *testing.T) *identity.Bundle {
	t.Helper()
	b, err := i.authority.Issue(identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "cart"}, nil, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// serve serves source on a socket and returns a client of it.
func serve(t *testing.T, source identity.Source) secretv3.SecretDiscoveryServiceClient {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sds.sock")
	l, err := sds.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- sds.New(source, nil).Serve(ctx, l) }()
	connection, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		connection.Close()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("socket after the end: %v, want it removed", err)
		}
	})
	return secretv3.NewSecretDiscoveryServiceClient(connection)
}

// deadline bounds the waits of a test against a server that doesn't answer.
func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func open(t *testing.T, client secretv3.SecretDiscoveryServiceClient) sotw {
	t.Helper()
	stream, err := client.StreamSecrets(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	return sotw{t, stream}
}

type sotw struct {
	t      *testing.T
	stream grpc.BidiStreamingClient[discoveryv3.DiscoveryRequest, discoveryv3.DiscoveryResponse]
}

func (s sotw) ask(nonce string, names ...string) {
	s.t.Helper()
	if err := s.stream.Send(&discoveryv3.DiscoveryRequest{TypeUrl: wire.SecretType, ResponseNonce: nonce, ResourceNames: names}); err != nil {
		s.t.Fatal(err)
	}
}

// next returns the next response and its secrets by name.
func (s sotw) next() (*discoveryv3.DiscoveryResponse, map[string]*tlsv3.Secret) {
	s.t.Helper()
	r, err := s.stream.Recv()
	if err != nil {
		s.t.Fatal(err)
	}
	return r, decode(s.t, r.GetResources())
}

func decode(t *testing.T, bodies []*anypb.Any) map[string]*tlsv3.Secret {
	t.Helper()
	out := map[string]*tlsv3.Secret{}
	for _, body := range bodies {
		var secret tlsv3.Secret
		if err := body.UnmarshalTo(&secret); err != nil {
			t.Fatal(err)
		}
		out[secret.GetName()] = &secret
	}
	return out
}

func chainOf(s *tlsv3.Secret) string {
	return string(s.GetTlsCertificate().GetCertificateChain().GetInlineBytes())
}

func TestStreamGetsCertificateKeyAndRoots(t *testing.T) {
	var source identity.Publisher
	b := newIssuer(t).bundle(t)
	source.Publish(b)
	stream := open(t, serve(t, &source))
	stream.ask("", secret.Default, secret.RootCA)
	r, secrets := stream.next()
	if r.GetTypeUrl() != wire.SecretType || r.GetNonce() == "" || r.GetVersionInfo() == "" {
		t.Errorf("response type %q nonce %q version %q", r.GetTypeUrl(), r.GetNonce(), r.GetVersionInfo())
	}
	if got := chainOf(secrets[secret.Default]); got != string(b.Chain) {
		t.Errorf("chain %q", got)
	}
	key, err := identity.ParsePrivateKey(secrets[secret.Default].GetTlsCertificate().GetPrivateKey().GetInlineBytes())
	if err != nil || !key.Matches(b.Certificate().Leaf.PublicKey) {
		t.Errorf("key does not belong to the certificate: %v", err)
	}
	if got := secrets[secret.RootCA].GetValidationContext().GetTrustedCa().GetInlineBytes(); string(got) != string(b.Roots) {
		t.Errorf("roots %q", got)
	}
}

// Versions follow the certificates: the same for the same bundle, another one
// after a rotation, and the roots' only with the roots.
func TestVersionsFollowTheCertificates(t *testing.T) {
	i := newIssuer(t)
	versions := func(b *identity.Bundle) (certificate, roots string) {
		t.Helper()
		resources, err := secret.Resources(b)
		if err != nil || len(resources) != 2 || resources[0].Name != secret.Default || resources[1].Name != secret.RootCA {
			t.Fatalf("resources %v, %v", resources, err)
		}
		return resources[0].Version, resources[1].Version
	}
	b := i.bundle(t)
	c1, r1 := versions(b)
	c2, r2 := versions(b)
	c3, r3 := versions(i.bundle(t))
	_, r4 := versions(newIssuer(t).bundle(t))
	if c1 != c2 || r1 != r2 || c1 == c3 || r1 != r3 || r1 == r4 {
		t.Errorf("versions %s %s, again %s %s, rotated %s %s, other roots %s", c1, r1, c2, r2, c3, r3, r4)
	}
	if resources, err := secret.Resources(nil); len(resources) != 0 || err != nil {
		t.Errorf("of no bundle: %v, %v", resources, err)
	}
}

func TestStreamWaitsForTheFirstCertificate(t *testing.T) {
	var source identity.Publisher
	stream := open(t, serve(t, &source))
	stream.ask("", secret.Default)
	b := newIssuer(t).bundle(t)
	source.Publish(b)
	if _, secrets := stream.next(); chainOf(secrets[secret.Default]) != string(b.Chain) {
		t.Error("another chain than the published one")
	}
}

// A rotation changes the certificate and not the roots: only the certificate
// is pushed, and an acknowledgement brings nothing.
func TestRotationPushesOnlyWhatChanged(t *testing.T) {
	var source identity.Publisher
	i := newIssuer(t)
	source.Publish(i.bundle(t))
	stream := open(t, serve(t, &source))
	stream.ask("", secret.Default, secret.RootCA)
	first, _ := stream.next()
	stream.ask(first.GetNonce(), secret.Default, secret.RootCA)
	second := i.bundle(t)
	source.Publish(second)
	r, secrets := stream.next()
	if len(secrets) != 1 || chainOf(secrets[secret.Default]) != string(second.Chain) {
		t.Errorf("secrets after rotation: %v", secrets)
	}
	if r.GetNonce() == first.GetNonce() || r.GetVersionInfo() == first.GetVersionInfo() {
		t.Error("nonce or version did not change")
	}
}

func TestNewRootsArePushed(t *testing.T) {
	var source identity.Publisher
	source.Publish(newIssuer(t).bundle(t))
	stream := open(t, serve(t, &source))
	stream.ask("", secret.RootCA)
	first, _ := stream.next()
	stream.ask(first.GetNonce(), secret.RootCA)
	other := newIssuer(t).bundle(t)
	source.Publish(other)
	_, secrets := stream.next()
	if got := secrets[secret.RootCA].GetValidationContext().GetTrustedCa().GetInlineBytes(); string(got) != string(other.Roots) {
		t.Error("the roots are not the new ones")
	}
}

// A refused version is not sent again; the next one is. The refusal must not
// end the stream.
func TestRefusedSecretIsFollowedByTheNextOnly(t *testing.T) {
	var source identity.Publisher
	i := newIssuer(t)
	source.Publish(i.bundle(t))
	stream := open(t, serve(t, &source))
	stream.ask("", secret.Default)
	first, _ := stream.next()
	if err := stream.stream.Send(&discoveryv3.DiscoveryRequest{
		TypeUrl: wire.SecretType, ResponseNonce: first.GetNonce(), ResourceNames: []string{secret.Default},
		ErrorDetail: &rpcstatus.Status{Code: int32(codes.Internal), Message: "key values mismatch"},
	}); err != nil {
		t.Fatal(err)
	}
	second := i.bundle(t)
	source.Publish(second)
	if _, secrets := stream.next(); chainOf(secrets[secret.Default]) != string(second.Chain) {
		t.Error("the next response is not the next certificate")
	}
}

func TestNameAddedLaterIsSentAndStaleRequestIsIgnored(t *testing.T) {
	var source identity.Publisher
	source.Publish(newIssuer(t).bundle(t))
	stream := open(t, serve(t, &source))
	stream.ask("", secret.Default)
	first, _ := stream.next()
	stream.ask("stale", secret.RootCA)                          // must not unsubscribe Default
	stream.ask(first.GetNonce(), secret.Default, secret.RootCA) // adds ROOTCA
	_, secrets := stream.next()
	if len(secrets) != 1 || secrets[secret.RootCA] == nil {
		t.Errorf("got %v, want only ROOTCA: Default was held already", secrets)
	}
}

func TestUnknownSecretDoesNotHideKnownOnes(t *testing.T) {
	var source identity.Publisher
	source.Publish(newIssuer(t).bundle(t))
	stream := open(t, serve(t, &source))
	stream.ask("", "file-cert:/etc/x", secret.Default)
	if _, secrets := stream.next(); len(secrets) != 1 || secrets[secret.Default] == nil {
		t.Errorf("got %v, want only %s", secrets, secret.Default)
	}
}

func delta(t *testing.T, client secretv3.SecretDiscoveryServiceClient, requests ...*discoveryv3.DeltaDiscoveryRequest) grpc.BidiStreamingClient[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse] {
	t.Helper()
	stream, err := client.DeltaSecrets(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range requests {
		r.TypeUrl = wire.SecretType
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
	}
	return stream
}

func TestDeltaStreamFollowsRotationAndTellsUnknownNames(t *testing.T) {
	var source identity.Publisher
	i := newIssuer(t)
	source.Publish(i.bundle(t))
	stream := delta(t, serve(t, &source), &discoveryv3.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{secret.Default, secret.RootCA, "nothing"}})
	first, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if len(first.GetResources()) != 2 || strings.Join(first.GetRemovedResources(), ",") != "nothing" {
		t.Fatalf("first response: %d resources, removed %v", len(first.GetResources()), first.GetRemovedResources())
	}
	second := i.bundle(t)
	source.Publish(second)
	r, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if len(r.GetResources()) != 1 || r.GetResources()[0].GetName() != secret.Default {
		t.Fatalf("after rotation: %v", r.GetResources())
	}
	if got := decode(t, []*anypb.Any{r.GetResources()[0].GetResource()}); chainOf(got[secret.Default]) != string(second.Chain) {
		t.Error("the chain is not the new one")
	}
}

// A client that reconnects says what it holds and is sent only the rest; one
// that subscribes again without saying so is sent everything again.
func TestDeltaReconnectSendsOnlyWhatIsMissing(t *testing.T) {
	var source identity.Publisher
	source.Publish(newIssuer(t).bundle(t))
	client := serve(t, &source)
	both := []string{secret.Default, secret.RootCA}
	first, err := delta(t, client, &discoveryv3.DeltaDiscoveryRequest{ResourceNamesSubscribe: both}).Recv()
	if err != nil {
		t.Fatal(err)
	}
	held := map[string]string{}
	for _, r := range first.GetResources() {
		if r.GetName() == secret.RootCA {
			held[r.GetName()] = r.GetVersion()
		}
	}
	stream := delta(t, client, &discoveryv3.DeltaDiscoveryRequest{ResourceNamesSubscribe: both, InitialResourceVersions: held})
	second, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if len(second.GetResources()) != 1 || second.GetResources()[0].GetName() != secret.Default {
		t.Errorf("reconnect got %v, want only %s", second.GetResources(), secret.Default)
	}
	if err := stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: wire.SecretType, ResourceNamesSubscribe: []string{secret.RootCA}}); err != nil {
		t.Fatal(err)
	}
	third, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if len(third.GetResources()) != 1 || third.GetResources()[0].GetName() != secret.RootCA {
		t.Errorf("subscribing again got %v, want only %s", third.GetResources(), secret.RootCA)
	}
}

func TestDeltaUnsubscribedNameIsNotPushed(t *testing.T) {
	var source identity.Publisher
	i := newIssuer(t)
	source.Publish(i.bundle(t))
	stream := delta(t, serve(t, &source),
		&discoveryv3.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{secret.Default}},
		&discoveryv3.DeltaDiscoveryRequest{ResourceNamesUnsubscribe: []string{secret.Default}, ResourceNamesSubscribe: []string{secret.RootCA}})
	// Both or only the latter, as the first request was or was not answered
	// before the second came; after ROOTCA, Default is gone for certain.
	for {
		r, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if r.GetResources()[len(r.GetResources())-1].GetName() == secret.RootCA {
			break
		}
	}
	source.Publish(i.bundle(t))
	source.Publish(newIssuer(t).bundle(t)) // new roots: this must be what comes next
	r, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if len(r.GetResources()) != 1 || r.GetResources()[0].GetName() != secret.RootCA {
		t.Errorf("got %v, want only %s", r.GetResources(), secret.RootCA)
	}
}

func TestWrongTypeEndsTheStreamByName(t *testing.T) {
	var source identity.Publisher
	stream := open(t, serve(t, &source))
	if err := stream.stream.Send(&discoveryv3.DiscoveryRequest{TypeUrl: wire.ClusterType}); err != nil {
		t.Fatal(err)
	}
	_, err := stream.stream.Recv()
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), wire.ClusterType) {
		t.Errorf("error %v, want InvalidArgument that names the type", err)
	}
}

func TestSubscribedNamesAreLimited(t *testing.T) {
	names := func(n int) []string {
		out := []string{secret.Default}
		for len(out) < n {
			out = append(out, strings.Repeat("x", len(out)))
		}
		return out
	}
	for _, c := range []struct {
		name    string
		names   []string
		refused bool
	}{
		{"one name less than the limit", names(limit.SecretNamesMax - 1), false},
		{"as many names as the limit", names(limit.SecretNamesMax), false},
		{"one name more than the limit", names(limit.SecretNamesMax + 1), true},
		{"a name as long as the limit", []string{secret.Default, strings.Repeat("x", limit.SecretNameBytesMax)}, false},
		{"a name longer than the limit", []string{secret.Default, strings.Repeat("x", limit.SecretNameBytesMax+1)}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var source identity.Publisher
			source.Publish(newIssuer(t).bundle(t))
			client := serve(t, &source)
			stream := open(t, client)
			stream.ask("", c.names...)
			_, err := stream.stream.Recv()
			if refused := status.Code(err) == codes.ResourceExhausted; refused != c.refused || (err != nil) != c.refused {
				t.Errorf("state of the world: error %v, want refused: %t", err, c.refused)
			}
			_, err = delta(t, client, &discoveryv3.DeltaDiscoveryRequest{ResourceNamesSubscribe: c.names}).Recv()
			if refused := status.Code(err) == codes.ResourceExhausted; refused != c.refused || (err != nil) != c.refused {
				t.Errorf("delta: error %v, want refused: %t", err, c.refused)
			}
		})
	}
}

func TestRequestsAreLimitedInBytes(t *testing.T) {
	for _, c := range []struct {
		bytes   int
		refused bool
	}{{limit.SecretRequestBytesMax - 1, false}, {limit.SecretRequestBytesMax, false}, {limit.SecretRequestBytesMax + 1, true}} {
		var source identity.Publisher
		source.Publish(newIssuer(t).bundle(t))
		stream := open(t, serve(t, &source))
		r := &discoveryv3.DiscoveryRequest{TypeUrl: wire.SecretType, ResourceNames: []string{secret.Default}, VersionInfo: strings.Repeat("x", c.bytes)}
		r.VersionInfo = r.GetVersionInfo()[proto.Size(r)-c.bytes:]
		if proto.Size(r) != c.bytes {
			t.Fatalf("request of %d bytes, want %d", proto.Size(r), c.bytes)
		}
		if err := stream.stream.Send(r); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.stream.Recv(); (status.Code(err) == codes.ResourceExhausted) != c.refused || (err != nil) != c.refused {
			t.Errorf("%d bytes: %v, want refused: %t", c.bytes, err, c.refused)
		}
	}
}

func TestStreamsAreLimited(t *testing.T) {
	var source identity.Publisher
	source.Publish(newIssuer(t).bundle(t))
	client := serve(t, &source)
	var last sotw
	for range limit.SecretStreamsMax {
		last = open(t, client)
		last.ask("", secret.Default)
		last.next()
	}
	if _, err := open(t, client).stream.Recv(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one stream more: %v, want ResourceExhausted", err)
	}
	if err := last.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := last.stream.Recv(); err == nil {
		t.Fatal("closed stream still sends")
	}
	again := open(t, client)
	again.ask("", secret.Default)
	again.next()
}

func TestFetchIsRefusedByStatus(t *testing.T) {
	var source identity.Publisher
	_, err := serve(t, &source).FetchSecrets(deadline(t), &discoveryv3.DiscoveryRequest{TypeUrl: wire.SecretType})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("error %v, want Unimplemented", err)
	}
}

func TestBrokenListenerEndsServe(t *testing.T) {
	l, err := sds.Listen(t.Context(), filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := sds.New(&identity.Publisher{}, nil).Serve(t.Context(), l); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve: %v, want net.ErrClosed", err)
	}
}
