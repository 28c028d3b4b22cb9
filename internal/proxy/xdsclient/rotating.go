package xdsclient

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"

	"google.golang.org/grpc/credentials"
)

// rotating asks for a TLS configuration at each handshake, so that a rotated
// certificate or root holds from the next connection on.
type rotating struct {
	credentials.TransportCredentials // of no use but its other methods
	config                           func() (*tls.Config, error)
}

// ClientHandshake implements credentials.TransportCredentials.
func (r rotating) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	config, err := r.config()
	if err != nil {
		return nil, nil, fmt.Errorf("tls of the control plane connection: %w", err)
	}
	// gRPC verifies the authority; ours is the server's name when it is set.
	if config.ServerName != "" {
		authority = config.ServerName
	}
	return credentials.NewTLS(config).ClientHandshake(ctx, authority, conn)
}

// Info implements credentials.TransportCredentials.
func (r rotating) Info() credentials.ProtocolInfo { return credentials.NewTLS(nil).Info() }

// Clone implements credentials.TransportCredentials.
func (r rotating) Clone() credentials.TransportCredentials { return r }
