package engine

import (
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/observe"
	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
	"github.com/tullemesh/tulle/internal/proxy/engine/http2"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
)

// Workload is who stands at an end of a connection, in the words of Istio's
// metric labels.
type Workload struct {
	Name, Namespace, Cluster string
	// App, Version are the workload's labels; CanonicalService and Revision
	// Istio's canonical ones.
	App, Version, CanonicalService, Revision string
	// Principal is the SPIFFE ID.
	Principal string
}

const unknown = "unknown"

// requestLabels are Istio's, in the order of its documentation
// ("Istio Standard Metrics").
func requestLabels() []string {
	return append(peerLabels(), "request_protocol", "response_code", "grpc_response_status", "response_flags", "connection_security_policy")
}

func tcpLabels() []string {
	return append(peerLabels(), "request_protocol", "response_flags", "connection_security_policy")
}

func peerLabels() []string {
	return []string{
		"reporter",
		"source_workload", "source_canonical_service", "source_canonical_revision", "source_workload_namespace",
		"source_principal", "source_app", "source_version", "source_cluster",
		"destination_workload", "destination_workload_namespace", "destination_principal", "destination_app",
		"destination_version", "destination_service", "destination_canonical_service", "destination_canonical_revision",
		"destination_service_name", "destination_service_namespace", "destination_cluster",
	}
}

// telemetry counts what the engine does. Series are resolved once for each
// combination of labels and kept; a request then costs a map lookup and four
// additions.
type telemetry struct {
	self  Workload
	peers peers

	requests                     *observe.CounterVec
	duration, reqBytes, resBytes *observe.HistogramVec
	opened, closed, sent, recv   *observe.CounterVec

	refused         *observe.Counter
	handshakeFailed *observe.Counter
	repeats         *observe.Counter
	retried         *observe.Counter
	abandoned       *observe.Counter
	connFailures    *observe.CounterVec
	httpConns       *observe.Gauge
	http2Errors     *observe.CounterVec
	http2Floods     *observe.CounterVec

	messages messageTelemetry

	conns  atomic.Uint64
	series atomic.Pointer[map[seriesKey]*requestSeries]
	mu     sync.Mutex // of adding to series
}

func newTelemetry(o *Options) *telemetry {
	r := o.Registry
	ms := []float64{0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 600000, 1800000, 3600000}
	bytes := []float64{1, 10, 100, 1000, 10000, 100000, 1e6, 1e7, 1e8, 1e9}
	t := &telemetry{
		self:     o.Self,
		requests: r.Counter("istio_requests_total", "Requests handled by the proxy.", requestLabels()...),
		duration: r.Histogram("istio_request_duration_milliseconds", "Duration of requests.", ms, requestLabels()...),
		reqBytes: r.Histogram("istio_request_bytes", "Size of requests, heads included.", bytes, requestLabels()...),
		resBytes: r.Histogram("istio_response_bytes", "Size of responses, heads included.", bytes, requestLabels()...),
		opened:   r.Counter("istio_tcp_connections_opened_total", "TCP connections opened.", tcpLabels()...),
		closed:   r.Counter("istio_tcp_connections_closed_total", "TCP connections closed.", tcpLabels()...),
		sent:     r.Counter("istio_tcp_sent_bytes_total", "Bytes sent in responses of TCP connections.", tcpLabels()...),
		recv:     r.Counter("istio_tcp_received_bytes_total", "Bytes received in requests of TCP connections.", tcpLabels()...),

		refused:         r.Counter("tulle_connections_refused_total", "Connections beyond the limit of their address.").With(),
		handshakeFailed: r.Counter("tulle_tls_handshakes_failed_total", "TLS handshakes of clients that failed.").With(),
		repeats:         r.Counter("tulle_requests_repeated_total", "Requests that were sent again because that was safe.").With(),
		retried:         r.Counter("tulle_requests_retried_total", "Requests that were sent again because their route's policy asks for it.").With(),
		abandoned:       r.Counter("tulle_retries_abandoned_total", "Retries that were not made because the request's body was not at hand any more.").With(),
		connFailures:    r.Counter("tulle_connections_failed_total", "Connections that ended before they were served, by response flag.", "flag"),
		http2Errors:     r.Counter("tulle_http2_connections_failed_total", "HTTP/2 connections of clients that ended by an error, by error code.", "code"),
		http2Floods:     r.Counter("tulle_http2_floods_total", "HTTP/2 connections that ended because the peer sent too many frames of a kind.", "kind"),
		httpConns:       r.Gauge("tulle_http_connections", "Open HTTP connections of clients.").With(),
	}
	t.peers.init(o.Peers)
	t.messages.init(r)
	t.series.Store(&map[seriesKey]*requestSeries{})
	return t
}

