package exchange

import (
	"crypto/x509"
	"net/netip"
	"sync/atomic"

	"github.com/tullemesh/tulle/internal/proxy/engine/access"
	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/date"
	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
	"github.com/tullemesh/tulle/internal/proxy/engine/generation"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
	"github.com/tullemesh/tulle/internal/proxy/engine/telemetry"
	"github.com/tullemesh/tulle/internal/proxy/engine/tls"
)

// Shared is what all exchanges of an engine share. What is fixed is there before
// the first connection.
type Shared struct {
	// Fixed at creation.
	Clock  conn.Clock
	Live   *cluster.Live
	Store  *tls.Store
	Logs   *access.Logs
	Meters *telemetry.Meters
	Peers  *telemetry.Peers

	Config  atomic.Pointer[generation.Config] // the generation in force
	Buffers conn.Buffers
	dates   date.Cache
}

// Place is an address that connections are accepted at.
type Place struct {
	At netip.AddrPort // as configured
	// Last is the newest generation that has the listener: who connected before
	// it was removed is judged by it.
	Last atomic.Pointer[generation.Config]
}

// Conn is what the exchanges of a client's connection know of it.
type Conn struct {
	// Fixed at creation.
	*Shared
	Place *Place
	Begun int64 // by the clock
	ID    uint64

	// Owned by the connection's goroutine.
	Facts    fact.Conn
	Chain    atomic.Pointer[listener.Chain] // others may put the newest generation's here
	Spec     *listener.Spec                 // of the listener that judges
	series   telemetry.Conn
	Peer     *telemetry.Peer
	PeerCert *x509.Certificate // nil: it showed none
	Tunnel   []byte            // the authority of the CONNECT whose tunnel carries HTTP; nil: none
	xfcc     string            // made by xfccElement
}

// routes are those of the generation in force. They may have gone with the
// connection's listener: then those hold that were there with it.
func (d *Conn) routes(m *listener.HTTPManager) *router.Table {
	cfg := d.Config.Load()
	if t := cfg.RouteTable(m); t != nil || cfg.At(d.Place.At) != nil {
		return t
	}
	return d.Place.Last.Load().RouteTable(m)
}

// Inbound reports whether the service behind the listener is ours.
func (d *Conn) Inbound() bool { return d.Spec.Direction == listener.Inbound }

// ProxyHeader tells an endpoint who the client is and where it was going (Envoy: ProxyProtocolUpstreamTransport).
func (d *Conn) ProxyHeader(version int) []byte {
	return listener.AppendProxyHeader(nil, version, d.Facts.Remote, d.Facts.Local)
}
