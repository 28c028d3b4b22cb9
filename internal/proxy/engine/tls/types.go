// Package tls turns transport socket configuration into crypto/tls
// configurations, keeps certificates by name and swaps them without closing a
// connection. Config in: ServerSpec, ClientSpec and Secrets; out: *tls.Config.
// Live certificates belong to Store. Read types.go first.
package tls

import (
	"encoding/json"
	"log/slog"

	"github.com/tullemesh/tulle/internal/match"
)

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

// Secret is a certificate with its key, or trusted roots (Envoy:
// transport_sockets.tls.v3.Secret). It is what SDS and inline certificates
// compile to; Store turns it into live certificates.
type Secret struct {
	Name string
	// Chain and Key are a certificate chain and its private key, in PEM.
	Chain, Key Data
	// Roots are trusted certificates, in PEM; CRL revokes.
	Roots, CRL Data
	// SANs that come with the roots; they add to the context's.
	SANs []match.String
	// Hash is of the resource's bytes.
	Hash string
}

// Data is bytes, or the file that holds them (Envoy: DataSource). It does not
// print its bytes.
type Data struct {
	Inline []byte
	// File is a path; the store reads it and watches it.
	File string
}

// Empty reports whether there is neither.
func (d Data) Empty() bool { return len(d.Inline) == 0 && d.File == "" }

// String shows the file's path, never the bytes.
func (d Data) String() string {
	switch {
	case d.File != "":
		return d.File
	case len(d.Inline) > 0:
		return "[redacted]"
	}
	return ""
}

// GoString keeps %#v from printing the bytes.
func (d Data) GoString() string { return d.String() }

// LogValue keeps slog from printing the bytes.
func (d Data) LogValue() slog.Value { return slog.StringValue(d.String()) }

// MarshalJSON keeps encoding/json from printing the bytes.
func (d Data) MarshalJSON() ([]byte, error) { return json.Marshal(d.String()) }
