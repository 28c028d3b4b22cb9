// Package tls turns transport socket configuration into crypto/tls
// configurations, keeps certificates by name and swaps them without closing a
// connection. Config in: ServerSpec, ClientSpec and Secrets; out: *tls.Config.
// Live certificates belong to Store. Read types.go first.
package tls

import "github.com/tullemesh/tulle/internal/match"

// ServerSpec terminates TLS (Envoy: DownstreamTlsContext).
type ServerSpec struct {
	// Certificates are secret names, or inline secrets' synthetic names.
	Certificates []string
	// Validation names the secret with the trusted roots; empty: clients are
	// not verified.
	Validation string
	// SANs that a client's certificate must have one of; empty: any.
	SANs              []match.String
	RequireClientCert bool
	ALPN              []string
	MinVersion        uint16 // crypto/tls version; 0: default
	MaxVersion        uint16
	CipherSuites      []string
	Curves            []string
}

// ClientSpec originates TLS (Envoy: UpstreamTlsContext).
type ClientSpec struct {
	Certificate  string // secret name of the client certificate, or empty
	Validation   string // secret name of the roots; empty: not verified
	SANs         []match.String
	SNI          string
	AutoSNI      bool // the endpoint's or request's host
	ALPN         []string
	MinVersion   uint16
	MaxVersion   uint16
	CipherSuites []string
	Curves       []string
}
