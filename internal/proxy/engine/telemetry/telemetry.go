// Package telemetry counts what the engine does, in Istio's standard metrics and
// in our own, and knows who stands at the other end of connections. What a
// request was comes in as Labels; series of package observe go out.
//
// Meters and Peers are shared by all connections, a Conn is one connection's.
//
// A request costs a comparison of labels, a map lookup where they differ from the
// connection's last ones, four additions, and no allocation.
package telemetry

import (
	"errors"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/observe"
	"github.com/tullemesh/tulle/internal/proxy/engine/http2"
)

// Meters count what the engine does. Series are resolved once for each
// combination of labels and kept; a request then costs a map lookup and four
// additions.
type Meters struct {
	self Workload

	requests                     *observe.CounterVec
	duration, reqBytes, resBytes *observe.HistogramVec
	opened, closed, sent, recv   *observe.CounterVec

	// Refused counts connections beyond their limit, HandshakesFailed those of
	// TLS with clients.
	Refused, HandshakesFailed *observe.Counter
	// Repeated counts requests that were sent again because that was safe, Retried
	// those whose policy asked for it, Abandoned retries whose body was gone.
	Repeated, Retried, Abandoned *observe.Counter
	// HTTPConns are the clients' open connections.
	HTTPConns *observe.Gauge

	connFailures, http2Errors, http2Floods *observe.CounterVec

	messages messageSeries

	conns  atomic.Uint64
	series atomic.Pointer[map[seriesKey]*requestSeries]
	mu     sync.Mutex // of adding to series
}

// New declares the metrics in r; self is this workload.
func New(r *observe.Registry, self Workload) *Meters {
	ms := []float64{0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 600000, 1800000, 3600000}
	bytes := []float64{1, 10, 100, 1000, 10000, 100000, 1e6, 1e7, 1e8, 1e9}
	m := &Meters{
		self:     self,
		requests: r.Counter("istio_requests_total", "Requests handled by the proxy.", requestLabels()...),
		duration: r.Histogram("istio_request_duration_milliseconds", "Duration of requests.", ms, requestLabels()...),
		reqBytes: r.Histogram("istio_request_bytes", "Size of requests, heads included.", bytes, requestLabels()...),
		resBytes: r.Histogram("istio_response_bytes", "Size of responses, heads included.", bytes, requestLabels()...),
		opened:   r.Counter("istio_tcp_connections_opened_total", "TCP connections opened.", tcpLabels()...),
		closed:   r.Counter("istio_tcp_connections_closed_total", "TCP connections closed.", tcpLabels()...),
		sent:     r.Counter("istio_tcp_sent_bytes_total", "Bytes sent in responses of TCP connections.", tcpLabels()...),
		recv:     r.Counter("istio_tcp_received_bytes_total", "Bytes received in requests of TCP connections.", tcpLabels()...),

		Refused:          r.Counter("tulle_connections_refused_total", "Connections beyond the limit of their address.").With(),
		HandshakesFailed: r.Counter("tulle_tls_handshakes_failed_total", "TLS handshakes of clients that failed.").With(),
		Repeated:         r.Counter("tulle_requests_repeated_total", "Requests that were sent again because that was safe.").With(),
		Retried:          r.Counter("tulle_requests_retried_total", "Requests that were sent again because their route's policy asks for it.").With(),
		Abandoned:        r.Counter("tulle_retries_abandoned_total", "Retries that were not made because the request's body was not at hand any more.").With(),
		connFailures:     r.Counter("tulle_connections_failed_total", "Connections that ended before they were served, by response flag.", "flag"),
		http2Errors:      r.Counter("tulle_http2_connections_failed_total", "HTTP/2 connections of clients that ended by an error, by error code.", "code"),
		http2Floods:      r.Counter("tulle_http2_floods_total", "HTTP/2 connections that ended because the peer sent too many frames of a kind.", "kind"),
		HTTPConns:        r.Gauge("tulle_http_connections", "Open HTTP connections of clients.").With(),
	}
	m.messages.init(r)
	m.series.Store(&map[seriesKey]*requestSeries{})
	return m
}

