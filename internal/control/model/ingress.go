package model

import (
	"fmt"
	"net/netip"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/control/model/pool"
	"github.com/tullemesh/tulle/internal/control/registry"
)

// IngressListener is one ingress listener of a Sidecar: a port at which the
// workload takes traffic, whatever its services say.
type IngressListener struct {
	Port     int
	PortName string
	// Protocol of what the app gets: after TLS has ended here, when it does.
	Protocol registry.Protocol
	Bind     string // empty: the workload's first address
	// Capture says whether the proxy binds the port; CaptureDefault: as it
	// takes other traffic.
	Capture Capture
	// Endpoint is where the app listens. Its address may be unspecified, which
	// is the workload's own. Neither Endpoint nor Pipe: where the connection went.
	Endpoint netip.AddrPort
	Pipe     string
	// TLS ends TLS of clients outside of the mesh, on ports for which
	// PeerAuthentication switches mutual TLS off (as Istio does).
	TLS *ServerTLS
	// Pool limits what the app gets here, whatever else is said; nil: what is
	// said for the workload does (connectionPool).
	Pool   *pool.Settings
	Origin Origin
}

// Capture is how connections reach a listener (CaptureMode).
type Capture uint8

// The ways of capture.
const (
	CaptureDefault Capture = iota
	CaptureRedirect
	CaptureNone
)

func convertIngress(o *apis.Object, list []*networking.IstioIngressListener) []IngressListener {
	var out []IngressListener
	for i, l := range list {
		in := IngressListener{
			Port: int(l.GetPort().GetNumber()), PortName: l.GetPort().GetName(), Protocol: registry.ParseProtocol(l.GetPort().GetProtocol()),
			Bind: l.Bind, Capture: captureOf(l.CaptureMode), TLS: serverTLS(l.Tls), Pool: pool.From(l.ConnectionPool),
			Origin: Origin{Key: o.Key, Path: fmt.Sprintf("spec.ingress[%d]", i)},
		}
		if in.TLS != nil {
			in.Protocol = afterTLS(in.Protocol)
		}
		if pipe, ok := strings.CutPrefix(l.DefaultEndpoint, "unix://"); ok {
			in.Pipe = pipe
		} else if at := l.DefaultEndpoint; at != "" {
			if strings.HasPrefix(at, ":") {
				at = "0.0.0.0" + at
			}
			in.Endpoint, _ = netip.ParseAddrPort(at) // validation refused others
		}
		out = append(out, in)
	}
	return out
}

func captureOf(m networking.CaptureMode) Capture {
	switch m {
	case networking.CaptureMode_IPTABLES:
		return CaptureRedirect
	case networking.CaptureMode_NONE:
		return CaptureNone
	}
	return CaptureDefault
}

// afterTLS is the protocol within TLS.
func afterTLS(p registry.Protocol) registry.Protocol {
	switch p {
	case registry.HTTPS:
		return registry.HTTP
	case registry.TLS:
		return registry.TCP
	}
	return p
}
