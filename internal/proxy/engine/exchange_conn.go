package engine

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

// exchangeShared is what all exchanges of an engine share.
type exchangeShared struct {
	// Fixed at creation.
	clock  conn.Clock
	live   *cluster.Live
	store  *tls.Store
	logs   *access.Logs
	meters *telemetry.Meters
	peers  *telemetry.Peers

	config  atomic.Pointer[generation.Config] // the generation in force
	buffers conn.Buffers
	dates   date.Cache
}

// place is an address that connections are accepted at.
type place struct {
	at netip.AddrPort // as configured
	// last is the newest generation that has the listener: who connected before
	// it was removed is judged by it.
	last atomic.Pointer[generation.Config]
}

// exchangeConn is what the exchanges of a client's connection know of it.
type exchangeConn struct {
	// Fixed at creation.
	*exchangeShared
	place *place
	begun int64
	id    uint64

	// Owned by the connection's goroutine.
	facts    fact.Conn
	chain    atomic.Pointer[listener.Chain] // others may put the newest generation's here
	spec     *listener.Spec
	series   telemetry.Conn
	peer     *telemetry.Peer
	peerCert *x509.Certificate
	tunnel   []byte // the authority of the CONNECT whose tunnel carries HTTP; nil: none
	xfcc     string // made by xfccElement
}

// routes are those of the generation in force. They may have gone with the
// connection's listener: then those hold that were there with it.
func (d *exchangeConn) routes(m *listener.HTTPManager) *router.Table {
	cfg := d.config.Load()
	if t := cfg.RouteTable(m); t != nil || cfg.At(d.place.at) != nil {
		return t
	}
	return d.place.last.Load().RouteTable(m)
}

// inbound reports whether the service behind the listener is ours.
func (d *exchangeConn) inbound() bool { return d.spec.Direction == listener.Inbound }

// proxyHeader tells an endpoint who the client is and where it was going (Envoy: ProxyProtocolUpstreamTransport).
func (d *exchangeConn) proxyHeader(version int) []byte {
	return listener.AppendProxyHeader(nil, version, d.facts.Remote, d.facts.Local)
}
