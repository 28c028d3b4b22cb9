// Package certs keeps a workload's certificate: it asks for it, renews it and
// keeps it across restarts.
//
// In come a certificate authority (Authority, by gRPC: Client), a join token
// and a state directory; out goes identity.Source, whose Bundle the proxy and
// the SDS server use. The private key is made here, for each certificate anew,
// and never leaves this machine. A Keeper's Run owns the state; the last good
// certificate is kept whatever happens, also on disk, so that a proxy
// restarted while the control plane is gone comes up with it.
//
// Read certs.go first, then client.go (the wire) and state.go (the disk).
package certs

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	mathrand "math/rand/v2"
	"net/url"
	"time"

	"github.com/tullemesh/tulle/internal/identity"
	"github.com/tullemesh/tulle/internal/identity/keyfile"
)

// ErrIssued says that an authority answered with something else than what was
// asked for.
var ErrIssued = errors.New("certificate authority answered with an unusable certificate")

const (
	// renewalRatio is the part of its life after which a certificate is
	// renewed (Istio's SECRET_GRACE_PERIOD_RATIO), and renewalJitter how far
	// it varies, so that a fleet started together does not renew together.
	renewalRatio  = 0.5
	renewalJitter = 0.05

	// A failed request is repeated after retryMin, doubled each time up to
	// retryMax, or a tenth of the certificate's life when that is less, and
	// varied by a half.
	retryMin = 200 * time.Millisecond
	retryMax = 30 * time.Second

	// clockCheckMax is how often the wall clock is asked whether a renewal is
	// due: timers stand still while a machine sleeps, certificates age.
	clockCheckMax = 30 * time.Second

	// requestTimeoutMax bounds one request.
	requestTimeoutMax = 10 * time.Second
)

// Credential is how a workload proves who it is: by its current certificate,
// or else by a token.
type Credential struct {
	Certificate *identity.Bundle // nil: use Token
	Token       identity.Token
}

// Authority signs certificate requests.
type Authority interface {
	// Create sends a PEM certificate request and returns the PEM chain, leaf
	// first, with at least one root last. A ttl of zero leaves the lifetime
	// to the authority.
	Create(ctx context.Context, csr []byte, ttl time.Duration, credential Credential) ([]string, error)
}

// Options are the choices of a Keeper.
type Options struct {
	ID        identity.ID // who the workload is; other certificates are refused
	Authority Authority
	// Token returns a join token, asked anew before each use; nil or a zero
	// Token means that there is none.
	Token func(ctx context.Context) (identity.Token, error)
	// Directory keeps the certificate across restarts; empty keeps it in
	// memory only.
	Directory string
	// TTL is the lifetime to ask for; zero leaves it to the authority.
	TTL time.Duration
	// Now is the wall clock; nil means time.Now.
	Now func() time.Time
	Log *slog.Logger // nil discards
}

// Keeper keeps one workload's certificate. It is an identity.Source.
type Keeper struct {
	identity.Publisher

	// Fixed at creation.
	options Options
	log     *slog.Logger

	// Owned by New, then by Run.
	renewAt time.Time // when there is a current Bundle
}

var _ identity.Source = (*Keeper)(nil)

// New returns a Keeper that has published the certificate of the state
// directory, when there is a good one. A state file that is expired, damaged
// or another workload's is reported to the log and replaced by Run; one that
// others may read is an error, as its key may be known to them.
func New(options Options) (*Keeper, error) {
	if err := options.ID.Validate(); err != nil {
		return nil, fmt.Errorf("workload identity: %w", err)
	}
	if options.Authority == nil {
		return nil, errors.New("workload certificates: no certificate authority")
	}
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	k := &Keeper{options: options, log: options.Log.With(slog.String("identity", options.ID.String()))}
	if options.Directory == "" {
		return k, nil
	}
	// Made now, so that a place that can't be used is told at the start, and
	// nobody else can put a certificate of theirs there.
	if err := keyfile.MakeDirectory(options.Directory); err != nil {
		return nil, fmt.Errorf("workload certificate: %w", err)
	}
	s, err := load(options.Directory)
	if err == nil {
		err = k.accept(s.bundle, k.now())
	}
	switch {
	case err == nil:
		k.renewAt = renewal(earlier(s.obtained, k.now()), s.bundle.NotAfter)
		k.log.Info("certificate restored", slog.Time("until", s.bundle.NotAfter))
		k.Publish(s.bundle)
	case errors.Is(err, keyfile.ErrExposed):
		return nil, fmt.Errorf("workload certificate: %w", err)
	case !errors.Is(err, fs.ErrNotExist):
		k.log.Warn("kept certificate is not used", slog.String("directory", options.Directory), slog.Any("error", err))
	}
	return k, nil
}

