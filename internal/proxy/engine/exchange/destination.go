package exchange

import (
	"errors"
	"net"
	"net/netip"
	"strconv"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
)

// errOwnAddress: what was asked for is this proxy itself.
var errOwnAddress = errors.New("the destination is this proxy's own address")

// proxies reports whether the listener is an HTTP proxy's.
func (d *Conn) proxies() bool {
	return !d.Spec.OriginalDst && !d.Spec.UseOriginalDst && d.Spec.Direction == listener.Outbound && d.Facts.Local == d.Facts.Direct
}

// MayResolve reports whether Choose may wait for DNS.
func (x *Exchange) MayResolve() bool {
	return x.Cluster.Resolving() || x.Cluster.Spec().Kind == cluster.OriginalDst && x.d.proxies()
}

// Meant is where a request's client wanted to go, for clusters that go there.
// For a redirected connection that is its original destination. The listener
// of an HTTP proxy has none: there the request names it, or the tunnel that it
// is in. A connection to ourselves would never end.
func (d *Conn) Meant(authority []byte) (netip.AddrPort, *failure.Failure) {
	to := d.Facts.Local
	if d.proxies() {
		if d.Tunnel != nil {
			authority = d.Tunnel
		}
		host, port := string(authority), "80" // RFC 9110 §4.2.1
		if h, p, err := net.SplitHostPort(host); err == nil {
			host, port = h, p
		}
		number, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return to, &failure.Failure{Kind: failure.NoHealthyHost, Cause: err}
		}
		ip, err := d.Live.Resolve(host)
		if err != nil {
			return to, &failure.Failure{Kind: failure.NoHealthyHost, Cause: errors.Join(cluster.ErrNoHost, err)}
		}
		to = netip.AddrPortFrom(ip, uint16(number))
	}
	// Where the kernel redirects transparently, the socket's own address is the
	// original destination, and its port is not the listener's.
	if at := d.Place.At.Port(); to == d.Facts.Direct && (at == to.Port() || at == 0) {
		return to, &failure.Failure{Kind: failure.NoHealthyHost, Cause: errOwnAddress}
	}
	return to, nil
}
