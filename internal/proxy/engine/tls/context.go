package tls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
)

// peerExchange is Istio's ALPN for its metadata exchange protocol, which we do
// not speak: peers are known by their certificates.
const peerExchange = "istio-peer-exchange"

// istioHTTP1 is Istio's ALPN for HTTP/1.1 between sidecars.
const istioHTTP1 = "istio-http/1.1"

// istioHTTP2 is the same for HTTP/2.
const istioHTTP2 = "istio-h2"

// Errors of certificate checks.
var (
	ErrName    = errors.New("peer certificate has none of the expected names")
	ErrRevoked = errors.New("peer certificate is revoked")
	ErrContext = errors.New("TLS context can't be used")
)

// Equal reports whether two specs make the same connections.
func (c *ClientSpec) Equal(o *ClientSpec) bool { return reflect.DeepEqual(c, o) }

type clientKey struct {
	spec *ClientSpec
	name string
	app  Application
}

// Application is what an upstream connection is for, which decides the
// protocols that are offered by ALPN.
type Application uint8

// The applications: bytes that are not HTTP, one version of HTTP, or the one
// that the peer chooses.
const (
	Bytes Application = iota
	HTTP1
	HTTP2
	AnyHTTP
)

// Accept does the server's side of a handshake over s. The certificates are
// those of the moment. The socket's deadlines bound it. It needs a stack of some
// 16 KiB: who calls it lends one that others use too.
func (s *Store) Accept(sock *conn.Socket, spec *ServerSpec) (*conn.TLS, error) {
	base, err := s.server(spec)
	if err != nil {
		return nil, err
	}
	c := tls.Server(sock, base)
	if err := c.Handshake(); err != nil {
		return nil, err
	}
	return conn.NewTLS(c, sock), nil
}

// handshake runs a client's on a goroutine of its own: it needs a deep stack,
// which the connection's goroutine would keep for as long as the connection is
// idle.
func handshake(c *tls.Conn) error {
	done := make(chan error, 1)
	go func() { done <- c.Handshake() }()
	return <-done
}

// withoutALPN makes a context go on without a protocol when client and server
// have none in common, as Envoy does; crypto/tls would end the handshake.
func withoutALPN(c *tls.Config) {
	if len(c.NextProtos) == 0 {
		return
	}
	bare := sync.OnceValue(func() *tls.Config {
		b := c.Clone()
		b.NextProtos, b.GetConfigForClient = nil, nil
		return b
	})
	c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		for _, p := range hello.SupportedProtos {
			if slices.Contains(c.NextProtos, p) {
				return nil, nil // the context itself
			}
		}
		if len(hello.SupportedProtos) == 0 {
			return nil, nil
		}
		return bare(), nil
	}
}

// server returns the context of a spec in the current generation.
func (s *Store) server(spec *ServerSpec) (*tls.Config, error) {
	g := s.state.Load()
	if c, ok := g.contexts.Load(spec); ok {
		return c.(*tls.Config), nil
	}
	c := &tls.Config{
		MinVersion: atLeast12(spec.MinVersion),
		MaxVersion: spec.MaxVersion,
		NextProtos: without(spec.ALPN, peerExchange),
	}
	if err := restrict(c, spec.CipherSuites, spec.Curves); err != nil {
		return nil, err
	}
	for _, name := range spec.Certificates {
		m, err := g.get(name)
		if err != nil {
			return nil, err
		}
		if m.cert == nil {
			return nil, fmt.Errorf("%w: %q holds no certificate", ErrNoSecret, name)
		}
		c.Certificates = append(c.Certificates, *m.cert)
	}
	if spec.Validation != "" {
		v, err := g.verifier(spec.Validation, spec.SANs, x509.ExtKeyUsageClientAuth)
		if err != nil {
			return nil, err
		}
		c.ClientAuth = tls.RequestClientCert
		if spec.RequireClientCert {
			c.ClientAuth = tls.RequireAnyClientCert
		}
		c.VerifyConnection = v.verifyClient
	} else if spec.RequireClientCert {
		return nil, fmt.Errorf("%w: a client certificate is required, but there are no roots to verify it", ErrContext)
	}
	if len(g.tickets) > 0 {
		c.SetSessionTicketKeys(g.tickets)
	}
	withoutALPN(c)
	return g.keep(spec, c), nil
}

