package exchange

import (
	"strings"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/access"
	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

// logRequest writes the access log lines of a finished request.
func (x *Exchange) logRequest() {
	logs := x.Manager.AccessLog
	if len(logs) == 0 {
		return
	}
	r := x.record()
	for i := range logs {
		x.d.Logs.Get(&logs[i]).Write(r)
	}
}

// record is what is known of the request now.
func (x *Exchange) record() *access.Record {
	if x.rec == nil {
		x.rec = &access.Record{}
	}
	d, r := x.d, x.rec
	end := x.End
	if end == 0 {
		end = d.Clock.Now()
	}
	*r = access.Record{
		Start: d.Clock.Time(x.Start), Protocol: x.Req.Protocol, Request: &x.Req, Response: &x.Res, Status: x.Res.Status,
		BytesReceived: x.BytesIn, BytesSent: x.BytesOut, Duration: time.Duration(end - x.Start), ToUpstream: -1, ToHead: -1,
		Conn: &d.Facts, ConnID: d.ID, Remote: x.facts.Remote, Attempts: x.Attempts, Details: "via_upstream",
	}
	if x.Sent > 0 {
		r.ToUpstream = time.Duration(x.Sent - x.Start)
	}
	if x.HeadAt > 0 {
		r.ToHead = time.Duration(x.HeadAt - x.Start)
	}
	if c := d.Chain.Load(); c != nil {
		r.Chain = c.Name
	}
	if x.Result.Route != nil {
		r.Route = x.Result.Route.Name
	}
	if x.Cluster != nil {
		r.UpstreamCluster = x.Cluster.Name
	}
	if x.Upstream != nil {
		r.UpstreamHost, r.UpstreamLocal = x.Upstream.Host.Key, conn.AddrPort(x.From)
	}
	switch {
	case x.failure.Kind != failure.None:
		a := x.failure.Answer()
		r.Details = a.Detail
		if x.HeadAt > 0 {
			r.Details = strings.Replace(r.Details, "_before_response_started", "_after_response_started", 1)
		}
		if a.Side == failure.Upstream && x.failure.Cause != nil {
			r.TransportFailure = failure.TransportReason(x.failure.Cause)
		}
	case x.Action == ActAnswer:
		r.Details = "direct_response"
	}
	r.Flag = x.flags()
	return r
}

var _ router.Values = (*Exchange)(nil)

// AppendValue implements router.Values for header templates.
func (x *Exchange) AppendValue(dst []byte, operator, arg string) []byte {
	dst, _ = access.AppendOperator(dst, operator, arg, x.record()) // the compiler refuses others
	return dst
}
