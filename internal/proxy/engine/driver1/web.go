package driver1

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/call"
	"github.com/tullemesh/tulle/internal/proxy/engine/exchange"
	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
	"github.com/tullemesh/tulle/internal/proxy/engine/http1"
	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// lifeMax is how long the exchange may last, by its route and by its caller; 0:
// no bound.
func (x *http1Exchange) lifeMax() time.Duration {
	life := x.StreamMax()
	if x.Web == nil {
		return life
	}
	if limit := x.BoundCall(); limit > 0 && (life == 0 || limit < life) {
		life = limit
	}
	return life
}

// openWebHTTP1 opens a call in HTTP/1.1, whose head lives in memory of its own.
func (x *http1Exchange) openWebHTTP1(ctx context.Context) (call.Call, error) {
	c, err := x.OpenHTTP1(ctx, true)
	if err != nil {
		return nil, err
	}
	x.held.Keep(c)
	return c, nil
}

// respondWeb sends the response to a client of gRPC-Web as it comes.
func (x *http1Exchange) respondWeb(c call.Call, end bool) *failure.Failure {
	allowed := exchange.BodyAllowed(x.Res.Status) && string(x.Req.Method) != http.MethodHead
	if end = end || !allowed; end {
		x.NoteGRPC(&x.Res)
	}
	end, err := x.WebHead(c, end, x.touch)
	if err != nil {
		return x.over2Failure(err)
	}
	if end && allowed {
		x.Res.SetString("content-length", "0")
	}
	chunked := !end && x.Req.Protocol != fact.HTTP10
	if !end && !chunked {
		x.reqFrame.Close = true // the end of the connection is the end of the body
	}
	p := x.persistence(x.replayable || x.pumpDone.Load())
	x.headSent = true
	x.d.Responding.Store(true)
	if f := x.toClient(http1.AppendResponse(x.back[:0], &x.Res, chunked, p)); f != nil || end {
		return f
	}
	return x.streamWeb(c, chunked)
}

func (x *http1Exchange) streamWeb(c call.Call, chunked bool) *failure.Failure {
	b := x.d.Buffers.Get()
	defer x.d.Buffers.Put(b)
	for {
		n, err := c.ReadBody(b.B)
		end := errors.Is(err, io.EOF)
		if err != nil && !end {
			return x.over2Failure(err)
		}
		x.touch()
		var trailers *message.Head
		if end {
			trailers = c.Trailers()
			x.NoteGRPC(trailers)
		}
		out := x.ToWeb(b.B[:n], end, trailers)
		if chunked {
			x.back = http1.AppendChunk(x.back[:0], out)
			if end {
				x.back = http1.AppendLastChunk(x.back, nil)
			}
			out = x.back
		}
		if len(out) > 0 {
			if f := x.toClient(out); f != nil {
				return f
			}
		}
		if end {
			return nil
		}
	}
}
