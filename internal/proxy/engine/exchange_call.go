package engine

import (
	"context"

	"github.com/tullemesh/tulle/internal/proxy/engine/call"
	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
)

// speaksHTTP2 decides which version of HTTP the chosen endpoint gets.
func (x *exchange) speaksHTTP2(ctx context.Context, downstreamTwo bool) (bool, error) {
	switch x.cluster.Spec().Protocol {
	case cluster.HTTP2:
		return true, nil
	case cluster.Downstream:
		return downstreamTwo, nil
	case cluster.Auto:
		p, err := x.upstream.Speaks(ctx, x.use())
		return p == cluster.HTTP2, err
	case cluster.HTTP1:
	}
	return false, nil
}

// use is what a new connection for this request is for.
func (x *exchange) use() *cluster.Use {
	return &cluster.Use{ServerName: string(withoutPort(x.req.Authority)), ProxyHeader: x.d.proxyHeader}
}

// openHTTP1 takes a pooled connection or makes one.
func (x *exchange) openHTTP1(ctx context.Context, careful bool) (*call.HTTP1, error) {
	c := x.upstream.Reuse(careful, x.d.e.clock.Now())
	if c == nil {
		var err error
		if c, err = x.upstream.Connect(ctx, x.use()); err != nil {
			return nil, err
		}
	}
	x.from = c.LocalAddr()
	return call.NewHTTP1(c, &x.d.e.buffers, x.d.e.clock, x.req.Method, x.upgrade), nil
}

func (x *exchange) openHTTP2(ctx context.Context, wantsTrailers bool) (*call.HTTP2, error) {
	st, err := x.upstream.OpenStream(ctx, x.use())
	if err != nil {
		return nil, err
	}
	x.from = st.LocalAddr()
	return call.NewHTTP2(st, wantsTrailers, x.upgrade), nil
}

// heldHead is the call whose buffer a response's head is in, for as long as the
// head is needed.
type heldHead struct{ of *call.HTTP1 }

// keep holds the buffer of another attempt's call.
func (h *heldHead) keep(c *call.HTTP1) {
	h.release()
	h.of = c
}

// release gives the buffer back.
func (h *heldHead) release() {
	if h.of != nil {
		h.of.Release()
		h.of = nil
	}
}
