package dataplane

import (
	"encoding/json"
	"io"
	"log/slog"
)

// Options configure a proxy: either Bootstrap, or XDS or XDSTLS with ID.
type Options struct {
	// Bootstrap is an Envoy v3 bootstrap file.
	Bootstrap string
	// XDS is a plaintext xDS server; XDSTLS one over mutual TLS, which issues
	// certificates as well (Istio's 15012).
	XDS, XDSTLS string
	// ServerName is what the server's certificate must be for; Roots is a PEM
	// file that it must lead to.
	ServerName, Roots string
	// Token is a file with the join token for the first certificate.
	Token string
	// ID and Metadata are the node's, by Istio's conventions.
	ID       string
	Metadata json.RawMessage
	// TrustDomain of the workload; empty: cluster.local.
	TrustDomain string
	// Admin is the admin address; empty: none.
	Admin string
	// DNS is the address of the DNS proxy, by UDP and TCP; empty: none.
	DNS string
	// State keeps the last good configuration and the certificate; empty:
	// nothing is kept.
	State string
	// Stdout takes access log lines of the path /dev/stdout.
	Stdout  io.Writer
	Level   *slog.LevelVar
	Log     *slog.Logger
	Version string
}
