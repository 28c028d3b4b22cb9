package driver2

import (
	"context"
	"slices"

	"github.com/tullemesh/tulle/internal/proxy/engine/call"
	"github.com/tullemesh/tulle/internal/proxy/engine/exchange"
	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
)

// admitConnect decides what becomes of CONNECT over HTTP/2: a tunnel where a
// route is for CONNECT and says that it ends here, as over HTTP/1.1. What is
// inside is bytes. Where the tunnel's host has routes of its own HTTP inside
// would go by them over HTTP/1.1; here it would go around them, and is refused.
// So is a tunnel within a tunnel.
func (x *http2Exchange) admitConnect() {
	if x.Admit() != exchange.ActForward {
		return
	}
	if x.d.Tunnel != nil || len(x.Result.Host.Routes) > 1 || !slices.Contains(x.Result.Route.Forward.Upgrades, exchange.ConnectType) {
		x.Fail(failure.Failure{Kind: failure.NotSupported, Detail: "CONNECT over HTTP/2"})
		return
	}
	x.Upgrade, x.connects = []byte(exchange.ConnectType), true
}

func (x *http2Exchange) openTunnel(ctx context.Context) (call.Call, error) {
	c, err := x.Upstream.Connect(ctx, x.d.UseTCP())
	if err != nil {
		return nil, err
	}
	x.From = c.LocalAddr()
	x.Counted = true // what is inside is counted for itself
	return call.NewTunnel(c, &x.d.Buffers, x.d.Clock, x.d.TCPOpened(x.Upstream)), nil
}

// passBoth passes bytes both ways until both directions have ended.
func (x *http2Exchange) passBoth(c call.Call) *failure.Failure {
	x.replayable, x.tooMany = false, true
	x.due[dueResponse].Store(0)
	x.side.Go(func() { x.pump(c) })
	if f := x.passBody(c); f != nil {
		return f
	}
	if x.side.Wait(); x.sentAll.Load() {
		return nil // whoever leaves now has heard and said all
	}
	return x.interrupted()
}
