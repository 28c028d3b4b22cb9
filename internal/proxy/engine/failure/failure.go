// Package failure is what ends a request or a connection other than well, and
// the one table from it to status, response flag, metric label and texts. Errors
// of sockets, pools and codecs come in; what clients, logs and metrics are told
// goes out. Nothing here has state.
package failure

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"syscall"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/grpc"
	"github.com/tullemesh/tulle/internal/proxy/engine/http1"
	"github.com/tullemesh/tulle/internal/proxy/engine/http2"
)

// Side says who a Failure is about.
type Side uint8

// The sides.
const (
	Ours Side = iota
	Downstream
	Upstream
)

// Kind is what went wrong with a request or a connection.
type Kind uint8

// The kinds of failure.
const (
	None Kind = iota
	// BadRequest: the client broke a rule of HTTP; Cause is *http1.Error.
	BadRequest
	// Denied by authorization; Detail names the policy.
	Denied
	NoRouteFound
	NoClusterFound
	NoHealthyHost
	// Overflow: a threshold of the cluster is reached.
	Overflow
	// ConnectFailed: refused, unreachable, or the TLS handshake failed.
	ConnectFailed
	// ConnectTimeout: the upstream did not accept in time.
	ConnectTimeout
	// TriesSpent: no endpoint took the TCP connection in as many tries as the
	// listener allows.
	TriesSpent
	// Reset: the upstream closed before a complete response.
	Reset
	// BadResponse: the upstream broke a rule of HTTP.
	BadResponse
	// RouteTimeout: the response took longer than the route allows.
	RouteTimeout
	// RequestTimeout: the client's request took too long to come.
	RequestTimeout
	// StreamIdle: nothing moved on the stream for too long.
	StreamIdle
	// DurationTimeout: the stream lived as long as it may. Detail incomplete
	// says that its request had not come as a whole.
	DurationTimeout
	// ConnTooOld: the TCP connection lived as long as it may.
	ConnTooOld
	// ClientLeft: the downstream connection ended before the response did.
	ClientLeft
	// NotSupported: the request asks for what we refuse (an upgrade that is
	// not allowed, HTTP/2 upstream for HTTP/1.1).
	NotSupported
	// TooLarge: a buffer that the route needs is full.
	TooLarge
	// NoChain: no filter chain took the connection.
	NoChain
	// RemoteReset: the upstream reset the stream (HTTP/2).
	RemoteReset
	// TryTimeout: an attempt took longer than the route's retry policy allows.
	TryTimeout
	// BadStream: the client broke a rule of HTTP/2, and its stream was reset.
	BadStream
	// CallDeadline: the deadline of a gRPC call passed (grpc-timeout).
	CallDeadline
	// BadText: a request of gRPC-Web in base64 is not base64; Cause says why.
	BadText
	// ClientReset: the client reset its stream (HTTP/2); its connection goes on.
	ClientReset
	// Again: the response is one that the route's retry policy drops. Nobody is
	// told of it: the next attempt follows.
	Again
	kindCount
)

// Incomplete is the Detail of a failure before the whole request has come.
const Incomplete = "incomplete request"

// Failure is why a request or connection did not succeed.
type Failure struct {
	Kind Kind
	// Detail is more for the log: a policy's name, a rule.
	Detail string
	Cause  error
}

// Error implements error.
func (f *Failure) Error() string {
	a := f.Answer()
	if f.Cause != nil {
		return a.Detail + ": " + f.Cause.Error()
	}
	return a.Detail
}

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Cause }

// Gone reports whether the client is: nobody can be told anything more.
func (f *Failure) Gone() bool { return f.Kind == ClientLeft || f.Kind == ClientReset }

// Answer is what a Failure means to everybody who hears of it.
type Answer struct {
	Side Side
	// Status answers the request; 0: there is nobody to answer, or no more.
	Status int
	// Flag is Envoy's response flag, or "".
	Flag string
	// Detail is Envoy's response code detail.
	Detail string
	// Body is the answer's text in Envoy's words.
	Body string
}

