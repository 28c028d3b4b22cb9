package engine

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
func (d *exchangeConn) proxies() bool {
	return !d.spec.OriginalDst && !d.spec.UseOriginalDst && d.spec.Direction == listener.Outbound && d.facts.Local == d.facts.Direct
}

// meant is where a request's client wanted to go, for clusters that go there.
// For a redirected connection that is its original destination. The listener
// of an HTTP proxy has none: there the request names it, or the tunnel that it
// is in. A connection to ourselves would never end.
func (d *exchangeConn) meant(authority []byte) (netip.AddrPort, *failure.Failure) {
	to := d.facts.Local
	if d.proxies() {
		if d.tunnel != nil {
			authority = d.tunnel
		}
		host, port := string(authority), "80" // RFC 9110 §4.2.1
		if h, p, err := net.SplitHostPort(host); err == nil {
			host, port = h, p
		}
		number, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return to, &failure.Failure{Kind: failure.NoHealthyHost, Cause: err}
		}
		ip, err := d.live.Resolve(host)
		if err != nil {
			return to, &failure.Failure{Kind: failure.NoHealthyHost, Cause: errors.Join(cluster.ErrNoHost, err)}
		}
		to = netip.AddrPortFrom(ip, uint16(number))
	}
	// Where the kernel redirects transparently, the socket's own address is the
	// original destination, and its port is not the listener's.
	if at := d.place.at.Port(); to == d.facts.Direct && (at == to.Port() || at == 0) {
		return to, &failure.Failure{Kind: failure.NoHealthyHost, Cause: errOwnAddress}
	}
	return to, nil
}
