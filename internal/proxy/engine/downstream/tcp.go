package downstream

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
	"github.com/tullemesh/tulle/internal/proxy/engine/tcp"
	"github.com/tullemesh/tulle/internal/proxy/engine/telemetry"
)

// tcpTries is how often a connect is tried when the listener does not say
// (Envoy: max_connect_attempts, 1).
const tcpTries uint32 = 1

// ServeTCP passes the connection's bytes to a cluster.
func (d *Conn) ServeTCP(p *listener.TCPProxy) {
	up, f := d.dialTCP(p)
	if f != nil {
		d.Meters.ConnFailed(f.Answer().Flag)
		d.logConn(p.AccessLog, f, nil)
		return // closing without an answer is all that TCP can say
	}
	defer up.Close()
	d.Upstream.Store(up.Socket())
	series := d.TCPOpened(up.Upstream)
	up.Upstream.Host.Active.Add(1)
	defer up.Upstream.Host.Active.Add(-1)
	r := tcp.Relay(d.Stream, up.Stream, tcp.Options{Idle: p.IdleTimeout, MaxDuration: p.MaxDuration, Buffers: &d.Buffers, Pipes: &d.Shared.Pipes, Moved: series.Moved})
	d.Upstream.Store(nil)
	series.Closed()
	if r.SendErr != nil || r.ReceiveErr != nil {
		_ = d.Sock.Abort() // the peer must not take what it has for complete
	}
	f = nil
	if r.TooOld {
		f = &failure.Failure{Kind: failure.ConnTooOld}
	}
	d.logConn(p.AccessLog, f, &tcpRecord{r, up})
}

// dialTCP chooses a cluster and endpoints and connects.
func (d *Conn) dialTCP(p *listener.TCPProxy) (*cluster.Conn, *failure.Failure) {
	if up := d.takeDialed(p); up != nil {
		return up, nil
	}
	c, f := d.clusterTCP(p)
	if f != nil {
		return nil, f
	}
	for range max(p.MaxConnectTries, tcpTries) {
		var u *cluster.Upstream
		if u, f = d.pickTCP(c); f != nil {
			return nil, f
		}
		var up *cluster.Conn
		if up, f = d.ConnectRaw(u, 0); f == nil {
			return up, nil
		}
	}
	if f.Kind == failure.ConnectFailed || f.Kind == failure.ConnectTimeout {
		f = &failure.Failure{Kind: failure.TriesSpent, Cause: f.Cause}
	}
	return nil, f
}

// clusterTCP chooses the cluster of a connection.
func (d *Conn) clusterTCP(p *listener.TCPProxy) (*cluster.Cluster, *failure.Failure) {
	w := router.Choose(p.Clusters, p.TotalWeight, rand.Uint64())
	if w == nil {
		return nil, &failure.Failure{Kind: failure.NoClusterFound}
	}
	c := d.Live.Get(w.Cluster)
	if c == nil {
		return nil, &failure.Failure{Kind: failure.NoClusterFound, Detail: w.Cluster}
	}
	return c, nil
}

// pickTCP chooses an endpoint.
func (d *Conn) pickTCP(c *cluster.Cluster) (*cluster.Upstream, *failure.Failure) {
	to := d.Facts.Local
	if c.Spec().Kind == cluster.OriginalDst {
		var f *failure.Failure
		if to, f = d.Meant(nil); f != nil {
			return nil, f
		}
	}
	u, err := c.Pick(rand.Uint64(), to)
	if err != nil {
		return nil, failure.OfConnect(err)
	}
	return u, nil
}

// UseTCP is what an upstream connection is for.
func (d *Conn) UseTCP() *cluster.Use {
	return &cluster.Use{Raw: true, ServerName: d.Facts.SNI, ProxyHeader: d.ProxyHeader}
}

// ConnectRaw makes a connection for bytes that are not HTTP. The client's
// leave ends the wait.
func (d *Conn) ConnectRaw(u *cluster.Upstream, timeout time.Duration) (*cluster.Conn, *failure.Failure) {
	ctx, cancel := context.WithCancel(context.Background())
	if timeout > 0 {
		ctx, cancel = context.WithTimeout(context.Background(), timeout)
	}
	defer cancel()
	d.Cancel.Store(&cancel)
	d.WatchLeave(d.Clock.Now())
	up, err := u.Connect(ctx, d.UseTCP())
	d.Cancel.Store(nil)
	d.StopSide()
	switch {
	case err == nil:
		return up, nil
	case d.Left.Load():
		return nil, &failure.Failure{Kind: failure.ClientLeft, Cause: err}
	case timeout > 0 && errors.Is(err, context.DeadlineExceeded):
		return nil, &failure.Failure{Kind: failure.RouteTimeout, Cause: err}
	}
	return nil, failure.OfConnect(err)
}

// TCPOpened counts a connection whose bytes are passed to an endpoint.
func (d *Conn) TCPOpened(u *cluster.Upstream) *telemetry.TCP {
	l := telemetry.Labels{Source: d.Peer, Inbound: d.Inbound(), Verified: d.Facts.Verified}
	l.To(u)
	return d.Meters.TCPOpened(&l)
}
