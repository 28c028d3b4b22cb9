// Package fact holds what is known of a connection and of a request at the
// moment when something is decided about it: the only inputs of listener
// matching, routing and authorization besides the configuration.
//
// The running proxy fills facts from sockets and parsed heads without copying;
// explain and tests fill them from flags and files. Deciding code sees no
// difference, which is how both give one answer. Values are read-only while a
// decision runs and belong to whoever filled them. What a decision considered
// goes into a Trace when somebody asks; the hot path passes nil. Read fact.go
// first, then trace.go.
package fact

import "net/netip"

// Protocol is the application protocol in which a request arrived.
type Protocol uint8

// The application protocols.
const (
	TCP Protocol = iota
	HTTP10
	HTTP11
	HTTP2
)

// Conn is what is known of a downstream connection.
type Conn struct {
	// Local is the destination that the client meant: the original destination
	// of a redirected connection, else the socket's own local address.
	Local netip.AddrPort
	// Direct is the socket's own local address.
	Direct netip.AddrPort
	// Remote is the client's address, as PROXY protocol may have restated it.
	Remote netip.AddrPort
	// DirectRemote is the socket's own remote address; zero: same as Remote.
	DirectRemote netip.AddrPort
	// SNI is the server name of the ClientHello in lower case, or empty.
	SNI string
	// ALPN holds the application protocols: what the ClientHello offers, or
	// what sniffing of a plaintext connection found ("http/1.1", "h2c").
	ALPN []string
	// Peer is the URI SAN of a verified client certificate, or empty.
	Peer string
	// PeerDNS holds its DNS SANs, PeerSubject its subject (RFC 2253).
	PeerDNS     []string
	PeerSubject string
	// TLS says that the client's first bytes are a TLS ClientHello
	// (Envoy's transport protocol "tls", else "raw_buffer").
	TLS bool
	// Verified says that a client certificate was given and verified.
	Verified bool
	// Terminated says that the chain terminated TLS on this connection.
	Terminated bool
}

// SocketRemote is the address of the socket's other end.
func (c *Conn) SocketRemote() netip.AddrPort {
	if c.DirectRemote.IsValid() {
		return c.DirectRemote
	}
	return c.Remote
}

// Secured reports whether the connection is TLS that ended here (Envoy:
// connection.ssl() is set).
func (c *Conn) Secured() bool { return c.Terminated || c.Verified }

// Headers looks up request headers. Name is in lower case; a repeated header's
// values come joined by "," in order (RFC 9110 §5.3). The bytes are valid
// until the next call.
type Headers interface {
	Get(name string) (value []byte, present bool)
}

// Request is what is known of a request when its head is complete.
type Request struct {
	Conn     *Conn
	Protocol Protocol
	// Method and Scheme are as received; Authority is the Host header or
	// :authority; Path is the request target in origin form with its query.
	Method, Scheme, Authority, Path []byte
	Headers                         Headers
	// Remote is the client's address as the connection manager decided it from
	// x-forwarded-for; zero: the connection's.
	Remote netip.Addr
	// Random picks among weighted clusters and runtime fractions. The proxy
	// draws it once per request; explain leaves it zero and reads the weights.
	Random uint64
}

// Header looks up a header or, for names that begin with a colon, a
// pseudo-header in HTTP/2's spelling, whatever protocol the request came in.
func (r *Request) Header(name string) (value []byte, present bool) {
	if len(name) == 0 || name[0] != ':' {
		if name == "host" {
			return r.Authority, len(r.Authority) > 0
		}
		if r.Headers == nil {
			return nil, false
		}
		return r.Headers.Get(name)
	}
	switch name {
	case ":method":
		value = r.Method
	case ":path":
		value = r.Path
	case ":authority":
		value = r.Authority
	case ":scheme":
		value = r.Scheme
	}
	return value, len(value) > 0
}

// PathOnly is Path without query and fragment.
func (r *Request) PathOnly() []byte {
	for i, c := range r.Path {
		if c == '?' || c == '#' {
			return r.Path[:i]
		}
	}
	return r.Path
}

// Query is the raw query of Path, without the question mark.
func (r *Request) Query() []byte {
	for i, c := range r.Path {
		switch c {
		case '#':
			return nil
		case '?':
			q := r.Path[i+1:]
			for j, c := range q {
				if c == '#' {
					return q[:j]
				}
			}
			return q
		}
	}
	return nil
}

// RemoteAddr is the client's address that policies on the remote IP read.
func (r *Request) RemoteAddr() netip.Addr {
	if r.Remote.IsValid() {
		return r.Remote
	}
	if r.Conn == nil {
		return netip.Addr{}
	}
	return r.Conn.Remote.Addr()
}
