// Package xdsclient keeps a proxy's resources as an xDS v3 server has them:
// over ADS from any Istio-style control plane, delta or state of the world, or
// over SDS from the agent's Unix socket.
//
// In come discovery responses and the names that the consumer subscribes to;
// out go Updates to a Handler, which accepts or refuses each resource. What was
// accepted is the last good configuration: it outlives streams, and on disk the
// process, and is what a reconnect tells the server that we have.
//
// The Client owns the store of accepted resources (guarded by its mutex); one
// goroutine, Run's, calls the Handler. Nothing here knows what a resource means.
//
// Read this file first, then session.go (one stream), store.go, disk.go.
package xdsclient

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/tullemesh/tulle/internal/wire"
)

// Mode is the form of the protocol.
type Mode uint8

// The modes.
const (
	// Auto is Delta, and SotW from a server that does not implement it.
	Auto Mode = iota
	Delta
	SotW
)

// Service is the gRPC service that is asked.
type Service uint8

// The services.
const (
	// ADS carries all types (envoy.service.discovery.v3).
	ADS Service = iota
	// SDS carries secrets (envoy.service.secret.v3).
	SDS
)

// Handler takes updates, one at a time. It returns the resources that it
// refuses, with reasons for people; a rejection without a name refuses the
// whole update. It may call Want and Subscribe.
type Handler interface {
	Apply(ctx context.Context, u Update) []wire.Rejection
}

// Update is what differs from the resources that were accepted before.
type Update struct {
	Type string
	// Version and Nonce are the response's; empty in stored updates and in
	// those that a timeout makes.
	Version, Nonce string
	Added          []*wire.Resource
	// Removed names do not exist, confirmed by the server: by name in delta,
	// by absence from a complete response, or by 15 s without an answer.
	Removed []string
	// Aliases maps names that were asked for to the names of resources (VHDS).
	Aliases map[string]string
	// Full says that the update completes the type: what is in none so far
	// does not exist (state of the world, clusters and listeners).
	Full bool
	// Stored says that the update comes from disk.
	Stored bool
}

const (
	// absenceTimeout is when state of the world confirms absence (Envoy API,
	// ConfigSource.initial_fetch_timeout, 15 s; gRFC A27 resource timer).
	absenceTimeout = 15 * time.Second
	// backoffMin and backoffMax bound the wait between streams, ± 20 %.
	backoffMin = 100 * time.Millisecond
	backoffMax = 10 * time.Second
	// responseBytesMax bounds one response: a complete CDS of 50,000 clusters.
	responseBytesMax = 256 << 20
)

// Options of a Client.
type Options struct {
	// Target is "host:port" or "unix:///path".
	Target string
	// TLS gives the configuration of each handshake, so that certificates and
	// roots may change; nil speaks plaintext.
	TLS     func() (*tls.Config, error)
	Node    *corev3.Node
	Service Service
	Mode    Mode
	Handler Handler
	// CacheDir keeps the last good configuration; empty keeps none. Secrets
	// are never written.
	CacheDir string
	Log      *slog.Logger
	// DialOptions are for tests: a bufconn dialer.
	DialOptions []grpc.DialOption
}

// Client subscribes, receives and remembers.
type Client struct {
	opts Options
	disk *disk         // nil without CacheDir
	wake chan struct{} // size 1: subscriptions changed

	// Owned by Run's goroutine.
	mode Mode

	// Guarded by mu.
	mu     sync.Mutex
	types  map[string]*typeState
	status Status
}

// Status is the client's state, for the admin port.
type Status struct {
	// Connected is true while a stream has answered.
	Connected bool
	// Since is when Connected changed last.
	Since time.Time
	// LastError is why the last stream ended.
	LastError error
	Types     []TypeStatus
}

// TypeStatus is one subscribed type.
type TypeStatus struct {
	Type, Version string
	Resources     int
	Updated       time.Time
	// Rejected is what the latest responses had and was refused.
	Rejected []wire.Rejection
}

// New returns a client; Run makes it work.
func New(opts Options) (*Client, error) {
	if opts.Handler == nil {
		return nil, errors.New("xds client without a handler")
	}
	if opts.Node.GetId() == "" {
		return nil, errors.New("xds client without a node id")
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	c := &Client{opts: opts, wake: make(chan struct{}, 1), types: map[string]*typeState{}, mode: opts.Mode}
	if opts.CacheDir != "" {
		d, err := openDisk(opts.CacheDir, opts.Node.GetId())
		if err != nil {
			return nil, err
		}
		c.disk = d
	}
	return c, nil
}

// Run loads what is on disk, then keeps a stream open until ctx ends.
func (c *Client) Run(ctx context.Context) error {
	conn, err := c.dial()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // nothing is lost: all streams have ended
	c.restore(ctx)
	saved := make(chan struct{})
	go func() {
		defer close(saved)
		c.keepSaved(ctx)
	}()
	defer func() { <-saved }()

	wait := backoffMin
	for {
		answered, err := c.stream(ctx, conn)
		if ctx.Err() != nil {
			return nil
		}
		c.disconnected(err)
		if status.Code(err) == codes.Unimplemented && c.mode == Auto {
			c.mode = SotW
			continue
		}
		if answered {
			wait = backoffMin
		}
		pause(ctx, conn, time.Duration(float64(wait)*(0.8+0.4*rand.Float64())))
		if ctx.Err() != nil {
			return nil
		}
		wait = min(wait*2, backoffMax)
	}
}

// pause waits before the next stream, as long as wait says. A connection that has failed is dialed again in gRPC's own rhythm, which has the same
// bounds: the stream then follows at once, or the two waits would add up.
func pause(ctx context.Context, conn *grpc.ClientConn, wait time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	if conn.GetState() == connectivity.TransientFailure && conn.WaitForStateChange(ctx, connectivity.TransientFailure) {
		return
	}
	<-ctx.Done()
}

func (c *Client) dial() (*grpc.ClientConn, error) {
	creds := insecure.NewCredentials()
	if c.opts.TLS != nil {
		creds = rotating{creds, c.opts.TLS}
	}
	opts := append([]grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(responseBytesMax)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: backoffMin, Multiplier: 1.6, Jitter: 0.2, MaxDelay: backoffMax},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithDisableServiceConfig(),
	}, c.opts.DialOptions...)
	conn, err := grpc.NewClient(c.opts.Target, opts...)
	if err != nil {
		return nil, fmt.Errorf("xds target %q: %w", c.opts.Target, err)
	}
	return conn, nil
}

func (c *Client) disconnected(err error) {
	c.mu.Lock()
	was := c.status.Connected
	changed := was || c.status.LastError == nil || status.Code(c.status.LastError) != status.Code(err)
	c.status.Connected, c.status.LastError = false, err
	if was {
		c.status.Since = time.Now()
	}
	c.mu.Unlock()
	if changed {
		c.opts.Log.Warn("control plane is not connected, the last good configuration stays", slog.String("target", c.opts.Target), slog.Any("error", err))
	}
}

func (c *Client) connected() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.status.Connected {
		c.status.Connected, c.status.Since = true, time.Now()
	}
}

// Status returns the client's state.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.status
	out.Types = nil
	for _, typeURL := range c.typesLocked() {
		ts := c.types[typeURL]
		out.Types = append(out.Types, TypeStatus{
			Type: typeURL, Version: ts.version, Resources: len(ts.accepted),
			Updated: ts.updated, Rejected: slices.Clone(ts.rejected),
		})
	}
	return out
}