// NextConn numbers a connection.
func (m *Meters) NextConn() uint64 { return m.conns.Add(1) }

// Conns is how many connections have been numbered.
func (m *Meters) Conns() uint64 { return m.conns.Load() }

type requestSeries struct {
	total                        *observe.Counter
	duration, reqBytes, resBytes *observe.Histogram
}

// Conn remembers the last series of a connection, and what led to them. It has
// one owner at a time.
type Conn struct {
	labels   Labels
	series   *requestSeries
	messages *messagesOf // nil: it carried no message of gRPC
}

// Destination is what the endpoint of the last request said of itself, or nil.
func (c *Conn) Destination() *Peer { return c.labels.Destination }

// Request counts a finished request of a connection: how long it took, in
// nanoseconds, and its bytes with heads.
func (m *Meters) Request(c *Conn, l *Labels, took, in, out int64) {
	if c.series == nil || c.labels != *l {
		c.labels, c.series = *l, m.find(l)
	}
	s := c.series
	s.total.Inc()
	s.duration.Observe(float64(took) / 1e6)
	s.reqBytes.Observe(float64(in))
	s.resBytes.Observe(float64(out))
}

// find looks the key up in an immutable map: reading takes no lock. Large values
// stay in functions that few requests call, because each connection keeps the
// stack that its deepest call needed.
func (m *Meters) find(l *Labels) *requestSeries {
	key := l.key()
	if s := (*m.series.Load())[key]; s != nil {
		return s
	}
	return m.add(&key)
}

// add resolves the series and adds it to a copy of the map.
func (m *Meters) add(key *seriesKey) *requestSeries {
	values := m.values(key)
	code := strconv.Itoa(key.status)
	protocol := "http"
	if key.grpcReq {
		protocol = "grpc"
	}
	values = append(values, protocol, code, key.grpc, flagOr(key.flag), security(key.mutual, key.inbound))
	s := &requestSeries{m.requests.With(values...), m.duration.With(values...), m.reqBytes.With(values...), m.resBytes.With(values...)}
	m.mu.Lock()
	defer m.mu.Unlock()
	old := *m.series.Load()
	if len(old) >= limit.LabelSetsMax {
		return s
	}
	next := make(map[seriesKey]*requestSeries, len(old)+1)
	for k, v := range old {
		next[k] = v
	}
	next[*key] = s
	m.series.Store(&next)
	return s
}

// ConnFailed counts a connection that ended before it was served, by its
// response flag.
func (m *Meters) ConnFailed(flag string) { m.connFailures.With(flagOr(flag)).Inc() }

// HTTP2Ended counts a connection that did not end in order.
func (m *Meters) HTTP2Ended(err error) {
	code := "closed"
	var rule *http2.ConnError
	if errors.As(err, &rule) {
		code = rule.Code.String()
	}
	m.http2Errors.With(code).Inc()
}

// HTTP2Flooded counts a connection that exceeded a limit of frames.
func (m *Meters) HTTP2Flooded(kind string) { m.http2Floods.With(kind).Inc() }

// TCP are the counters of one TCP connection's labels.
type TCP struct{ closedTotal, sent, received *observe.Counter }

// TCPOpened counts a connection whose bytes are passed on.
func (m *Meters) TCPOpened(l *Labels) *TCP {
	k := l.key()
	values := append(m.values(&k), "tcp", "-", security(k.mutual, k.inbound))
	m.opened.With(values...).Inc()
	return &TCP{m.closed.With(values...), m.sent.With(values...), m.recv.With(values...)}
}

// Moved counts bytes while the connection is open; sent went to the upstream,
// which is what the service received.
func (s *TCP) Moved(sent, received int64) {
	s.sent.Add(uint64(received))
	s.received.Add(uint64(sent))
}

// Closed counts the end of the connection.
func (s *TCP) Closed() { s.closedTotal.Inc() }