// Connect does the client's side of a handshake over s. app says what follows,
// so that Istio's protocol name for it is offered (what Istio's ALPN filter
// does for Envoy).
func (s *Store) Connect(ctx context.Context, sock *conn.Socket, spec *ClientSpec, name string, app Application) (*conn.TLS, error) {
	cfg, err := s.client(spec, name, app)
	if err != nil {
		return nil, err
	}
	c := conn.NewTLSClient(sock, cfg)
	release := bind(ctx, sock)
	err = handshake(c.Conn)
	if end := release(); end != nil {
		return nil, end
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// bind makes ctx's end the end of the socket's waits, which costs no goroutine.
// release undoes it and reports whether ctx ended before.
func bind(ctx context.Context, sock *conn.Socket) (release func() error) {
	stop := context.AfterFunc(ctx, func() { _ = sock.SetDeadline(time.Unix(1, 0)) })
	return func() error {
		if stop() {
			return nil
		}
		return context.Cause(ctx)
	}
}

// client returns the context of a spec in the current generation.
func (s *Store) client(spec *ClientSpec, name string, app Application) (*tls.Config, error) {
	g := s.state.Load()
	key := clientKey{spec, name, app}
	if c, ok := g.contexts.Load(key); ok {
		return c.(*tls.Config), nil
	}
	c := &tls.Config{
		MinVersion: atLeast12(spec.MinVersion),
		MaxVersion: spec.MaxVersion,
		ServerName: name,
		NextProtos: clientALPN(spec.ALPN, app),
		// Verification is below: names are SPIFFE IDs, and without roots the
		// configuration asks for none (Envoy: no validation context).
		InsecureSkipVerify: true,
		ClientSessionCache: tls.NewLRUClientSessionCache(ticketCacheMax),
	}
	if err := restrict(c, spec.CipherSuites, spec.Curves); err != nil {
		return nil, err
	}
	if spec.Certificate != "" {
		m, err := g.get(spec.Certificate)
		if err != nil {
			return nil, err
		}
		if m.cert == nil {
			return nil, fmt.Errorf("%w: %q holds no certificate", ErrNoSecret, spec.Certificate)
		}
		cert := m.cert
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	if spec.Validation != "" {
		v, err := g.verifier(spec.Validation, spec.SANs, x509.ExtKeyUsageServerAuth)
		if err != nil {
			return nil, err
		}
		c.VerifyConnection = v.verifyServer
	} else if len(spec.SANs) > 0 {
		return nil, fmt.Errorf("%w: names are expected, but there are no roots", ErrContext)
	}
	if spec.AutoSNI {
		return c, nil // one context for each name that clients choose would have no bound
	}
	return g.keep(key, c), nil
}

// clientALPN is the list to offer. One version of HTTP is offered alone, so
// that the peer can't choose the other; where nothing is configured, HTTP/2 is
// still named (Envoy: the pools' ALPN fallback).
func clientALPN(configured []string, app Application) []string {
	out := without(configured, peerExchange)
	istio := slices.Contains(out, "istio")
	switch app {
	case HTTP1:
		if istio {
			return []string{istioHTTP1, "istio", "http/1.1"}
		}
		return without(out, "h2")
	case HTTP2:
		if istio {
			return []string{istioHTTP2, "istio", "h2"}
		}
		return []string{"h2"}
	case AnyHTTP:
		return []string{"h2", "http/1.1"}
	case Bytes:
	}
	return out
}

func without(list []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return s == name })
}

func atLeast12(v uint16) uint16 {
	if v == 0 {
		return tls.VersionTLS12
	}
	return v
}

// get returns a usable secret of the generation.
func (g *generation) get(name string) (*material, error) {
	m := g.material[name]
	if m == nil {
		return nil, fmt.Errorf("%w: %q has not come yet", ErrNoSecret, name)
	}
	if m.err != nil {
		return nil, fmt.Errorf("%w: %q: %w", ErrNoSecret, name, m.err)
	}
	return m, nil
}

// restrict applies cipher suites and groups by Envoy's (OpenSSL's) names.
func restrict(c *tls.Config, suites, curves []string) error {
	for _, name := range suites {
		// A bracketed group offers several; TLS 1.3's suites are not chosen.
		for _, one := range strings.Split(strings.Trim(name, "[]"), "|") {
			if id, ok := suiteID(one); ok {
				c.CipherSuites = append(c.CipherSuites, id)
			}
		}
	}
	if len(suites) > 0 && len(c.CipherSuites) == 0 {
		return fmt.Errorf("%w: none of the cipher suites %s is supported", ErrContext, strings.Join(suites, ", "))
	}
	for _, name := range curves {
		id, ok := curveID(name)
		if !ok {
			return fmt.Errorf("%w: group %q is not supported", ErrContext, name)
		}
		c.CurvePreferences = append(c.CurvePreferences, id)
	}
	return nil
}

func suiteID(name string) (uint16, bool) {
	switch name {
	case "ECDHE-ECDSA-AES128-GCM-SHA256":
		return tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, true
	case "ECDHE-RSA-AES128-GCM-SHA256":
		return tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, true
	case "ECDHE-ECDSA-AES256-GCM-SHA384":
		return tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, true
	case "ECDHE-RSA-AES256-GCM-SHA384":
		return tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, true
	case "ECDHE-ECDSA-CHACHA20-POLY1305":
		return tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, true
	case "ECDHE-RSA-CHACHA20-POLY1305":
		return tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, true
	case "ECDHE-ECDSA-AES128-SHA":
		return tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, true
	case "ECDHE-RSA-AES128-SHA":
		return tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA, true
	case "ECDHE-ECDSA-AES256-SHA":
		return tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA, true
	case "ECDHE-RSA-AES256-SHA":
		return tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA, true
	}
	return 0, false
}

func curveID(name string) (tls.CurveID, bool) {
	switch name {
	case "X25519":
		return tls.X25519, true
	case "X25519MLKEM768":
		return tls.X25519MLKEM768, true
	case "P-256":
		return tls.CurveP256, true
	case "P-384":
		return tls.CurveP384, true
	case "P-521":
		return tls.CurveP521, true
	}
	return 0, false
}
