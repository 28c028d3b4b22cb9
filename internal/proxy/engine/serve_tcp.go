package engine

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
	"github.com/tullemesh/tulle/internal/proxy/engine/tcp"
)

// tcpTries is how often a connect is tried when the listener does not say
// (Envoy: max_connect_attempts, 1).
const tcpTries = 1

// tcpIdle is the idle timeout when the listener does not say (Envoy: 1 h).
const tcpIdle = time.Hour

// serveTCP passes the connection's bytes to a cluster.
func (d *downstream) serveTCP(p *listener.TCPProxy) {
	e := d.e
	up, f := d.dialTCP(p)
	if f != nil {
		e.telemetry.connRefused(d, f)
		d.logConn(p.AccessLog, f, nil)
		return // closing without an answer is all that TCP can say
	}
	defer up.Close()
	d.upstream.Store(up.Socket())
	series := e.telemetry.tcpOpened(d, up.Upstream)
	up.Upstream.Host.Active.Add(1)
	defer up.Upstream.Host.Active.Add(-1)
	idle := p.IdleTimeout
	if idle == 0 {
		idle = tcpIdle
	}
	r := tcp.Relay(d.stream, up.Stream, tcp.Options{Idle: idle, MaxDuration: p.MaxDuration, Buffers: &e.buffers, Moved: series.moved})
	d.upstream.Store(nil)
	series.closed()
	if r.SendErr != nil || r.ReceiveErr != nil {
		_ = d.sock.Abort() // the peer must not take what it has for complete
	}
	d.logConn(p.AccessLog, nil, &tcpRecord{r, up.Upstream})
}

// dialTCP chooses a cluster and an endpoint and connects.
func (d *downstream) dialTCP(p *listener.TCPProxy) (*cluster.Conn, *Failure) {
	w := router.Choose(p.Clusters, p.TotalWeight, rand.Uint64())
	if w == nil {
		return nil, &Failure{Kind: NoClusterFound}
	}
	c := d.e.live.Get(w.Cluster)
	if c == nil {
		return nil, &Failure{Kind: NoClusterFound, Detail: w.Cluster}
	}
	tries := int(p.MaxConnectTries)
	if tries == 0 {
		tries = tcpTries
	}
	var f *Failure
	for range tries {
		to := d.facts.Local
		if c.Spec().Kind == cluster.OriginalDst {
			if to, f = d.meant(nil); f != nil {
				return nil, f
			}
		}
		u, err := c.Pick(rand.Uint64(), to)
		if err != nil {
			return nil, connectFailure(err)
		}
		var up *cluster.Conn
		if up, f = d.connectRaw(u, 0); f == nil {
			return up, nil
		}
	}
	return nil, f
}

// connectRaw makes a connection for bytes that are not HTTP. The client's
// leave ends the wait.
func (d *downstream) connectRaw(u *cluster.Upstream, timeout time.Duration) (*cluster.Conn, *Failure) {
	ctx, cancel := context.WithCancel(context.Background())
	if timeout > 0 {
		ctx, cancel = context.WithTimeout(context.Background(), timeout)
	}
	defer cancel()
	d.cancel.Store(&cancel)
	d.guard.Set(slotWatch, d.e.clock.Now()+int64(watchAfter))
	up, err := u.Connect(ctx, &cluster.Use{Raw: true, ServerName: d.facts.SNI})
	d.cancel.Store(nil)
	d.stopSide()
	switch {
	case err == nil:
		return up, nil
	case d.left.Load():
		return nil, &Failure{Kind: ClientLeft, Cause: err}
	case timeout > 0 && errors.Is(err, context.DeadlineExceeded):
		return nil, &Failure{Kind: RouteTimeout, Cause: err}
	}
	return nil, connectFailure(err)
}
