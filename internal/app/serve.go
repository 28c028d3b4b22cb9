package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	securityapi "istio.io/api/security/v1alpha1"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/app/port"
	"github.com/tullemesh/tulle/internal/control/ca"
	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/control/source/file"
	"github.com/tullemesh/tulle/internal/control/xds"
	"github.com/tullemesh/tulle/internal/identity"
	"github.com/tullemesh/tulle/internal/observe"
)

// buildEvery is the least time between two builds: the first change after
// quiet is built at once, those that follow are built together.
const buildEvery = 10 * time.Millisecond

// ErrPlaintextAddress refuses to serve plaintext xDS to other machines.
var ErrPlaintextAddress = errors.New("plaintext xDS is for loopback only: any client would get any proxy's configuration")

// ServeOptions configure a control plane.
type ServeOptions struct {
	// Files are files and folders with objects; they are watched.
	Files []string
	// MeshConfig is a file with Istio's MeshConfig, or empty.
	MeshConfig string
	// XDS is the plaintext address, loopback unless AnyPlaintext; empty: none.
	XDS          string
	AnyPlaintext bool
	// XDSTLS is the address of ADS and CreateCertificate over TLS; empty: no
	// certificate authority runs.
	XDSTLS string
	// ServerNames are the names and addresses that clients dial XDSTLS by.
	ServerNames []string
	// Monitoring is the address of metrics and status; empty: none.
	Monitoring string
	// State is the folder of the certificate authority's keys.
	State string
	// CertificateTTL is the lifetime of workload certificates; 0: 24 h.
	CertificateTTL time.Duration
	Version        string
	Log            *slog.Logger
}

// serverNames are all names and addresses that the control plane answers to.
func (o ServeOptions) serverNames() []string {
	return append([]string{"istiod.istio-system.svc", "localhost", "127.0.0.1", "::1"}, o.ServerNames...)
}

// ControlPlane reads objects, serves xDS and issues certificates.
type ControlPlane struct {
	// Fixed at creation.
	options ServeOptions
	store   *registry.Store
	source  *file.Source
	server  *xds.Server
	metrics *observe.Registry
	started time.Time
	plain   net.Listener
	secure  net.Listener
	watch   net.Listener
	issuer  *issuer

	// Replaced by the build loop.
	current atomic.Pointer[published]
}

// issuer is the certificate authority's side of a control plane.
type issuer struct {
	authority *ca.Authority
	tokens    *ca.TokenIssuer
	server    *ca.Server
	serving   *ca.ServerCertificate
}

// NewControlPlane checks the options and binds the sockets, so that addresses
// are known before Run.
func NewControlPlane(ctx context.Context, o ServeOptions) (*ControlPlane, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c := &ControlPlane{options: o, metrics: observe.NewRegistry(), started: time.Now(), store: registry.NewStore(registry.Options{})}
	var err error
	if c.source, err = file.New(o.Files, c.store, file.Options{MeshConfig: o.MeshConfig, Log: o.Log}); err != nil {
		return nil, err
	}
	served := xds.Options{Log: o.Log, Registry: c.metrics}
	if o.XDSTLS != "" {
		// The trust domain is part of every certificate: it holds for a run.
		in, _, err := file.Load(o.Files, file.Options{MeshConfig: o.MeshConfig})
		if err != nil {
			return nil, err
		}
		mesh := model.MeshFrom(in.MeshConfig)
		if c.issuer, err = newIssuer(o, mesh, c.metrics); err != nil {
			return nil, err
		}
		served.Identify = identify(ca.NewCertificateAuthenticator(c.issuer.authority))
	}
	c.server = xds.New(served)
	if err := c.listen(ctx); err != nil {
		c.closeListeners()
		return nil, err
	}
	return c, nil
}

// identify proves who a client is by its certificate, judged when the stream
// opens and not only in the handshake: roots, trust domain, validity. A client
// over TLS without a certificate is nobody.
func identify(a *ca.CertificateAuthenticator) func(context.Context) (xds.Identity, error) {
	return func(ctx context.Context) (xds.Identity, error) {
		p, ok := peer.FromContext(ctx)
		if !ok {
			return xds.Identity{Plaintext: true}, nil
		}
		if _, secured := p.AuthInfo.(credentials.TLSInfo); !secured {
			return xds.Identity{Plaintext: true}, nil
		}
		id, err := a.Authenticate(ctx)
		if errors.Is(err, ca.ErrNoCredential) {
			return xds.Identity{}, nil
		}
		if err != nil {
			return xds.Identity{}, err
		}
		return xds.Identity{Peer: id.String()}, nil
	}
}

