package engine

import (
	"context"
	"slices"

	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
	"github.com/tullemesh/tulle/internal/proxy/engine/message"
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

// tunnelCall is a tunnel's connection to its endpoint. There is no head to send
// and none to come.
type tunnelCall struct {
	http1Call
	series *tcpSeries
}

func (x *http2Exchange) openTunnel(ctx context.Context) (call, error) {
	c, err := x.upstream.Connect(ctx, x.d.useTCP())
	if err != nil {
		return nil, err
	}
	x.counted = true // what is inside is counted for itself
	t := &tunnelCall{http1Call: http1Call{e: x.d.e, conn: c, switched: true}, series: x.d.e.telemetry.tcpOpened(x.d, x.upstream)}
	return t, nil
}

func (c *tunnelCall) sendHead(*message.Head, []byte, bool) error { return nil }

func (c *tunnelCall) readHead(h *message.Head) (end bool, err error) {
	h.Reset()
	h.Status = 200
	return false, nil
}

func (c *tunnelCall) readBody(p []byte) (int, error) {
	n, err := c.http1Call.readBody(p)
	c.series.moved(0, int64(n))
	return n, err
}

func (c *tunnelCall) sendBody(p []byte, end bool, trailers *message.Head) error {
	err := c.http1Call.sendBody(p, end, trailers)
	if err == nil {
		c.series.moved(int64(len(p)), 0)
	}
	return err
}

func (c *tunnelCall) finish(whole bool) {
	c.series.closed()
	c.http1Call.finish(whole)
}