func (t *telemetry) nextConn() uint64 { return t.conns.Add(1) }

// seriesKey is everything that labels depend on. All parts are comparable and
// come from closed sets: configuration, peers' identities, statuses.
type seriesKey struct {
	source   Workload
	service  cluster.Service
	workload string
	status   int
	flag     string
	grpc     string
	grpcReq  bool
	mutual   bool
	inbound  bool
	// upstream is the endpoint's SPIFFE ID, of an outbound request.
	upstream string
	// destination is what that endpoint said of itself.
	destination Workload
}

type requestSeries struct {
	total                        *observe.Counter
	duration, reqBytes, resBytes *observe.Histogram
}

// seriesCache remembers the last series of a connection, and what led to it:
// by identity, because what the pointers lead to does not change.
type seriesCache struct {
	at     seriesAt
	series *requestSeries
}

// seriesAt is what a seriesKey is made of.
type seriesAt struct {
	source, destination *peer
	cluster             *cluster.Spec
	upstream            *cluster.Upstream
	info                *cluster.EndpointInfo
	proved              string
	flag, grpc          string
	status              int32
	grpcReq             bool
}

// request counts a finished request.
func (t *telemetry) request(x *exchange) {
	if x.counted {
		return
	}
	x.counted = true
	at := x.seriesAt()
	c := &x.d.series
	if c.series == nil || c.at != at {
		c.at, c.series = at, t.find(x.d, &at)
	}
	s := c.series
	s.total.Inc()
	s.duration.Observe(float64(x.end-x.start) / 1e6)
	s.reqBytes.Observe(float64(x.wireIn))
	s.resBytes.Observe(float64(x.wireOut))
	x.endCall()
}

func (x *exchange) seriesAt() seriesAt {
	at := seriesAt{source: x.source, destination: x.destination, upstream: x.upstream, status: int32(x.res.Status), flag: x.flags()}
	if x.failure.Kind == failure.ClientLeft {
		at.status = 0
	}
	if at.source == nil {
		at.source = x.d.peer // it failed before it was asked
	}
	if x.cluster != nil {
		at.cluster = x.cluster.Spec()
	}
	if u := x.upstream; u != nil {
		at.cluster, at.info, at.proved = u.Cluster().Spec(), u.Info(), u.Peer()
	}
	if at.grpcReq = x.isGRPC(); at.grpcReq {
		at.grpc = x.grpc
		if status, ok := x.res.Get("grpc-status"); ok {
			at.grpc = grpcStatus(status)
		}
	}
	return at
}

// seriesKey is what is known of both ends. Whether they proved who they are is
// known of the downstream for inbound traffic, of the upstream for outbound.
func (d *downstream) seriesKey(at *seriesAt) seriesKey {
	k := seriesKey{
		source: at.source.Workload, inbound: d.spec.Direction == listener.Inbound, mutual: d.facts.Verified,
		status: int(at.status), flag: at.flag, grpc: at.grpc, grpcReq: at.grpcReq,
	}
	if at.cluster != nil {
		k.service = serviceOf(at.cluster)
	}
	if at.upstream != nil {
		k.workload = at.info.Workload
		if !k.inbound {
			k.mutual, k.upstream = at.upstream.Mutual(), at.proved
		}
	}
	if at.destination != nil {
		k.destination = at.destination.Workload
	}
	return k
}

// serviceOf is the service behind a cluster. What nobody registered has the
// cluster's name, as Istio names it (PassthroughCluster).
func serviceOf(spec *cluster.Spec) cluster.Service {
	if spec.Catchall && spec.Service == (cluster.Service{}) {
		return cluster.Service{Name: spec.Name}
	}
	return spec.Service
}

// grpcStatus keeps the label within gRPC's codes.
func grpcStatus(b []byte) string {
	for i := range 17 {
		if s := strconv.Itoa(i); string(b) == s {
			return s
		}
	}
	return unknown
}

// find looks the key up in an immutable map: reading takes no lock. Large values
// stay in functions that few requests call, because each connection keeps the
// stack that its deepest call needed.
func (t *telemetry) find(d *downstream, at *seriesAt) *requestSeries {
	key := d.seriesKey(at)
	if s := (*t.series.Load())[key]; s != nil {
		return s
	}
	return t.add(&key)
}

