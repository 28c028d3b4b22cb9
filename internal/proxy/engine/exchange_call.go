package engine

import (
	"context"

	"github.com/tullemesh/tulle/internal/proxy/engine/call"
	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
)

// knowsHTTP2 reports whether the chosen endpoint gets the request in HTTP/2,
// where that is known without asking it.
func (x *exchange) knowsHTTP2(downstreamTwo bool) (two, known bool) {
	switch x.cluster.Spec().Protocol {
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

// speaksHTTP2 decides which version of HTTP the chosen endpoint gets.
func (x *exchange) speaksHTTP2(ctx context.Context, downstreamTwo bool) (bool, error) {
	if two, known := x.knowsHTTP2(downstreamTwo); known {
		return two, nil
	}
	p, err := x.upstream.Speaks(ctx, x.use())
	return p == cluster.HTTP2, err
}

// use is what a new connection for this request is for.
func (x *exchange) use() *cluster.Use {
	return &cluster.Use{ServerName: string(withoutPort(x.req.Authority)), ProxyHeader: x.d.proxyHeader}
}

// openHTTP1 takes a pooled connection or makes one.
func (x *exchange) openHTTP1(ctx context.Context, careful bool) (*call.HTTP1, error) {
	c := x.upstream.Reuse(careful, x.d.clock.Now())
	if c == nil {
		var err error
		if c, err = x.upstream.Connect(ctx, x.use()); err != nil {
			return nil, err
		}
	}
	x.from = c.LocalAddr()
	return call.NewHTTP1(c, &x.d.buffers, x.d.clock, x.req.Method, x.upgrade), nil
}

func (x *exchange) openHTTP2(ctx context.Context, wantsTrailers bool) (*call.HTTP2, error) {
	st, err := x.upstream.OpenStream(ctx, x.use())
	if err != nil {
		return nil, err
	}
	x.from = st.LocalAddr()
	return call.NewHTTP2(st, wantsTrailers, x.upgrade), nil
}
