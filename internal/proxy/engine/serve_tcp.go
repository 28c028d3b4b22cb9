package engine

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

// serveTCP passes the connection's bytes to a cluster.
func (d *downstream) serveTCP(p *listener.TCPProxy) {
	up, f := d.dialTCP(p)
	if f != nil {
		d.meters.ConnFailed(f.Answer().Flag)
		d.logConn(p.AccessLog, f, nil)
		return // closing without an answer is all that TCP can say
	}
	defer up.Close()
	d.upstream.Store(up.Socket())
	series := d.tcpOpened(up.Upstream)
	up.Upstream.Host.Active.Add(1)
	defer up.Upstream.Host.Active.Add(-1)
	r := tcp.Relay(d.stream, up.Stream, tcp.Options{Idle: p.IdleTimeout, MaxDuration: p.MaxDuration, Buffers: &d.buffers, Pipes: &d.shared.pipes, Moved: series.Moved})
	d.upstream.Store(nil)
	series.Closed()
	if r.SendErr != nil || r.ReceiveErr != nil {
		_ = d.sock.Abort() // the peer must not take what it has for complete
	}
	f = nil
	if r.TooOld {
		f = &failure.Failure{Kind: failure.ConnTooOld}
	}
	d.logConn(p.AccessLog, f, &tcpRecord{r, up})
}

// dialTCP chooses a cluster and endpoints and connects.
func (d *downstream) dialTCP(p *listener.TCPProxy) (*cluster.Conn, *failure.Failure) {
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
		if up, f = d.connectRaw(u, 0); f == nil {
			return up, nil
		}
	}
	if f.Kind == failure.ConnectFailed || f.Kind == failure.ConnectTimeout {
		f = &failure.Failure{Kind: failure.TriesSpent, Cause: f.Cause}
	}
	return nil, f
}

// clusterTCP chooses the cluster of a connection.
func (d *downstream) clusterTCP(p *listener.TCPProxy) (*cluster.Cluster, *failure.Failure) {
	w := router.Choose(p.Clusters, p.TotalWeight, rand.Uint64())
	if w == nil {
		return nil, &failure.Failure{Kind: failure.NoClusterFound}
	}
	c := d.live.Get(w.Cluster)
	if c == nil {
		return nil, &failure.Failure{Kind: failure.NoClusterFound, Detail: w.Cluster}
	}
	return c, nil
}

// pickTCP chooses an endpoint.
func (d *downstream) pickTCP(c *cluster.Cluster) (*cluster.Upstream, *failure.Failure) {
	to := d.facts.Local
	if c.Spec().Kind == cluster.OriginalDst {
		var f *failure.Failure
		if to, f = d.meant(nil); f != nil {
			return nil, f
		}
	}
	u, err := c.Pick(rand.Uint64(), to)
	if err != nil {
		return nil, failure.OfConnect(err)
	}
	return u, nil
}

// useTCP is what an upstream connection is for.
func (d *downstream) useTCP() *cluster.Use {
	return &cluster.Use{Raw: true, ServerName: d.facts.SNI, ProxyHeader: d.proxyHeader}
}

// connectRaw makes a connection for bytes that are not HTTP. The client's
// leave ends the wait.
func (d *downstream) connectRaw(u *cluster.Upstream, timeout time.Duration) (*cluster.Conn, *failure.Failure) {
	ctx, cancel := context.WithCancel(context.Background())
	if timeout > 0 {
		ctx, cancel = context.WithTimeout(context.Background(), timeout)
	}
	defer cancel()
	d.cancel.Store(&cancel)
	d.watchLeave(d.clock.Now())
	up, err := u.Connect(ctx, d.useTCP())
	d.cancel.Store(nil)
	d.stopSide()
	switch {
	case err == nil:
		return up, nil
	case d.left.Load():
		return nil, &failure.Failure{Kind: failure.ClientLeft, Cause: err}
	case timeout > 0 && errors.Is(err, context.DeadlineExceeded):
		return nil, &failure.Failure{Kind: failure.RouteTimeout, Cause: err}
	}
	return nil, failure.OfConnect(err)
}

// tcpOpened counts a connection whose bytes are passed to an endpoint.
func (d *downstream) tcpOpened(u *cluster.Upstream) *telemetry.TCP {
	l := telemetry.Labels{Source: d.peer, Inbound: d.inbound(), Verified: d.facts.Verified}
	l.To(u)
	return d.meters.TCPOpened(&l)
}
