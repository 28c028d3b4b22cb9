package exchange

import (
	"context"

	"github.com/tullemesh/tulle/internal/proxy/engine/call"
	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
)

// KnowsHTTP2 reports whether the chosen endpoint gets the request in HTTP/2,
// where that is known without asking it.
func (x *Exchange) KnowsHTTP2(downstreamTwo bool) (two, known bool) {
	switch x.Cluster.Spec().Protocol {
	case cluster.HTTP2:
		return true, true
	case cluster.Downstream:
		return downstreamTwo, true
	case cluster.Auto:
		return false, false
	case cluster.HTTP1:
	}
	return false, true
}

// SpeaksHTTP2 decides which version of HTTP the chosen endpoint gets.
func (x *Exchange) SpeaksHTTP2(ctx context.Context, downstreamTwo bool) (bool, error) {
	if two, known := x.KnowsHTTP2(downstreamTwo); known {
		return two, nil
	}
	p, err := x.Upstream.Speaks(ctx, x.Use())
	return p == cluster.HTTP2, err
}

// Use is what a new connection for this request is for.
func (x *Exchange) Use() *cluster.Use {
	return &cluster.Use{ServerName: string(withoutPort(x.Req.Authority)), ProxyHeader: x.d.ProxyHeader}
}

// OpenHTTP1 takes a pooled connection or makes one.
func (x *Exchange) OpenHTTP1(ctx context.Context, careful bool) (*call.HTTP1, error) {
	c := x.Upstream.Reuse(careful, x.d.Clock.Now())
	if c == nil {
		var err error
		if c, err = x.Upstream.Connect(ctx, x.Use()); err != nil {
			return nil, err
		}
	}
	x.From = c.LocalAddr()
	return call.NewHTTP1(c, &x.d.Buffers, x.d.Clock, x.Req.Method, x.Upgrade), nil
}

// OpenHTTP2 opens a stream of a shared connection; wantsTrailers: the client can
// take them.
func (x *Exchange) OpenHTTP2(ctx context.Context, wantsTrailers bool) (*call.HTTP2, error) {
	st, err := x.Upstream.OpenStream(ctx, x.Use())
	if err != nil {
		return nil, err
	}
	x.From = st.LocalAddr()
	return call.NewHTTP2(st, wantsTrailers, x.Upgrade), nil
}
