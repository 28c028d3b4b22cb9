package ca

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	securityapi "istio.io/api/security/v1alpha1"

	"github.com/tullemesh/tulle/internal/identity"
	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/observe"
)

// Server is Istio's IstioCertificateService. Register it with
// securityapi.RegisterIstioCertificateServiceServer on a gRPC server whose TLS
// is that of a ServerCertificate.
type Server struct {
	securityapi.UnimplementedIstioCertificateServiceServer

	// Fixed at creation.
	authority      *Authority
	authenticators []Authenticator
	log            *slog.Logger

	// Safe for concurrent use.
	rates   *rates
	metrics metrics
}

// ServerOptions are the choices of a Server.
type ServerOptions struct {
	// Authenticators are asked in order; with none every call is refused.
	Authenticators []Authenticator
	// Rates bound the requests; zero fields take their defaults.
	Rates    Rates
	Registry *observe.Registry // nil keeps the metrics to itself
	Log      *slog.Logger      // nil discards
}

// NewServer returns the service of an authority.
func NewServer(a *Authority, options ServerOptions) *Server {
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}
	if options.Registry == nil {
		options.Registry = observe.NewRegistry()
	}
	return &Server{
		authority:      a,
		authenticators: options.Authenticators,
		log:            options.Log,
		rates:          newRates(options.Rates, a.options.Now),
		metrics:        newMetrics(options.Registry, a),
	}
}

// CreateCertificate implements IstioCertificateService: one certificate, for
// the caller's identity and the request's public key. The answer holds one
// PEM certificate for each element, leaf first, roots last.
//
// Codes: Unauthenticated (who are you), PermissionDenied (impersonation),
// InvalidArgument (request, lifetime or metadata), ResourceExhausted (rate),
// Unavailable (the authority can't sign).
func (s *Server) CreateCertificate(ctx context.Context, request *securityapi.IstioCertificateRequest) (*securityapi.IstioCertificateResponse, error) {
	s.metrics.requests.Inc()
	if !s.rates.allowAny() {
		s.metrics.limited.Inc()
		return nil, status.Error(codes.ResourceExhausted, "the certificate authority has too many requests; try again later")
	}
	id, err := s.authenticate(ctx)
	if err != nil {
		s.metrics.authentication.Inc()
		s.log.WarnContext(ctx, "certificate request refused", slog.String("peer", peerAddress(ctx)), slog.Any("error", err))
		// The reason stays here: it would help whoever tries credentials.
		return nil, status.Error(codes.Unauthenticated, "the certificate authority accepts neither a client certificate nor a join token of this caller")
	}
	issued, err := s.sign(id, request)
	if err != nil {
		s.log.WarnContext(ctx, "certificate request refused", slog.String("identity", id.String()), slog.String("peer", peerAddress(ctx)), slog.Any("error", err))
		return nil, err
	}
	s.metrics.issued.Inc()
	s.log.InfoContext(ctx, "certificate issued", slog.String("identity", id.String()), slog.String("serial", issued.Leaf.SerialNumber.Text(16)), slog.Time("until", issued.Leaf.NotAfter))
	response := &securityapi.IstioCertificateResponse{}
	response.CertChain = append(response.CertChain, string(identity.EncodeCertificates(issued.Leaf)))
	for _, c := range slices.Concat(issued.chain, issued.roots) {
		response.CertChain = append(response.CertChain, string(identity.EncodeCertificates(c)))
	}
	return response, nil
}

func (s *Server) authenticate(ctx context.Context) (identity.ID, error) {
	for _, a := range s.authenticators {
		id, err := a.Authenticate(ctx)
		switch {
		case errors.Is(err, ErrNoCredential):
		case err != nil:
			return identity.ID{}, fmt.Errorf("%s: %w", a.Kind(), err)
		default:
			return id, nil
		}
	}
	return identity.ID{}, ErrNoCredential
}

// sign returns errors with the status that the caller gets.
func (s *Server) sign(id identity.ID, request *securityapi.IstioCertificateRequest) (Issued, error) {
	if !s.rates.allow(id) {
		s.metrics.limited.Inc()
		return Issued{}, status.Errorf(codes.ResourceExhausted, "too many certificate requests of %s; try again later", id)
	}
	if err := checkMetadata(request); err != nil {
		if status.Code(err) == codes.PermissionDenied {
			s.metrics.authentication.Inc()
		}
		return Issued{}, err
	}
	ttl, err := lifetime(request.GetValidityDuration())
	if err == nil {
		var issued Issued
		if issued, err = s.authority.Sign([]byte(request.GetCsr()), id, ttl); err == nil {
			return issued, nil
		}
	}
	switch {
	case errors.Is(err, ErrRequest):
		s.metrics.parsing.Inc()
		return Issued{}, status.Error(codes.InvalidArgument, err.Error())
	case errors.Is(err, ErrLifetime):
		s.metrics.signing.With("ttl").Inc()
		return Issued{}, status.Error(codes.InvalidArgument, err.Error())
	}
	s.metrics.signing.With("signer").Inc()
	return Issued{}, status.Error(codes.Unavailable, err.Error())
}

// lifetime converts a requested lifetime. Istio takes one that is zero or less
// as "no wish".
func lifetime(seconds int64) (time.Duration, error) {
	if seconds <= 0 {
		return 0, nil
	}
	if seconds > int64((1<<63-1)/time.Second) {
		return 0, fmt.Errorf("%w: %d seconds", ErrLifetime, seconds)
	}
	return time.Duration(seconds) * time.Second, nil
}

// checkMetadata refuses what a request's metadata asks for, as all of it would
// change who is certified or by whom. WorkloadName, WorkloadIP and ClusterID
// (ca.proto) only describe the caller and ask for nothing.
func checkMetadata(request *securityapi.IstioCertificateRequest) error {
	fields := request.GetMetadata().GetFields()
	if len(fields) > limit.CertificateAttributesMax {
		return status.Errorf(codes.InvalidArgument, "metadata has %d fields, at most %d are allowed", len(fields), limit.CertificateAttributesMax)
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		switch name {
		case "WorkloadName", "WorkloadIP", "ClusterID":
		case "ImpersonatedIdentity":
			return status.Error(codes.PermissionDenied, "metadata field ImpersonatedIdentity: a certificate for another identity is never issued")
		case "CertSigner":
			// Istio's agent always sends it, empty unless it wants a
			// Kubernetes signer.
			if v, ok := fields[name].AsInterface().(string); !ok || v != "" {
				return status.Error(codes.InvalidArgument, "metadata field CertSigner: there is no signer but this certificate authority")
			}
		default:
			return status.Errorf(codes.InvalidArgument, "metadata field %.64q is not known", name)
		}
	}
	return nil
}

func peerAddress(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		return p.Addr.String()
	}
	return "unknown"
}
