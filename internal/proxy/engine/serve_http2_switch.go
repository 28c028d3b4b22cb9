package engine

import (
	"context"
	"slices"

	"github.com/tullemesh/tulle/internal/proxy/engine/call"
	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
)

// admitConnect decides what becomes of CONNECT over HTTP/2: a tunnel where a
// route is for CONNECT and says that it ends here, as over HTTP/1.1. What is
// inside is bytes. Where the tunnel's host has routes of its own HTTP inside
// would go by them over HTTP/1.1; here it would go around them, and is refused.
// So is a tunnel within a tunnel.
func (x *http2Exchange) admitConnect() {
	if x.admit() != actForward {
		return
	}
	if x.d.tunnel != nil || len(x.result.Host.Routes) > 1 || !slices.Contains(x.result.Route.Forward.Upgrades, connectType) {
		x.fail(failure.Failure{Kind: failure.NotSupported, Detail: "CONNECT over HTTP/2"})
		return
	}
	x.upgrade, x.connects = []byte(connectType), true
}

func (x *http2Exchange) openTunnel(ctx context.Context) (call.Call, error) {
	c, err := x.upstream.Connect(ctx, x.d.useTCP())
	if err != nil {
		return nil, err
	}
	x.from = c.LocalAddr()
	x.counted = true // what is inside is counted for itself
	return call.NewTunnel(c, &x.d.buffers, x.d.clock, x.d.tcpOpened(x.upstream)), nil
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