// add resolves the series and adds it to a copy of the map.
func (t *telemetry) add(key *seriesKey) *requestSeries {
	values := t.values(key)
	code := strconv.Itoa(key.status)
	protocol := "http"
	if key.grpcReq {
		protocol = "grpc"
	}
	values = append(values, protocol, code, key.grpc, flagOr(key.flag), security(key.mutual, key.inbound))
	s := &requestSeries{t.requests.With(values...), t.duration.With(values...), t.reqBytes.With(values...), t.resBytes.With(values...)}
	t.mu.Lock()
	defer t.mu.Unlock()
	old := *t.series.Load()
	if len(old) >= limit.LabelSetsMax {
		return s
	}
	next := make(map[seriesKey]*requestSeries, len(old)+1)
	for k, v := range old {
		next[k] = v
	}
	next[*key] = s
	t.series.Store(&next)
	return s
}

func flagOr(flag string) string {
	if flag == "" {
		return "-"
	}
	return flag
}

// security is Istio's connection_security_policy: only the destination knows.
func security(mutual, inbound bool) string {
	switch {
	case !inbound:
		return unknown
	case mutual:
		return "mutual_tls"
	}
	return "none"
}

func orUnknown(s string) string {
	if s == "" {
		return unknown
	}
	return s
}

// values are the labels of both ends.
func (t *telemetry) values(k *seriesKey) []string {
	source, destination, reporter := t.self, Workload{}, "source"
	if k.inbound {
		source, destination, reporter = k.source, t.self, "destination"
	} else {
		destination = k.destination
		if destination == (Workload{}) {
			destination = endpointWorkload(k.workload, k.service)
		}
		destination.Principal = k.upstream
	}
	if !k.mutual {
		source.Principal, destination.Principal = "", "" // nobody proved any
	}
	return []string{
		reporter,
		orUnknown(source.Name), orUnknown(source.CanonicalService), orUnknown(source.Revision), orUnknown(source.Namespace),
		orUnknown(source.Principal), orUnknown(source.App), orUnknown(source.Version), orUnknown(source.Cluster),
		orUnknown(destination.Name), orUnknown(destination.Namespace), orUnknown(destination.Principal), orUnknown(destination.App),
		orUnknown(destination.Version), orUnknown(k.service.Host), orUnknown(destination.CanonicalService), orUnknown(destination.Revision),
		orUnknown(k.service.Name), orUnknown(k.service.Namespace), orUnknown(destination.Cluster),
	}
}

// endpointWorkload reads Istio's "workload" endpoint metadata:
// "name;namespace;canonical service;revision;cluster".
func endpointWorkload(s string, service cluster.Service) Workload {
	parts := strings.Split(s, ";")
	get := func(i int) string {
		if i < len(parts) {
			return parts[i]
		}
		return ""
	}
	w := Workload{Name: get(0), Namespace: get(1), CanonicalService: get(2), Revision: get(3), Cluster: get(4)}
	w.App, w.Version = w.CanonicalService, w.Revision
	if w.Namespace == "" {
		w.Namespace = service.Namespace
	}
	return w
}

// connRefused counts a connection that was not served.
func (t *telemetry) connRefused(_ *downstream, f *failure.Failure) {
	t.connFailures.With(flagOr(f.Answer().Flag)).Inc()
}

// http2Ended counts a connection that did not end in order.
func (t *telemetry) http2Ended(err error) {
	code := "closed"
	var rule *http2.ConnError
	if errors.As(err, &rule) {
		code = rule.Code.String()
	}
	t.http2Errors.With(code).Inc()
}

// http2Flooded counts a connection that exceeded a limit of frames.
func (t *telemetry) http2Flooded(kind string) { t.http2Floods.With(kind).Inc() }

// tcpSeries are the counters of one TCP connection's labels.
type tcpSeries struct{ closedTotal, sent, received *observe.Counter }

func (t *telemetry) tcpOpened(d *downstream, u *cluster.Upstream) *tcpSeries {
	k := d.seriesKey(&seriesAt{source: d.peer, cluster: u.Cluster().Spec(), upstream: u, info: u.Info(), proved: u.Peer()})
	values := append(t.values(&k), "tcp", "-", security(k.mutual, k.inbound))
	t.opened.With(values...).Inc()
	return &tcpSeries{t.closed.With(values...), t.sent.With(values...), t.recv.With(values...)}
}

// Moved counts bytes while the connection is open; sent went to the upstream,
// which is what the service received.
func (s *tcpSeries) Moved(sent, received int64) {
	s.sent.Add(uint64(received))
	s.received.Add(uint64(sent))
}

func (s *tcpSeries) Closed() { s.closedTotal.Inc() }
