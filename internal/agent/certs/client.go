package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/tullemesh/tulle/internal/identity"
	"github.com/tullemesh/tulle/internal/limit"
)

// Client is an Authority behind Istio's IstioCertificateService: ours, or
// istiod's.
type Client struct {
	options ClientOptions
}

// ClientOptions say how to reach a certificate authority.
type ClientOptions struct {
	Address    string // host:port, Istio's is istiod.istio-system.svc:15012
	ServerName string // the DNS name in its certificate; empty means Address's host
	// Roots returns the PEM roots that the authority's server certificate
	// must lead to, asked anew for each request so that a file may change.
	// The system's roots are never used.
	Roots func() ([]byte, error)
	// Now is the clock that the server's certificate is judged by; nil means
	// time.Now.
	Now func() time.Time
	// Dial opens connections; nil means TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

// NewClient returns a client; it does not connect.
func NewClient(options ClientOptions) (*Client, error) {
	host, _, err := net.SplitHostPort(options.Address)
	if err != nil {
		return nil, fmt.Errorf("certificate authority address: %w", err)
	}
	if options.ServerName == "" {
		options.ServerName = host
	}
	if options.Roots == nil {
		return nil, errors.New("certificate authority: no roots to verify it by")
	}
	return &Client{options}, nil
}

// Create implements Authority. Each request has a connection of its own: they
// are hours apart, and the credential is part of the connection.
func (c *Client) Create(ctx context.Context, csr []byte, ttl time.Duration, credential Credential) ([]string, error) {
	config, err := c.config(credential)
	if err != nil {
		return nil, err
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithNoProxy(), // the environment must not reroute this
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(limit.KeyFileBytesMax)),
	}
	if c.options.Dial != nil {
		options = append(options, grpc.WithContextDialer(c.options.Dial))
	}
	connection, err := grpc.NewClient("passthrough:///"+c.options.Address, options...)
	if err != nil {
		return nil, fmt.Errorf("certificate authority %s: %w", c.options.Address, err)
	}
	defer connection.Close()
	if credential.Certificate == nil {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+credential.Token.Reveal())
	}
	var response emptypb.Empty
	if err := connection.Invoke(ctx, createMethod, request(csr, ttl), &response); err != nil {
		return nil, fmt.Errorf("certificate authority %s: %w", c.options.Address, err)
	}
	chain, err := chainOf(&response)
	if err != nil {
		return nil, fmt.Errorf("certificate authority %s: %w", c.options.Address, err)
	}
	return chain, nil
}

func (c *Client) config(credential Credential) (*tls.Config, error) {
	text, err := c.options.Roots()
	if err != nil {
		return nil, fmt.Errorf("roots of the certificate authority: %w", err)
	}
	roots, err := identity.ParseCertificates(text, limit.RootCertificatesMax)
	if err != nil {
		return nil, fmt.Errorf("roots of the certificate authority: %w", err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.options.ServerName, NextProtos: []string{"h2"}, Time: c.options.Now}
	if b := credential.Certificate; b != nil {
		// Roots that came with our certificate, from an authority that had
		// proven itself, may be newer than those we joined with.
		more, err := identity.ParseCertificates(b.Roots, limit.RootCertificatesMax)
		if err != nil {
			return nil, err
		}
		roots = append(roots, more...)
		// Always ours, whatever issuers the server names, so that a refusal
		// is about this certificate.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return b.Certificate(), nil }
	}
	config.RootCAs = identity.NewPool(roots)
	return config, nil
}

// split tells chain from roots in an authority's answer. The last certificate
// is a root by contract (ca.proto), and so are the self-signed ones before it
// when there are several roots.
func split(answer []string) (chain, roots []byte, err error) {
	text := strings.Join(answer, "\n")
	all, err := identity.ParseCertificates([]byte(text), limit.ChainCertificatesMax+limit.RootCertificatesMax)
	if err != nil {
		return nil, nil, err
	}
	border := len(all) - 1
	for border > 1 && selfSigned(all[border-1]) {
		border--
	}
	if border == 0 {
		return nil, nil, fmt.Errorf("%w: one certificate alone, without a root", identity.ErrCertificate)
	}
	return identity.EncodeCertificates(all[:border]...), identity.EncodeCertificates(all[border:]...), nil
}

func selfSigned(c *x509.Certificate) bool {
	return bytes.Equal(c.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(c) == nil
}