// Run asks for a certificate when there is none and renews it in good time,
// until ctx ends; it then returns nil. Failures are logged and repeated. A
// certificate that could not be renewed stays published even past its end:
// peers refuse it then, by their own clocks.
func (k *Keeper) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for failures := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		if wait := k.renewAt.Sub(k.now()); k.Current() != nil && wait > 0 {
			timer.Reset(min(wait, clockCheckMax))
			continue
		}
		err := k.renew(ctx, failures)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			failures = 0
			timer.Reset(0)
			continue
		}
		delay := k.retryDelay(failures)
		failures++
		timer.Reset(delay)
		k.logFailure(ctx, err, failures, delay)
	}
}

// now is the wall clock without the monotonic one, which stops in sleep.
func (k *Keeper) now() time.Time { return k.options.Now().Round(0) }

func (k *Keeper) logFailure(ctx context.Context, err error, failures int, delay time.Duration) {
	log := k.log.With(slog.Any("error", err), slog.Int("failures", failures), slog.Duration("retry_in", delay))
	switch current := k.Current(); {
	case current == nil:
		log.WarnContext(ctx, "no certificate yet")
	case k.now().Before(current.NotAfter):
		log.WarnContext(ctx, "certificate not renewed", slog.Time("until", current.NotAfter))
	default:
		log.ErrorContext(ctx, "certificate has expired and is not renewed", slog.Time("until", current.NotAfter))
	}
}

// renew obtains, checks, keeps and publishes one certificate.
func (k *Keeper) renew(ctx context.Context, failures int) error {
	ctx, cancel := context.WithTimeout(ctx, k.requestTimeout())
	defer cancel()
	credential, err := k.credential(ctx, failures)
	if err != nil {
		return err
	}
	key, err := identity.GenerateKey()
	if err != nil {
		return err
	}
	csr, err := newRequest(key, k.options.ID)
	if err != nil {
		return err
	}
	answer, err := k.options.Authority.Create(ctx, csr, k.options.TTL, credential)
	if err != nil {
		return err
	}
	chain, roots, err := split(answer)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrIssued, err)
	}
	b, err := identity.NewBundle(chain, key, roots)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrIssued, err)
	}
	now := k.now()
	if err := k.accept(b, now); err != nil {
		return fmt.Errorf("%w: %w", ErrIssued, err)
	}
	k.renewAt = renewal(now, b.NotAfter)
	if k.options.Directory != "" {
		if err := save(k.options.Directory, state{bundle: b, obtained: now}); err != nil {
			// The mesh works; only a restart without control plane would not.
			k.log.ErrorContext(ctx, "certificate is not kept on disk", slog.String("directory", k.options.Directory), slog.Any("error", err))
		}
	}
	k.log.InfoContext(ctx, "certificate obtained", slog.Time("until", b.NotAfter), slog.Time("renewal", k.renewAt))
	k.Publish(b)
	return nil
}

// accept reports whether a bundle is this workload's and holds now.
func (k *Keeper) accept(b *identity.Bundle, now time.Time) error {
	if b.ID != k.options.ID {
		return fmt.Errorf("%w: it is for %s", identity.ErrIdentity, b.URI)
	}
	return b.Verify(now)
}

// credential chooses how to authenticate: by the current certificate while it
// holds, by a token otherwise. After a failure the other way is tried, as
// either may have become worthless (a new root, a token of an old issuer).
func (k *Keeper) credential(ctx context.Context, failures int) (Credential, error) {
	current := k.Current()
	holds := current != nil && k.now().Before(current.NotAfter)
	if holds && failures%2 == 0 {
		return Credential{Certificate: current}, nil
	}
	var token identity.Token
	var err error
	if k.options.Token != nil {
		token, err = k.options.Token(ctx)
	}
	switch {
	case err == nil && !token.IsZero():
		return Credential{Token: token}, nil
	case holds:
		return Credential{Certificate: current}, nil
	case err != nil:
		return Credential{}, fmt.Errorf("join token: %w", err)
	}
	return Credential{}, errors.New("neither a valid certificate nor a join token to ask for one; join the mesh again")
}

// requestTimeout leaves time for several attempts before the current
// certificate ends.
func (k *Keeper) requestTimeout() time.Duration {
	current := k.Current()
	if current == nil {
		return requestTimeoutMax
	}
	return max(time.Second, min(requestTimeoutMax, current.NotAfter.Sub(k.now())/4))
}

func (k *Keeper) retryDelay(failures int) time.Duration {
	most := retryMax
	if current := k.Current(); current != nil {
		most = max(retryMin, min(most, current.NotAfter.Sub(k.renewAt)/5))
	}
	delay := min(most, retryMin<<min(failures, 16))
	return delay/2 + mathrand.N(delay)
}

// renewal returns when to renew a certificate obtained then. The time it was
// obtained counts, not its beginning, which authorities put back.
func renewal(obtained, end time.Time) time.Time {
	ratio := renewalRatio + renewalJitter*(2*mathrand.Float64()-1)
	return obtained.Add(time.Duration(ratio * float64(end.Sub(obtained))))
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// newRequest returns a PEM certificate request signed by key. It names the
// identity, as Istio's agent does; an authority must not rely on it.
func newRequest(key identity.PrivateKey, id identity.ID) ([]byte, error) {
	template := &x509.CertificateRequest{URIs: []*url.URL{id.URL()}}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key.Signer())
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}