// answerTo is the one table from failures to statuses, flags and texts (Envoy:
// "Access logging", response flags and response code details). It is a switch,
// because a table would be copied to the stack for each answer.
func answerTo(k Kind) Answer {
	const before = "upstream connect error or disconnect/reset before headers. "
	switch k {
	case None:
		return Answer{Ours, http.StatusOK, "", "via_upstream", ""}
	case BadRequest:
		return Answer{Downstream, http.StatusBadRequest, "DPE", "http1.codec_error", "Bad Request"}
	case Denied:
		return Answer{Ours, http.StatusForbidden, "", "rbac_access_denied", "RBAC: access denied"}
	case NoRouteFound:
		return Answer{Ours, http.StatusNotFound, "NR", "route_not_found", ""}
	case NoClusterFound:
		return Answer{Ours, http.StatusServiceUnavailable, "NC", "cluster_not_found", ""}
	case NoHealthyHost:
		return Answer{Upstream, http.StatusServiceUnavailable, "UH", "no_healthy_upstream", "no healthy upstream"}
	case Overflow:
		return Answer{Upstream, http.StatusServiceUnavailable, "UO", "upstream_reset_before_response_started{overflow}", before + "reset reason: overflow"}
	case ConnectFailed:
		return Answer{Upstream, http.StatusServiceUnavailable, "UF", "upstream_reset_before_response_started{remote_connection_failure}", before + "reset reason: remote connection failure, transport failure reason: "}
	case ConnectTimeout:
		return Answer{Upstream, http.StatusServiceUnavailable, "UF", "upstream_reset_before_response_started{connection_timeout}", before + "reset reason: connection timeout"}
	case TriesSpent:
		return Answer{Upstream, 0, "UF,URX", "upstream_retry_limit_exceeded", ""}
	case Reset:
		return Answer{Upstream, http.StatusServiceUnavailable, "UC", "upstream_reset_before_response_started{connection_termination}", before + "reset reason: connection termination"}
	case BadResponse:
		return Answer{Upstream, http.StatusBadGateway, "UPE", "upstream_reset_before_response_started{protocol_error}", before + "reset reason: protocol error"}
	case RouteTimeout:
		return Answer{Upstream, http.StatusGatewayTimeout, "UT", "response_timeout", "upstream request timeout"}
	case RequestTimeout:
		return Answer{Downstream, http.StatusRequestTimeout, "", "request_overall_timeout", "request timeout"}
	case StreamIdle:
		return Answer{Upstream, http.StatusGatewayTimeout, "SI", "stream_idle_timeout", "stream timeout"}
	case DurationTimeout:
		return Answer{Ours, http.StatusGatewayTimeout, "", "max_duration_timeout", "downstream duration timeout"}
	case ConnTooOld:
		return Answer{Ours, 0, "DT", "max_connection_duration_reached", ""}
	case ClientLeft:
		return Answer{Downstream, 0, "DC", "downstream_remote_disconnect", ""}
	case NotSupported:
		return Answer{Ours, http.StatusForbidden, "", "upgrade_failed", ""}
	case TooLarge:
		return Answer{Downstream, http.StatusRequestEntityTooLarge, "", "request_payload_too_large", "Payload Too Large"}
	case RemoteReset:
		return Answer{Upstream, http.StatusServiceUnavailable, "UR", "upstream_reset_before_response_started{remote_reset}", before + "reset reason: remote reset"}
	case NoChain:
		return Answer{Ours, 0, "NR", "filter_chain_not_found", ""}
	case TryTimeout:
		return Answer{Upstream, http.StatusGatewayTimeout, "UT", "upstream_per_try_timeout", "upstream request timeout"}
	case BadStream:
		return Answer{Downstream, 0, "DPE", "http2.violation.of.messaging.rule", ""}
	case CallDeadline:
		return Answer{Upstream, http.StatusGatewayTimeout, "UT", "response_timeout", "upstream request timeout"}
	case BadText:
		return Answer{Downstream, http.StatusBadRequest, "", "grpc_base_64_decode_failed", "Bad gRPC-web request, invalid base64 data."}
	case ClientReset:
		return Answer{Downstream, 0, "DR", "http2.remote_reset", ""}
	case Again:
		return Answer{Upstream, 0, "", "retried", ""}
	}
	return Answer{}
}

// Answer is the one function that turns a failure into status, flag and text.
func (f *Failure) Answer() Answer {
	a := answerTo(f.Kind)
	var codec *http1.Error
	switch {
	case f.Kind == BadRequest && errors.As(f.Cause, &codec):
		a.Status, a.Body = codec.Status, http.StatusText(codec.Status)
	case f.Kind == ClientReset:
		a = a.ofReset(f.Cause)
	case f.Kind == DurationTimeout && f.Detail == Incomplete:
		a.Status = http.StatusRequestTimeout
	case f.Kind == BadText && errors.Is(f.Cause, grpc.ErrTextCut):
		a.Detail += "_bad_size"
	case f.Kind == Denied:
		a.Detail += "_matched_policy[" + policyOrNone(f.Detail) + "]"
	case f.Kind == ConnectFailed && f.Cause != nil:
		a.Body += TransportReason(f.Cause)
	}
	return a
}

// ofReset is the answer to a client's reset: one that refuses has a detail of its own, and one without an error behind a whole request is no fault.
func (a Answer) ofReset(cause error) Answer {
	var reset *http2.ResetError
	switch {
	case !errors.As(cause, &reset):
	case reset.Code == http2.RefusedStream:
		a.Detail = "http2.remote_refuse"
	case reset.Code == http2.NoError && reset.Complete:
		a.Flag = ""
	}
	return a
}

func policyOrNone(name string) string {
	if name == "" {
		return "none"
	}
	return name
}

// TransportReason is the last cause of a failed connect, without addresses:
// answers must not tell clients about endpoints.
func TransportReason(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return "delayed connect error: " + errno.Error()
	}
	return "TLS or connection error"
}

// OfConnect tells why there is no connection to an endpoint.
func OfConnect(err error) *Failure {
	switch {
	case errors.Is(err, cluster.ErrNoHost):
		return &Failure{Kind: NoHealthyHost, Cause: err}
	case errors.Is(err, cluster.ErrOverflow):
		return &Failure{Kind: Overflow, Cause: err}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), conn.IsTimeout(err):
		return &Failure{Kind: ConnectTimeout, Cause: err}
	}
	return &Failure{Kind: ConnectFailed, Cause: err}
}

// OfClient tells what an error of a client's stream means: it was reset, or its connection ended (Envoy: DR, DC).
func OfClient(err error) *Failure {
	var reset *http2.ResetError
	if errors.As(err, &reset) {
		return &Failure{Kind: ClientReset, Cause: err}
	}
	return &Failure{Kind: ClientLeft, Cause: err}
}

// OfCall tells what an error of a call to an endpoint means.
func OfCall(err error) *Failure {
	var reset *http2.ResetError
	var one *http2.StreamError
	var all *http2.ConnError
	var codec *http1.Error
	switch {
	case errors.Is(err, http2.ErrNoSwitch):
		return &Failure{Kind: NotSupported, Detail: "the endpoint takes no extended CONNECT", Cause: err}
	case errors.As(err, &reset):
		return &Failure{Kind: RemoteReset, Cause: err}
	case errors.As(err, &one), errors.As(err, &all), errors.As(err, &codec):
		return &Failure{Kind: BadResponse, Cause: err}
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return &Failure{Kind: Reset, Cause: err}
}
