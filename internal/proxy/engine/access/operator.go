package access

import (
	"encoding/json"
	"net/netip"
	"strconv"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// Record is what an access log can tell of a request or a TCP connection.
// Bytes are read while the line is made and not kept.
type Record struct {
	Start    time.Time
	Protocol fact.Protocol
	// Request and Response are nil for TCP.
	Request, Response          *message.Head
	Status                     int
	Flag, Details, Termination string
	BytesReceived, BytesSent   int64
	// Duration of the whole; ToUpstream up to the complete request's last
	// byte sent, ToHead up to the response's first byte; negative: not reached.
	Duration, ToUpstream, ToHead time.Duration
	Conn                         *fact.Conn
	ConnID                       uint64
	Remote                       netip.Addr // as policies see the client
	UpstreamHost                 string
	UpstreamLocal                netip.AddrPort // of the connection to it
	UpstreamCluster              string
	TransportFailure             string
	Route, VirtualHost, Chain    string
	Attempts                     int
}

// healthCheck reports whether a request is one of Envoy's health checker.
func (r *Record) healthCheck() bool {
	if r.Request == nil {
		return false
	}
	agent, _ := r.Request.Get("user-agent")
	return string(agent) == "Envoy/HC"
}

type appendFunc func(dst []byte, r *Record, p *part) []byte

// operator finds a command operator (Envoy: "Command Operators"), or nil.
func operator(name string) appendFunc {
	if f := requestOperator(name); f != nil {
		return f
	}
	return connOperator(name)
}

func requestOperator(name string) appendFunc {
	switch name {
	case "START_TIME":
		return startTime
	case "REQ":
		return func(dst []byte, r *Record, p *part) []byte { return header(dst, r.Request, p) }
	case "RESP":
		return func(dst []byte, r *Record, p *part) []byte { return header(dst, r.Response, p) }
	case "PROTOCOL":
		return protocol
	case "RESPONSE_CODE":
		return func(dst []byte, r *Record, _ *part) []byte { return strconv.AppendInt(dst, int64(r.Status), 10) }
	case "RESPONSE_FLAGS":
		return func(dst []byte, r *Record, _ *part) []byte { return append(dst, r.Flag...) }
	case "RESPONSE_CODE_DETAILS":
		return func(dst []byte, r *Record, _ *part) []byte { return append(dst, r.Details...) }
	case "CONNECTION_TERMINATION_DETAILS":
		return func(dst []byte, r *Record, _ *part) []byte { return append(dst, r.Termination...) }
	case "BYTES_RECEIVED":
		return func(dst []byte, r *Record, _ *part) []byte { return strconv.AppendInt(dst, r.BytesReceived, 10) }
	case "BYTES_SENT":
		return func(dst []byte, r *Record, _ *part) []byte { return strconv.AppendInt(dst, r.BytesSent, 10) }
	case "DURATION":
		return func(dst []byte, r *Record, _ *part) []byte { return milliseconds(dst, r.Duration) }
	case "REQUEST_DURATION":
		return func(dst []byte, r *Record, _ *part) []byte { return milliseconds(dst, r.ToUpstream) }
	case "RESPONSE_DURATION":
		return func(dst []byte, r *Record, _ *part) []byte { return milliseconds(dst, r.ToHead) }
	case "RESPONSE_TX_DURATION":
		return func(dst []byte, r *Record, _ *part) []byte {
			if r.ToHead < 0 {
				return dst
			}
			return milliseconds(dst, r.Duration-r.ToHead)
		}
	case "ROUTE_NAME":
		return func(dst []byte, r *Record, _ *part) []byte { return append(dst, r.Route...) }
	case "VIRTUAL_CLUSTER_NAME", "TRAILER", "TRACE_ID":
		return func(dst []byte, _ *Record, _ *part) []byte { return dst } // we have none: "-"
	case "UPSTREAM_REQUEST_ATTEMPT_COUNT":
		return func(dst []byte, r *Record, _ *part) []byte { return strconv.AppendInt(dst, int64(r.Attempts), 10) }
	}
	return nil
}

func connOperator(name string) appendFunc {
	switch name {
	case "UPSTREAM_HOST", "UPSTREAM_REMOTE_ADDRESS":
		return func(dst []byte, r *Record, _ *part) []byte { return append(dst, r.UpstreamHost...) }
	case "UPSTREAM_CLUSTER", "UPSTREAM_CLUSTER_RAW":
		return func(dst []byte, r *Record, _ *part) []byte { return append(dst, r.UpstreamCluster...) }
	case "UPSTREAM_LOCAL_ADDRESS":
		return func(dst []byte, r *Record, _ *part) []byte { return address(dst, r.UpstreamLocal) }
	case "UPSTREAM_TRANSPORT_FAILURE_REASON":
		return func(dst []byte, r *Record, _ *part) []byte { return append(dst, r.TransportFailure...) }
	case "DOWNSTREAM_LOCAL_ADDRESS":
		return func(dst []byte, r *Record, _ *part) []byte { return address(dst, r.Conn.Local) }
	case "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT":
		return func(dst []byte, r *Record, _ *part) []byte { return ip(dst, r.Conn.Local.Addr()) }
	case "DOWNSTREAM_LOCAL_PORT":
		return func(dst []byte, r *Record, _ *part) []byte {
			return strconv.AppendUint(dst, uint64(r.Conn.Local.Port()), 10)
		}
	case "DOWNSTREAM_REMOTE_ADDRESS":
		return remoteAddress
	case "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT":
		return func(dst []byte, r *Record, _ *part) []byte { return ip(dst, remote(r)) }
	case "DOWNSTREAM_DIRECT_REMOTE_ADDRESS":
		return func(dst []byte, r *Record, _ *part) []byte { return address(dst, r.Conn.SocketRemote()) }
	case "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT":
		return func(dst []byte, r *Record, _ *part) []byte { return ip(dst, r.Conn.SocketRemote().Addr()) }
	case "DOWNSTREAM_PEER_URI_SAN":
		return func(dst []byte, r *Record, _ *part) []byte { return append(dst, r.Conn.Peer...) }
	case "DOWNSTREAM_PEER_SUBJECT":
		return func(dst []byte, r *Record, _ *part) []byte { return append(dst, r.Conn.PeerSubject...) }
	case "REQUESTED_SERVER_NAME":
		return func(dst []byte, r *Record, _ *part) []byte { return append(dst, r.Conn.SNI...) }
	case "CONNECTION_ID":
		return func(dst []byte, r *Record, _ *part) []byte { return strconv.AppendUint(dst, r.ConnID, 10) }
	case "FILTER_CHAIN_NAME":
		return func(dst []byte, r *Record, _ *part) []byte { return append(dst, r.Chain...) }
	}
	return nil
}

// startTime is RFC 3339 with milliseconds, or by the argument's %-verbs.
func startTime(dst []byte, r *Record, p *part) []byte {
	t := r.Start.UTC()
	if p.arg == "" {
		return t.AppendFormat(dst, "2006-01-02T15:04:05.000Z")
	}
	for i := 0; i < len(p.arg); i++ {
		if p.arg[i] != '%' || i+1 == len(p.arg) {
			dst = append(dst, p.arg[i])
			continue
		}
		i++
		dst = timeVerb(dst, t, p.arg[i:], &i)
	}
	return dst
}

// timeVerb appends one verb of strftime, and Envoy's %3f, %6f and %9f.
func timeVerb(dst []byte, t time.Time, rest string, i *int) []byte {
	layouts := map[byte]string{'Y': "2006", 'm': "01", 'd': "02", 'H': "15", 'M': "04", 'S': "05",
		'T': "15:04:05", 'F': "2006-01-02", 'z': "-0700", 'Z': "MST", 'b': "Jan", 'a': "Mon", 'y': "06"}
	if layout, ok := layouts[rest[0]]; ok {
		return t.AppendFormat(dst, layout)
	}
	switch {
	case rest[0] == 's':
		return strconv.AppendInt(dst, t.Unix(), 10)
	case len(rest) > 1 && rest[1] == 'f' && rest[0] >= '1' && rest[0] <= '9':
		*i++
		fraction := t.AppendFormat(nil, "000000000.000000000")
		return append(dst, fraction[len(fraction)-9:][:rest[0]-'0']...)
	}
	return append(dst, '%', rest[0])
}

func header(dst []byte, h *message.Head, p *part) []byte {
	if h == nil {
		return dst
	}
	value, present := lookup(h, p.arg)
	if !present && p.alt != "" {
		value, _ = lookup(h, p.alt)
	}
	for _, c := range value {
		if c < ' ' || c == 0x7f {
			c = ' ' // a line is a line
		}
		dst = append(dst, c)
	}
	return dst
}

func lookup(h *message.Head, name string) ([]byte, bool) {
	switch name {
	case ":method":
		return h.Method, len(h.Method) > 0
	case ":path":
		return h.Path, len(h.Path) > 0
	case ":authority":
		return h.Authority, len(h.Authority) > 0
	case ":scheme":
		return h.Scheme, len(h.Scheme) > 0
	case ":status":
		return strconv.AppendInt(nil, int64(h.Status), 10), h.Status > 0
	}
	return h.Get(name)
}

func protocol(dst []byte, r *Record, _ *part) []byte {
	switch r.Protocol {
	case fact.HTTP10:
		return append(dst, "HTTP/1.0"...)
	case fact.HTTP11:
		return append(dst, "HTTP/1.1"...)
	case fact.HTTP2:
		return append(dst, "HTTP/2"...)
	case fact.TCP:
	}
	return dst
}

func milliseconds(dst []byte, d time.Duration) []byte {
	if d < 0 {
		return dst
	}
	return strconv.AppendInt(dst, d.Milliseconds(), 10)
}

func address(dst []byte, a netip.AddrPort) []byte {
	if !a.IsValid() {
		return dst
	}
	return a.AppendTo(dst)
}

func ip(dst []byte, a netip.Addr) []byte {
	if !a.IsValid() {
		return dst
	}
	return a.AppendTo(dst)
}

func remote(r *Record) netip.Addr {
	if r.Remote.IsValid() {
		return r.Remote
	}
	return r.Conn.Remote.Addr()
}

// remoteAddress has the port of the socket, or 0 when x-forwarded-for named
// another client.
func remoteAddress(dst []byte, r *Record, _ *part) []byte {
	a := remote(r)
	if a == r.Conn.Remote.Addr() {
		return address(dst, r.Conn.Remote)
	}
	return address(dst, netip.AddrPortFrom(a, 0))
}

func jsonString(s string) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		return []byte(`""`)
	}
	return b
}
