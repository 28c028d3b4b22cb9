package engine

import (
	"strings"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/access"
	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

// logRequest writes the access log lines of a finished request.
func (x *exchange) logRequest() {
	logs := x.manager.AccessLog
	if len(logs) == 0 {
		return
	}
	r := x.record()
	for i := range logs {
		x.d.logs.Get(&logs[i]).Write(r)
	}
}

// record is what is known of the request now.
func (x *exchange) record() *access.Record {
	if x.rec == nil {
		x.rec = &access.Record{}
	}
	d, r := x.d, x.rec
	end := x.end
	if end == 0 {
		end = d.clock.Now()
	}
	*r = access.Record{
		Start: d.clock.Time(x.start), Protocol: x.req.Protocol, Request: &x.req, Response: &x.res, Status: x.res.Status,
		BytesReceived: x.bytesIn, BytesSent: x.bytesOut, Duration: time.Duration(end - x.start), ToUpstream: -1, ToHead: -1,
		Conn: &d.facts, ConnID: d.id, Remote: x.facts.Remote, Attempts: x.attempts, Details: "via_upstream",
	}
	if x.sent > 0 {
		r.ToUpstream = time.Duration(x.sent - x.start)
	}
	if x.headAt > 0 {
		r.ToHead = time.Duration(x.headAt - x.start)
	}
	if c := d.chain.Load(); c != nil {
		r.Chain = c.Name
	}
	if x.result.Route != nil {
		r.Route = x.result.Route.Name
	}
	if x.cluster != nil {
		r.UpstreamCluster = x.cluster.Name
	}
	if x.upstream != nil {
		r.UpstreamHost, r.UpstreamLocal = x.upstream.Host.Key, conn.AddrPort(x.from)
	}
	switch {
	case x.failure.Kind != failure.None:
		a := x.failure.Answer()
		r.Details = a.Detail
		if x.headAt > 0 {
			r.Details = strings.Replace(r.Details, "_before_response_started", "_after_response_started", 1)
		}
		if a.Side == failure.Upstream && x.failure.Cause != nil {
			r.TransportFailure = failure.TransportReason(x.failure.Cause)
		}
	case x.action == actAnswer:
		r.Details = "direct_response"
	}
	r.Flag = x.flags()
	return r
}

var _ router.Values = (*exchange)(nil)

// AppendValue implements router.Values for header templates.
func (x *exchange) AppendValue(dst []byte, operator, arg string) []byte {
	dst, _ = access.AppendOperator(dst, operator, arg, x.record()) // the compiler refuses others
	return dst
}
