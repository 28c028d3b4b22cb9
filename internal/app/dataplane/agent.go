package dataplane

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/tullemesh/tulle/internal/agent/certs"
	"github.com/tullemesh/tulle/internal/identity"
	"github.com/tullemesh/tulle/internal/wire"
)

// defaultTrustDomain is Istio's.
const defaultTrustDomain = "cluster.local"

// workloadAgent keeps the certificate of the workload beside a proxy.
type workloadAgent struct {
	keeper *certs.Keeper
	name   string
	roots  string // file
}

func newWorkloadAgent(o Options, node *corev3.Node) (*workloadAgent, error) {
	n, err := wire.ParseNode(node)
	if err != nil {
		return nil, err
	}
	account, domain := cmp.Or(n.Metadata.ServiceAccount, "default"), cmp.Or(o.TrustDomain, defaultTrustDomain)
	if o.Roots == "" {
		return nil, errors.New("--xds-tls needs --roots: the file with the roots of the server's certificate")
	}
	client, err := certs.NewClient(certs.ClientOptions{Address: o.XDSTLS, ServerName: o.ServerName, Roots: func() ([]byte, error) { return os.ReadFile(o.Roots) }})
	if err != nil {
		return nil, err
	}
	options := certs.Options{ID: identity.ID{TrustDomain: domain, Namespace: n.Namespace, ServiceAccount: account}, Authority: client, Log: o.Log}
	if o.State != "" {
		options.Directory = filepath.Join(o.State, "certificate")
	}
	if o.Token != "" {
		options.Token = func(context.Context) (identity.Token, error) {
			data, err := os.ReadFile(o.Token)
			if err != nil {
				return identity.Token{}, fmt.Errorf("join token: %w", err)
			}
			return identity.NewToken(strings.TrimSpace(string(data))), nil
		}
	}
	keeper, err := certs.New(options)
	if err != nil {
		return nil, err
	}
	return &workloadAgent{keeper: keeper, name: o.ServerName, roots: o.Roots}, nil
}

// Run keeps the certificate fresh until ctx ends.
func (a *workloadAgent) Run(ctx context.Context) error { return a.keeper.Run(ctx) }

// ready waits for the first certificate; false: ctx ended.
func (a *workloadAgent) ready(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-a.keeper.Watch(ctx):
		return true
	}
}

// clientTLS is the configuration of the connection to the control plane: the
// workload's certificate of now, the mesh's roots.
func (a *workloadAgent) clientTLS() (*tls.Config, error) {
	b := a.keeper.Current()
	if b == nil {
		return nil, errors.New("there is no certificate yet")
	}
	roots := b.Pool().Clone()
	// The file may be newer than the certificate: after a change of roots the
	// control plane serves a certificate of the new one.
	if text, err := os.ReadFile(a.roots); err == nil {
		roots.AppendCertsFromPEM(text)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}, RootCAs: roots, ServerName: a.name, Certificates: []tls.Certificate{*b.Certificate()}}, nil
}
