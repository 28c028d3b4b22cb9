package exchange

import (
	"net/http"
	"sync/atomic"

	"github.com/tullemesh/tulle/internal/proxy/engine/grpc"
	"github.com/tullemesh/tulle/internal/proxy/engine/telemetry"
)

// messageCounts counts the messages of a call of gRPC, both ways, as its bodies
// pass. They are reported when they come, because a stream may last for days;
// what comes before it is known who answers waits until then.
type messageCounts struct {
	call          bool // the request is one of gRPC
	asks, answers grpc.Counter
	series        atomic.Pointer[telemetry.Messages] // nil: not known yet
}

// TookBody counts body bytes of the client.
func (x *Exchange) TookBody(p []byte) {
	x.BytesIn += int64(len(p))
	x.messages.asked(p)
}

// GaveBody counts body bytes for the client.
func (x *Exchange) GaveBody(p []byte) {
	x.BytesOut += int64(len(p))
	x.messages.answered(p)
}

// asked counts messages of the client.
func (c *messageCounts) asked(p []byte) {
	if c.asks.On && c.asks.Count(p) {
		c.report()
	}
}

// answered counts messages of the service.
func (c *messageCounts) answered(p []byte) {
	if c.answers.On && c.answers.Count(p) {
		c.report()
	}
}

// report adds what was found, if it is known where to. Who finds and who learns
// that may meet: each does its own part before it reports.
func (c *messageCounts) report() {
	s := c.series.Load()
	if s == nil {
		return
	}
	if n := c.asks.Take(); n > 0 {
		s.Asks.Add(n)
	}
	if n := c.answers.Take(); n > 0 {
		s.Answers.Add(n)
	}
}

// beginCall is called when the request is admitted.
func (x *Exchange) beginCall() {
	call := x.isGRPC()
	x.messages.call, x.messages.asks.On = call, call
}

// IsCall reports whether the messages of the request are counted.
func (x *Exchange) IsCall() bool { return x.messages.call }

// AnswersCall is called when the response's head is turned into the client's:
// from here on both ends are known, and whether the response has messages.
func (x *Exchange) AnswersCall() {
	if !x.messages.call {
		return
	}
	ct, _ := x.Res.Get("content-type")
	x.messages.answers.On = x.Res.Status == http.StatusOK && grpc.IsType(ct)
	x.messages.series.Store(x.messageSeries())
	x.messages.report()
}

// endCall reports what no response's head came for.
func (x *Exchange) endCall() {
	c := &x.messages
	if c.asks.Pending()+c.answers.Pending() == 0 {
		return
	}
	if c.series.Load() == nil {
		c.series.Store(x.messageSeries())
	}
	c.report()
}

func (x *Exchange) messageSeries() *telemetry.Messages {
	return x.d.Meters.Messages(&x.d.series, x.labels())
}
