package xds

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"

	"github.com/tullemesh/tulle/internal/identity"
	"github.com/tullemesh/tulle/internal/observe"
)

// Limits of what one client, or all of them, can make grow. Zero fields of
// Options.Limits take these defaults.
const (
	// requestBytesMax bounds one request: a reconnect that lists 50,000 names
	// with their versions has about 6 MB.
	requestBytesMax = 8 << 20
	// namesPerStreamMax bounds the names that one stream subscribes to.
	namesPerStreamMax = 50_000
	// nameBytesMax bounds one resource name.
	nameBytesMax = 2 << 10
	// typesPerStreamMax bounds the resource types of one stream.
	typesPerStreamMax = 32
	// inboxMax bounds the requests that wait while the stream sends.
	inboxMax = 1024
	// streamsMax bounds all streams of this server.
	streamsMax = 20_000
	// streamsPerNodeMax bounds the streams of one peer and node id: the old one
	// may linger beside its successor, and some more for restarts in a row.
	streamsPerNodeMax = 8
	// responseBytesMax is where delta responses are split.
	responseBytesMax = 1 << 20
	// sendTimeout ends a stream whose client reads nothing for so long.
	sendTimeout = time.Minute
	// nodeTimeout ends a stream whose first request does not come.
	nodeTimeout = 15 * time.Second
)

// Limits may be set lower, or higher for meshes that outgrow the defaults.
type Limits struct {
	NamesPerStream, Streams, StreamsPerNode int
	ResponseBytes                           int
	SendTimeout, NodeTimeout                time.Duration
}

// Options of a Server. The zero value serves with defaults.
type Options struct {
	Limits Limits
	// Log gets what somebody may have to act on; nil discards it.
	Log *slog.Logger
	// Identify says who the peer of a connection is; nil takes the verified
	// client certificate of gRPC's TLS credentials and refuses TLS without one.
	Identify func(ctx context.Context) (Identity, error)
	// Registry gets the metrics; nil discards them.
	Registry *observe.Registry
}

// Identity is the proven side of a Client.
type Identity struct {
	Peer      string
	Plaintext bool
}

// errNoCertificate refuses a TLS client that shows no certificate: over TLS,
// the certificate defines what a client gets, never its claims.
var errNoCertificate = errors.New("the client showed no certificate; ADS over TLS is for workloads that have one")

// identifyTLS reads the identity that the TLS handshake has proven.
func identifyTLS(ctx context.Context) (Identity, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Identity{Plaintext: true}, nil
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return Identity{Plaintext: true}, nil
	}
	chains := info.State.VerifiedChains
	if len(chains) == 0 {
		return Identity{}, errNoCertificate
	}
	uri, err := identity.FromCertificate(chains[0][0])
	return Identity{Peer: string(uri)}, err
}

// ServerOptions are the options that a grpc.Server needs to carry this
// package's streams: the codec that writes shared bytes (ordinary messages of
// other services on the same server pass through it unchanged), buffers that
// idle streams do not hold, keepalive as Istio's agents and Envoy expect it.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(newCodec()),
		grpc.MaxRecvMsgSize(requestBytesMax),
		grpc.MaxConcurrentStreams(100),
		grpc.MaxHeaderListSize(64 << 10),
		grpc.ReadBufferSize(8 << 10),
		// A proxy that crashed is noticed after at most 50 s, and one that is
		// starved, as all are while a mesh restarts, may read nothing for 20 s
		// (gRPC ends the connection of unread data so, too); clients may ping
		// every 10 s and without a stream.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 20 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	}
}

func (o Options) withDefaults() Options {
	l := &o.Limits
	set(&l.NamesPerStream, namesPerStreamMax)
	set(&l.Streams, streamsMax)
	set(&l.StreamsPerNode, streamsPerNodeMax)
	set(&l.ResponseBytes, responseBytesMax)
	set(&l.SendTimeout, sendTimeout)
	set(&l.NodeTimeout, nodeTimeout)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Identify == nil {
		o.Identify = identifyTLS
	}
	if o.Registry == nil {
		o.Registry = observe.NewRegistry()
	}
	return o
}

func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
