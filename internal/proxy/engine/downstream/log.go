package downstream

import (
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/access"
	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/tcp"
)

// tcpRecord is what a relay did.
type tcpRecord struct {
	tcp.Result
	up *cluster.Conn
}

// logConn writes the access log lines of a connection.
func (d *Conn) logConn(logs []listener.AccessLog, f *failure.Failure, t *tcpRecord) {
	if len(logs) == 0 {
		return
	}
	r := access.Record{
		Start: d.Clock.Time(d.Begun), Duration: time.Duration(d.Clock.Now() - d.Begun), ToUpstream: -1, ToHead: -1,
		Conn: &d.Facts, ConnID: d.ID,
	}
	if c := d.Chain.Load(); c != nil {
		r.Chain = c.Name
	}
	if f != nil {
		a := f.Answer()
		r.Flag, r.Details = a.Flag, a.Detail
	}
	if t != nil {
		r.BytesReceived, r.BytesSent = t.Sent, t.Received
		r.UpstreamHost, r.UpstreamCluster = t.up.Upstream.Host.Key, t.up.Upstream.Cluster().Name
		r.UpstreamLocal = conn.AddrPort(t.up.LocalAddr())
	}
	for i := range logs {
		d.Logs.Get(&logs[i]).Write(&r)
	}
}