func newIssuer(o ServeOptions, mesh *model.Mesh, metrics *observe.Registry) (*issuer, error) {
	domains, err := identity.NewTrustDomains(mesh.TrustDomain, mesh.TrustDomainAliases...)
	if err != nil {
		return nil, err
	}
	a, err := ca.LoadOrCreate(filepath.Join(o.State, "ca"), ca.Options{TrustDomains: domains, TTLDefault: o.CertificateTTL})
	if err != nil {
		return nil, err
	}
	tokens, err := ca.NewTokenIssuer(filepath.Join(o.State, "token", "key.pem"), time.Now)
	if err != nil {
		return nil, err
	}
	serving, err := ca.NewServerCertificate(a, o.serverNames(), 0)
	if err != nil {
		return nil, err
	}
	server := ca.NewServer(a, ca.ServerOptions{Registry: metrics, Log: o.Log,
		Authenticators: []ca.Authenticator{ca.NewCertificateAuthenticator(a), ca.NewTokenAuthenticator(tokens)}})
	return &issuer{authority: a, tokens: tokens, server: server, serving: serving}, nil
}

func (c *ControlPlane) listen(ctx context.Context) error {
	bind := func(address, what string, to *net.Listener) error {
		if address == "" {
			return nil
		}
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		if err != nil {
			return fmt.Errorf("listen for %s: %w", what, err)
		}
		*to = l
		return nil
	}
	if c.options.XDS != "" && !c.options.AnyPlaintext {
		if err := port.CheckLoopback(c.options.XDS); errors.Is(err, port.ErrNotLoopback) {
			return fmt.Errorf("address %s: %w", c.options.XDS, ErrPlaintextAddress)
		} else if err != nil {
			return err
		}
	}
	return errors.Join(bind(c.options.XDS, "xDS", &c.plain), bind(c.options.XDSTLS, "xDS over TLS", &c.secure), bind(c.options.Monitoring, "monitoring", &c.watch))
}

func (c *ControlPlane) closeListeners() {
	for _, l := range []net.Listener{c.plain, c.secure, c.watch} {
		if l != nil {
			_ = l.Close()
		}
	}
}

// Addresses are the bound ones: plaintext xDS, xDS over TLS, monitoring; empty
// when not served.
func (c *ControlPlane) Addresses() (plain, secure, monitoring string) {
	text := func(l net.Listener) string {
		if l == nil {
			return ""
		}
		return l.Addr().String()
	}
	return text(c.plain), text(c.secure), text(c.watch)
}

// Roots is the PEM bundle that clients verify the control plane by; nil
// without a certificate authority.
func (c *ControlPlane) Roots() []byte {
	if c.issuer == nil {
		return nil
	}
	return c.issuer.authority.Roots()
}

// Run serves until ctx ends.
func (c *ControlPlane) Run(ctx context.Context) error {
	defer c.closeListeners()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.source.Run(ctx) })
	g.Go(func() error { return c.build(ctx) })
	g.Go(func() error { return c.server.Run(ctx) })
	if c.plain != nil {
		s := grpc.NewServer(xds.ServerOptions()...)
		c.server.Register(s)
		g.Go(func() error { return xds.Serve(ctx, s, c.plain, port.StopGrace) })
	}
	if c.secure != nil {
		s := grpc.NewServer(append(xds.ServerOptions(), grpc.Creds(credentials.NewTLS(c.issuer.serving.TLSConfig())))...)
		c.server.Register(s)
		securityapi.RegisterIstioCertificateServiceServer(s, c.issuer.server)
		g.Go(func() error { return xds.Serve(ctx, s, c.secure, port.StopGrace) })
	}
	if c.watch != nil {
		g.Go(func() error { return port.Serve(ctx, c.watch, c.monitor()) })
	}
	return g.Wait()
}

// build turns every Set into a generation and publishes it.
func (c *ControlPlane) build(ctx context.Context) error {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.store.Changed():
		}
		select {
		case <-ctx.Done():
			return nil
		case <-pause.C:
		}
		began := time.Now()
		set := c.store.Set()
		g, dirty := publish(set, model.MeshFrom(set.MeshConfig), c.current.Load())
		c.current.Store(g)
		c.server.Publish(g, dirty)
		c.report(ctx, g, time.Since(began))
		pause.Reset(buildEvery)
	}
}

// report tells what a new generation holds, and every problem in it.
func (c *ControlPlane) report(ctx context.Context, g *published, took time.Duration) {
	bad := 0
	for _, p := range g.problems {
		if p.Level == apis.LevelError || p.Level == apis.LevelUnsupported {
			bad++
		}
	}
	c.options.Log.InfoContext(ctx, "configuration built", slog.String("generation", g.version), slog.Int("objects", len(g.set.Objects)), slog.Int("services", len(g.set.Services)), slog.Int("refused", bad), slog.Duration("took", took))
}
